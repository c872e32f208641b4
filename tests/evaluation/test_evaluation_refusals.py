"""What evaluation refuses: in one sentence, and with nothing left behind."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import benchmark_files
import reference
import tiny_models
from adapter_files import edit_config
from benchmark_files import done, rows_of
from conftest import Command, start

pytestmark = pytest.mark.filterwarnings("ignore")  # of the libraries
ALL = (
    "truthfulqa-mc, truthfulqa-binary, truthfulqa-gen, halueval-qa, halueval-dialogue, halueval-summarization, "
    "flattery, toxicity, repetition, perplexity, drift, ability"
)
WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def refused(here: Path, evaluate: Command) -> Callable[[str], str]:
    """Runs a command that must fail, and gives its sentence."""

    def run(words: str) -> str:
        before = sorted(here.rglob("*"))
        for option, value in {"--output": "new/out", "--data": "data", "--model": "base"}.items():
            words += "" if option in words else f" {option} {value}"
        refusal = evaluate(words)
        assert (refusal.returncode, refusal.stdout) == (2, ""), refusal.stderr
        assert sorted(here.rglob("*")) == before
        assert refusal.stderr.startswith("Error: ")
        assert refusal.stderr.count("\n") == 1
        return refusal.stderr.removeprefix("Error: ").removesuffix("\n")

    return run


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", f"no task: name one or more of {ALL}"),
        ("mmlu", f"mmlu: no such task; one of lm-evaluation-harness is ability --lm-eval mmlu. There are {ALL}"),
        ("truthful-mc", f"truthful-mc: no such task; did you mean truthfulqa-mc? There are {ALL}"),
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
        ("halueval-qa --model ./nowhere", "./nowhere: no such folder, and not a model of the hub (owner/name or "
         "owner/name@revision)"),
        ("halueval-qa --adapter nowhere", "nowhere: no such folder, and not an adapter of the hub (owner/name or "
         "owner/name@revision)"),
        ("halueval-qa --adapter base", "base: no adapter_config.json in this folder (model.safetensors looks like a "
         "full model, not a PEFT adapter)"),
        ("halueval-qa --model lora", "lora is an adapter, not a model: pass it as --adapter to evaluate or generate"),
        ("halueval-qa --model half", "half is an adapter, not a model: pass it as --adapter to"),
        ("halueval-qa --model data", "data: no config.json in this folder, so it holds no model"),
        ("halueval-qa --model gguf", "gguf: no config.json in this folder, so it holds no model; a GGUF file is for "
         "llama.cpp: give the model that it was made from"),
        ("halueval-qa --model gguf/base.gguf", "gguf/base.gguf is a file: give the folder that holds config.json and "
         "the weights; a GGUF file is for llama.cpp: give the model that it was made from"),
        ("halueval-qa --model above", "above: no config.json in this folder, so it holds no model; there is one in "
         "base: give that subfolder"),
        ("toxicity --toxicity-model lora", "--toxicity-model: lora is an adapter, not a model: pass it as --adapter"),
        ("truthfulqa-gen --info-judge none --truth-judge lora", "--truth-judge: lora is an adapter, not a model: "),
        ("halueval-qa --adapter lora ./lora", "two adapters are called lora: evaluate them into outputs of their own"),
        ("halueval-qa --output base/config.json", "base/config.json is a file: choose another output"),
        ("halueval-qa --output base", "base is a symbolic link: give the folder itself"),
        ("halueval-qa --output base/config.json/out", "base/config.json/out cannot be written: base/config.json is a "
         "file; choose another place"),
        ("halueval-qa --prompt chat --model plain", "--prompt chat: the tokenizer of this model has no chat "
         "template: use --prompt extsub"),
        ("halueval-qa --model mute", "mute: the tokenizer could not be loaded: its files are missing (tokenizer.json)"),
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
        ("ability --lm-eval x --data ability=nowhere", "nowhere: no such file, and not a dataset of the hub"),
        ("ability --lm-eval x --data ability=data/text.txt", "--data data/text.txt: ability expects a folder of task "
         "files (YAML)"),
        ("toxicity --toxicity-model base", "--toxicity-model base has no label toxicity; it has LABEL_0, LABEL_1"),
        ("toxicity --toxicity-model ./nowhere", "--toxicity-model: ./nowhere: no such folder, and not a model of the "
         "hub (owner/name or owner/name@revision)"),
        ("truthfulqa-gen --info-judge none --truth-judge ./nowhere", "--truth-judge: ./nowhere: no such folder, and "
         "not a model of the hub (owner/name or owner/name@revision); or pass --truth-judge none, and nobody judges"),
    ],
)  # fmt: skip
def test_settings_that_cannot_be_met(here: Path, refused: Callable[[str], str], words: str, message: str) -> None:
    if "plain" in words:
        tiny_models.llama(here / "plain")
    if "mute" in words:
        shutil.copytree(tiny_models.gpt2(here / "spoken"), here / "mute", ignore=shutil.ignore_patterns("tokenizer*"))
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
        ("truthfulqa-mc", {**TARGETS, "mc2_targets": {"a": "yes"}}, "bad.jsonl, line 2: mc2_targets is not a mapping "
         "of answers to 1 (true) or 0"),
        ("truthfulqa-mc", {**TARGETS, "mc2_targets": {"a": 1}}, "bad.jsonl, line 2: no false answer; correct or "
         "remove the row"),
        ("truthfulqa-mc", {**TARGETS, "mc1_targets": {"a": 1}}, "bad.jsonl, line 2: no false answer among "
         "mc1_targets; correct or remove the row"),
        ("truthfulqa-mc", {**TARGETS, "mc1_targets": {"choices": ["a"], "labels": []}}, "bad.jsonl, line 2: "
         "mc1_targets has not as many labels as choices; correct or remove the row"),
        ("truthfulqa-gen", {"question": "q", "best_answer": "b", "correct_answers": ["b"]}, "bad.jsonl, line 2: "
         "incorrect_answers is not a list of texts; correct or remove the row"),
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
        ("flattery", {"Question": " "}, "bad.jsonl, line 2: Question is empty; correct or remove it"),
        ("flattery", {"instruction": "q"}, "bad.jsonl, line 2: Question is missing; correct or remove it"),
        ("repetition", {"answer": 3}, "bad.jsonl, line 2: answer is a number, expected text"),
        ("repetition", {"said": "x"}, "bad.jsonl, line 2: expected answer, found said; say --field answer=NAME"),
        ("perplexity", {"text": " "}, "bad.jsonl, line 2: expected a text in 'text', found ' '; correct or remove the "
         "row"),
    ],
)  # fmt: skip
def test_rows_that_cannot_be_asked(
    refused: Callable[[str], str], task: str, row: benchmark_files.Row, message: str
) -> None:
    goods = {"truthfulqa-gen": CSV, "truthfulqa-mc": TARGETS, "truthfulqa-binary": TARGETS, "halueval-qa": PAIR,
             "halueval-dialogue": {"dialogue_history": "q", "right_response": "r", "hallucinated_response": "h"},
             "halueval-summarization": {"document": "q", "right_summary": "r", "hallucinated_summary": "h"},
             "flattery": {"Question": "q"},
             "toxicity": {"instruction": "q"}, "repetition": {"answer": "q"}, "perplexity": {"text": "q"}}  # fmt: skip
    good = CSV if row is TARGETS else goods[task]
    benchmark_files.lines(Path("bad.jsonl"), [good, row])
    judges = {"truthfulqa-gen": "--truth-judge none --info-judge none", "toxicity": "--toxicity-model judge"}
    assert refused(f"{task} --data bad.jsonl {judges.get(task, '')}") == message


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("halueval-qa --data nowhere.json", "nowhere.json: no such file, and not a dataset of the hub (owner/name or "
         "owner/name@revision)"),
        ("halueval-qa --data empty.jsonl", "empty.jsonl has no rows: give one that has"),
        ("perplexity --data blank.txt", "blank.txt is blank: give one that holds text"),
        ("perplexity --data nowhere.txt", "nowhere.txt: no such file, and not a dataset of the hub (owner/name or "
         "owner/name@revision)"),
        ("halueval-qa --data data/qa_data.json data/rows.jsonl", "--data data/qa_data.json data/rows.jsonl: say which "
         "task has which, --data halueval-qa=data/rows.jsonl"),
        ("halueval-qa --data halueval-qa=data --data halueval-qa=judge", "--data halueval-qa=judge: halueval-qa has "
         "--data halueval-qa=data already; give one"),
        ("halueval-qa --data halueval=data/qa_data.json", "--data halueval=data/qa_data.json: halueval is not a task; "
         f"there are {ALL}"),
        ("halueval-qa --data judge", "--data judge: halueval-qa expects qa_data.json or halueval_qa.jsonl or "
         "halueval_qa_sample.jsonl in it; or say --data halueval-qa=FILE"),
        ("perplexity --data data", "--data data: perplexity expects no file that this task knows by name in it; or "
         "say --data perplexity=FILE"),
        ("toxicity --data data --field instruction=nosuch --toxicity-model judge", "--field instruction=nosuch: "
         "data/toxic_test.json has no field 'nosuch'; it has instruction, input"),
        ("toxicity --data data --field nosuch=input --toxicity-model judge", "--field nosuch=...: no such field of "
         "ours; there are instruction, input, output, prompt, completion, messages, system, answer, text"),
        ("flattery --data data/answers.jsonl", "data/answers.jsonl, line 1: expected instruction (and perhaps input), "
         "or prompt, or messages; found answer: say which is the question with --field prompt=NAME"),
        ("repetition --data data/answers.jsonl --field answer=nosuch", "data/answers.jsonl, line 1: expected nosuch, "
         "found answer; say --field answer=NAME"),
    ],
)  # fmt: skip
def test_data_that_is_not_there(refused: Callable[[str], str], words: str, message: str) -> None:
    Path("empty.jsonl").touch()
    Path("blank.txt").write_text("\n \n")
    assert refused(words) == message


@pytest.mark.parametrize("task", ["perplexity", "repetition", "flattery", "toxicity", "drift"])
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
        ("openai", "truthfulqa-gen --judge-url http://x/v1", "openai is not installed: pip install 'extsub[openai]'"),
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("truthfulqa-gen --info-judge none --truth-judge light", "--truth-judge: light: no weights were found "
         "there (model.safetensors or pytorch_model.bin); or pass --truth-judge none, and nobody judges"),
        ("truthfulqa-gen --truth-judge none --info-judge mute", "--info-judge: mute: the tokenizer could not be "),
        ("truthfulqa-gen --judge-url http://127.0.0.1:9/v1", "--truth-judge: http://127.0.0.1:9/v1, model allenai/"),
        ("toxicity --toxicity-model light", "light: no weights were found there"),
        ("toxicity --toxicity-model mute", "mute: the tokenizer could not be loaded"),
        ("toxicity --toxicity-model unpadded", "--toxicity-model unpadded: neither its tokenizer nor its config names"),
        ("drift --data data/rows.jsonl --adapter lora --reference gone", "gone: no such folder"),
        ("perplexity --data torn.jsonl", "torn.jsonl, line 7: output is missing"),
        ("perplexity --data torn.jsonl --prompt chat --model plain", "torn.jsonl, line 7: output is missing"),
        ("perplexity --data talks.jsonl --prompt none", "talks.jsonl, line 2: --prompt none takes a prompt as it is, "
         "so it cannot join several messages; use chat"),
    ],
)  # fmt: skip
def test_what_is_missing_is_noticed_before_weights_are_loaded(
    here: Path, refused: Callable[[str], str], monkeypatch: pytest.MonkeyPatch, words: str, message: str
) -> None:
    origin = here / ("judge" if "toxicity" in words else "base")
    for name, lacks in (("light", "*.safetensors"), ("mute", "tokenizer*")):
        shutil.copytree(origin, here / name, ignore=shutil.ignore_patterns(lacks))
    shutil.copytree(here / "judge", here / "unpadded")
    for name, field in (("config", "pad_token_id"), ("tokenizer_config", "pad_token")):
        path = here / "unpadded" / f"{name}.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), field: None}))
    benchmark_files.lines(here / "torn.jsonl", [*rows_of(here / "data" / "rows.jsonl"), {"instruction": "Who?"}])
    ask, say = {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "I."}
    benchmark_files.lines(here / "talks.jsonl", [{"messages": [ask, say]}, {"messages": [ask, say, ask, say]}])
    monkeypatch.setattr("extsub.inference.language_model.load_base", None)
    monkeypatch.setattr("extsub.inference.server.RETRIES", 0)
    assert refused(words).startswith(message)


@pytest.mark.parametrize(
    "command",
    [
        "train --model m --data gone.jsonl --output out",
        "train --model ./gone --data rows.jsonl --output out",
        "train --model m --data rows.jsonl --output rows.jsonl/out",
        "train --model m --data rows.jsonl --output out --field nosuch=x",
        "evaluate perplexity --model m --data perplexity=gone.txt",
        "evaluate truthfulqa-gen --model m --truth-judge ./gone",
        "generate --model m --prompts gone.jsonl --output out.jsonl",
        *(
            pytest.param(command, marks=pytest.mark.slow)
            for command in (
                "evaluate perplexity --model m --data gone.jsonl",
                "evaluate perplexity --model ./gone --data rows.jsonl",
                "evaluate toxicity --model m --data rows.jsonl --toxicity-model ./gone",
                "evaluate perplexity --model m --data rows.jsonl --output rows.jsonl/out",
                "generate --model m --prompts gone.txt --output out.jsonl",
            )
        ),
        "sweep a b --tasks perplexity --data gone.jsonl --output out",
    ],
)
def test_what_is_not_there_is_said_before_anything_is_imported(tmp_path: Path, command: str) -> None:
    (tmp_path / "rows.jsonl").write_text('{"prompt": "Who?", "completion": "I."}\n')
    code = (
        "import sys\nfrom extsub.__main__ import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as error: print(error.code, *({'torch', 'transformers', 'peft'} & set(sys.modules)))"
    )
    run = start(tmp_path, "-c", code, *command.split())
    assert run.stdout == "2\n"
    assert any(name in run.stderr for name in ("gone", "rows.jsonl/out", "nosuch")), run.stderr


def spoilt(folder: Path, spoil: Callable[[dict[str, torch.Tensor]], object]) -> str:
    """A copy of the LoRA with other tensors. (the name of the first)"""
    shutil.copytree(folder / "lora", folder / "spoilt")
    tensors = load_file(folder / "spoilt" / WEIGHTS)
    spoil(tensors)
    save_file(tensors, folder / "spoilt" / WEIGHTS)
    return min(load_file(folder / "lora" / WEIGHTS))


def test_an_adapter_of_another_base_is_refused(here: Path, refused: Callable[[str], str]) -> None:
    wide = tiny_models.llama(here / "wide", hidden_size=64)
    reference.adapter(wide, here / "other", "lora")
    said = refused("halueval-qa --adapter other --model base")
    assert said.startswith("other: the adapter does not fit its base model: ")
    assert "size mismatch" in said


def test_missing_tensors_are_named(here: Path, refused: Callable[[str], str]) -> None:
    first = spoilt(here, lambda tensors: tensors.pop(min(tensors)))
    assert refused("halueval-qa --adapter spoilt") == (f"spoilt: 1 tensor missing, first {first}: is the base another?")


def test_tensors_that_fit_nowhere_are_named(here: Path, refused: Callable[[str], str]) -> None:
    name = "base_model.model.model.layers.7.self_attn.q_proj.lora_A.weight"
    spoilt(here, lambda tensors: tensors.update({name: torch.zeros(3, 32)}))
    message = f"spoilt: 1 tensor without a place in this base, first {name}: say which --model"
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
        ({"base_model_name_or_path": "/gone/base"}, "/gone/base: no such folder, and not a model of the hub "
         "(owner/name or owner/name@revision); that is what the adapter's config names as its base: say where it is, "
         "--model"),
        ({"base_model_name_or_path": "x" * 4000}, f"{'x' * 48}...{'x' * 48}: no such folder"),
        ({"base_model_name_or_path": "~nobody-at-all/x"}, "~nobody-at-all/x: no such folder or file (Could"),
        ({"base_model_name_or_path": ["x"]}, "spoilt: base_model_name_or_path in adapter_config.json must be a string"),
        ({"rank_pattern": [[]]}, "spoilt: rank_pattern must map names to numbers, found [[]]"),
        ({"modules_to_save": "lm_head"}, "spoilt: modules_to_save in adapter_config.json must be a list of names"),
        ({"modules_to_save": ["("]}, "spoilt: modules_to_save has '(', which is not a regular expression"),
        ({"base_model_name_or_path": "lora"}, "lora is an adapter, not a model: pass it as --adapter to "
         "evaluate or generate, or merge it into its base (extsub merge); that is what the adapter's config names"),
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
    edit_config(here / "spoilt", **changes)
    run = evaluate("halueval-qa --adapter spoilt --data data --output out")
    assert run.returncode == 2
    assert run.stderr.startswith(f"Error: {message}")
    assert not Path("out").exists()


class Payload:
    """Runs code when unpickled."""

    def __init__(self, touched: Path):
        self.touched = touched

    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (self.touched,))


COMMANDS = {
    "evaluate": "evaluate halueval-qa --model base --data data --output out --adapter spoilt",
    "reference": "evaluate drift --model base --data data/toxic_test.json --output o --adapter lora --reference spoilt",
    "generate": "generate --model base --prompts data/toxic_test.json --output out.jsonl --adapter spoilt",
    "sweep": "sweep spoilt lora --model base --tasks halueval-qa --data data --output out",
}


def harm(folder: Path, what: str) -> str:
    """Spoil an adapter, and say how that is refused."""
    config, weights = folder / "adapter_config.json", folder / WEIGHTS
    fields: dict[str, object] = {
        "expression": {"target_modules": "((.|..)*)*#"},
        "import": {"megatron_config": {"x": 1}, "megatron_core": "antigravity"},
        "room": {"rank_pattern": {"q_proj": 10**9}, "r": 10**9},
    }.get(what, {})
    edit_config(folder, **fields)
    if what == "code":
        weights.unlink()
        torch.save({"x": Payload(folder / "touched")}, folder / "adapter_model.bin")
        return "adapter_model.bin holds more than tensors, so reading it could run code and it was not read"
    if what == "pipe":
        config.unlink()
        os.mkfifo(config)
        return "adapter_config.json cannot be read: a pipe or device, not a regular file"
    return {
        "expression": "the regular expressions in adapter_config.json, first '((.|..)*)*#' in target_modules, take",
        "import": "megatron_config is ",
        "room": "the file and its config do not belong together",
    }[what]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pipes in folders")
@pytest.mark.parametrize(
    ("command", "what"),
    [(command, what) for command in COMMANDS for what in ("code", "pipe", "import", "room", "expression")][:-1],
)  # a sweep's combined adapters are written without expressions
def test_an_adapter_that_means_harm_never_reaches_peft(
    here: Path, extsub: Command, monkeypatch: pytest.MonkeyPatch, command: str, what: str
) -> None:
    monkeypatch.setattr("extsub.adapters.patterns.SECONDS", 1)
    shutil.copytree(here / "lora", here / "spoilt")
    said = harm(here / "spoilt", what)
    run = extsub(*COMMANDS[command].split())
    assert run.returncode == 2, run.stderr
    assert run.stderr.startswith("Error: ")
    assert "spoilt: " in run.stderr
    assert said in run.stderr
    assert run.stderr.count("\n") == 1
    assert len(run.stderr) < 500
    assert not (here / "spoilt" / "touched").exists()
    assert not [path for path in (here / "out").glob("**/*") if path.is_file()]
