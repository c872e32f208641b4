"""Files that mean harm or are broken beyond what a program would write: refused in time, in one sentence."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import re
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file

import adapter_files
from adapter_files import PREFIX, Q, V
from conftest import Command
from extsub import ExtSubError, combine, load_adapter
from extsub.adapters import patterns
from extsub.adapters.patterns import check_expressions, first_keys
from extsub.adapters.reading import read_config
from extsub.data.rows import read_rows
from extsub.escaping import brief, shown
from extsub.files.reading import read_bytes, read_json
from extsub.files.yaml import read_yaml

WEIGHTS, CONFIG, PICKLE = "adapter_model.safetensors", "adapter_config.json", "adapter_model.bin"
HANGING = (
    *("(.*)*x", "([a-z_.0-9]+)+!", "((.|..)*)*#", ".*" * 12 + "x", "(?=(.*)*x)", "(?:(?:.{0,99}){0,99}){0,99}!"),
    "(.*)" * 12 + "\\1!",
)
"""which keep re busy for hours on a usual name of a module"""


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Expressions are stopped after a second."""
    monkeypatch.setattr(patterns, "SECONDS", 1)


def refused(work: Callable[[], Any], within: float = 15) -> str:
    """The sentence that ``work`` is refused with, in time."""
    begun = time.monotonic()
    with pytest.raises(ExtSubError) as caught:
        work()
    assert time.monotonic() - begun < within
    said = str(caught.value)
    assert said.isprintable()
    assert len(said) < 500
    return said


# ---- regular expressions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "expression", [*HANGING[:2], *(pytest.param(expression, marks=pytest.mark.slow) for expression in HANGING[2:])]
)
def test_an_expression_that_would_never_end_is_stopped(tmp_path: Path, soon: None, expression: str) -> None:
    folder = adapter_files.lora(tmp_path / "a", alpha_pattern={expression: 8})
    said = refused(lambda: load_adapter(folder))
    assert f"first {shown(expression)} in alpha_pattern, take more than 1 seconds on 2 modules: write the names" in said


def test_the_command_line_refuses_it_too(tmp_path: Path, extsub: Command, soon: None) -> None:
    for name in "ea":
        adapter_files.lora(tmp_path / name, rank_pattern={"q_proj": 3, "([a-z_.0-9]+)+!": 3})
    run = extsub("combine", "e", "a", "--output", "out")
    assert (run.returncode, run.stdout) == (2, "")
    assert run.stderr.startswith("Error: e: the regular expressions in adapter_config.json, first '([a-z_.0-9]+)+!'")
    assert not (tmp_path / "out").exists()
    assert "take more than 1 seconds" in extsub("inspect", "e").stdout


@pytest.mark.parametrize("broken", ["(", "*", "(?i)q_proj", "a{1000}{1000}", "(" * 3000 + ")" * 3000, "a{99999999999}"])
def test_what_is_no_regular_expression_where_peft_puts_it(tmp_path: Path, broken: str) -> None:
    folder = adapter_files.lora(tmp_path / "a", rank_pattern={broken: 3})
    assert "which is not a regular expression (" in refused(lambda: load_adapter(folder))


def test_an_expression_may_be_odd_as_long_as_peft_takes_it(tmp_path: Path) -> None:
    """``(.*\\.)?(KEY)$`` is what PEFT matches, also where KEY alone would be no expression."""
    folder = adapter_files.lora(
        tmp_path / "a", alpha_pattern={"a)|(b": 1, r"(?=.*q_)(?!.*k_)(self_attn|mlp)\..*?_proj": 12}
    )
    assert {name: module.scaling for name, module in load_adapter(folder).modules.items()} == {Q: 12 / 3, V: 2.0}


PARTS = st.sampled_from(["model", "layers", "0", "1", "10", "self_attn", "q_proj", "v_proj", "x", "a-b", ""])
NAMES = st.lists(PARTS, min_size=1, max_size=5).map(".".join)
EXPRESSIONS = st.sampled_from(
    [".*q_proj", r"layers\.\d+\..*", "(q|v)_proj", r"(?:.*\.)?x", "q_proj|v_proj", "", "[a-z_]+", r".*\.1\..*", "a)|(x"]
)
KEYS = NAMES | NAMES.map(re.escape) | NAMES.map(lambda name: name.replace("_", ".")) | EXPRESSIONS


