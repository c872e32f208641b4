"""Files are whole or as they were, one run at a time writes, and a disk that refuses is told in one sentence."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from conftest import Command
from extsub import ExtSubError
from extsub.files import writing as files_writing
from extsub.files.disk import check_can_appear, check_writable, writing
from extsub.files.locks import locked
from extsub.files.writing import filled, last_written, make_parents, remove, write_together, write_whole
from killing import at_every_change, needs_fork

# As the libraries say it: Python, safetensors and tokenizers (Rust), torch.save (C++).
FULL = [
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EDQUOT, "Disk quota exceeded"),
    OSError(errno.EFBIG, "File too large"),
    SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)"),
    Exception("No space left on device (os error 28)"),
    RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 576 vs 534"),
    RuntimeError("PytorchStreamWriter failed writing file data/3: file write failed"),
    RuntimeError("write(): fd 3 failed with No space left on device"),
]
LOCKED = [
    OSError(errno.EROFS, "Read-only file system"),
    PermissionError(errno.EACCES, "Permission denied"),
    SafetensorError('Error while serializing: I/O error: Read-only file system (os error 30) at path "x/.tmp1"'),
    RuntimeError("[enforce fail at inline_container.cc:747] . open file failed with strerror: Permission denied"),
]
OTHERS = [OSError(errno.EIO, "Input/output error"), OSError("encoder error -2 when writing image file")]
BUGS = [
    RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
    SafetensorError("Error while deserializing header: invalid header"),
    KeyError("writing"),
    ExtSubError("No space left on device"),
    KeyboardInterrupt("No space left on device"),
]


@pytest.mark.parametrize("error", [*FULL, *LOCKED, *OTHERS], ids=str)
def test_a_disk_that_refuses_is_told_in_one_sentence(error: BaseException) -> None:
    with pytest.raises(ExtSubError) as told, writing(Path("out"), "go on", "the rest is kept"):
        raise error
    said = str(told.value)
    assert said.startswith("out could not be written: ")
    advice = "make room" if error in FULL else "allow writing there or choose another place"
    assert said.endswith(f"; the rest is kept: {'choose another place' if error in OTHERS else advice}, then go on")
    assert "\n" not in said
    assert "inline_container" not in said


@pytest.mark.parametrize("error", BUGS, ids=repr)
def test_every_other_error_stays_as_it_is(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, writing(Path("out")):
        raise error
    assert caught.value is error


@pytest.fixture
def small(disk_of: Callable[[str], Path]) -> Path:
    return disk_of("64k")


def test_what_torch_says_on_a_disk_that_is_full(small: Path) -> None:
    """Should a version of it find other words, this is where it shows."""
    many = {str(number): torch.zeros(1000) for number in range(200)}
    for value in (many, torch.zeros(200_000)):
        with pytest.raises(ExtSubError, match=r"x.pt could not be written: .*; make room, then try again"):  # noqa: SIM117
            with writing(small / "x.pt"):
                torch.save(value, small / "x.pt")


def test_files_that_do_not_all_fit_are_not_written(small: Path) -> None:
    (small / "one").write_text("old")
    with pytest.raises(ExtSubError, match="two could not be written: No space left on device; make room, then try"):
        write_together({small / "one": "new" * 100, small / "two": "x" * 100_000, small / "three": "new"})
    assert {path.name: path.read_text() for path in small.iterdir()} == {"one": "old"}


def test_a_read_only_disk_is_seen_before_any_work(small: Path) -> None:
    (small / "one").write_text("old")
    subprocess.run(["mount", "-o", "remount,ro", small], check=True)
    for place in (small, small / "not" / "there"):
        with pytest.raises(ExtSubError, match="disk is read-only; choose another place"):
            check_writable(place)
    with pytest.raises(ExtSubError, match="one could not be written: Read-only file system; allow writing there or"):
        write_whole(small / "one", "new")
    assert (small / "one").read_text() == "old"


@pytest.mark.parametrize("when", ["write", "fsync", "replace"])
def test_files_are_all_new_or_none_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, when: str) -> None:
    """As on a full disk, and possible everywhere."""
    first, second = tmp_path / "one", tmp_path / "two"
    first.write_text("old")
    calls: list[object] = []

    def fail(*given: object) -> None:
        calls.append(given)
        if len(calls) == (2 if when == "fsync" else 1):
            raise OSError(errno.ENOSPC, "No space left on device")

    if when == "write":
        monkeypatch.setattr(files_writing, "memoryview", fail, raising=False)
    elif when == "fsync":
        monkeypatch.setattr(os, "fsync", fail)
    else:
        monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(ExtSubError, match="could not be written: No space left on device; make room, then try again"):
        write_together({first: "new", second: "new"})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"one": "old"}


def test_a_signal_between_the_renames_leaves_all_of_them_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    replace, calls = Path.replace, []

    def stopped(self: Path, target: Path) -> Path:
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", stopped)
    with pytest.raises(KeyboardInterrupt):
        write_together({tmp_path / name: "new" for name in ("one", "two", "three")})
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == dict.fromkeys(("one", "two", "three"), "new")


@pytest.mark.skipif(files_writing.fcntl is None, reason="there are no locks")
def test_a_file_that_is_filled_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file"

    def half_way() -> None:
        with filled(path) as partial:
            partial.write_bytes(b"half")
            raise KeyError

    with pytest.raises(KeyError):
        half_way()
    assert not (tmp_path / "new").exists()
    for content in (b"first", b"second"):
        with filled(path) as partial:
            partial.write_bytes(content)
            with pytest.raises(ExtSubError, match="is being written by another run"), filled(path):
                pass
            assert path.exists() == (content == b"second")
        assert path.read_bytes() == content
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]
    assert last_written() == path


@needs_fork
def test_a_killed_write_leaves_the_old_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "file"
    seen = []

    def check() -> None:
        seen.append(path.read_text())
        write_whole(path, "newer")
        assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {"file": "newer"}

    assert at_every_change(lambda: write_whole(path, "new"), lambda: path.write_text("old"), check) >= 2
    assert set(seen) == {"old"}  # the last change is the rename, and before each of them the new one is not there


@needs_fork
def test_what_is_removed_is_whole_or_gone(tmp_path: Path) -> None:
    """A kill in between leaves no part under the name; the next call clears what it leaves at all."""
    folder = tmp_path / "out"
    seen = []

    def prepare() -> None:
        make_parents(folder / "deep" / "file")
        for path in (folder / "one", folder / "deep" / "two"):
            path.write_text("x")

    def check() -> None:
        seen.append(sorted(path.name for path in folder.rglob("*")))
        remove(folder)
        assert not list(tmp_path.iterdir())

    assert at_every_change(lambda: remove(folder), prepare, check) >= 4
    whole = ["deep", "one", "two"]
    assert seen == [whole] * seen.count(whole) + [[]] * seen.count([])
    assert seen[0] == whole
    assert seen[-1] == []


def test_a_link_is_removed_and_not_what_it_leads_to(tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "precious")
    remove(tmp_path / "link")
    remove(tmp_path / "nothing")
    assert [path.name for path in tmp_path.iterdir()] == ["precious"]


@pytest.mark.skipif(files_writing.fcntl is None, reason="there are no locks")
def test_two_writers_of_one_file_are_told_apart(tmp_path: Path) -> None:
    """Both would fill the same partial file, and the first to end would publish a mixture."""
    with files_writing._partial(tmp_path / "page.html") as file:
        file.write(b"half")
        with pytest.raises(ExtSubError, match="page.html is being written by another run: wait for it"):
            write_whole(tmp_path / "page.html", "mine")
    assert not (tmp_path / "page.html").exists()
    write_whole(tmp_path / "page.html", "mine")
    assert (tmp_path / "page.html").read_text() == "mine"


def test_a_partial_file_that_is_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    (tmp_path / ".file.partial-write").symlink_to(tmp_path / "precious")
    with pytest.raises(ExtSubError, match="file could not be written"):
        write_whole(tmp_path / "file", "new")
    assert (tmp_path / "precious").read_text() == "x"


@pytest.mark.skipif(files_writing.fcntl is None, reason="there are no locks")
@pytest.mark.parametrize("code", [errno.EBADF, errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS])
def test_a_disk_that_locks_nothing_is_written_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """EBADF is what NFS says of a folder."""

    def flock(*_: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files_writing.fcntl, "flock", flock)
    write_whole(tmp_path / "file", "new")
    with locked(tmp_path, tmp_path) as ours:
        assert ours()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.skipif(files_writing.fcntl is None, reason="there are no locks")
def test_who_holds_a_folder_knows_when_it_is_no_longer_his(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    with locked(folder, folder) as ours:
        assert ours()
        folder.rmdir()
        assert not ours()
        folder.mkdir()  # somebody begins anew
        assert not ours()
        with locked(folder, folder) as theirs:
            assert theirs()
    folder.rmdir()
    with pytest.raises(ExtSubError, match="being written by another run"), locked(folder, folder):
        pass


def test_a_parent_that_cannot_be_made_takes_the_others_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mkdir = Path.mkdir

    def full(self: Path, *given: object, **more: object) -> None:
        if self.name == "deep":
            raise OSError(errno.ENOSPC, "No space left on device")
        mkdir(self, *given, **more)

    monkeypatch.setattr(Path, "mkdir", full)
    (tmp_path / "new").mkdir()
    (tmp_path / "new").rmdir()
    with pytest.raises(OSError, match="No space"):
        make_parents(tmp_path / "new" / "deep" / "out")
    assert not list(tmp_path.iterdir())


def test_the_last_that_was_written_and_is_there(tmp_path: Path) -> None:
    files_writing.forget_written()
    assert last_written() is None
    for name in ("one", "two", ".three"):
        write_whole(tmp_path / name, "x")
    assert last_written() == tmp_path / "two"
    (tmp_path / "two").unlink()
    assert last_written() == tmp_path / "one"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_what_libraries_write_for_themselves_is_told_too(
    extsub: Command, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """A download into a full cache, say; any other error of theirs keeps its traceback."""
    error = OSError(code, os.strerror(code), "cache/blob")
    monkeypatch.setattr("extsub.cli.run_command", raising(error))
    run = extsub("combine")
    assert run.returncode == 2
    assert run.stderr.startswith(f"Error: cache/blob could not be written: {os.strerror(code)}; ")
    monkeypatch.setattr("extsub.cli.run_command", raising(OSError(errno.ENOENT, "No such file", "cache/blob")))
    with pytest.raises(FileNotFoundError):
        extsub("combine")


def raising(error: OSError) -> Callable[[object], None]:
    def run(_: object) -> None:
        raise error

    return run


def test_a_mount_point_is_refused_where_an_output_is_renamed_into_place(small: Path) -> None:
    with pytest.raises(ExtSubError, match="disk is a mount point, which nothing can be renamed to: give a"):
        check_can_appear(small)
    check_can_appear(small / "out")


AT_THE_END = """
import atexit, os, signal, sys
from extsub.__main__ import main
atexit.register(lambda: os.kill(os.getpid(), getattr(signal, sys.argv[1])))
main(sys.argv[2:])
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("words", [["--version"], ["combine"]])
def test_a_signal_while_libraries_put_themselves_away_is_no_traceback(name: str, words: list[str]) -> None:
    command = [sys.executable, "-c", AT_THE_END, name, *words]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert run.returncode == -getattr(signal, name)
    assert run.stdout.strip() if words == ["--version"] else run.stderr.startswith("Error: ")
    assert "Traceback" not in run.stderr


LOST = """
import os, signal, sys
from extsub import cli
from extsub.__main__ import main

class Dying:
    def __del__(self):
        os.kill(os.getpid(), getattr(signal, sys.argv[1]))
        for _ in range(10):
            pass  # here the handler is called

def run_command(arguments):
    import time
    Dying()
    time.sleep(30)

cli.run_command = run_command
main([])
"""


@pytest.mark.parametrize(("name", "code", "word"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
def test_a_signal_while_an_object_is_destroyed_is_not_lost(name: str, code: int, word: str) -> None:
    """Python prints an exception that is raised there, and goes on."""
    run = subprocess.run([sys.executable, "-c", LOST, name], capture_output=True, text=True, timeout=25, check=False)
    assert (run.returncode, run.stderr) == (code, f"Error: {word}; nothing was written\n")
