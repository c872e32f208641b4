"""Model cards can be published: the hub reads them, they name nothing of this machine, and pasting them is harmless."""

from __future__ import annotations

import ast
import json
import os
import re
import shlex
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from huggingface_hub.repocard import metadata_load
from markdown_it import MarkdownIt
from markdown_it.token import Token

import adapter_files
from adapter_files import pair
from conftest import ROOT
from extsub import combine, save_adapter
from extsub.adapters.stated import Stated, Template, data_named, stated_in
from extsub.models.prompts import Message, render_prompt

TAGS = ["transformers", "peft", "extsub", "ext-sub"]


def made(expert: Path, *anti_experts: Path, output: str = "result", **options: object) -> Path:
    save_adapter(combine(expert, *anti_experts, **options), expert.parent / output)
    return expert.parent / output / "README.md"


def stating(folder: Path, front_matter: str) -> Path:
    (folder / "README.md").write_text(f"---\n{front_matter}\n---\n\n# A card\n", encoding="utf-8")
    return folder


def tokens_of(card: Path) -> list[Token]:
    """Without the front matter."""
    return MarkdownIt("gfm-like", {"linkify": False}).parse(card.read_text(encoding="utf-8").split("\n---\n", 1)[1])


def code_of(card: Path) -> dict[str, str]:
    """By language; of the commands the first."""
    fences = [token for token in tokens_of(card) if token.type == "fence"]
    return {token.info: token.content for token in reversed(fences)}


def strings_in(code: str) -> list[str]:
    return [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant)]


@pytest.mark.parametrize(
    ("make", "words", "tag"),
    [
        (
            adapter_files.lora,
            "A LoRA adapter for [made-up/tiny](https://huggingface.co/made-up/tiny), made by extsub",
            "lora",
        ),
        (adapter_files.ia3, "An IA3 adapter for ", "ia3"),
        (adapter_files.prefix, "A prefix-tuning adapter for ", "prefix-tuning"),
    ],
)
def test_the_hub_reads_what_people_read(tmp_path: Path, make, words: str, tag: str) -> None:
    card = made(make(tmp_path / "e"), make(tmp_path / "a", seed=1))
    assert metadata_load(card) == {
        "base_model": "made-up/tiny",
        "base_model_relation": "adapter",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["base_model:adapter:made-up/tiny", *TAGS, tag],
    }
    assert ModelCard.load(card).data.base_model == "made-up/tiny"
    text = card.read_text()
    assert f"\n# result\n\n{words}" in text
    assert "ext-sub of e and a." in text
    assert "Licence: that of the base model and of the data; not stated by the inputs." in text
    assert strings_in(code_of(card)["python"]) == ["made-up/tiny", "result"]


@pytest.mark.parametrize(
    "base", ["/home/ann/models/llama", "../models/llama", "a/b/llama", r"C:\models\llama", "here/llama"]
)
def test_of_a_local_base_only_its_own_name_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, base: str) -> None:
    (tmp_path / "here" / "llama").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    card = made(*pair(tmp_path, base_model_name_or_path=base))
    text = card.read_text()
    assert base not in text
    assert str(tmp_path) not in text
    assert "A LoRA adapter for the local model llama" in text
    assert "base_model" not in metadata_load(card)
    assert strings_in(code_of(card)["python"]) == ["llama", "result"]
    assert (
        code_of(card)["console"] == "$ vllm serve llama --enable-lora --max-lora-rank 8 --lora-modules result=result\n"
    )


@pytest.mark.parametrize("template", ["chat", "extsub", "none", None])
def test_the_prompt_is_the_one_that_it_was_trained_with(tmp_path: Path, template: Template | None) -> None:
    inputs = pair(tmp_path)
    for folder in inputs:
        (folder / "training.json").write_text(json.dumps({"settings": {"template": template}}))
    card = made(*inputs)
    asked = render_prompt([Message("user", "{question}")], "extsub", None)
    assert (code_of(card).get("text") == asked) == (template == "extsub")
    said = {"chat": "apply_chat_template", "none": "It expects no prompt template", None: "is not known: ask it as"}
    for name, words in said.items():
        assert (words in card.read_text()) == (name == template)