@given(keys=st.lists(KEYS, max_size=6, unique=True), names=st.lists(NAMES, min_size=1, max_size=4, unique=True))
def test_the_first_key_is_the_one_that_peft_finds(keys: list[str], names: list[str]) -> None:
    first = first_keys("rank_pattern", keys, names, "a")
    for name in names:
        key = get_pattern_key(keys, name)  # the name itself where no key matches
        if key in keys:
            assert first[name] == key
        else:
            assert name not in first


@pytest.mark.parametrize("spelling", [str, re.escape], ids=["plain", "escaped"])
def test_as_many_keys_as_modules_are_looked_up(spelling: Callable[[str], str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patterns.subprocess, "run", None)
    names = [
        f"model.layers.{layer}.mlp.experts.{e}.{p}_proj"
        for layer in range(48)
        for e in range(128)
        for p in ("up", "down")
    ]
    keys = [spelling(name) for name in reversed(names)]
    begun = time.process_time()
    assert first_keys("rank_pattern", keys, names, "a") == dict(zip(names, reversed(keys), strict=True))
    assert time.process_time() - begun < 10, "all against all would take minutes"


def test_plain_keys_of_many_shapes_are_no_way_around(soon: None) -> None:
    """Each shape of a plain key costs a look-up for every name."""
    shape = ["".join("a."[number >> place & 1] for place in range(14)) for number in range(1, 2**14)]
    names = [f"{number:014b}".replace("0", "b").replace("1", "c") for number in range(2**13)]
    assert "take more than 1 seconds on 8192 modules" in refused(lambda: first_keys("rank_pattern", shape, names, "a"))


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": "(.*)*x!"},
        {"rank_pattern": {"(.*)*!": 3}},
        *(
            pytest.param(fields, marks=pytest.mark.slow)
            for fields in (
                {"exclude_modules": "(.*)*x!"},
                {"feedforward_modules": "(.*)*x!"},
                {"layers_pattern": ["lm_head", "(.*)*!"]},
                {"modules_to_save": ["lm_head", "(.*)*!"]},
                {"alpha_pattern": {"(.*)*!": 3}},
                {"layers_pattern": "(.*)*x"},
            )
        ),
    ],
    ids=str,
)
def test_what_peft_would_match_is_tried_before(fields: dict[str, Any], soon: None) -> None:
    said = refused(lambda: check_expressions(fields, ["model.layers.0.self_attn.q_proj"], "a"))
    assert f"in {next(iter(fields))}, take more than 1 seconds on 1 modules" in said


def test_usual_expressions_for_peft_are_let_through() -> None:
    """As Unsloth, LLaMA-Factory and ms-swift write them."""
    names = [f"model.layers.{layer}.self_attn.{name}_proj" for layer in range(80) for name in "qkvo"]
    parts = "(?:q_proj|k_proj|v_proj|o_proj|gate_proj|up_proj|down_proj)"
    for expression in (
        rf"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp).*?{parts}.*?)|(?:\bmodel\.layers\.[\d]{{1,}}\.mlp)",
        rf"^(?!.*(?:visual|vision)).*{parts}.*",
        rf"^(model.language_model(?=\.).*\.{parts})$",
        "(?i).*Q_PROJ",
    ):
        check_expressions({"target_modules": expression}, names, "a")
    with pytest.raises(ExtSubError, match=r"target_modules has '\(', which is not a regular expression"):
        check_expressions({"target_modules": "("}, names, "a")


def test_the_expression_of_ia3s_inputs(tmp_path: Path, soon: None) -> None:
    """Only where a vector does not say by its shape what it multiplies."""
    vectors = {"layers.0.k_proj": (4,), "layers.0.down_proj": (6,)}
    adapter = load_adapter(adapter_files.ia3(tmp_path / "a", vectors=vectors, feedforward_modules=r".*\.down_proj"))
    assert {name: module.layout.feedforward for name, module in adapter.modules.items()} == {
        "layers.0.down_proj": True,
        "layers.0.k_proj": False,
    }
    adapter_files.ia3(tmp_path / "b", vectors=vectors, feedforward_modules="((.|..)*)*#")
    assert "in feedforward_modules, take more than" in refused(lambda: load_adapter(tmp_path / "b"))


