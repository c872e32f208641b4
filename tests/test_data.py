"""Instruction data: every format becomes the same examples; a bad row is named by file and line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from extsub.data import Example, load_data
from extsub.errors import ExtSubError
from extsub.prompts import Turn

ROWS = [
    {"instruction": "Name a river.", "input": "in Egypt", "output": 'The Nile,\n"longest" of all.'},
    {"instruction": "Wie heißt er?", "input": "", "output": "Émile\u2028oder so"},
]
EXAMPLES = [
    Example((Turn("user", "Name a river. in Egypt"),), 'The Nile,\n"longest" of all.'),
    Example((Turn("user", "Wie heißt er?"),), "Émile\u2028oder so"),
]


def write(path: Path, rows: list[Any]) -> str:
    """The rows in the format that the name asks for."""
    if path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1), encoding="utf-8")
    elif path.suffix == ".jsonl":
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        path.write_text("\n".join(lines), encoding="utf-8")  # an empty line between
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    else:
        quoted = [['"' + value.replace('"', '""') + '"' for value in row.values()] for row in rows]
        text = "\r\n".join([",".join(rows[0]), *(",".join(row) for row in quoted)])
        path.write_bytes(b"\xef\xbb\xbf" + text.encode())  # as Excel writes it
    return str(path)


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet"])
def test_every_kind_of_file_gives_the_same_examples(tmp_path: Path, suffix: str) -> None:
    name = write(tmp_path / f"rows{suffix}", ROWS)
    data = load_data(name)
    assert data.examples == EXAMPLES
    assert data.sha256 == hashlib.sha256(Path(name).read_bytes()).hexdigest()
    assert (data.empty_answers, data.duplicates, data.notes) == (0, 0, ())


def test_json_lines_may_be_called_json(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text("\n".join(json.dumps(row) for row in ROWS))
    assert load_data(str(path)).examples == EXAMPLES


def test_prompt_and_completion_and_messages_are_examples_too(tmp_path: Path) -> None:
    pairs = [{"prompt": "Name a river. in Egypt", "completion": ROWS[0]["output"]}]
    assert load_data(write(tmp_path / "pairs.jsonl", pairs)).examples == EXAMPLES[:1]
    said = [("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Who?"), ("assistant", "I.")]
    talks = [{"messages": [{"role": role, "content": content} for role, content in said]}]
    wanted = Example(tuple(Turn(*one) for one in said[:-1]), "I.")
    assert load_data(write(tmp_path / "talks.json", talks)).examples == [wanted]


def test_fields_are_found_under_other_names(tmp_path: Path) -> None:
    rows = [{"question": "Who?", "right": "I.", "wrong": "You.", "output": "not this"}]
    data = load_data(write(tmp_path / "rows.jsonl", rows), {"instruction": "question", "output": "wrong"})
    assert data.examples == [Example((Turn("user", "Who?"),), "You.")]


def test_what_the_user_names_decides_between_formats(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "completion": "c", "instruction": "i", "answer": "a"}]
    data = load_data(write(tmp_path / "rows.jsonl", rows), {"output": "answer"})
    assert data.examples == [Example((Turn("user", "i"),), "a")]


def test_empty_answers_are_left_out_and_duplicates_kept_and_both_are_counted(tmp_path: Path) -> None:
    rows = [ROWS[0], {**ROWS[1], "output": " "}, ROWS[0], ROWS[0], {**ROWS[1], "output": None}]
    data = load_data(write(tmp_path / "rows.json", rows))
    assert (data.examples, data.empty_answers, data.duplicates) == ([EXAMPLES[0]] * 3, 2, 2)
    path = tmp_path / "rows.json"
    assert data.notes == (
        f"2 of 5 rows have an empty answer and are left out, first {path}, line 7",
        "2 of 5 rows say the same as an earlier row; they are kept",
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.jsonl", "", "d.jsonl has no rows: give one that has"),
        ("d.json", "[]", "d.json has no rows"),
        ("d.csv", "instruction,output\n", "d.csv has no rows"),
        ("d.jsonl", '{"instruction": "a", "output": "b"}\n\n{"instruction": "a",', "d.jsonl, line 3: not JSON"),
        ("d.json", '[\n{"instruction": "a", "output": "b"},\n{"instruction" "a"}]', "d.json, line 3: not JSON"),
        ("d.json", '[{"instruction": "a", "output": "b"}', "d.json, line 1: not JSON"),
        ("d.json", '[{"instruction": "a", "output": "b"}]\n[]', "not JSON (more text after the list: '[]')"),
        ("d.jsonl", "[1]", "d.jsonl, line 1: a row is a number, expected an object with named fields"),
        ("d.csv", "instruction,output\na,b\n\"two\nlines\",b,c\n", "d.csv, line 3: 3 values under the 2 columns"),
        ("d.csv", 'instruction,output\na,"b', "d.csv, line 2: not CSV"),
        ("d.jsonl", '{"instruction": "a", "output": "b"}\n{"instruction": "\udcff"}', "d.jsonl, line 2: not UTF-8"),
        ("d.parquet", "PAR?", "d.parquet: not Parquet"),
        ("d.txt", "hello", "d.txt: unknown kind of file; expected .json, .jsonl, .csv, .parquet"),
        ("d.jsonl", '{"q": "a", "a": "b"}', "line 1: expected instruction and output (and perhaps input), or prompt "
         "and completion, or messages; found q, a: say what they are with --field"),
        ("d.jsonl", '{"instruction": "a", "output": "b"}\n{"instruction": "a"}', "line 2: output is missing; correct"),
        ("d.jsonl", '{"instruction": " ", "output": "b"}', "line 1: instruction is empty; correct or remove it"),
        ("d.jsonl", '{"instruction": "a", "output": ""}', "every answer is empty, first "),
        ("d.jsonl", '{"messages": "hi"}', "line 1: messages is no list of messages"),
        ("d.jsonl", '{"messages": [{"role": "user", "content": "a"}, {"role": "bot", "content": "b"}]}',
         "a message needs a role (system, user, assistant) and its content as text"),
        ("d.jsonl", '{"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]}',
         "the last two messages must be a question of the user and the assistant's answer"),
        ("d.jsonl", '{"messages": [{"role": "user", "content": " "}, {"role": "assistant", "content": "b"}]}',
         "the last two messages must be a question of the user and the assistant's answer"),
        ("d.jsonl", '{"instruction": "a", "output": "\\ud800"}', "line 1: output holds half a character"),
        ("d.jsonl", '{"a":' * 100_000, "d.jsonl, line 1: not JSON"),
        ("d.json", "[" * 100_000, "d.json, line 1: not JSON"),
        ("d.json", '[,{"instruction": "a", "output": "b"}]', "d.json, line 1: not JSON"),
        ("d.json", '[{"instruction": "a", "output": "b"}\n {}]', "line 2: not JSON (expected a comma or the end"),
        ("d.json", '{\n"instruction": "a"}', "line 1: not JSON (Expecting property name enclosed in double quotes: "
         "line 2 column 1 (char 2)): expected one row on each line, or a list of rows"),
        ("d.csv", "instruction,output\n\n\na,b,c", "d.csv, line 4: 3 values under the 2 columns of the header"),
        ("d.csv", "instruction,output\na\n", "d.csv, line 2: 1 values under the 2 columns of the header"),
        ("d.csv", "output,instruction,output\na,b,c\n", "d.csv, line 1: two columns are called 'output'"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_file_and_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ExtSubError) as error:
        load_data(str(path))
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_wrong_types_are_counted_with_what_else_is_wrong(tmp_path: Path) -> None:
    rows = [ROWS[0], {**ROWS[0], "output": 7}, ROWS[0], {**ROWS[0], "output": ["x"]}, {**ROWS[0], "output": ""}]
    with pytest.raises(ExtSubError) as error:
        load_data(write(tmp_path / "rows.jsonl", rows))
    found = "(and 1 more such rows, 1 with an empty answer, 1 duplicates); correct or remove it"
    assert str(error.value) == f"{tmp_path}/rows.jsonl, line 3: output is a number, expected text {found}"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"answer": "output"}, "--field answer=...: no such field of ours; there are instruction, input, output,"),
        ({"prompt": "input"}, "--field prompt=input: does not go with instruction and output"),
        ({"output": "reply"}, "--field output=reply: {name} has no field 'reply'; it has instruction, input, output"),
    ],
)
def test_an_unknown_field_is_named_with_those_that_exist(tmp_path: Path, fields: dict, message: str) -> None:
    name = write(tmp_path / "rows.jsonl", ROWS)
    with pytest.raises(ExtSubError) as error:
        load_data(name, fields)
    assert message.format(name=name) in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nothing.jsonl", "nothing.jsonl: no such file, and not a dataset of the hub"),
        (".", ". is a folder: give a file"),
        ("here/nothing", "here/nothing: no such file in here; if you mean the hub's dataset, write here/nothing@main"),
        ("nobody/nothing", "nobody/nothing: no dataset could be loaded from the hub: "),
    ],
)
def test_data_that_is_not_there_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "here").mkdir()
    with pytest.raises(ExtSubError) as error:
        load_data(name)
    assert str(error.value).startswith(message)
