"""An evaluation that was stopped goes on; one that is complete is not repeated; another one does not mix with it."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from benchmark_files import DYING, assert_same, done, results, rows_of
from conftest import Command, start
from extsub.evaluation.store import Store

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries
TOXIC = "--toxicity-model judge --max-new-tokens 6 --batch-size 3"


def stopping(patched: pytest.MonkeyPatch, after: int, number: signal.Signals) -> None:
    """The signal comes when so many rows are saved."""
    add, saved = Store.add, []

    def stop(self: Store, identity: dict[str, Any], row: dict[str, Any]) -> None:
        if len(saved) == after:
            signal.raise_signal(number)
        add(self, identity, row)
        saved.append(row)

    patched.setattr(Store, "add", stop)


def counted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """(task, item) of every row that is saved from here on."""
    add, asked = Store.add, []

    def counting(self: Store, identity: dict[str, Any], row: dict[str, Any]) -> None:
        asked.append((identity["task"], row["index"]))
        add(self, identity, row)

    monkeypatch.setattr(Store, "add", counting)
    return asked


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path: Path, evaluate: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGKILL after all 9 items of one task and 3 of the next; then its last line is cut off too."""
    tasks = ("truthfulqa-mc", "halueval-qa", "toxicity")
    words = f"{' '.join(tasks)} --adapter lora --data data {TOXIC} --output"
    killed = start(tmp_path, "-W", "ignore", "-c", DYING, "12", "evaluate", *words.split(), "halves")
    assert killed.returncode == -signal.SIGKILL
    partial = {path.name: path for path in (tmp_path / "halves").iterdir()}
    assert partial.keys() == {".truthfulqa-mc.0.partial", ".halueval-qa.0.partial"}
    kept = [row["index"] for row in rows_of(partial[".halueval-qa.0.partial"])[1:]]
    assert len(kept) == 3
    text = partial[".halueval-qa.0.partial"].read_bytes()
    partial[".halueval-qa.0.partial"].write_bytes(text[:-40])
    asked = counted(monkeypatch)
    done(evaluate(f"{words} halves"))
    missing = [("halueval-qa", index) for index in range(8) if index not in kept[:2]]
    assert sorted(asked) == [*missing, *(("toxicity", index) for index in range(6) for _ in "am")]  # answered, measured
    done(evaluate(f"{words} whole"))
    assert_same("halves", "whole", tasks, 1e-5)
    assert {path.name for path in Path("halves").iterdir()} == {path.name for path in Path("whole").iterdir()}