# ---- what is not a file -------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such files")
@pytest.mark.parametrize("name", [WEIGHTS, CONFIG, PICKLE])
@pytest.mark.parametrize("kind", ["pipe", "zeros", "folder"])
def test_only_regular_files_are_read(tmp_path: Path, name: str, kind: str) -> None:
    folder = adapter_files.lora(tmp_path / "a")
    if name == PICKLE:
        (folder / WEIGHTS).unlink()
    path = folder / name
    path.unlink(missing_ok=True)
    make = {"pipe": lambda: os.mkfifo(path), "zeros": lambda: path.symlink_to("/dev/zero"), "folder": path.mkdir}
    make[kind]()
    reason = "Is a directory" if kind == "folder" else "a pipe or device, not a regular file"
    assert refused(lambda: load_adapter(folder)) == f"{folder}: {name} cannot be read: {reason}"


def test_files_of_a_sane_size(tmp_path: Path) -> None:
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(2**40)  # takes no room
    with pytest.raises(OSError, match="larger than 32 MiB"):
        read_bytes(path)
    assert "large cannot be read: larger than 32 MiB" in refused(lambda: read_config(path, "a"))
    assert refused(lambda: read_yaml("recipe", path)) == "recipe: larger than 1 MiB"


@pytest.mark.parametrize("content", [b"[" * 100_000, b'"\\ud800"', b'{"\\uDC00": 1}', b"\xff", b"1" * 5000, b"", b"{"])
def test_json_that_is_none_is_a_value_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(ValueError):  # noqa: PT011  of several kinds
        read_json(tmp_path / "x.json")


def test_a_whole_surrogate_pair_is_text(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text(r'["\ud83d\ude00"]')
    assert read_json(tmp_path / "x.json") == ["😀"]


# ---- configs and tensors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('"r": 1%s' % ("0" * 400), "in adapter_config.json: no adapter is so large"),
        ('"rank_pattern": {"q_proj": 1%s}' % ("0" * 400), "rank_pattern: q_proj is 1000000000"),
        ('"lora_alpha": 1e999', "adapter_config.json holds 1e999, which is not JSON"),
        ('"layer_replication": [[0, 1e999]]', "adapter_config.json holds 1e999, which is not JSON"),
        (r'"base_model_name_or_path": "\ud800"', "adapter_config.json is not valid JSON ('utf-8' codec can't"),
        (r'"\ud800": 1', "adapter_config.json is not valid JSON ('utf-8' codec can't"),
        (f'"new": {[*range(3000)]}', "new is [0, 1, 2, 3, 4, 5, ...] in adapter_config.json"),
        ('"%s": 1' % ("x" * 5000), f"{'x' * 48}...{'x' * 48} is 1 in adapter_config.json"),
        ('"\\u001b[31m": 1', r"\x1b[31m is 1 in adapter_config.json"),
        ('"target_modules": ["\\u001b[31m"]', "target_modules in adapter_config.json must be a list of names"),
        ('"base_model_name_or_path": "%s"' % ("x" * 5000), "must be a string on one line"),
        (f'"new": {"[" * 100_000}{"]" * 100_000}', "adapter_config.json is not valid JSON (nested too deeply)"),
    ],
    ids=lambda text: text[:20],
)
def test_what_no_config_holds(tmp_path: Path, text: str, message: str) -> None:
    folder = adapter_files.lora(tmp_path / "a")
    names = re.findall(r'^"(\w+)"', text)
    rest = json.dumps({name: value for name, value in adapter_files.lora_config().items() if name not in names})
    (folder / CONFIG).write_text(f"{rest[:-1]}, {text}}}")
    assert message in refused(lambda: load_adapter(folder))


@pytest.mark.parametrize("shape", [(), (0, 1), (1, 0), (2, 2)])
def test_an_ia3_vector_is_a_vector(tmp_path: Path, shape: tuple[int, ...]) -> None:
    folder = adapter_files.ia3(tmp_path / "a", vectors={"layers.0.k_proj": shape})
    assert f"has shape {list(shape)}, expected a vector: the file is damaged" in refused(lambda: load_adapter(folder))


@pytest.mark.parametrize("key", ["x" * 500, "a\nb", "\x1b[2J", "a\u202eb"])
def test_a_tensor_has_a_name_that_can_be_shown(tmp_path: Path, key: str) -> None:
    tensors = adapter_files.factors() | {f"{PREFIX}{key}.lora_A.weight": torch.ones(3, 8)}
    folder = adapter_files.write(tmp_path / "a", tensors, adapter_files.lora_config())
    assert "that is not a name of a module" in refused(lambda: load_adapter(folder))


