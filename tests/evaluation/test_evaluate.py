"""Evaluation through the command line: what it asks, what it writes, and that its figures follow from its rows."""

from __future__ import annotations

import json
import math
import random
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import peft
import pytest
from transformers import AutoModelForCausalLM

import reference
from adapter_files import edit_config
from benchmark_files import assert_same, done, results, rows_of
from conftest import Command
from extsub.formatting import rounded
from extsub.models.prompts import QA_EXAMPLES

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries
LIKELIHOODS = ("truthfulqa-mc", "truthfulqa-binary", "halueval-qa", "perplexity", "drift")
EVERYWHERE = "--data data --data perplexity=data/text.txt --data drift=data/rows.jsonl"
TOXIC = "--toxicity-model judge --max-new-tokens 6 --batch-size 3"


def test_every_figure_follows_from_the_rows(evaluate: Command) -> None:
    done(evaluate(f"{' '.join(LIKELIHOODS)} toxicity --adapter lora {EVERYWHERE} --output out {TOXIC}"))
    record = results("out")
    assert list(record["tasks"]) == [*LIKELIHOODS, "toxicity"]
    for task, metrics in record["tasks"].items():
        rows = rows_of(Path("out", f"{task}.jsonl"))
        assert [row["index"] for row in rows] == list(range(len(rows)))
        assert metrics.keys() == rows[0]["scores"].keys()
        for name, figure in metrics.items():
            scored = [row["scores"][name] for row in rows if row["scores"][name] is not None]  # some items lack a score
            assert len(scored) == len(rows) or "_plain" in name
            pairs = [score if isinstance(score, list) else (score, 1) for score in scored]
            value = sum(above for above, _ in pairs) / sum(below for _, below in pairs)
            assert figure["value"] == pytest.approx(math.exp(value) if task == "perplexity" else value), name
            assert figure.keys() == {"value", "ci95", "n"}
            assert figure["n"] == len(scored)
            low, high = figure["ci95"]
            assert low - 1e-9 <= figure["value"] <= high + 1e-9
            if name in ("mc1", "accuracy_sum", "accuracy_per_token", "likelihood_accuracy", "toxic_share"):
                for end in (low, high):  # Wilson's are where the share is 1.96 deviations off
                    assert (end - value) ** 2 == pytest.approx(1.959964**2 * end * (1 - end) / len(scored), abs=1e-7)
    files = {path.name for path in Path("out").iterdir()}
    assert files == {"results.json", *(f"{task}.jsonl" for task in record["runs"])}


def test_scores_follow_from_likelihoods_and_those_from_the_model(made: Path, evaluate: Command) -> None:
    done(evaluate("truthfulqa-mc truthfulqa-binary halueval-qa --adapter lora --data data --output out"))
    for row in rows_of(Path("out/truthfulqa-mc.jsonl")):
        said = dict(zip(row["choices"], row["log_likelihoods"], strict=True))
        wrong = max(said[answer] for answer in row["false"])
        chance = [math.exp(said[answer]) for answer in (*row["true"], *row["false"])]
        assert row["scores"]["mc1"] == (said[row["best"]] > max(said[answer] for answer in row["mc1_false"]))
        assert row["scores"]["mc2"] == pytest.approx(sum(chance[: len(row["true"])]) / sum(chance))
        assert row["scores"]["mc3"] == sum(said[answer] > wrong for answer in row["true"]) / len(row["true"])
        assert row["scores"]["mc1_chance"] == 1 / (1 + len(row["mc1_false"]))
        longest = len(row["best"]) > max(map(len, row["mc1_false"]))
        assert row["scores"]["mc1_longest"] == longest  # no two are of a length
    for row in rows_of(Path("out/truthfulqa-binary.jsonl")):
        right = [first > second for first, second in row["log_likelihoods"]]
        assert row["scores"]["likelihood_accuracy"] == right[0]
        assert row["scores"]["shown_accuracy"] == (right[1] + right[2]) / 2
    with reference.evaluated(made / "base", made / "lora") as evaluated:
        for row in rows_of(Path("out/halueval-qa.jsonl")):
            wanted = [evaluated.plainly(row["prompt"], row[name], end=True) for name in ("right", "hallucinated")]
            assert row["log_likelihoods"] == pytest.approx([total for total, _ in wanted], abs=1e-3)
            assert row["tokens"] == [tokens for _, tokens in wanted]
            per_token = [total / tokens for total, tokens in wanted]
            assert row["scores"]["accuracy_per_token"] == (per_token[0] > per_token[1])