def test_llama_cpp_is_told_where_vllm_is(tmp_path: Path) -> None:
    served = made(*pair(tmp_path)).read_text()
    assert (
        "$ extsub export gguf result --output result.gguf\n$ llama-server -m BASE.gguf --lora result.gguf\n" in served
    )
    vectors = made(adapter_files.ia3(tmp_path / "v"), adapter_files.ia3(tmp_path / "w", seed=1), output="other")
    assert "llama" not in vectors.read_text()


def test_what_is_cited_is_what_the_citation_file_says(tmp_path: Path) -> None:
    told = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    paper = told["preferred-citation"]
    text = made(*pair(tmp_path)).read_text()
    entries = {
        kind: dict(re.findall(r"^  (\w+) += \{(.*)\},?$", fields, re.MULTILINE))
        for kind, fields in re.findall(r"^@(\w+)\{(.*?)^\}$", text, re.MULTILINE | re.DOTALL)
    }
    authors = " and ".join(f"{author['family-names']}, {author['given-names']}" for author in paper["authors"])
    assert entries["inproceedings"] == {
        "title": paper["title"],
        "author": authors,
        "booktitle": paper["collection-title"],
        "year": str(paper["year"]),
        "url": paper["url"],
    }
    assert entries["software"] == {
        "title": told["title"],
        "author": f"{{{told['authors'][0]['name']}}}",
        "version": version("extsub"),
        "url": told["repository-code"],
    }
    assert "[arXiv 2308.08090](https://arxiv.org/abs/2308.08090)" in text


def test_what_the_inputs_said_stands_in_the_record(tmp_path: Path) -> None:
    """So that the card can be written anew where the inputs are not."""
    expert, anti_expert = pair(tmp_path)
    stating(expert, "license: mit\ndatasets: ann/facts")
    card = made(expert, anti_expert)
    first, second = adapter_files.record_of(card.parent)["inputs"]
    assert (first["licence"], first["datasets"], first["data"]) == ({"license": "mit"}, ["ann/facts"], "")
    assert (second["licence"], second["datasets"], second["data"]) == ({}, [], "")


def test_notes_tell_no_folder_either(tmp_path: Path) -> None:
    expert, anti_expert = pair(tmp_path, base_model_name_or_path="/home/ann/models/llama")
    adapter_files.edit_config(anti_expert, base_model_name_or_path="owner/llama")
    text = made(expert, anti_expert).read_text()
    assert "/home" not in text
    assert "- llama and owner/llama are taken to be the same base model" in text


@pytest.mark.parametrize(
    ("task", "model"), [("SEQ_CLS", "AutoModelForSequenceClassification"), (None, "AutoModelForCausalLM")]
)
def test_the_code_loads_the_model_of_the_task(tmp_path: Path, task: str | None, model: str) -> None:
    code = code_of(made(*pair(tmp_path, task_type=task)))["python"]
    assert f"from transformers import {model}\n" in code
    assert f"model = {model}.from_pretrained(" in code


HOSTILE = (
    "x; touch PWNED #",
    'x"); import os; os.system("touch PWNED") #',
    "'$(touch PWNED)'`touch PWNED`",
    "<img src=x onerror=alert(1)> [x](javascript:alert(1)) **b** | c ``` `",
    "a: b # c, - d",
    "--help",
)


@pytest.mark.skipif(os.name == "nt", reason="no folder has such a name there")
@pytest.mark.parametrize("base", HOSTILE)
def test_a_base_name_is_text_in_every_place(tmp_path: Path, base: str) -> None:
    name = base.replace("/", "_")
    expert, anti_expert = pair(tmp_path, base_model_name_or_path=base)
    card = made(expert.rename(tmp_path / f"{name}e"), anti_expert, output=name)
    assert set(metadata_load(card)) == {"library_name", "pipeline_tag", "tags"}
    assert strings_in(code_of(card)["python"]) == [base, name]
    words = shlex.split(code_of(card)["console"].removeprefix("$ "))
    assert words[2] in (base, f"./{base}")
    assert len(words) == 8
    for token in tokens_of(card):
        assert token.type != "html_block"
        for child in token.children or []:
            if child.type == "link_open":
                assert child.attrs == {"href": "https://arxiv.org/abs/2308.08090"}, "the paper's"
            else:
                assert child.type in ("text", "softbreak", "code_inline", "link_close"), child
    headings = [token.content for token in tokens_of(card) if token.type == "heading_open"]
    assert len(headings) == 5