def test_two_adapters_that_name_long_things_differently(tmp_path: Path) -> None:
    for name in "ea":
        adapter_files.lora(
            tmp_path / name, base_model_name_or_path=f"{name * 4000}/x", layer_replication=[[0, 1]] * 999
        )
    assert "adapters of different bases" in refused(lambda: combine(*(load_adapter(tmp_path / name) for name in "ea")))


def test_values_are_quoted_shortened_and_on_one_line() -> None:
    assert shown("a'b") == '"a\'b"'
    assert (shown([1, "x"]), shown(None), shown({"b": 1})) == ("[1, 'x']", "None", "{'b': 1}")
    bomb: list[Any] = ["x"]
    for _ in range(50):
        bomb = [bomb] * 10
    for value in ("x" * 10**6, list(range(10**6)), {"\x1b" * 999: "\n" * 999}, 10**400, 16**5000, [16**5000], bomb):
        assert len(shown(value)) <= 100
        assert shown(value).isprintable()
        assert brief(repr(value) if isinstance(value, str) else "\x1b\n\ud800" * 999).isprintable()
    assert brief("a  b\n c\t\u202e") == "a b c \\u202e"
    assert brief("a" * 60 + "b" * 60) == "a" * 48 + "..." + "b" * 48


# ---- PyTorch files ---------------------------------------------------------------------------------------------


def test_no_file_of_a_few_bytes_is_a_traceback(tmp_path: Path) -> None:
    folder = adapter_files.lora(tmp_path / "a")
    (folder / WEIGHTS).unlink()
    whole = pickle.dumps({"x": 1}, protocol=2)
    cut = [whole[:length] for length in range(len(whole))]
    for content in (
        *(bytes([byte]) for byte in range(256)),
        b"PK\x03\x04",
        b"\x80\x02",
        b"\x80\x02.",
        b"(lp0",
        *cut,
    ):
        (folder / PICKLE).write_bytes(content)
        refused(lambda: load_adapter(folder))


def test_a_pickle_is_as_large_as_it_looks(tmp_path: Path) -> None:
    """No numbers that repeat a few bytes, and no compressed parts, which torch would unpack."""
    folder = adapter_files.lora(tmp_path / "a")
    tensors = load_file(folder / WEIGHTS)
    (folder / WEIGHTS).unlink()
    endless = torch.as_strided(torch.zeros(1), (10**6, 10**6), (0, 0))
    torch.save(tensors | {f"{PREFIX}x.lora_A.weight": endless}, folder / PICKLE)
    assert "claims more numbers than adapter_model.bin holds" in refused(lambda: load_adapter(folder))
    saved = io.BytesIO()
    torch.save({"x": torch.zeros(10**6)}, saved)
    with zipfile.ZipFile(saved) as parts, zipfile.ZipFile(folder / PICKLE, "w", zipfile.ZIP_DEFLATED) as packed:
        for part in parts.infolist():
            packed.writestr(part.filename, parts.read(part))
    assert "and torch.save compresses nothing" in refused(lambda: load_adapter(folder))
    torch.save({key: tensor.T.contiguous().T for key, tensor in tensors.items()}, folder / PICKLE)
    assert set(load_adapter(folder).modules) == {Q, V}, "a transposed tensor is whole"


def test_packed_data_is_not_unpacked_without_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extsub.data.formats.LARGEST", 2**20)
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(bytes(2**21)))  # two kilobytes
    assert "unpacks to more than 1 MiB: unpack it first" in refused(lambda: read_rows(str(path)))


# ---- YAML ------------------------------------------------------------------------------------------------------