def test_several_models_get_a_folder_each_and_the_same_items(evaluate: Command) -> None:
    tasks = ("truthfulqa-mc", "halueval-qa")
    asked = f"{' '.join(tasks)} --data data --limit 3"
    shown = done(evaluate(f"{asked} --adapter lora prefix --output both"))
    assert [line.split()[0] for line in shown.splitlines()[1:3]] == ["truthfulqa-mc", "prefix"]
    done(evaluate(f"{asked} --adapter prefix --output alone"))
    done(evaluate(f"{asked} --model base --output base-alone"))
    assert_same("both/prefix", "alone", tasks, 0)
    mean = results("both/lora")["tasks"]["truthfulqa-mc"]["mc2"]["value"]
    assert mean != results("alone")["tasks"]["truthfulqa-mc"]["mc2"]["value"]
    drawn = sorted(random.Random(0).sample(range(9), 3))
    for folder in ("both/lora", "alone", "base-alone"):
        assert [row["index"] for row in rows_of(Path(folder, "truthfulqa-mc.jsonl"))] == drawn
    records = [results(folder)["model"] for folder in ("both/lora", "base-alone")]
    assert [record["base"] for record in records] == ["base", "base"]
    assert (records[0]["adapter"]["name"], records[0]["kind"], records[1]["adapter"]) == ("lora", "LORA", None)


def test_a_merged_model_is_its_base_with_the_adapter(made: Path, tmp_path: Path, evaluate: Command) -> None:
    model: Any = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(made / "base"), str(made / "lora"))
    model.merge_and_unload().save_pretrained(tmp_path / "merged")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / "merged" / name).write_bytes((made / "base" / name).read_bytes())
    for model in ("--model merged", "--adapter lora --model base"):
        done(evaluate(f"truthfulqa-mc perplexity {EVERYWHERE} --output {model.split()[1]}-out {model}"))
    assert_same("merged-out", "lora-out", ("truthfulqa-mc", "perplexity"), 1e-4)
    assert results("merged-out")["model"]["base_sha256"] != results("lora-out")["model"]["base_sha256"]


@pytest.mark.slow
def test_an_adapter_beside_a_model_changes_no_figure_and_every_command_says_so(here: Path, extsub: Command) -> None:
    """Transformers would put it on: its tensors would be in the model twice, or be another's."""
    for name in ("base", "judge"):
        shutil.copytree(here / name, here / f"both-{name}")
        for path in (here / "lora").glob("adapter_*"):
            shutil.copy(path, here / f"both-{name}")
    note = (
        "also holds an adapter (adapter_config.json), which was not put on: pass it as --adapter, unless the model has "
        "it merged in already"
    )
    words = f"evaluate perplexity toxicity {EVERYWHERE} {TOXIC} --limit 2"
    done(extsub(*f"{words} --model base --output plain".split()))
    said = done(extsub(*f"{words} --model both-base --output both".replace(" judge", " both-judge").split()))
    assert said.count(f"both-base {note}") == 2
    assert f"toxicity: both-judge {note}" in said
    assert_same("plain", "both", ("perplexity", "toxicity"), 0)
    assert results("plain")["model"]["base_sha256"] == results("both")["model"]["base_sha256"]
    for name in ("base", "both-base"):
        asking = f"generate --model {name} --prompts data/rows.jsonl --output {name}.jsonl --max-new-tokens 4"
        assert (f"both-base {note}" in done(extsub(*asking.split()))) == (name == "both-base")
    assert Path("base.jsonl").read_text() == Path("both-base.jsonl").read_text()
    sweeping = "sweep lora lora --model both-base --tasks perplexity --data data/text.txt --output swept"
    assert f"both-base {note}" in done(extsub(*f"{sweeping} --operations subtract --alphas 1 --limit 2".split()))
    losses = []
    for name in ("base", "both-base"):
        training = f"train --model {name} --data data/rows.jsonl --output {name}-lora --batch-size 2 --json"
        record = json.loads(extsub(*training.split()).stdout)
        losses.append(record["first_loss"])
        assert any(note in text for text in record["plan"]["notes"]) == (name == "both-base")
    assert losses[0] == losses[1]


def test_the_sign_of_a_scale_is_noted(here: Path, evaluate: Command) -> None:
    shutil.copytree(here / "lora", here / "flipped")
    edit_config(here / "flipped", lora_alpha=-16)
    said = done(evaluate("perplexity --adapter flipped --data data/text.txt"))
    assert "note: perplexity: lora_alpha is -16: the adapter is applied with its sign flipped" in said


def test_the_results_say_how_they_were_made(evaluate: Command) -> None:
    shown = json.loads(done(evaluate(f"halueval-qa toxicity --adapter lora --data data --output out --json {TOXIC}")))
    (record,) = shown["results"]
    assert record == results("out")
    run = record["runs"]["halueval-qa"]
    assert {"prompt": "extsub", "limit": None, "seed": 0, "dtype": "auto"}.items() <= run["identity"].items()
    assert run["identity"]["model"] == record["model"]
    assert len(run["identity"]["data"]) == len(record["model"]["adapter"]["weights_sha256"]) == 64
    assert {"python", "extsub", "torch", "transformers", "peft"} <= run["versions"].keys()
    assert (run["items"], run["data"], run["processes"], run["device"]) == (8, "data/qa_data.json", 1, "cpu")
    toxic = record["runs"]["toxicity"]
    assert (toxic["identity"]["max_new_tokens"], toxic["identity"]["toxicity_model"]) == (6, "judge")
    assert toxic["notes"] == [
        f"{toxic['unfinished']} of 6 answers reached --max-new-tokens and stopped there",
        "nothing says which template it was trained with: asked with --prompt extsub",
    ]