def test_what_the_inputs_state_is_passed_on(tmp_path: Path) -> None:
    expert, anti_expert = pair(tmp_path)
    stating(expert, "license: apache-2.0\ndatasets:\n- ann/facts\n- squad")
    stating(anti_expert, "license: apache-2.0\ndatasets: bob/myths")
    (anti_expert / "training.json").write_text(json.dumps({"plan": {"data": {"name": "/home/ann/my|myths.jsonl"}}}))
    card = made(expert, anti_expert)
    assert metadata_load(card)["license"] == "apache-2.0"
    assert metadata_load(card)["datasets"] == ["ann/facts", "bob/myths", "squad"]
    text = card.read_text()
    assert "Licence: apache-2.0, as the inputs state; that of the base model and of the data holds as well." in text
    assert "| expert | e |  | ann/facts, squad | apache-2.0 | `" in text
    assert "| anti-expert | a | 1 | bob/myths, my\\|myths.jsonl | apache-2.0 | `" in text
    assert "/home" not in text
    again = metadata_load(made(card.parent, anti_expert, output="again"))
    assert (again["license"], again["datasets"]) == ("apache-2.0", ["ann/facts", "bob/myths", "squad"])


def test_a_licence_that_not_all_state_is_not_claimed(tmp_path: Path) -> None:
    expert, anti_expert = pair(tmp_path)
    stating(expert, "license: other\nlicense_name: my-licence\nlicense_link: https://x.y/licence")
    card = made(expert, anti_expert)
    assert "license" not in metadata_load(card)
    assert "| my-licence |" in card.read_text()
    assert "Licence: those of all inputs, which are not the same, and that of the base model" in card.read_text()
    stating(anti_expert, "license: other\nlicense_name: my-licence\nlicense_link: https://x.y/licence")
    fields = metadata_load(made(expert, anti_expert, output="both"))
    assert (fields["license"], fields["license_link"]) == ("other", "https://x.y/licence")


@pytest.mark.parametrize(
    "front_matter",
    [
        "license: [apache-2.0", "- a", "license: 'a\n\n  b: c'", "license: {a: b}",
        "datasets: [[a], {b: c}, ../x, 'a b']", 'license: "\\UFFFFFFFF"', "[" * 60_000, "datasets: " + "[" * 60_000,
        "license: !!python/object/apply:os.system [touch PWNED]", "license: <img src=x>", "license: mit" + "x" * 100,
        "license: [a, b]", "a: &a [x, x]\nb: &b [*a, *a]\ndatasets: *b", "x" * 100_000, "license:\n- a\n- b",
    ],
    ids=lambda text: text[:30],
)  # fmt: skip
def test_a_broken_card_states_nothing(tmp_path: Path, front_matter: str) -> None:
    expert, anti_expert = pair(tmp_path)
    for folder in (expert, anti_expert):
        stating(folder, front_matter)
        (folder / "training.json").write_text("[" * 5000 if front_matter == "- a" else '{"plan": []}')
    assert stated_in(expert) == Stated({}, [], "")
    assert set(metadata_load(made(expert, anti_expert))) & {"license", "datasets"} == set()
    assert not Path("PWNED").exists()


def test_data_of_the_hub_is_a_dataset_and_a_file_is_a_name() -> None:
    assert data_named("ann/facts@main") == ("ann/facts", "")
    assert data_named("data/facts.jsonl") == ("", "facts.jsonl")
    assert data_named(r"C:\data\facts.csv") == ("", "facts.csv")
    assert data_named("/home/ann/facts") == ("", "facts")


def test_a_result_that_was_never_saved_can_be_an_input(tmp_path: Path) -> None:
    expert, anti_expert = pair(tmp_path)
    save_adapter(combine(combine(expert, anti_expert), anti_expert), tmp_path / "out")
    assert "| expert | a result that was not saved |" in (tmp_path / "out" / "README.md").read_text()


def test_a_deficiency_is_not_used_like_a_result(tmp_path: Path) -> None:
    card = made(*pair(tmp_path), deficiency=True)
    assert "This is the **deficiency** d, not the result" in card.read_text()
    assert "the deficiency of e and a." in card.read_text()
    assert "console" not in code_of(card)