def yaml_of(folder: Path, content: str | bytes) -> Any:
    path = folder / "x.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_yaml("x", path)


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 30))
MERGES = "a0: &a0 {x: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 9)}]}}\n" for n in range(1, 30))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a: !!map foo", "not YAML (expected a mapping node, but found scalar, line 1)"),
        ("a:\n  2001-13-45", "not YAML ('2001-13-45' is not a timestamp: put text in quotes, line 2)"),
        ("!!int x", "'x' is not an int: put text in quotes"),
        ("!!float x", "'x' is not a float"),
        ("!!bool x", "'x' is not a bool"),
        ("!!timestamp x", "'x' is not a timestamp"),
        ('!!int ""', "'' is not an int"),
        ("9" * 5000, f"{'9' * 20}' is not an int"),
        ("0x" + "f" * 5000, "is not an int"),
        ("1" + ":1" * 200_000, "is not an int"),
        ("1" + ":1" * 200_000 + ".5", "is not a float"),
        ("[" * 5000, "nested too deeply"),
        ("- " * 5000, "nested too deeply"),
        ("{a: " * 5000, "nested too deeply"),
        ("&a [*a]", "a value that holds itself"),
        ("&a {<<: *a}", "a value that holds itself"),
        (BOMB, "more than 20,000 values, line 5"),
        (MERGES, "more than 20,000 values"),
        ("\n".join(f"k{n}: 1" for n in range(20_000)), "more than 20,000 values"),
        ("a: 1\na: 2", "a is there twice"),
        ("a:\t- 1\n\tb: 2", "not YAML (found character '\\t' that cannot start any token, line 1)"),
        ("a: \0", "not YAML (unacceptable character #x0000"),
        ("a\n---\nb", "but found another document"),
        ("!!python/object/apply:os.system [touch x]", "could not determine a constructor"),
        ("? [a]\n: b", "found unhashable key"),
        ("a: =", "could not determine a constructor"),
        (b"a: \xff", "x: not UTF-8"),
        ("a: 1".encode("utf-16"), "x: not UTF-8"),
    ],
    ids=lambda content: repr(content[:20]),
)
def test_yaml_that_is_none(tmp_path: Path, content: str | bytes, message: str) -> None:
    assert message in refused(lambda: yaml_of(tmp_path, content), within=30)


def test_yaml_that_is_some(tmp_path: Path) -> None:
    """A byte order mark, anchors, merges, and a name in a merged mapping that is merged itself."""
    text = "\ufeffd: {b: &b {x: 1}, c: &c {<<: *b, x: 2}}\ne: {<<: [*c, *b], y: [*b, *b]}\n"
    assert yaml_of(tmp_path, text) == {
        "d": {"b": {"x": 1}, "c": {"x": 2}},
        "e": {"x": 2, "y": [{"x": 1}, {"x": 1}]},
    }
    assert yaml_of(tmp_path, "") is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("rank: 2024-01-01", "rank is datetime.date(2024, 1, 1), expected a whole number"),
        ("data: 2024-01-01", "data is datetime.date(2024, 1, 1), expected text: put it in quotes"),
        (f"rank: [{'x, ' * 5000}]", "rank is ['x', 'x', 'x', 'x', 'x', 'x', ...], expected a whole number"),
        ("learning-rate: 1\nlearning_rate: 2", "a name is there twice, once with - and once with _: keep one"),
        ("rank: !!map foo", "not YAML"),
        ("? [a]\n: 1", "not YAML"),
        (f"{'x' * 900}: 1", "is not known here; there are model, data, output, kind, "),
    ],
    ids=lambda content: content[:20],
)
def test_the_settings_of_train_are_read_as_a_recipe_is(
    tmp_path: Path, extsub: Command, content: str, message: str
) -> None:
    (tmp_path / "x.yaml").write_text(content)
    run = extsub("train", "--config", "x.yaml", "--model", "m", "--data", "d", "--output", "o")
    assert run.returncode == 2
    assert run.stderr.startswith("Error: --config x.yaml: ")
    assert message in run.stderr
    assert run.stderr.count("\n") == 1
    assert len(run.stderr) < 500


@pytest.mark.parametrize("spoilt", ["lora_A", "lora_B", "lora_E"])
def test_a_factor_of_adalora_without_sides_is_refused(tmp_path: Path, spoilt: str) -> None:
    sides = {"lora_A": (3, 8), "lora_B": (12, 3), "lora_E": (3, 1)}
    tensors = {f"{PREFIX}{Q}.{name}": torch.ones(() if name == spoilt else shape) for name, shape in sides.items()}
    config = adapter_files.lora_config(3, peft_type="ADALORA", init_r=3, target_r=2)
    with pytest.raises(ExtSubError, match=r"a: .*self_attn.q_proj.*"):
        load_adapter(str(adapter_files.write(tmp_path / "a", tensors, config)))