def test_the_table_has_the_figures_with_their_controls(tmp_path: Path, evaluate: Command) -> None:
    before = sorted(tmp_path.rglob("*"))
    lines = done(evaluate("halueval-qa --model base --data data")).splitlines()
    assert sorted(tmp_path.rglob("*")) == before  # no --output
    done(evaluate("halueval-qa --model base --data data --output out"))
    figure = results("out")["tasks"]["halueval-qa"]
    value = " ".join(rounded(figure["accuracy_sum"]["value"], figure["accuracy_sum"]["ci95"]))
    beside = [f"{figure[name]['value']:.3g}" for name in ("chance", "longest", "shortest")]
    shown = f"halueval-qa accuracy_sum base {value} {' '.join(beside)} 8"
    assert lines[0].split() == "task score model value chance longest shortest n".split()
    assert lines[1].split() == shown.split()


@pytest.mark.parametrize("prompt", ["extsub", "qa", "chat", "none"])
def test_every_prompt_is_what_the_model_reads(made: Path, evaluate: Command, prompt: str) -> None:
    words = f"--data data --data perplexity=data/rows.jsonl --prompt {prompt} {TOXIC}"
    model = "chatting" if prompt == "chat" else "base"
    done(evaluate(f"perplexity toxicity --model {model} --adapter lora --output out {words}"))
    examples = "".join(f"Q: {question}\nA: {answer}\n\n" for question, answer in QA_EXAMPLES)
    forms = {
        "extsub": "<|user|>\n{}\n<|assistant|>\n",
        "qa": examples + "Q: {}\nA:",
        "chat": "[user] {}\n[assistant] ",
        "none": "{}",
    }
    rows = rows_of(made / "data" / "rows.jsonl")
    asked = [f"{row['instruction']} {row['input']}" if row["input"] else row["instruction"] for row in rows]
    wanted = [forms[prompt].format(text) for text in asked]
    scored = rows_of(Path("out/perplexity.jsonl"))
    assert [row["prompt"] for row in scored] == wanted
    assert [row["prompt"] for row in rows_of(Path("out/toxicity.jsonl"))] == wanted
    with reference.evaluated(made / "base", made / "lora") as evaluated:
        for row, text, answer in zip(scored, wanted, (row["output"] for row in rows), strict=True):
            encode, answer = evaluated.tokenizer, f" {answer}" if prompt == "qa" else answer
            special = prompt != "chat"  # a chat template writes its own
            tokens = encode(text + answer, add_special_tokens=special, return_offsets_mapping=True)
            start = next(place for place, (_, stop) in enumerate(tokens["offset_mapping"]) if stop > len(text))
            ids = [*tokens["input_ids"], encode.eos_token_id]
            assert row["log_likelihood"] == pytest.approx(evaluated.log_likelihood(ids, start), abs=2e-3)
            assert row["tokens"] == len(ids) - start


COMMANDS = """
import sys
from extsub.__main__ import main
for words in sys.argv[1:]:
    try:
        main(words.split())
    except SystemExit as exited:
        if exited.code:
            raise
"""


@pytest.mark.slow
def test_two_processes_give_the_figures_of_one(evaluate: Command, extsub: Command) -> None:
    """Three commands in one start: an evaluation, answers to a file, and what both processes must refuse."""
    tasks = ("truthfulqa-mc", "halueval-qa", "toxicity", "repetition")
    words = f"{' '.join(tasks)} --adapter lora --data data --data repetition=data/answers.jsonl {TOXIC} --output"
    answers = "generate --adapter prefix --prompts data/toxic_test.json --max-new-tokens 5 --output"
    done(evaluate(f"{words} one"))
    done(extsub(*answers.split(), "one.jsonl"))
    Path("commands.py").write_text(COMMANDS)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone"]
    given = [f"evaluate {words} two", f"{answers} two.jsonl", f"evaluate {words} two --limit 2"]
    run = subprocess.run([*command, "commands.py", *given], capture_output=True, text=True, timeout=200, check=False)
    assert_same("one", "two", tasks, 1e-4)
    assert run.stdout.count("accuracy_sum") == 1  # one process speaks
    assert {record["processes"] for record in results("two")["runs"].values()} == {2}
    assert {path.name for path in Path("two").iterdir()} == {path.name for path in Path("one").iterdir()}
    assert Path("one.jsonl").read_bytes() == Path("two.jsonl").read_bytes()
    message = "two holds truthfulqa-mc with another limit (None, now 2): choose another output, or pass --overwrite"
    assert message in run.stderr
    assert "[rank" not in run.stderr  # no process fails because another one did
