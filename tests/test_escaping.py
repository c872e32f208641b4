"""Others' text does nothing where it is shown: judged by shells, parsers and renderers, not by our own functions."""

from __future__ import annotations

import ast
import html.parser
import json
import os
import shlex
import shutil
import subprocess
import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.table import Table

from extsub.adapters.card_use import serve_line
from extsub.escaping import block, line, markdown, operand, shell, to_json, xml
from extsub.printing import console, print_table, say

PIECES = (
    "[x](javascript:alert(1))", "<script>", "</b>", "<!--", "<a href=x>", "&lt;", "&#60;", "https://x.y", "www.x.y",
    "![a](b)", "**", "__", "~~", "``", "|", "- ", "1. ", "2) ", "# ", "> ", "---", "===", "[a]: b", "[1]: x", "[ ] ",
    "[0.1, 0.2]", "a@b.c", "\\", "$x$", "\n\n", "    ", "'", '"', "`id`", "$(id)", "; id #", "!!", "[/b]", "[red]",
    ":smile:", "\x1b[31m", "\x1b]0;title\x07", "\x9b2J", "\u202e", "\u2028", "\u200b", "\x00", "\x7f", "\ud800",
    "\udcff", "=", ",", "--x", "-",
)  # fmt: skip
TEXT = st.lists(st.one_of(st.sampled_from(PIECES), st.text(max_size=5)), max_size=6).map("".join)
ARGUMENT = TEXT.map(lambda text: text.replace("\0", "").encode("utf-8", "replace").decode()) | st.binary(
    max_size=8
).map(lambda name: os.fsdecode(name.replace(b"\0", b"")))
"""what a command line can hold: no null byte, perhaps bytes that are not UTF-8"""


def is_seen(text: str) -> bool:
    """Whether no character is a control, turns the direction, ends a line, or is half of one; by their categories."""
    turning = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return not any(
        unicodedata.category(one) in ("Cc", "Cs", "Zl", "Zp") or unicodedata.bidirectional(one) in turning
        for one in text
    )


@given(TEXT)
def test_a_line_shows_what_a_terminal_would_obey(text: str) -> None:
    assert is_seen(line(text))
    assert is_seen(block(text).replace("\n", "").replace("\t", ""))
    assert len(line(text)) >= len(text)


@pytest.mark.parametrize(
    "text",
    [
        "C:\\models\\x",
        "α − 2·|a|",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",
        "\u0645\u06cc\u200c\u062e",
        "naïve 模型",
        "a b",
    ],
)
def test_what_can_be_seen_stays_as_it_is(text: str) -> None:
    assert (line(text), block(text)) == (text, text)


def test_what_cannot_be_seen_is_written_as_python_writes_it() -> None:
    assert line("a\x1b[31m\nb\x9b\u202e\udcff\U000e0041") == r"a\x1b[31m\nb\x9b\u202e\udcff\U000e0041"
    assert block("a\r\nb\tc\rd\0") == "a\nb\tc\\rd\\x00"


@given(st.lists(ARGUMENT, min_size=1, max_size=4))
def test_a_command_line_is_one_line_and_split_into_its_words(words: list[str]) -> None:
    text = shell(words)
    assert is_seen(text)
    if all(word == line(word) for word in words):
        assert shlex.split(text) == words


@pytest.mark.skipif(shutil.which("bash") is None, reason="bash is not here")
def test_bash_reads_the_words_back() -> None:
    seen: list[str] = []

    @given(ARGUMENT)
    @settings(max_examples=300)
    def collect(word: str) -> None:
        seen.append(word)

    collect()
    lines = "".join(f"printf '%s\\0' {shell(seen[start : start + 50])}\n" for start in range(0, len(seen), 50))
    run = subprocess.run(["bash"], input=lines.encode(), capture_output=True, check=True, env={"LC_ALL": "C"})
    assert run.stdout.split(b"\0")[:-1] == [os.fsencode(word) for word in seen]


def test_an_operand_is_no_option() -> None:
    assert (operand("--help"), operand("owner/name"), operand("./-x")) == ("./--help", "owner/name", "./-x")


def vllm_reads(item: str) -> tuple[str, str]:
    """How vLLM reads a word after --lora-modules (LoRAParserAction)."""
    if "=" in item and "," not in item:
        name, path = item.split("=")
        return name, path
    read = json.loads(item)
    return read["name"], read["path"]


