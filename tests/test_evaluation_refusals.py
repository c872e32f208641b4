"""What evaluation refuses: in one sentence, and with nothing left behind."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import plain
import quiz
import tiny
from conftest import Command
from quiz import done, rows_of

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries
ALL = (
    "truthfulqa-mc, truthfulqa-binary, truthfulqa-gen, halueval-qa, halueval-dialogue, halueval-summarization, "
    "toxicity, repetition, perplexity, drift, ability"
)
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def refused(here: Path, evaluate: Command) -> Callable[[str], str]:
    """Runs a command that must fail, and gives its sentence."""

    def run(words: str) -> str:
        before = sorted(here.rglob("*"))
        for option, value in {"--output": "new/out", "--data": "data", "--model": "base"}.items():
            words += "" if option in words else f" {option} {value}"
        found = evaluate(words)
        assert (found.returncode, found.stdout) == (2, ""), found.stderr
        assert sorted(here.rglob("*")) == before
        assert found.stderr.startswith("Error: ")
        assert found.stderr.count("\n") == 1
        return found.stderr.removeprefix("Error: ").removesuffix("\n")

    return run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", f"no task: name one or more of {ALL}"),
        ("mmlu", f"mmlu: no such task; there are {ALL}"),
        ("halueval-qa --limit 0", "--limit 0: expected 1 or more"),
        ("halueval-qa --batch-size 0", "--batch-size 0: expected auto, or 1 or more"),
        ("halueval-qa --max-new-tokens 0", "--max-new-tokens 0: expected 1 or more"),
        ("toxicity --backend openai", "--backend openai and --url belong together: give both, or neither"),
        ("toxicity --url http://x/v1", "--backend openai and --url belong together: give both, or neither"),
        ("halueval-qa --backend openai --url http://x/v1", "--backend openai gives answers, and halueval-qa needs "
         "likelihoods or a tokenizer: over a server one can ask truthfulqa-gen, toxicity"),
        ("toxicity --backend openai --url http://x/v1 --adapter lora", "--backend openai: name the model or adapter as "
         "the server knows it, with --model alone"),
        ("halueval-qa --model nowhere/base", "nowhere/base: the model could not be loaded: "),
        ("halueval-qa --model ./nowhere", "./nowhere: no such folder, and no model of the hub (owner/name or "
         "owner/name@revision)"),
        ("halueval-qa --adapter nowhere", "nowhere: no such folder, and not a hub id (owner/name or "
         "owner/name@revision)"),
        ("halueval-qa --adapter base", "base: no adapter_config.json in this folder (model.safetensors looks like a "
         "full model, not a PEFT adapter)"),
        ("halueval-qa --model lora", "lora is an adapter, not a model: pass it as --adapter, or merge it into the "
         "model it was trained on"),
        ("halueval-qa --model half", "half is an adapter, not a model: pass it as --adapter, or merge"),
        ("halueval-qa --model data", "data: no config.json in this folder, so it holds no model"),
        ("halueval-qa --model gguf", "gguf: no config.json in this folder, so it holds no model; a GGUF file is for "
         "llama.cpp: give the model that it was made from"),
        ("halueval-qa --model gguf/base.gguf", "gguf/base.gguf is a file: give the folder that holds config.json and "
         "the weights; a GGUF file is for llama.cpp: give the model that it was made from"),
        ("halueval-qa --model above", "above: no config.json in this folder, so it holds no model; its subfolders base "
         "have one: give one of them"),
        ("toxicity --toxicity-model lora", "lora is an adapter, not a model: pass it as --adapter, or merge it into"),
        ("truthfulqa-gen --info-judge none --truth-judge lora", "--truth-judge: lora is an adapter, not a model: "),
        ("halueval-qa --adapter lora ./lora", "two adapters are called lora: evaluate them into outputs of their own"),
        ("halueval-qa --output base/config.json", "base/config.json is a file: choose another output"),
        ("halueval-qa --output base", "base is a symbolic link: give the folder itself"),
        ("halueval-qa --output base/config.json/out", "base/config.json/out could not be made: File exists: choose "
         "another output"),
        ("halueval-qa --prompt chat --model plain", "--prompt chat: the tokenizer of this model has no chat "
         "template: use --prompt extsub"),
        ("halueval-qa --model torn", "torn: the weights have other shapes than config.json says: are both whole?"),
        ("perplexity --data data/text.txt --model small", "item 0: the tokenizer makes token 346 of it, and the model "
         "has 300: the tokenizer belongs to another model"),
        ("toxicity --toxicity-model judge --model small", "item 0: the tokenizer makes token "),
        ("drift --data data/rows.jsonl", "drift compares an adapter with its base, or with --reference: give "
         "--adapter"),
        ("drift --data data/rows.jsonl --adapter lora --reference prefix", "--reference prefix is PREFIX_TUNING and "
         "lora LORA: two kinds cannot be in one model; compare with the base (leave --reference out)"),
        ("ability", "ability runs tasks of lm-evaluation-harness: name them, --lm-eval mmlu,gsm8k say"),
        ("ability --lm-eval nosuch --data ability=data", "--lm-eval nosuch: no task of data"),
        ("ability --lm-eval x --data ability=nowhere", "--data nowhere: ability expects a folder of task files (YAML)"),
        ("toxicity --toxicity-model base", "--toxicity-model base has no label toxicity; it has LABEL_0, LABEL_1"),
        ("toxicity --toxicity-model ./nowhere", "./nowhere: no such folder, and no model of the hub (owner/name or "
         "owner/name@revision)"),
        ("truthfulqa-gen --info-judge none --truth-judge ./nowhere", "--truth-judge: ./nowhere: no such folder, and "
         "no model of the hub (owner/name or owner/name@revision); or pass --truth-judge none, and nobody judges"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_met(here: Path, refused: Callable[[str], str], words: str, message: str) -> None:
    if "plain" in words:
        tiny.llama(here / "plain")
    if "half" in words:  # as trainers leave it that save the config of the model too
        shutil.copytree(here / "lora", here / "half")
        shutil.copy(here / "base" / "config.json", here / "half")
    if "gguf" in words:
        (here / "gguf").mkdir()
        (here / "gguf" / "base.gguf").touch()
    if "above" in words:
        (here / "above").mkdir()
        (here / "above" / "base").symlink_to(here / "base")
    if "torn" in words:
        shutil.copytree(here / "base", here / "torn")
        config = json.loads((here / "torn" / "config.json").read_text())
        (here / "torn" / "config.json").write_text(json.dumps({**config, "vocab_size": 300}))
    if "small" in words:
        shutil.copytree(here / "base", here / "small")
        model = AutoModelForCausalLM.from_pretrained(here / "base")
        model.resize_token_embeddings(300)
        model.save_pretrained(here / "small")
    assert refused(words).startswith(message)


TRUTHFULQA = (
    "no form of TruthfulQA: expected the columns of TruthfulQA.csv (Question, Best Answer, Correct Answers, Incorrect "
    "Answers) or question, mc1_targets, mc2_targets; found a, b"
)
TARGETS = {"question": "q", "mc1_targets": {"a": 1, "b": 0}, "mc2_targets": {"a": 1, "b": 0}}
CSV = {"Question": "q", "Best Answer": "b", "Correct Answers": "b; c", "Incorrect Answers": "d"}
PAIR = {"question": "q", "right_answer": "r", "hallucinated_answer": "h"}


@pytest.mark.parametrize(
    ("task", "row", "message"),
    [
        ("truthfulqa-mc", {"a": 1, "b": 2}, f"bad.jsonl, line 2: {TRUTHFULQA}"),
        ("truthfulqa-binary", {"a": 1, "b": 2}, f"bad.jsonl, line 2: {TRUTHFULQA}"),
        ("truthfulqa-gen", {"a": 1, "b": 2}, f"bad.jsonl, line 2: {TRUTHFULQA}"),
        ("truthfulqa-mc", {**TARGETS, "mc1_targets": {"a": 1, "b": 1}}, "bad.jsonl, line 2: mc1_targets has 2 true "
         "answers, expected 1"),
        ("truthfulqa-mc", {**TARGETS, "mc2_targets": {"a": "yes"}}, "bad.jsonl, line 2: mc2_targets is no mapping of "
         "answers to 1 (true) or 0"),
        ("truthfulqa-mc", {**TARGETS, "mc2_targets": {"a": 1}}, "bad.jsonl, line 2: no false answer; correct or "
         "remove the row"),
        ("truthfulqa-mc", {**TARGETS, "mc1_targets": {"a": 1}}, "bad.jsonl, line 2: no false answer among "
         "mc1_targets; correct or remove the row"),
        ("truthfulqa-mc", {**TARGETS, "mc1_targets": {"choices": ["a"], "labels": []}}, "bad.jsonl, line 2: "
         "mc1_targets has not as many labels as choices; correct or remove the row"),
        ("truthfulqa-gen", {"question": "q", "best_answer": "b", "correct_answers": ["b"]}, "bad.jsonl, line 2: "
         "incorrect_answers is no list of texts; correct or remove the row"),
        ("truthfulqa-mc", {**CSV, "Best Answer": " "}, "bad.jsonl, line 2: expected a text in 'Best Answer', found "
         "' '; correct or remove the row"),
        ("truthfulqa-gen", TARGETS, "bad.jsonl, question 2: choices alone; truthfulqa-gen needs TruthfulQA.csv"),
        ("halueval-qa", {"question": "q", "a": "b"}, "bad.jsonl, line 2: halueval-qa expects question, right_answer "
         "and hallucinated_answer; found question, a"),
        ("halueval-dialogue", {"a": "b"}, "bad.jsonl, line 2: halueval-dialogue expects dialogue_history, "
         "right_response and hallucinated_response; found a"),
        ("halueval-summarization", {"a": "b"}, "bad.jsonl, line 2: halueval-summarization expects document, "
         "right_summary and hallucinated_summary; found a"),
        ("halueval-qa", {**PAIR, "right_answer": ""}, "bad.jsonl, line 2: expected a text in 'right_answer', found ''; "
         "correct or remove the row"),
        ("halueval-qa", {**PAIR, "question": 7}, "bad.jsonl, line 2: expected a text in 'question', found 7; correct "
         "or remove the row"),
        ("toxicity", {"instruction": " "}, "bad.jsonl, line 2: instruction is empty; correct or remove it"),
        ("repetition", {"answer": 3}, "bad.jsonl, line 2: answer is a number, expected text"),
        ("repetition", {"said": "x"}, "bad.jsonl, line 2: expected answer, found said; say --field answer=NAME"),
        ("perplexity", {"text": " "}, "bad.jsonl, line 2: expected a text in 'text', found ' '; correct or remove the "
         "row"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_asked(refused: Callable[[str], str], task: str, row: quiz.Row, message: str) -> None:
    goods = {"truthfulqa-gen": CSV, "truthfulqa-mc": TARGETS, "truthfulqa-binary": TARGETS, "halueval-qa": PAIR,
             "halueval-dialogue": {"dialogue_history": "q", "right_response": "r", "hallucinated_response": "h"},
             "halueval-summarization": {"document": "q", "right_summary": "r", "hallucinated_summary": "h"},
             "toxicity": {"instruction": "q"}, "repetition": {"answer": "q"}, "perplexity": {"text": "q"}}  # fmt: skip
    good = CSV if row is TARGETS else goods[task]
    quiz.lines(Path("bad.jsonl"), [good, row])
    judges = "--truth-judge none --info-judge none --toxicity-model judge"
    assert refused(f"{task} --data bad.jsonl {judges}") == message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("halueval-qa --data nowhere.json", "nowhere.json: no such file, and not a dataset of the hub (owner/name or "
         "owner/name@revision)"),
        ("halueval-qa --data empty.jsonl", "empty.jsonl has no rows: give one that has"),
        ("perplexity --data blank.txt", "blank.txt is blank: give one that holds text"),
        ("perplexity --data nowhere.txt", "nowhere.txt: no such file or directory"),
        ("halueval-qa --data data/qa_data.json data/rows.jsonl", "--data data/qa_data.json data/rows.jsonl: say which "
         "task has which, --data halueval-qa=data/rows.jsonl"),
        ("halueval-qa --data halueval-qa=a --data halueval-qa=b", "--data halueval-qa=b: halueval-qa has --data "
         "halueval-qa=a already; give one"),
        ("halueval-qa --data halueval=data/qa_data.json", "--data halueval=data/qa_data.json: halueval is no task; "
         f"there are {ALL}"),
        ("halueval-qa --data judge", "--data judge: halueval-qa expects qa_data.json or halueval_qa.jsonl or "
         "halueval_qa_sample.jsonl in it; or say --data halueval-qa=FILE"),
        ("perplexity --data data", "--data data: perplexity expects no file that this task knows by name in it; or "
         "say --data perplexity=FILE"),
        ("toxicity --data data --field instruction=nosuch --toxicity-model judge", "--field instruction=nosuch: "
         "data/toxic_test.json has no field 'nosuch'; it has instruction, input"),
        ("toxicity --data data --field nosuch=input --toxicity-model judge", "--field nosuch=...: no such field of "
         "ours; there are instruction, input, output, prompt, completion, messages"),
        ("repetition --data data/answers.jsonl --field answer=nosuch", "data/answers.jsonl, line 1: expected nosuch, "
         "found answer; say --field answer=NAME"),
    ],
)  # fmt: skip
def test_data_that_is_not_there(refused: Callable[[str], str], words: str, message: str) -> None:
    Path("empty.jsonl").touch()
    Path("blank.txt").write_text("\n \n")
    assert refused(words) == message


@pytest.mark.parametrize("task", ["perplexity", "repetition", "toxicity", "drift"])
def test_a_task_without_data_of_its_own_asks_for_it(evaluate: Command, task: str) -> None:
    run = evaluate(f"{task} --adapter lora")
    assert run.returncode == 2
    assert run.stderr.startswith(f"Error: {task} ")
    assert "--data" in run.stderr


@pytest.mark.parametrize(
    ("library", "words", "message"),
    [
        ("lm_eval", "ability --lm-eval x", "lm_eval is not installed: pip install 'extsub[ability]'"),
        ("openai", "toxicity --backend openai --url http://x/v1 --toxicity-model judge", "openai is not installed: pip "
         "install 'extsub[openai]'"),
        ("sacrebleu", "truthfulqa-gen", "sacrebleu is not installed: pip install 'extsub[evaluate]'"),
        ("rouge_score", "truthfulqa-gen", "rouge_score is not installed: pip install 'extsub[evaluate]'"),
        ("peft", "halueval-qa", "peft is not installed: pip install 'extsub[evaluate]'"),
    ],
)  # fmt: skip
def test_a_library_that_is_missing_is_named(
    refused: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, library: str, words: str, message: str
) -> None:
    monkeypatch.setitem(sys.modules, library, None)
    assert refused(words) == message


def spoilt(folder: Path, spoil: Callable[[dict[str, torch.Tensor]], object]) -> str:
    """A copy of the LoRA with other tensors. (the name of the first)"""
    shutil.copytree(folder / "lora", folder / "spoilt")
    tensors = load_file(folder / "spoilt" / WEIGHTS)
    spoil(tensors)
    save_file(tensors, folder / "spoilt" / WEIGHTS)
    return min(load_file(folder / "lora" / WEIGHTS))


def test_an_adapter_of_another_base_is_refused(here: Path, refused: Callable[[str], str]) -> None:
    wide = tiny.llama(here / "wide", hidden_size=64)
    plain.adapter(wide, here / "other", "lora")
    said = refused("halueval-qa --adapter other --model base")
    assert said.startswith("other: the adapter does not fit its base model: ")
    assert "size mismatch" in said


def test_missing_tensors_are_named(here: Path, refused: Callable[[str], str]) -> None:
    first = spoilt(here, lambda tensors: tensors.pop(min(tensors)))
    assert refused("halueval-qa --adapter spoilt") == (
        f"spoilt: 1 tensors are missing, first {first}: is the base another?"
    )


def test_tensors_that_fit_nowhere_are_named(here: Path, refused: Callable[[str], str]) -> None:
    name = "base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight"
    spoilt(here, lambda tensors: tensors.update({name: torch.zeros(3, 32)}))
    message = f"spoilt: 1 tensors fit nowhere in this base, first {name}: say which --model"
    assert refused("halueval-qa --adapter spoilt") == message


@pytest.mark.parametrize("task", ["halueval-qa", "toxicity --toxicity-model judge"])
def test_weights_that_are_no_numbers_are_noticed(here: Path, refused: Callable[[str], str], task: str) -> None:
    spoilt(here, lambda tensors: tensors[min(tensors)].fill_(torch.nan))
    said = refused(f"{task} --adapter spoilt")
    assert said.startswith("item ")
    assert "the model gives" in said
    assert "nan" in said.lower()
    assert said.endswith(
        ": its weights or the adapter's are broken, or --dtype float16 overflows (use bfloat16 or float32)"
    )


def test_what_was_asked_before_the_numbers_broke_is_kept(here: Path, evaluate: Command) -> None:
    spoilt(here, lambda tensors: tensors[min(tensors)].fill_(torch.nan))
    run = evaluate("halueval-qa --adapter lora spoilt --data data --output out")
    assert run.returncode == 2
    assert {str(path.relative_to("out")) for path in Path("out").rglob("*")} == {"lora", "lora/.halueval-qa.0.partial"}
    done(evaluate("halueval-qa --adapter lora --data data --output out/lora"))
    assert len(rows_of(Path("out/lora/halueval-qa.jsonl"))) == 8


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "LOHA"}, "spoilt: adapters of kind LOHA are not evaluated; of these: LORA, ADALORA, IA3, "
         "PREFIX_TUNING, P_TUNING, PROMPT_TUNING"),
        ({"peft_type": None}, "spoilt: adapters of kind NONE are not evaluated; of these: LORA"),
        ({"base_model_name_or_path": "/gone/base"}, "/gone/base: no such folder, and no model of the hub (owner/name "
         "or owner/name@revision); that is what the adapter's config names as its base: say where it is, --model"),
        ({"base_model_name_or_path": "lora"}, "lora is an adapter, not a model: pass it as --adapter, or merge it into "
         "the model it was trained on; that is what the adapter's config names as its base: say where it is, --model"),
        ({"lora_alpha": 0}, "spoilt: lora_alpha is 0 in adapter_config.json: the adapter changes nothing; if its scale "
         "was lost when it was saved, write there what it was trained with"),
        ({"lora_alpha": None}, "spoilt: lora_alpha in adapter_config.json must be a number, found None"),
        ({"lora_alpha": "16"}, "spoilt: lora_alpha in adapter_config.json must be a number, found '16'"),
        ({"base_model_name_or_path": None}, "no base model: give --model, a folder or a hub id (the adapter's config "
         "names none)"),
    ],
)  # fmt: skip
def test_what_an_adapter_says_of_itself(
    here: Path, evaluate: Command, changes: dict[str, object], message: str
) -> None:
    shutil.copytree(here / "lora", here / "spoilt")
    path = here / "spoilt" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    run = evaluate("halueval-qa --adapter spoilt --data data --output out")
    assert run.returncode == 2
    assert run.stderr.startswith(f"Error: {message}")
    assert not Path("out").exists()
