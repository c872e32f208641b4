"""All or nothing: no partial output survives an error, a full disk, Ctrl-C or a kill, and nothing else is touched."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import pytest

import adapter_files
from conftest import Command, contents
from extsub import ExtSubError, combine, load_adapter, save_adapter
from extsub.adapters import writing
from extsub.adapters.adapter import Adapter, sha256
from extsub.files import staging
from killing import at_every_change, needs_fork

# Saves slowly enough to be killed in the middle of the file.
SLOW = """
import sys, time
from extsub.__main__ import main
from extsub.adapters import writing
write = writing.write_all
def slow(file, block):
    write(file, block)
    print("writing", flush=True)
    time.sleep(0.2)
writing.write_all = slow
main(sys.argv[1:])
"""


@pytest.fixture
def result(tmp_path: Path) -> Adapter:
    return combine(*adapter_files.pair(tmp_path))


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_folder_holds_four_files_and_says_how_it_was_made(tmp_path: Path, result: Adapter) -> None:
    record = save_adapter(result, tmp_path / "deep" / "down" / "out")
    output = tmp_path / "deep" / "down" / "out"
    assert names(output) == ["README.md", "adapter_config.json", "adapter_model.safetensors", "extsub.json"]
    assert record == adapter_files.record_of(output)
    expert, anti_expert = record["inputs"]
    assert (expert["role"], expert["name"], anti_expert["role"], anti_expert["alpha"]) == (
        "expert",
        "e",
        "anti-expert",
        1.0,
    )
    digest = subprocess.run(["sha256sum", tmp_path / "e" / "adapter_model.safetensors"], capture_output=True, text=True)
    assert expert["weights_sha256"] == digest.stdout.split()[0]
    assert record["versions"] == {name: version(name) for name in ("extsub", "numpy", "safetensors")}
    card = (output / "README.md").read_text()
    assert card.startswith("---\nbase_model: made-up/tiny\nbase_model_relation: adapter\nlibrary_name: peft\n")
    assert "--max-lora-rank 8" in card
    assert str(tmp_path) not in card + json.dumps(record), "paths are private"


def test_the_config_is_the_smallest_that_every_library_reads_alike(tmp_path: Path, result: Adapter) -> None:
    save_adapter(result, tmp_path / "out")
    assert adapter_files.config_of(tmp_path / "out") == {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "made-up/tiny",
        "r": 6,
        "lora_alpha": 6,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "target_modules": ["q_proj", "v_proj"],
        "modules_to_save": None,
    }


def test_existing_outputs_are_not_touched_unless_ours(tmp_path: Path, result: Adapter) -> None:
    output = tmp_path / "out"
    output.mkdir()
    save_adapter(result, output)  # an empty folder may be filled
    with pytest.raises(
        ExtSubError, match="out already exists: choose another output, or pass --overwrite to replace it"
    ):
        save_adapter(result, output)
    before = (output / "extsub.json").stat().st_ino
    save_adapter(result, output, overwrite=True)
    assert (output / "extsub.json").stat().st_ino != before
    (output / "thesis.tex").write_text("")
    with pytest.raises(ExtSubError, match="out holds files that extsub did not write, first thesis.tex"):
        save_adapter(result, output, overwrite=True)
    assert names(tmp_path) == ["a", "e", "out"]


def test_an_output_that_is_an_input_or_inside_one_is_refused(tmp_path: Path, result: Adapter) -> None:
    for output, message in (
        (tmp_path / "e", "e is also an input"),
        (tmp_path / "x" / ".." / "a", "a is also an input"),
        (tmp_path / "e" / "out", "lie inside one another"),
        (tmp_path, "lie inside one another"),
    ):
        with pytest.raises(ExtSubError, match=message):
            save_adapter(result, output, overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(ExtSubError, match="file is a file"):
        save_adapter(result, tmp_path / "file")
    (tmp_path / "target").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(ExtSubError, match="link is a symbolic link"):
        save_adapter(result, tmp_path / "link")


def test_symlinked_inputs_are_read_as_in_the_hubs_cache(tmp_path: Path) -> None:
    blobs = adapter_files.lora(tmp_path / "blobs")
    for folder in ("e", "a"):
        (tmp_path / folder).mkdir()
        for path in blobs.iterdir():
            (tmp_path / folder / path.name).symlink_to(path)
    assert load_adapter(tmp_path / "e").rank == 3


@pytest.mark.parametrize("error", [KeyboardInterrupt(), MemoryError(), OSError(28, "No space left on device")])
def test_an_error_in_the_middle_leaves_nothing(
    tmp_path: Path, result: Adapter, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []

    def fail(file: object, block: bytes) -> None:
        written.append(block)
        if len(written) == 3:
            raise error

    monkeypatch.setattr(writing, "write_all", fail)
    expected = ExtSubError if isinstance(error, OSError) else type(error)
    with pytest.raises(
        expected, match="No space left on device; nothing was kept" if expected is ExtSubError else None
    ):
        save_adapter(result, tmp_path / "new" / "out")
    assert names(tmp_path) == ["a", "e"]


def test_a_failed_overwrite_keeps_the_old_folder(
    tmp_path: Path, result: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    save_adapter(result, tmp_path / "out")
    rename = Path.rename

    def refuse(self: Path, target: Path) -> Path:
        if self.name.endswith(".partial"):
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(ExtSubError, match="Input/output error"):
        save_adapter(result, tmp_path / "out", overwrite=True)
    assert names(tmp_path) == ["a", "e", "out"]
    assert load_adapter(tmp_path / "out").rank == 6


def test_a_disk_that_is_too_small_is_noticed_before_writing(
    tmp_path: Path, result: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _path: SimpleNamespace(free=1000))
    with pytest.raises(ExtSubError, match="out needs 0 MB and the disk has 0 MB: make room first"):
        save_adapter(result, tmp_path / "out")
    assert names(tmp_path) == ["a", "e"]


def test_a_wrong_number_in_the_written_file_is_caught(
    tmp_path: Path, result: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Verification must be able to fail: one flipped bit in one row that it samples."""
    write = writing.write_all

    def corrupt(file, block) -> None:
        view = bytearray(block)
        if len(view) == 12 * 6 * 4:  # B of q_proj
            view[4 * 6 * 1 + 3] ^= 0x40  # the exponent of a number in row 1
        write(file, view)

    monkeypatch.setattr(writing, "write_all", corrupt)
    with pytest.raises(RuntimeError, match=r"q_proj was written wrongly"):
        save_adapter(result, tmp_path / "out")
    assert names(tmp_path) == ["a", "e"]


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_killed_run_leaves_no_output_and_the_next_one_does_not_mind(
    tmp_path: Path, extsub: Command, sent: signal.Signals, code: int
) -> None:
    adapter_files.pair(tmp_path)
    command = [sys.executable, "-c", SLOW, "combine", "e", "a", "--output", "out"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "writing\n"
    assert names(tmp_path) == [".out.partial", "a", "e"], "it is in the middle"
    busy = extsub("combine", "e", "a", "--output", "out")
    assert (busy.returncode, busy.stderr) == (2, "Error: out is being written by another run: wait for it\n")
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code
    if sent == signal.SIGKILL:
        assert names(tmp_path) == [".out.partial", "a", "e"]
    else:
        assert names(tmp_path) == ["a", "e"]
        assert "Traceback" not in errors
    assert extsub("combine", "e", "a", "--output", "out").returncode == 0
    assert names(tmp_path) == ["a", "e", "out"]


def test_staging_does_not_follow_what_it_finds(tmp_path: Path) -> None:
    """Litter with the name of a link to elsewhere is removed as a link."""
    (tmp_path / ".out.partial").mkdir()
    precious = tmp_path / "precious"
    precious.write_text("x")
    (tmp_path / ".out.partial" / "README.md").symlink_to(precious)
    with staging.staged(tmp_path / "out") as folder:
        (folder / "README.md").write_text("new")
    assert precious.read_text() == "x"


# ---- what a hostile review found -------------------------------------------------------------------------------


def test_what_is_in_the_way_of_staging_is_never_emptied(tmp_path: Path, result: Adapter) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    (victim / "data.txt").write_text("precious")
    (tmp_path / ".out.partial").symlink_to(victim)
    with pytest.raises(ExtSubError, match=r".out.partial is in the way: remove it"):
        save_adapter(result, tmp_path / "out")
    (tmp_path / ".out.partial").unlink()
    shutil.copytree(victim, tmp_path / ".out.partial")
    with pytest.raises(ExtSubError, match=r".out.partial holds files that extsub did not write, first data.txt"):
        save_adapter(result, tmp_path / "out")
    assert (tmp_path / ".out.partial" / "data.txt").read_text() == "precious"
    assert (victim / "data.txt").read_text() == "precious"


def test_overwrite_does_not_replace_a_trained_adapter(tmp_path: Path, result: Adapter) -> None:
    """PEFT writes files of the same names; only extsub writes extsub.json."""
    trained = adapter_files.lora(tmp_path / "trained", seed=7)
    with pytest.raises(ExtSubError, match=r"trained was not written by extsub \(it has no extsub.json\)"):
        save_adapter(result, trained, overwrite=True)


def test_outputs_that_are_no_names(tmp_path: Path, result: Adapter, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    save_adapter(result, ".")
    assert len(names(tmp_path / "here")) == 4
    save_adapter(result, tmp_path / "not-made" / ".." / "out")
    assert names(tmp_path) == ["a", "e", "here", "out"]
    for name in ("x" * 300, "~nobody-at-all/x"):
        with pytest.raises(ExtSubError, match="the output cannot be written"):
            save_adapter(result, name)


@needs_fork
@pytest.mark.parametrize("then", ["again", "afresh"])
@pytest.mark.slow
def test_an_overwrite_that_is_killed_anywhere_leaves_the_old_or_the_new(
    tmp_path: Path, result: Adapter, then: str
) -> None:
    """And nothing of the old comes back, should somebody take the output away and begin afresh."""
    output, other = tmp_path / "out", combine(tmp_path / "e", tmp_path / "a", alpha=2.0)
    save_adapter(result, tmp_path / "old" / "out")  # the card has the folder's name
    save_adapter(other, tmp_path / "new" / "out")
    old, new = (contents(tmp_path / name / "out") for name in ("old", "new"))
    seen = []

    def prepare() -> None:
        shutil.rmtree(output, ignore_errors=True)
        shutil.copytree(tmp_path / "old" / "out", output)

    def check() -> None:
        staging.check_place(output)  # as every command does first
        seen.append(contents(output))
        if then == "afresh":
            shutil.rmtree(output)
        save_adapter(other, output, overwrite=then == "again")
        assert contents(output) == new
        assert names(tmp_path) == ["a", "e", "new", "old", "out"]

    changes = at_every_change(lambda: save_adapter(other, output, overwrite=True), prepare, check)
    assert changes > 15
    assert seen == [old] * seen.count(old) + [new] * seen.count(new)
    assert 0 < seen.count(new) < seen.count(old)


def test_a_file_is_hashed_once_and_again_when_it_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, opened = tmp_path / "weights", []
    path.write_bytes(b"one")
    original = Path.open
    monkeypatch.setattr(Path, "open", lambda self, *a, **k: (opened.append(self), original(self, *a, **k))[1])
    assert [sha256(path), sha256(path)] == [hashlib.sha256(b"one").hexdigest()] * 2
    assert opened == [path]
    os.utime(path, ns=(0, 0))
    assert sha256(path) == hashlib.sha256(b"one").hexdigest()
    (tmp_path / "new").write_bytes(b"two")
    (tmp_path / "new").replace(path)
    assert sha256(path) == hashlib.sha256(b"two").hexdigest()


def test_an_input_that_becomes_shorter_meanwhile_is_told(tmp_path: Path) -> None:
    names = adapter_files.pair(tmp_path)
    result = combine(*names)
    weights = names[1] / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-40])
    with pytest.raises(ExtSubError, match="became shorter while it was read: is somebody writing it"):
        save_adapter(result, tmp_path / "out")
    assert not (tmp_path / "out").exists()