@given(TEXT.filter(bool), TEXT.filter(bool), TEXT.filter(bool))
def test_vllm_is_told_base_name_and_path(base: str, name: str, path: str) -> None:
    text = serve_line(base, "--max-lora-rank 8", {name: path})
    assert is_seen(text)
    if all(one == line(one) for one in (base, name, path)):
        words = shlex.split(text)
        assert words[:2] == ["vllm", "serve"]
        assert not words[2].startswith("-")
        assert words[2].removeprefix("./") == base.removeprefix("./")
        assert words[3:7] == ["--enable-lora", "--max-lora-rank", "8", "--lora-modules"]
        assert not words[7].startswith("-")
        assert vllm_reads(words[7]) == (name, path)
        assert len(words) == 8


@given(TEXT)
def test_a_python_literal_is_repr(text: str) -> None:
    """As the model card writes it: one line of what can be seen, which gives the text back."""
    assert is_seen(f"{text!r}")
    assert ast.literal_eval(f"{text!r}") == text


JUDGE = MarkdownIt("gfm-like", {"linkify": False})
PLACES: dict[str, tuple[str, list[str]]] = {
    "a paragraph": ("{}", ["paragraph"]),
    "a list": ("- {}", ["bullet_list", "list_item", "paragraph"]),
    "a heading": ("## {}", ["heading"]),
    "bold": ("**x {} y**", ["paragraph"]),
    "a table": ("| a | b |\n|---|---|\n| {} | z |", []),
}


def shown(tokens: list[Token]) -> str:
    return "".join(token.content for token in tokens)


@settings(max_examples=400)
@given(TEXT, st.sampled_from(sorted(PLACES)))
def test_markdown_shows_the_text_and_nothing_else(text: str, place: str) -> None:
    expected = line(" ".join(text.split())).strip()
    form, blocks = PLACES[place]
    tokens = JUDGE.parse(form.format(markdown(text)))
    inline = [token for token in tokens if token.type == "inline"]
    if place == "a table":
        assert [shown(token.children or []) for token in inline] == ["a", "b", expected, "z"]
        inline = inline[2:3]
    elif expected:
        assert [token.type for token in tokens if token.type.endswith("_open")] == [f"{one}_open" for one in blocks]
        assert shown(inline[0].children or []) == (f"x {expected} y" if place == "bold" else expected)
    for token in inline:
        assert {child.type for child in token.children or []} <= {"text", "strong_open", "strong_close"}
        assert sum(child.type == "strong_open" for child in token.children or []) == (place == "bold")


def test_addresses_do_not_become_links_by_themselves() -> None:
    assert markdown("see https://x.y and www.x.y") == r"see https\://x.y and www\.x.y"
    assert markdown("p < 0.05, 0.5 [0.25, 0.75]") == "p < 0.05, 0.5 [0.25, 0.75]"


class Elements(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.text += data


@given(TEXT)
def test_html_has_no_element_or_attribute_more(text: str) -> None:
    judge = Elements()
    judge.feed(f'<p title="{xml(text)}">{xml(text)}</p>')
    judge.close()
    assert judge.found == [("p", [("title", block(text))])]
    assert judge.text == block(text)


@given(st.dictionaries(TEXT, st.lists(TEXT | st.none(), max_size=2), max_size=2))
def test_json_is_exactly_the_data(content: object) -> None:
    text = to_json(content)
    assert json.loads(text) == content
    assert is_seen(text.replace("\n", ""))


@settings(max_examples=25)
@given(TEXT)
def test_rich_shows_markup_and_obeys_none(text: str) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column(text, no_wrap=True)
    table.add_row(text)
    terminal = console(width=1000, force_terminal=True, no_color=True)
    with terminal.capture() as captured:
        terminal.print(table)
    lines = captured.get().replace("\x1b[1m", "").replace("\x1b[0m", "").split("\n")
    assert [one.rstrip() for one in lines] == [line(text).rstrip(), line(text).rstrip(), ""]


@pytest.mark.parametrize("write", [say, lambda text: print_table(_one_cell(text))])
def test_nothing_that_is_printed_is_obeyed(capsys: pytest.CaptureFixture[str], write: Callable[[str], None]) -> None:
    write("a\x1b[31m[/b]\x07\nb\ud800")
    assert capsys.readouterr().out.rstrip() == r"a\x1b[31m[/b]\x07\nb\ud800"


def _one_cell(text: str) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_row(text)
    return table
