"""What the page says and where it writes, without a browser."""

from __future__ import annotations

import html.parser
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

import reference
import served_pages
import sweep_files
from benchmark_files import rows_of
from conftest import Command
from extsub import ExtSubError, combine, load_adapter, save_adapter
from extsub.models.position import Position
from extsub.report.reading import Sweep, read_sweep
from extsub.ui import serve, view
from extsub.ui.answers import Answer, Pair
from extsub.ui.commands import combine_line, vllm_line
from extsub.ui.known import known_at, warning_at
from extsub.ui.listening import address_of, listen
from extsub.ui.output import check_folder, check_free, place_of
from extsub.ui.scale import scale_of
from extsub.ui.swept import sweep_of

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries
HOSTILE = "</pre></script><script>alert(1)</script><img src=x.invalid onerror=alert(1)> & {{ 7 * 7 }} ${alert(1)} `x`"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return served_pages.models(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="module")
def sweep(folder: Path) -> Sweep:
    return read_sweep(folder / "swept")


class Seen(html.parser.HTMLParser):
    """The elements of a piece of HTML, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize(
    ("text", "other", "expected"),
    [
        ("The sun is hot.", "The sun is cold.", "The sun is <mark>hot.</mark>"),
        ("Yes, it is so", "it is so", "<mark>Yes,</mark> it is so"),
        ("it is so", "Yes, it is so", "it is so"),
        ("a  b\nc d", "x b\nc y", "<mark>a</mark>  b\nc <mark>d</mark>"),
        ("one two three", "", "<mark>one two three</mark>"),
        ("", "one", ""),
        ("a<b & c", "a<b & d", "a&lt;b &amp; <mark>c</mark>"),
        ("said \x1b[31m", "said", "said <mark>\\x1b[31m</mark>"),
    ],
)
def test_words_that_the_other_answer_lacks_are_marked(text: str, other: str, expected: str) -> None:
    assert view.marked(text, other) == expected


def test_what_others_say_is_text_everywhere(sweep: Sweep) -> None:
    position, said = Position("ext-sub", 1.0), Pair(Answer(HOSTILE, True, HOSTILE), Answer(f"x {HOSTILE}", True))
    pages = [view.pair(said, Position("expert"), position), view.refused(HOSTILE), view.lines(HOSTILE, HOSTILE)]
    pages += [view.ready([HOSTILE]), view.notes([HOSTILE]), view.written(Path(HOSTILE))]
    for page in pages:
        seen = Seen(page)
        assert "<script>alert(1)</script><img src=x.invalid onerror=alert(1)>" in seen.text
        assert not {"script", "img"} & {tag for tag, _ in seen.elements}
        assert not any(name.startswith("on") for _, attributes in seen.elements for name in attributes)


def test_answers_are_marked_once_both_are_whole() -> None:
    sides = Position("expert"), Position("base")
    assert "<mark>" not in view.pair(Pair(Answer("one two", True), Answer("one")), *sides)
    assert view.pair(Pair(Answer("one two", True), Answer("one", True)), *sides).count("<mark>") == 1
    assert "the same words" in view.pair(Pair(Answer("one", True), Answer("one", True)), *sides)


def test_the_slider_shows_what_was_swept(sweep: Sweep) -> None:
    scale = scale_of(sweep, "ext-sub")
    assert (scale.swept, scale.measured) == ((0.0, 2.0), (0.0, *served_pages.ALPHAS))
    assert (scale.low, scale.high, scale.step) == (0.0, 2.5, 0.05)
    assert scale.chosen == sweep.positions[sweep.record["chosen"]["ext-sub"]["position"]]["alpha"]
    drawn = view.dial(scale)
    assert (drawn["left"], drawn["width"]) == (0.0, 80.0)
    ticks = {float(str(tick["data-alpha"])): tick for _, tick in Seen(drawn["ticks"]).elements if "data-alpha" in tick}
    assert {alpha: tick["style"] for alpha, tick in ticks.items()} == {
        0.0: "left:0.0%", 0.25: "left:10.0%", 0.5: "left:20.0%", 1.0: "left:40.0%", 2.0: "left:80.0%",
    }  # fmt: skip
    assert [alpha for alpha, tick in ticks.items() if "chosen" in str(tick["class"])] == [scale.chosen]


def test_a_grid_below_zero_widens_the_slider_downwards(tmp_path: Path) -> None:
    sweep_files.made_up(tmp_path / "swept", lambda _: (0.5, 3.0), alphas=(-1.0, 1.0), operations=("ext-sub",))
    scale = scale_of(read_sweep(tmp_path / "swept"), "ext-sub")
    assert (scale.low, scale.high, scale.swept) == (-1.5, 1.5, (-1.0, 1.0))
    assert scale.place(0.0) == 50.0


def test_without_a_sweep_nothing_is_called_measured(sweep: Sweep) -> None:
    for scale in (scale_of(None, "ext-sub"), scale_of(sweep, "amplify")):
        assert (scale.low, scale.high, scale.swept, scale.chosen) == (0.0, 3.0, None, None)
    assert "no --sweep was given" in warning_at(None, Position("ext-sub", 1.0))
    assert "usually 0 to 3" in warning_at(None, Position("ext-sub", -0.5))
    assert "usually" not in warning_at(None, Position("ext-sub", 3.0))
    assert "amplify was not swept" in warning_at(sweep, Position("amplify", 1.0))


def figures(sweep: Sweep, label: str) -> tuple[float, float]:
    tasks = sweep.record["positions"][label]["tasks"]
    return tasks["truthfulqa-mc"]["mc1"]["value"], tasks["perplexity"]["perplexity"]["value"]


@pytest.mark.parametrize(
    ("position", "label"),
    [
        (Position("ext-sub", 0.5), "ext-sub-0.5"),
        (Position("contrast", 2.0), "contrast-2"),
        (Position("ext-sub", 0.0), "expert"),
        (Position("expert"), "expert"),
        (Position("base"), "base"),
        (Position("anti-expert"), "anti-expert"),
    ],
)
def test_beside_the_slider_stand_the_figures_of_the_sweep(sweep: Sweep, position: Position, label: str) -> None:
    known = known_at(sweep, position)
    assert [str(name) for name in known] == ["truthfulqa-mc.mc1", "perplexity.perplexity"]
    here, expert = figures(sweep, label), figures(sweep, "expert")
    for score, value, than in zip(known.values(), here, expert, strict=True):
        assert float(score.value) == pytest.approx(value, abs=6e-4)
        assert score.beside[0].startswith("[")
        assert score.beside[1:] == (() if label == "expert" else (f"expert {than:.3f}",))
    assert warning_at(sweep, position) == ""


def test_between_two_strengths_stand_the_figures_of_both(sweep: Sweep) -> None:
    truth, ability = known_at(sweep, Position("ext-sub", 1.7)).values()
    below, above = figures(sweep, "ext-sub-1"), figures(sweep, "ext-sub-2")
    assert truth.value == f"{below[0]:.3f} … {above[0]:.3f}"
    assert ability.value == f"{below[1]:.3f} … {above[1]:.3f}"
    assert truth.beside[0] == "measured at 1 and 2"
    assert warning_at(sweep, Position("ext-sub", 1.7)) == ""


@pytest.mark.parametrize("alpha", [2.05, -0.05, 100.0])
def test_outside_of_what_was_measured_it_warns(sweep: Sweep, alpha: float) -> None:
    position = Position("ext-sub", alpha)
    assert [score.value for score in known_at(sweep, position).values()] == ["–", "–"]
    said = view.known(sweep, position)
    assert 'class="warning"' in said
    assert "is outside of what was measured, 0 to 2: nobody knows what it costs." in said


def test_ready_prompts_are_what_changed_most(sweep: Sweep) -> None:
    """Against the rows: questions whose likeliest choice differs."""

    def picks(label: str) -> dict[str, str]:
        rows = rows_of(sweep.folder / "positions" / label / "truthfulqa-mc.jsonl")
        return {
            row["question"]: row["choices"][row["log_likelihoods"].index(max(row["log_likelihoods"]))] for row in rows
        }

    expert, result = picks("expert"), picks(sweep.result)
    questions = view.ready_prompts(sweep)
    assert questions
    truth = [question for question in questions if question in expert]
    assert len(truth) >= 3
    assert all(expert[question] != result[question] for question in truth)


def test_a_sweep_of_other_models_is_refused(folder: Path, tmp_path: Path) -> None:
    names = [str(folder / "expert"), str(folder / "anti")]
    assert sweep_of(folder / "swept", names).folder == folder / "swept"
    with pytest.raises(ExtSubError, match=r"is of other adapters \(expert, anti\)"):
        sweep_of(folder / "swept", [names[0], str(folder / "other")])
    with pytest.raises(ExtSubError, match="is of other adapters"):
        sweep_of(folder / "swept", names[::-1])
    record = sweep_files.record_of(folder / "swept")
    record["made_of"]["base_sha256"] = "0" * 64
    shutil.copytree(folder / "swept", tmp_path / "swept")
    sweep_files.write(tmp_path / "swept", record)
    with pytest.raises(ExtSubError, match=r"is of another base \(base\)"):
        sweep_of(tmp_path / "swept", names)
    with pytest.raises(ExtSubError, match=r"no sweep.json in it"):
        sweep_of(folder / "expert", names)
    shutil.copytree(folder / "swept", tmp_path / "without-items")
    (tmp_path / "without-items" / "positions" / "base" / "truthfulqa-mc.jsonl").unlink()
    with pytest.raises(ExtSubError, match="truthfulqa-mc"):
        sweep_of(tmp_path / "without-items", names)


WRONG_NAMES = [
    "",
    ".",
    "..",
    "../x",
    "a/b",
    "a\\b",
    "/tmp/x",
    "~",
    "~root",
    ".hidden",
    "-o",
    "a b",
    "x" * 101,
    "C:",
    "a\n",
    "…",
]


@pytest.mark.parametrize("name", WRONG_NAMES)
def test_a_name_on_the_page_does_not_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ExtSubError, match="is not a name for a folder in"):
        place_of(tmp_path, name)


@pytest.mark.parametrize("name", ["better", "ext-sub-0.5", "v2_final", "ä", "7", "x" * 100])
def test_a_plain_name_is_a_folder_in_the_folder(tmp_path: Path, name: str) -> None:
    assert place_of(tmp_path, name) == tmp_path / name


def test_nothing_is_replaced_and_no_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    for name in ("elsewhere", "link", "dangling", "file"):
        with pytest.raises(ExtSubError, match="already exists: type another name"):
            check_free(tmp_path / name)
    check_free(tmp_path / "free")
    check_folder(tmp_path / "not-yet")
    with pytest.raises(ExtSubError, match=r"--output .*file is a file"):
        check_folder(tmp_path / "file")


@pytest.mark.parametrize(("operation", "alpha"), [("ext-sub", 0.5), ("subtract", -1.25), ("amplify", 1e-7)])
def test_the_lines_are_of_the_position(folder: Path, extsub: Command, operation: str, alpha: float) -> None:
    """The first, run in a shell, writes it; the second has the flags that are written beside it."""
    position, names = Position(operation, alpha), [str(folder / name) for name in ("expert", "anti", "other")]
    program, *words = shlex.split(combine_line(names, position, Path("out")))
    assert program == "extsub"
    assert extsub(*words).returncode == 0
    save_adapter(combine(*names, operation=operation, alpha=alpha), "expected")
    written, expected = (Path(name, "adapter_model.safetensors").read_bytes() for name in ("out", "expected"))
    assert written == expected
    flags = json.loads(Path("out", "extsub.json").read_text())["serve"]["vllm"]
    line = vllm_line([load_adapter(name) for name in names], position, Path("out"))
    assert line == f"vllm serve {folder / 'base'} --enable-lora {flags} --lora-modules out=out"


def test_an_adapter_that_no_server_takes_has_no_line_for_one(folder: Path) -> None:
    names = [reference.adapter(folder / "base", folder / f"prefix-{seed}", "prefix", seed) for seed in (1, 2)]
    assert vllm_line([load_adapter(name) for name in names], Position("ext-sub", 1.0), Path("out")) is None
    assert "vllm" not in view.lines("extsub combine", None)


@pytest.mark.parametrize(
    ("host", "port", "message"),
    [
        ("127.0.0.1", 65536, "--port 65536: expected 0 to 65535"),
        ("127.0.0.1", -1, "--port -1: expected 0 to 65535"),
        ("192.0.2.1", 0, "--host 192.0.2.1 --port 0: cannot assign requested address: choose another"),
        ("x" * 300, 0, "--host x"),
    ],
)
def test_an_address_that_is_not_ours_is_one_sentence(host: str, port: int, message: str) -> None:
    with pytest.raises(ExtSubError, match=re.escape(message)):
        listen(host, port)


def test_a_port_that_is_taken_is_said_before_anything_is_loaded(folder: Path, extsub: Command) -> None:
    with listen("127.0.0.1", 0) as taken:
        port = taken.getsockname()[1]
        assert address_of(taken) == f"http://127.0.0.1:{port}"
        done = extsub("ui", "no-such-expert", "no-such-anti-expert", "--port", port)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"Error: --host 127.0.0.1 --port {port}: address already in use: end the program that has it, or choose "
        "another --port\n"
    )


def test_only_this_machine_hears_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless --host says otherwise."""
    listened: list[tuple[str, int]] = []

    def refuse(host: str, port: int) -> Any:
        listened.append((host, port))
        raise ExtSubError("enough")

    monkeypatch.setattr(serve, "listen", refuse)
    for options in ({}, {"host": "0.0.0.0", "port": 80}):
        with pytest.raises(ExtSubError, match="enough"):
            serve.serve("expert", ["anti"], **options)
    assert listened == [("127.0.0.1", 7860), ("0.0.0.0", 80)]
