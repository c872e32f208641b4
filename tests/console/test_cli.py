"""The command line end to end, with real files and exact messages."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import adapter_files
import extsub as package
from conftest import ROOT, Command, start
from extsub import extras

HEAVY = {"peft", "transformers", "accelerate", "matplotlib", "datasets", "gradio"}


@pytest.fixture
def pair(tmp_path: Path) -> None:
    adapter_files.lora(tmp_path / "e")
    adapter_files.lora(tmp_path / "a", rank=2, seed=1)
    adapter_files.lora(tmp_path / "b", rank=1, seed=2)


@pytest.mark.usefixtures("pair")
def test_combine_prints_a_summary(extsub: Command, tmp_path: Path) -> None:
    done = extsub("combine", "e", "a", "--output", "out")
    assert (done.returncode, done.stderr) == (0, "")
    record = json.loads((tmp_path / "out" / "extsub.json").read_text())
    largest, error = record["largest_amplification"], record["verification"]["largest_relative_error"]
    assert done.stdout.splitlines() == [
        "out: ext-sub of e and a (α 1)",
        f"  size           2 modules, rank 5, float32, {record['bytes'] / 1e3:.1f} kB",
        "  zero rows      0 in the expert, 0 in the anti-expert, of 16",
        f"  amplification  expert rows are scaled by {largest['factor']:.3g} at most ({largest['module']})",
        f"  verified       8 rows against the dense formula, largest relative error {error:.1e}",
        "  serve          vllm serve made-up/tiny --enable-lora --max-lora-rank 8 --lora-modules out=out",
        "written: out/: adapter_model.safetensors, adapter_config.json, README.md, extsub.json",
        "next:    extsub evaluate truthfulqa-mc --adapter e out --output results",
        "see:     docs/serving.md for servers, several strengths and the way back",
    ]
    assert 1 < largest["factor"] < 100
    assert 0 < error < 1e-6


@pytest.mark.usefixtures("pair")
def test_what_to_do_next_with_a_deficiency_is_no_evaluation_of_it_alone(extsub: Command, tmp_path: Path) -> None:
    done = extsub("combine", "e", "a", "--deficiency", "-o", "dial")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines()[-2:] == [
        "next:    extsub export gguf dial --output dial.gguf",
        "see:     docs/serving.md for servers, several strengths and the way back",
    ]
    for name in "ea":
        adapter_files.ia3(tmp_path / f"ia3-{name}")
    done = extsub("combine", "ia3-e", "ia3-a", "--deficiency", "-o", "scales")
    assert (done.returncode, done.stderr) == (0, "")
    assert "next:" not in done.stdout


@pytest.mark.usefixtures("pair")
@pytest.mark.parametrize(
    "alphas", [["--alpha", "0.5", "--alpha", "-1"], ["--alpha=0.5", "--alpha=-1"], ["--alpha", ".5", "--alpha=-1e0"]]
)
def test_json_has_everything_and_alpha_may_stand_anywhere(extsub: Command, tmp_path: Path, alphas: list[str]) -> None:
    done = extsub("combine", *alphas, "e", "a", "b", "-o", "out", "--operation", "contrast", "--json")
    result = json.loads(done.stdout)
    assert result == {"output": "out", **json.loads((tmp_path / "out" / "extsub.json").read_text())}
    assert [given["alpha"] for given in result["inputs"]] == [None, 0.5, -1.0]
    assert (result["operation"], result["rank"]) == ("contrast", 6)


NO_ADAPTER = "is a number, not an adapter: if it is a strength, say --alpha"


@pytest.mark.usefixtures("pair")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["combine", "e", "a"], 'Error: Command "combine" parameter --output requires an argument.'),
        (["combine", "e", "-o", "o"], 'Error: Command "combine" parameter ANTI_EXPERT requires an argument.'),
        (["combine", "e", "none", "-o", "o"], "Error: none: no such folder, and not an adapter of the hub"),
        (["combine", "e", "a", "-o", "o", "--operation", "x"], "Error: operation must be one of ext-sub, subtract, "),
        (
            ["combine", "e", "a", "-o", "o", "--alpha", "x"],
            "Error: --alpha x: expected a number (0.5), or several with commas",
        ),
        (["combine", "e", "a", "-o", "o", "--alpha", "1", "--alpha", "2"], "Error: 2 values of alpha for 1 anti-"),
        (["combine", "e", "a", "b", "--alpha", "1", "2", "-o", "o"], f"Error: 2 {NO_ADAPTER} 2\n"),
        (["combine", "--alpha", "1", "-0.5", "e", "a", "-o", "o"], f"Error: -0.5 {NO_ADAPTER} -0.5\n"),
        (["combine", "e", "a", "-o", "o", "--alpha", "nan"], "Error: alpha must be a finite number, found nan"),
        (["combine", "e", "a", "-o", "o", "--rank", "0"], "Error: rank must be above 0 and is for LoRA only, found 0"),
        (["combine", "e", "a", "-o", "e"], "Error: e is also an input: choose another output"),
        (["combine", "e", "a", "-o", "o", "--nothing"], "Error: Unknown option: --nothing."),
        (["inspect", "e", "--plot", "p.png"], "Error: --plot compares two adapters: give an anti-expert too"),
        (["inspect", "e", "a", "--plot", "p.gif"], "Error: p.gif: a plot is a .png, .svg or .pdf file, found '.gif'"),
        (["inspect", "none"], "Error: none: no such folder, and not an adapter of the hub"),
        (["unknown"], 'Error: Unknown command "unknown".'),
    ],
)
def test_what_the_user_can_fix_is_one_sentence_and_exit_code_2(
    extsub: Command, tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = extsub(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message)
    assert done.stderr.count("\n") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "e"], "nothing was written"


@pytest.mark.parametrize(
    ("arguments", "end"),
    [
        (["sweep", "e", "a", "--output", "s", "--taks", "drift"], "Run 'extsub sweep --help'."),
        (["combine", "e"], "Run 'extsub combine --help'."),
        (["evalute"], 'Did you mean "evaluate"? '),
        (["combine", "e", "a", "--ouput", "x"], "Did you mean --output? "),
    ],
)
def test_a_slip_is_answered_with_the_nearest_word_and_the_commands_own_help(
    extsub: Command, arguments: list[str], end: str
) -> None:
    assert end in extsub(*arguments).stderr


def test_without_a_command_it_shows_the_help(extsub: Command) -> None:
    done = extsub()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: extsub COMMAND")
    assert "To begin: extsub demo" in done.stdout


COMMANDS = "combine inspect merge push train evaluate generate chat ui sweep report compare run demo".split()
COMMANDS += ["export gguf", "negatives"]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_help_page_has_an_example_and_defaults_as_one_types_them(extsub: Command, command: str) -> None:
    shown = " ".join(extsub(*command.split(), "--help").stdout.split())
    assert f"Example: extsub {command} " in shown
    assert not re.search(r"\[default: (\(|\{|False|None|\])", shown)
    assert "--quiet -q" in shown


def test_a_sweep_does_not_speak_of_what_it_refuses(extsub: Command) -> None:
    assert not re.search(r"--backend|--url|--reference\b|--adapter", extsub("sweep", "--help").stdout)


def test_completion_can_be_installed(tmp_path: Path) -> None:
    done = start(tmp_path, "-m", "extsub", "--install-completion", "--shell", "bash", HOME=str(tmp_path))
    assert done.returncode == 0, done.stderr
    written = [path for path in tmp_path.rglob("*") if path.is_file() and "extsub" in path.read_text()]
    assert written


@pytest.mark.usefixtures("pair")
def test_quiet_prints_nothing_and_json_is_still_printed(extsub: Command, tmp_path: Path) -> None:
    done = extsub("combine", "e", "a", "-o", "out", "--quiet")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert (tmp_path / "out" / "extsub.json").exists()
    assert json.loads(extsub("combine", "e", "a", "-o", "out2", "-q", "--json").stdout)["rank"] == 5
    assert extsub("combine", "e", "none", "-o", "o", "-q").stderr.startswith("Error: none: no such folder")


ENCODINGS = ("cp1252", "ascii", "iso8859-7", "utf-8")


@pytest.mark.usefixtures("pair")
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_any_encoding_of_the_terminal_will_do(tmp_path: Path, encoding: str) -> None:
    """What it lacks is spelled out; JSON stays JSON with the same content."""
    variables = {"PYTHONIOENCODING": encoding, "PYTHONUTF8": "0"}
    code = (
        "import sys\nfrom extsub.__main__ import main\n"
        "for words in (['combine', 'e', 'a', '-o', 'α'], ['combine', 'e', 'a', '-o', 'out', '--json'], ['--help']):\n"
        "    try: main(words)\n    except SystemExit as done: assert done.code == 0\n    print('-----')\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, env={**os.environ, **variables})
    assert done.returncode == 0, done.stderr.decode()
    summary, record, _ = done.stdout.decode(encoding).split("-----")[:3]
    α = "alpha" if encoding in ("cp1252", "ascii") else "α"
    assert summary.startswith(f"{α}: ext-sub of e and a ({α} 1)")
    written = json.loads((tmp_path / "out" / "extsub.json").read_text(encoding="utf-8"))
    assert json.loads(record) == {"output": "out", **written}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's /dev/full")
@pytest.mark.usefixtures("pair")
def test_a_full_or_closed_output_is_no_crash(tmp_path: Path) -> None:
    run = f"{sys.executable} -m extsub"
    for words in ("--help", "inspect e"):
        done = subprocess.run(
            f"{run} {words} > /dev/full", shell=True, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 2
        assert done.stderr == (
            "Error: nothing more can be printed (No space left on device); what was written to files is there\n"
        )
    script = f"set -o pipefail; {run} --help | head -1"
    piped = subprocess.run(["bash", "-c", script], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (piped.returncode, piped.stderr) == (0, "")
    assert piped.stdout.startswith("Usage: extsub")


def test_exit_of_a_library_is_its_own(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom extsub import __main__ as program\nfrom extsub.inspection import inspect\n"
        "inspect.inspect = lambda *_, **__: sys.exit(7)\nprogram.main(['inspect', 'e'])"
    )
    done = start(tmp_path, "-c", code)
    assert (done.returncode, done.stderr) == (7, "")


@pytest.mark.parametrize(("name", "code", "word"), [("SIGINT", 130, "interrupted"), ("SIGTERM", 143, "terminated")])
def test_stopped_during_the_imports_it_says_so(tmp_path: Path, name: str, code: int, word: str) -> None:
    """The signal arrives when the first library is imported."""
    program = (
        "import os, signal, sys\n"
        "class Stop:\n"
        "    def find_spec(self, fullname, *_):\n"
        "        if fullname == 'cyclopts': os.kill(os.getpid(), getattr(signal, sys.argv[1]))\n"
        "sys.meta_path.insert(0, Stop())\n"
        "from extsub.__main__ import main\nmain(['--help'])"
    )
    done = start(tmp_path, "-c", program, name)
    assert (done.returncode, done.stdout) == (code, "")
    assert done.stderr == f"Error: {word}; nothing was written\n"


@pytest.mark.parametrize(
    ("command", "extra", "library"),
    [
        (["train", "--model", "m", "--data", "d.jsonl", "--output", "o"], "train", "matplotlib"),
        (["evaluate", "drift"], "evaluate", "peft"),
        (["generate", "--model", "m", "--prompts", "d.jsonl", "--output", "o.jsonl"], "evaluate", "peft"),
        (["chat", "e", "a"], "evaluate", "peft"),
        (
            ["negatives", "d.jsonl", "--behaviour", "toxic", "--model", "m", "--output", "o.jsonl"],
            "evaluate",
            "peft",
        ),
        *(
            (
                [*"negatives d.jsonl --behaviour toxic --model m --url http://localhost/v1 --output o.jsonl".split()],
                "evaluate,openai",
                library,
            )
            for library in ("peft", "openai")
        ),
        (["sweep", "e", "a", "--tasks", "drift", "--output", "o"], "evaluate", "peft"),
        (["run", "recipe.yaml"], "train,evaluate,report", "matplotlib"),
        (["demo"], "demo", "gguf"),
        (["report", "folder"], "report", "jinja2"),
        (["ui", "e", "a"], "ui", "gradio"),
    ],
)
def test_a_missing_library_is_a_sentence_before_anything_heavy_is_imported(
    tmp_path: Path, command: list[str], extra: str, library: str
) -> None:
    code = (
        "import sys\nfrom extsub import extras\nfrom extsub.__main__ import main\n"
        "installed = extras._installed\nextras._installed = lambda name: name != sys.argv[1] and installed(name)\n"
        "try: main(sys.argv[2:])\nfinally: print(*sys.modules)"
    )
    (tmp_path / "d.jsonl").write_text('{"prompt": "Who?", "completion": "I."}\n')
    done = start(tmp_path, "-c", code, library, *command)
    assert done.returncode == 2
    what = f"extsub {command[0]} needs {library}, which is not installed: pip install 'extsub[{extra}]'"
    assert done.stderr == f"Error: {what}\n"
    assert not {"torch", *HEAVY} & set(done.stdout.split())


def test_what_an_extra_needs_is_what_the_project_says() -> None:
    """Against pyproject.toml, read apart from the installed package."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert "evaluate = [" in text
    lists = {name: text.partition(f"\n{name} = [")[2].partition("\n]")[0] for name in ("evaluate", "dial")}
    wanted = [name for each in lists.values() for name in re.findall(r'^    "([\w-]+)[>=]', each, re.MULTILINE)]
    assert "torch" in wanted
    assert sorted(extras._libraries("evaluate")) == sorted(wanted)
    assert set(wanted) < set(extras._libraries("ability")), "ability names evaluate"
    assert extras._libraries("nothing") is not None
    assert not list(extras._libraries("nothing"))


@pytest.mark.usefixtures("pair")
def test_a_bug_keeps_its_traceback(tmp_path: Path) -> None:
    code = (
        "from extsub import __main__ as program\nfrom extsub.combination import combine\ncombine.combine = None\n"
        "program.main(['combine', 'e', 'a', '-o', 'o'])"
    )
    done = start(tmp_path, "-c", code)
    assert done.returncode == 1
    assert "Traceback" in done.stderr


def test_help_loads_neither_torch_nor_anything_heavy(tmp_path: Path) -> None:
    done = start(tmp_path, "-m", "extsub", "--help")
    assert done.returncode == 0
    assert "combine" in done.stdout
    assert "inspect" in done.stdout
    code = (
        "import sys\nfrom extsub import __main__ as program\n"
        "try: program.main(['combine', '--help'])\nexcept SystemExit: print(*sys.modules)"
    )
    loaded = start(tmp_path, "-c", code).stdout.split()
    assert "cyclopts" in loaded
    assert not {"torch", "safetensors", "huggingface_hub", "extsub.evaluation.tasks", *HEAVY} & set(loaded)


@pytest.mark.usefixtures("pair")
def test_combine_loads_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys\nfrom extsub import __main__ as program\n"
        "try: program.main(['combine', 'e', 'a', '-o', 'out', '--json'])\nexcept SystemExit: print(*sys.modules)"
    )
    done = start(tmp_path, "-c", code)
    loaded = done.stdout.splitlines()[-1].split()
    assert "numpy" in loaded
    assert not {"torch", *HEAVY} & set(loaded)


