"""Instruction data: every format becomes the same examples; a bad row is named by file and line."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import shlex
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from extsub.data.instructions import Example, load_data, load_prompts
from extsub.errors import ExtSubError
from extsub.models.prompts import Message

ROWS = [
    {"instruction": "Name a river.", "input": "in Egypt", "output": 'The Nile,\n"longest" of all.'},
    {"instruction": "Wie heißt er?", "input": "", "output": "Émile\u2028oder so"},
]
EXAMPLES = [
    Example((Message("user", "Name a river. in Egypt"),), 'The Nile,\n"longest" of all.'),
    Example((Message("user", "Wie heißt er?"),), "Émile\u2028oder so"),
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
    wanted = Example(tuple(Message(*turn) for turn in said[:-1]), "I.")
    assert load_data(write(tmp_path / "talks.json", talks)).examples == [wanted]


def test_fields_are_found_under_other_names(tmp_path: Path) -> None:
    rows = [{"question": "Who?", "right": "I.", "wrong": "You.", "output": "not this"}]
    data = load_data(write(tmp_path / "rows.jsonl", rows), {"instruction": "question", "output": "wrong"})
    assert data.examples == [Example((Message("user", "Who?"),), "You.")]


def test_what_the_user_names_decides_between_formats(tmp_path: Path) -> None:
    rows = [{"prompt": "p", "completion": "c", "instruction": "i", "answer": "a"}]
    data = load_data(write(tmp_path / "rows.jsonl", rows), {"output": "answer"})
    assert data.examples == [Example((Message("user", "i"),), "a")]


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
         "and completion, or messages; found q, a: say what they are with --field prompt=NAME completion=NAME"),
        ("d.jsonl", '{"instruction": "a", "output": "b"}\n{"instruction": "a"}', "line 2: output is missing; correct"),
        ("d.jsonl", '{"instruction": " ", "output": "b"}', "line 1: instruction is empty; correct or remove it"),
        ("d.jsonl", '{"instruction": "a", "output": ""}', "every answer is empty, first "),
        ("d.jsonl", '{"messages": "hi"}', "line 1: messages is not a list of messages"),
        ("d.jsonl", '{"messages": [{"role": "user", "content": "a"}, {"role": "bot", "content": "b"}]}',
         "line 1: message 2 has role 'bot', expected system, user, assistant; correct or remove it"),
        ("d.jsonl", '{"messages": [{"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]}',
         "the last two messages must be a question of the user and the assistant's answer"),
        ("d.jsonl", '{"messages": [{"role": "user", "content": " "}, {"role": "assistant", "content": "b"}]}',
         "the last two messages must be a question of the user and the assistant's answer"),
        ("d.jsonl", '{"instruction": "a", "output": "\\ud800"}', "line 1: output holds half a character"),
        ("d.jsonl", '{"a":' * 100_000, "d.jsonl, line 1: not JSON"),
        ("d.json", "[" * 100_000, "d.json, line 1: not JSON"),
        ("d.json", '[,{"instruction": "a", "output": "b"}]', "d.json, line 1: not JSON"),
        ("d.json", '[{"instruction": "a", "output": "b"}\n {}]', "line 2: not JSON (expected a comma or the end"),
        ("d.json", '{\n"instruction" "a"}', "line 1: not JSON (Expecting property name enclosed in double quotes: "
         "line 2 column 1 (char 2)): expected one row on each line, or a list of rows"),
        ("d.json", '{\n"instruction": "a"}', "found instruction: say which is the answer with --field output=NAME"),
        ("d.json", '{"train": [{}], "data": []}', "holds several lists of rows (data, train): put the one you mean"),
        ("d.json", '{"data": []}', "d.json has no rows"),
        ("d.jsonl.gz", "no", "d.jsonl.gz: not gzip, or not whole ("),
        ("d.jsonl.zst", "no", "d.jsonl.zst is packed: unpack it, and give the file in it (.json, "),
        ("d.tar.gz", "no", "d.tar.gz is packed: unpack it"),
        ("d.parquet.gz", "no", "d.parquet.gz is packed: unpack it"),
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
    rest = "(and 1 more such row, 1 with an empty answer, 1 duplicates); correct or remove it"
    assert str(error.value) == f"{tmp_path}/rows.jsonl, line 3: output is a number, expected text {rest}"


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


ASK, SAY = {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I."}
HUMAN, GPT = {"from": "human", "value": "Who?"}, {"from": "gpt", "value": "I."}
WHO = Example((Message("user", "Who?"),), "I.")
BRIEF = Example((Message("system", "Be brief."), *WHO.messages), "I.")


@pytest.mark.parametrize(
    ("row", "fields", "wanted"),
    [
        ({"conversations": [HUMAN, GPT]}, {}, WHO),
        ({"conversations": [{"from": "system", "value": "Be brief."}, HUMAN, GPT]}, {}, BRIEF),
        ({"conversations": [ASK, SAY], "id": 1}, {}, WHO),
        ({"chat": [HUMAN, GPT]}, {"messages": "chat"}, WHO),
        ({"conversations": [{"role": "Human", "value": "Who?"}, {"from": "chatgpt", "content": "I."}]}, {}, WHO),
        ({"system": "Be brief.", "conversations": [HUMAN, GPT]}, {"system": "system"}, BRIEF),
        ({"system_prompt": "Be brief.", "question": "Who?", "response": "I."},
         {"system": "system_prompt", "prompt": "question", "completion": "response"}, BRIEF),
        ({"messages": [{"role": "developer", "content": "Be brief."}, ASK, SAY]}, {}, BRIEF),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "Wh"}, {"type": "text", "text": "o?"}]},
                       {"role": "assistant", "content": [{"type": "text", "text": "I."}]}]}, {}, WHO),
        ({"messages": [ASK, {**SAY, "tool_calls": None, "refusal": None}], "tools": []}, {}, WHO),
        ({"messages": json.dumps([ASK, SAY])}, {}, WHO),
        ({"messages": {"role": ["user", "assistant"], "content": ["Who?", "I."]}}, {}, WHO),
        ({"prompt": [ASK], "completion": [SAY]}, {}, WHO),
        ({"prompt": {"text": "Who?", "toxicity": 0.1}, "continuation": {"text": "I."}},
         {"prompt": "prompt.text", "completion": "continuation.text"}, WHO),
        ({"question": "Who?", "answers": {"text": ["I.", "Me."], "start": [3, 4]}},
         {"prompt": "question", "completion": "answers.text.0"}, WHO),
        ({"prompt": "no", "prompt.text": "Who?", "completion": "I."}, {"prompt": "prompt.text"}, WHO),
        ({"row": {"talk": [HUMAN, GPT]}}, {"messages": "row.talk"}, WHO),
    ],
)  # fmt: skip
def test_data_that_people_have_is_read(tmp_path: Path, row: dict, fields: dict, wanted: Example) -> None:
    name = write(tmp_path / "rows.jsonl", [row])
    assert load_data(name, fields).examples == [wanted]
    assert load_prompts(name, {ours: theirs for ours, theirs in fields.items() if ours != "completion"}).messages == [
        wanted.messages
    ]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("d.csv", b"\xef\xbb\xbfprompt;completion\r\nWho?;I.\r\n"),
        ("d.csv", b'prompt;completion\n"Who?";"I."\n'),
        ("d.tsv", b"prompt\tcompletion\nWho?\tI.\n"),
        ("d.csv", b"prompt\tcompletion\nWho?\tI.\n"),
        ("d.jsonl", b'{"prompt": "Who?",\t"completion": "I."}\r\n\r\n'),
        ("d.ndjson", b'{"prompt": "Who?", "completion": "I."}'),
        ("d.jsonl.gz", gzip.compress(b'{"prompt": "Who?", "completion": "I."}\n', mtime=0)),
        ("d.csv.gz", gzip.compress(b"prompt,completion\nWho?,I.\n", mtime=0)),
        ("d.json", b'{\n "prompt": "Who?",\n "completion": "I."\n}\n'),
        ("d.json", b'{"version": 1, "data": [\n {"prompt": "Who?", "completion": "I."}]}'),
        ("d.json", b'{"conversations": [{"from": "human", "value": "Who?"}, {"from": "gpt", "value": "I."}]}'),
    ],
)
def test_files_that_people_have_are_read(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert load_data(str(tmp_path / name)).examples == [WHO]


CALL = {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f"}}]}
IMAGE = {
    "role": "user",
    "content": [{"type": "text", "text": "What?"}, {"type": "image_url", "image_url": {"url": "x"}}],
}


@pytest.mark.parametrize(
    ("talk", "message"),
    [
        ([ASK, CALL, {"role": "tool", "content": "x"}, SAY], "message 2 has tool_calls: tool calls are not read"),
        ([ASK, {"role": "tool", "content": "x"}, SAY], "message 2 has role tool: tool calls are not read"),
        ([HUMAN, {"from": "observation", "value": "x"}, GPT], "message 2 has role observation: tool calls"),
        ([IMAGE, SAY], "message 1 holds a part that is not text (image_url): only text is read"),
        ([ASK, {"role": "assistant", "content": None}], "message 2 has no content"),
        ([ASK, {"role": "assistant", "content": 3}], "message 2 has a number as its content, expected text"),
        ([ASK, "I."], "message 2 is a text, expected a role and its content"),
        ([ASK, {**SAY, "weight": 0}], "the last answer has weight 0, so it is not to be learnt"),
        ([ASK, {**SAY, "reasoning_content": "Hm."}], "the answer has reasoning_content beside its content"),
        ([ASK, SAY, SAY], "the last two messages must be a question of the user and the assistant's answer"),
    ],
)  # fmt: skip
def test_messages_that_are_not_read_are_named_and_counted(tmp_path: Path, talk: list, message: str) -> None:
    good = {"messages": [ASK, SAY]}
    name = write(tmp_path / "rows.json", [good, {"messages": talk}, good, {"messages": talk}])
    with pytest.raises(ExtSubError) as error:
        load_data(name)
    line = 1 + Path(name).read_text().split('"messages"')[1].count("\n") + 1
    assert str(error.value).startswith(f"{name}, line {line}: {message}")
    assert " (and 1 more such row" in str(error.value)


@pytest.mark.parametrize(
    "row",
    [
        {"question": "Who?", "answer": "I."},
        {"Question": "Who?", "Best Answer": "no", "Answer": "I."},
        {"query": "Who?", "response": "I."},
        {"input": "Who?", "output": "I."},
        {"instruction": "Who?", "context": "", "response": "I."},
        {"question": "Who?", "answers": {"text": ["I."]}},
        {"prompt": {"text": "Who?", "toxicity": 0.1}, "continuation": {"text": "I.", "toxicity": 0.2}},
        {"prompt": {"text": "Who?"}, "completion": {"text": "I."}},
        {"prompt": "Who?", "completion": ["I.", "Me."]},
        {"prompt": "Who?", "completion": [ASK, SAY]},
        {"prompt": "Who?", "chosen": "I.", "rejected": "You."},
        {"question": "Who?", "chosen": "I.", "rejected": "You."},
        {"prompt": "Who?", "chosen": [ASK, SAY], "rejected": [ASK, SAY]},
        {"prompt": [ASK], "chosen": [SAY], "rejected": [SAY]},
        {"knowledge": "x", "question": "Who?", "right_answer": "I.", "hallucinated_answer": "You."},
        {"knowledge": "x", "dialogue_history": "Who?", "right_response": "I.", "hallucinated_response": "You."},
        {"dialogue": [HUMAN, GPT], "source": "x"},
        {"our talk": [HUMAN, GPT]},
    ],
)
def test_a_hint_works_when_it_is_followed(tmp_path: Path, row: dict) -> None:
    """As it is typed; where it leads to another hint, that one too."""
    name, fields, data = write(tmp_path / "rows.jsonl", [row]), {}, None
    while data is None:
        try:
            data = load_data(name, fields)
        except ExtSubError as error:
            said = str(error)
            (hint, *_) = re.findall(r"--field ((?:'[^']+'|[\w.]+=[\w.]+)(?: [\w.]+=[\w.]+)*)", said)
            given = dict(pair.split("=") for pair in shlex.split(hint))
            assert given.items() - fields.items(), f"led to itself: {said}"
            fields = given if "messages" in given else fields | given
    assert data.examples == [WHO]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"text": "### Human: Who? ### Assistant: I."}, "a text alone has no question and answer to tell apart"),
        ({"chosen": "Human: Who?", "rejected": "Human: Who?"}, "are whole conversations: make two fields of each"),
    ],
)
def test_where_no_hint_can_help_none_is_given(tmp_path: Path, row: dict, message: str) -> None:
    with pytest.raises(ExtSubError) as error:
        load_data(write(tmp_path / "rows.jsonl", [row]))
    assert message in str(error.value)
    assert "--field" not in str(error.value)


def test_questions_that_are_wrong_are_counted_and_their_places_kept(tmp_path: Path) -> None:
    rows = [{"prompt": "a"}, {"prompt": 3}, {"prompt": "b"}, {"prompt": " "}]
    name = write(tmp_path / "rows.jsonl", rows)
    with pytest.raises(ExtSubError) as error:
        load_prompts(name)
    assert str(error.value) == (
        f"{name}, line 3: prompt is a number, expected text (and 1 more such row); correct or remove it"
    )
    assert load_prompts(write(tmp_path / "good.jsonl", rows[::2])).places == [
        f"{tmp_path}/good.jsonl, line 1",
        f"{tmp_path}/good.jsonl, line 3",
    ]


def test_what_is_left_out_or_only_asked_is_said(tmp_path: Path) -> None:
    rows = [
        {"conversations": [HUMAN, GPT, HUMAN, GPT], "system": "Be brief."},
        {"conversations": [HUMAN, {**GPT, "value": "You."}], "history": [["a", "b"]]},
    ]
    assert load_data(write(tmp_path / "rows.jsonl", rows)).notes == (
        "1 of 2 rows hold several answers: the last counts, the others are asked",
        "1 of 2 rows have system, which is left out: pass --field system=system to read it",
        "1 of 2 rows have history, which is left out",
    )