def test_what_two_processes_left_one_goes_on_with(evaluate: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each left a file of its own; the second knows scores of an answer that the first has saved."""
    with monkeypatch.context() as patched:
        stopping(patched, 8, signal.SIGINT)
        evaluate(f"toxicity --adapter lora --data data {TOXIC} --output out")
    lines = Path("out/.toxicity.0.partial").read_text().splitlines(keepends=True)
    assert len(lines) == 1 + 6 + 2
    Path("out/.toxicity.0.partial").write_text("".join(lines[:4]))
    Path("out/.toxicity.1.partial").write_text("".join([lines[0], *lines[4:]]))
    asked = counted(monkeypatch)
    done(evaluate(f"toxicity --adapter lora --data data {TOXIC} --output out"))
    assert len(asked) == 4
    done(evaluate(f"toxicity --adapter lora --data data {TOXIC} --output whole"))
    assert_same("out", "whole", ("toxicity",), 1e-5)
    assert not list(Path("out").glob(".*"))


@pytest.mark.parametrize(("after", "left"), [pytest.param(4, 8, marks=pytest.mark.slow), (8, 4)])
def test_ctrl_c_keeps_what_was_said(
    evaluate: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, after: int, left: int
) -> None:
    """6 answers, then 6 scores."""
    words = f"toxicity --adapter prefix --data data {TOXIC} --output"
    for number, code, word in ((signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")):
        with monkeypatch.context() as patched:
            stopping(patched, after, number)
            run = evaluate(f"{words} {word}")
        message = f"Error: {word}; {min(after, 6)} items are saved: the same command goes on from there\n"
        assert (run.returncode, run.stderr) == (code, message)
        assert [path.name for path in (tmp_path / word).iterdir()] == [".toxicity.0.partial"]
        with monkeypatch.context() as patched:
            asked = counted(patched)
            done(evaluate(f"{words} {word}"))
        assert len(asked) == left
    done(evaluate(f"{words} whole"))
    assert_same("interrupted", "whole", ("toxicity",), 1e-5)
    assert_same("terminated", "whole", ("toxicity",), 1e-5)


def test_ctrl_c_before_the_first_item_leaves_nothing(
    evaluate: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    before = sorted(tmp_path.rglob("*"))
    stopping(monkeypatch, 0, signal.SIGINT)
    run = evaluate("halueval-qa --adapter prefix --data data --output new/out")
    assert (run.returncode, run.stderr) == (130, "Error: interrupted; nothing was written\n")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_complete_task_is_not_asked_again(evaluate: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    words = f"halueval-qa toxicity --adapter lora prefix --data data {TOXIC} --output out"
    shown = done(evaluate(words))
    before = {path: path.read_bytes() for path in Path("out").rglob("*.json*")}
    assert len(before) == 2 * 3
    with monkeypatch.context() as patched:
        patched.setattr("extsub.inference.language_model.load_base", None)
        patched.setattr("extsub.evaluation.tasks.toxicity._classifier", None)
        assert done(evaluate(words)) == shown
    assert {path: path.read_bytes() for path in Path("out").rglob("*.json*")} == before
    asked = counted(monkeypatch)
    done(evaluate("halueval-qa truthfulqa-binary --adapter lora --data data --output out/lora"))
    assert {task for task, _ in asked} == {"truthfulqa-binary"}
    assert list(results("out/lora")["tasks"]) == ["halueval-qa", "toxicity", "truthfulqa-binary"]


def test_a_repeated_run_has_the_same_bytes(evaluate: Command) -> None:
    tasks = ("truthfulqa-mc", "toxicity")
    for folder in ("one", "two"):
        done(evaluate(f"{' '.join(tasks)} --adapter lora --data data {TOXIC} --output {folder}"))
    for task in tasks:
        assert Path("one", f"{task}.jsonl").read_bytes() == Path("two", f"{task}.jsonl").read_bytes()
    assert results("one")["tasks"] == results("two")["tasks"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--adapter prefix", "out holds the results of another model (lora): choose another output, or --overwrite"),
        ("--adapter lora --limit 3", "out holds halueval-qa with another limit (None, now 3): choose another output, "),
        pytest.param(
            "--model base",
            "out holds the results of another model (lora): choose another output, or --overwrite",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "--adapter lora --prompt none",
            "out holds halueval-qa with another prompt ('extsub', now 'none'): choose an",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "--adapter lora --data halueval-qa=data/more.jsonl",
            "out holds halueval-qa with another data ('",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_another_run_replaces_this_one_only_when_told_to(evaluate: Command, words: str, message: str) -> None:
    done(evaluate("halueval-qa truthfulqa-binary --adapter lora --data data --output out"))
    before = {path: path.read_bytes() for path in Path("out").iterdir()}
    Path("more.jsonl").write_text("".join(Path("data/qa_data.json").read_text().splitlines(keepends=True)[:5]))
    command = f"halueval-qa {words.replace('data/more', 'more')} --data data --output"
    run = evaluate(f"{command} out")
    assert run.returncode == 2
    assert run.stderr.startswith(f"Error: {message}")
    assert {path: path.read_bytes() for path in Path("out").iterdir()} == before
    done(evaluate(f"{command} out --overwrite"))
    done(evaluate(f"{command} fresh"))
    assert_same("out", "fresh", ("halueval-qa",), 0)
    others = {"truthfulqa-binary"} if "lora" in words else set()  # figures of another model do not stay
    assert results("out")["tasks"].keys() == {"halueval-qa"} | others
    files = {path.name for path in Path("out").iterdir()}
    assert files == {"results.json", "halueval-qa.jsonl"} | {f"{task}.jsonl" for task in others}


def test_an_interrupted_run_is_given_up_only_when_told_to(evaluate: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        stopping(patched, 5, signal.SIGINT)
        evaluate("halueval-qa --adapter lora --data data --output out")
    run = evaluate("halueval-qa --adapter lora --data data --output out --prompt none")
    message = "out holds an interrupted run of halueval-qa with another prompt ('extsub', now 'none'): choose another"
    assert (run.returncode, run.stderr) == (2, f"Error: {message} output, or pass --overwrite to give it up\n")
    asked = counted(monkeypatch)
    done(evaluate("halueval-qa --adapter lora --data data --output out --prompt none --overwrite"))
    assert len(asked) == 8
    assert [path.name for path in Path("out").glob(".*")] == []


@pytest.mark.parametrize("after", [0, *(pytest.param(after, marks=pytest.mark.slow) for after in (1, 2))])
def test_a_replacement_that_was_stopped_at_its_end_is_not_taken_for_what_it_replaces(
    evaluate: Command, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """Stopped before one of the files that it writes last."""
    from extsub.evaluation import evaluate as module
    from extsub.evaluation import store

    write, written = store.write_whole, []

    def write_whole(path: Path, text: str) -> None:
        if len(written) == after:
            signal.raise_signal(signal.SIGINT)
        written.append(path)
        write(path, text)

    done(evaluate("halueval-qa --adapter lora --data data --output out"))
    replaced = "halueval-qa --adapter lora --data data --output out --limit 3"
    with monkeypatch.context() as patched:
        patched.setattr(store, "write_whole", write_whole)
        patched.setattr(module, "write_whole", write_whole)
        assert evaluate(f"{replaced} --overwrite").returncode == 130
    done(evaluate(f"{replaced} --overwrite"))
    assert results("out")["tasks"]["halueval-qa"]["accuracy_sum"]["n"] == 3
    assert len(rows_of(Path("out/halueval-qa.jsonl"))) == 3
    assert done(evaluate(replaced))


def test_two_runs_into_one_output_are_told_apart(evaluate: Command) -> None:
    from extsub.files.locks import locked

    Path("out").mkdir()
    with locked(Path("out"), Path("out")):
        run = evaluate("halueval-qa --adapter lora --data data --output out")
    assert (run.returncode, run.stderr) == (2, "Error: out is being written by another run: wait for it\n")


@pytest.mark.parametrize("when", ["task", "results", "forget"])
def test_who_stops_it_while_the_results_are_written_is_told_that_all_is_saved(
    evaluate: Command, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Not that nothing was written: everything has been asked."""
    from extsub.evaluation import evaluate as module

    room, name = {"task": (Store, "finish"), "results": (module, "_write"), "forget": (Store, "forget")}[when]
    with monkeypatch.context() as patched:
        patched.setattr(room, name, lambda *_: signal.raise_signal(signal.SIGTERM))
        stopped = evaluate("halueval-qa --adapter lora --data data --output out")
    message = "Error: terminated; 8 items are saved: the same command goes on from there\n"
    assert (stopped.returncode, stopped.stderr) == (143, message)
    with monkeypatch.context() as patched:
        patched.setattr("extsub.inference.language_model.load_base", None)  # nothing is asked again
        done(evaluate("halueval-qa --adapter lora --data data --output out"))
    assert len(rows_of(Path("out/halueval-qa.jsonl"))) == 8
    assert not list(Path("out").glob(".*"))


def test_who_stops_it_when_all_is_done_is_told_what_is_written(
    evaluate: Command, monkeypatch: pytest.MonkeyPatch
) -> None:

    monkeypatch.setattr("extsub.console.results.print_results", lambda *_: signal.raise_signal(signal.SIGTERM))
    stopped = evaluate("halueval-qa --adapter lora --data data --output out")
    assert (stopped.returncode, stopped.stderr) == (143, "Error: terminated; out/results.json is written\n")


def test_a_folder_that_was_begun_anew_by_another_run_is_left_to_it(
    evaluate: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody removes the folder of a run, begins another there, and stops the first."""

    def begun_anew(*_: object) -> None:
        Path("new/out").rmdir()
        Path("new/out").mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr("extsub.evaluation.evaluate.ask_all", begun_anew)
    assert evaluate("halueval-qa --adapter lora --data data --output new/out").returncode == 130
    assert Path("new/out").is_dir()