def test_comparing_and_reporting_need_no_model(tmp_path: Path) -> None:
    code = (
        "import sys, extsub.cli, extsub.console.results, extsub.console.summaries\n"
        "import extsub.evaluation.compare, extsub.evaluation.comparison_plot, extsub.report.page\nprint(*sys.modules)"
    )
    loaded = set(start(tmp_path, "-c", code).stdout.split())
    assert "extsub.report.page" in loaded
    assert not {"torch", "transformers", "peft", "datasets", "accelerate"} & loaded


@pytest.mark.usefixtures("pair")
def test_inspect_one(extsub: Command) -> None:
    done = extsub("inspect", "e")
    assert done.stdout.splitlines() == [
        "e: LORA adapter of made-up/tiny",
        "  task       CAUSAL_LM",
        "  size       4 tensors, 96 parameters, float32, 0.9 kB",
        "  modules    2: 1 q_proj 12x8, 1 v_proj 4x8",
        "  rank       3",
        "  scaling    2",
        "  combine    yes, exactly",
        "next:    extsub inspect e ANTI_EXPERT --plot pair.png",
    ]


def test_the_version_is_the_project_files(extsub: Command) -> None:
    (stated,) = re.findall(r'^version = "(.+)"$', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    assert extsub("--version").stdout == f"{stated}\n"
    assert package.__version__ == stated


def test_inspect_says_why_an_adapter_cannot_be_combined(extsub: Command, tmp_path: Path) -> None:
    adapter_files.lora(tmp_path / "dora", use_dora=True)
    done = extsub("inspect", "dora")
    assert done.returncode == 0
    assert "  combine    no: dora: use_dora is True in adapter_config.json: DoRA rescales" in done.stdout
    info = json.loads(extsub("inspect", "dora", "--json").stdout)
    assert (info["can_be_combined"], info["kind"], info["tensors"]) == (False, "LORA", 4)


@pytest.mark.usefixtures("pair")
def test_inspect_a_pair_as_table_json_and_picture(extsub: Command, tmp_path: Path) -> None:
    done = extsub("inspect", "e", "a", "--plot", "pair.svg")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[-6].split()[:3] == ["module", "|e|", "|a|"]
    assert lines[-2:] == ["written: pair.svg", "next:    extsub combine e a --output better"]
    assert (tmp_path / "pair.svg").read_text().startswith("<?xml")
    info = json.loads(extsub("inspect", "e", "a", "--json", "--plot", "pair.png").stdout)
    ratios = [module["ratio"] for module in info["modules"]]
    assert ratios == sorted(ratios, reverse=True), "worst first"
    assert (tmp_path / "pair.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("pair")
def test_a_truncated_result_says_what_was_verified(extsub: Command) -> None:
    lines = extsub("combine", "e", "a", "-o", "out", "--rank", "2").stdout.splitlines()
    (truncation,) = [line for line in lines if line.startswith("  truncation")]
    (verified,) = [line for line in lines if line.startswith("  verified")]
    assert "relative error" in truncation
    assert verified.endswith("before truncation; the file is as far from that as reported")
