"""The model card of a written adapter: metadata for the hub, and how it was made and is used, for people.

A card is made to be published: it names no folder of this machine, and its words, which are others', do nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from extsub.adapters.adapter import Adapter
from extsub.adapters.base import hub_id, is_local, public
from extsub.adapters.codecs import CODECS
from extsub.adapters.stated import Stated, stated_in
from extsub.escaping import markdown, operand, shell

KINDS = {
    **{kind: codec.title for kind, codec in CODECS.items()},
    "P_TUNING": "A p-tuning",  # trained, and not combined
    "PROMPT_TUNING": "A prompt-tuning",
}
"""``peft_type``: how a sentence begins"""
TASKS = {
    "CAUSAL_LM": ("text-generation", "AutoModelForCausalLM"),
    "SEQ_2_SEQ_LM": (None, "AutoModelForSeq2SeqLM"),
    "SEQ_CLS": ("text-classification", "AutoModelForSequenceClassification"),
    "TOKEN_CLS": ("token-classification", "AutoModelForTokenClassification"),
    "QUESTION_ANS": ("question-answering", "AutoModelForQuestionAnswering"),
    "FEATURE_EXTRACTION": ("feature-extraction", "AutoModel"),
}
"""``task_type``: the hub's pipeline, the class of transformers"""


def model_card(adapter: Adapter, record: Mapping[str, Any], name: str) -> str:
    """README.md for the folder ``name``, from the provenance ``record``."""
    inputs, task = record.get("inputs", []), adapter.settings.get("task_type")
    folders = iter([one.folder for one in adapter.origin.sources()] if adapter.origin else [])
    stated = [stated_in(next(folders)) if given["name"] else Stated({}, (), "") for given in inputs]
    licence = stated[0].licence if stated and all(one.licence == stated[0].licence for one in stated) else {}
    datasets = [dataset for one in stated for dataset in one.datasets]
    lines = [front_matter(adapter.base, record["kind"], task, datasets, licence), f"# {markdown(name)}", ""]
    lines += [f"{KINDS[record['kind']]} adapter for {base_in_words(adapter.base)}, {_origin(record)}.", ""]
    lines += use(adapter.base, task, name, record.get("serve", {}).get("vllm"), record.get("deficiency", False))
    if "operation" in record:
        lines += [*_making(record, stated), _licence(licence, stated), "", *_limits(record)]
    if record["notes"]:
        lines += ["## Notes", "", *(f"- {markdown(note)}" for note in record["notes"]), ""]
    lines += ["Full figures, hashes and versions: `extsub.json`.", ""]
    return "\n".join(lines)


def front_matter(
    base: str | None, kind: str, task: str | None, datasets: Iterable[str], licence: Mapping[str, str]
) -> str:
    """What the hub reads, between its dashes.

    Args:
        kind: ``peft_type``.
        licence: ``license``, and what belongs to it.
    """
    pipeline, _ = TASKS.get(task or "", (None, ""))
    on_hub, datasets = hub_id(base), sorted(set(datasets))
    fields = {
        **({"base_model": on_hub, "base_model_relation": "adapter"} if on_hub else {}),
        "library_name": "peft",
        **({"pipeline_tag": pipeline} if pipeline else {}),
        **licence,
        **({"datasets": datasets} if datasets else {}),
        "tags": ["extsub", "ext-sub", "peft", kind.lower().replace("_", "-")],
    }
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, width=10_000)}---\n"


def base_in_words(base: str | None) -> str:
    """A base model in a sentence: of a local one its own name only, of the hub's a link."""
    if base is None:
        return "a base model that it does not name"
    if is_local(base):
        return f"the local model {markdown(public(base))}"
    on_hub = hub_id(base)
    return f"[{markdown(on_hub)}](https://huggingface.co/{on_hub})" if on_hub else markdown(base)


def use(base: str | None, task: str | None, name: str, vllm: str | None, deficiency: bool = False) -> list[str]:
    """How the adapter in the folder ``name`` is loaded.

    Args:
        vllm: the flags that vLLM needs; None where it does not serve the adapter.
    """
    _, model = TASKS.get(task or "", (None, "AutoModelForCausalLM"))
    called = "BASE_MODEL" if base is None else hub_id(base) or public(base)
    lines = ["## Use", ""]
    if base is None or is_local(base):
        lines += [f"Where {markdown(called)} stands, put the folder of the base model on your machine.", ""]
    if deficiency:
        lines += [
            "This is the **deficiency** d, not the result: load it beside the expert and give it the scale −α, so that "
            "expert + (−α)·d is the result at strength α.",
            "",
        ]
    lines += [
        "```python",
        "from peft import PeftModel",
        f"from transformers import {model}",
        "",
        f"model = {model}.from_pretrained({called!r})",
        f"model = PeftModel.from_pretrained(model, {name!r})",
        "```",
        "",
    ]
    if vllm is not None and not deficiency:
        lines += ["```console", f"$ {serve_line(called, vllm, {name: name})}", "```", ""]
    return lines


def serve_line(base: str | None, flags: str, adapters: Mapping[str, str]) -> str:
    """How vLLM serves adapters, each under its name: ``{name: path}``."""
    together = ["--max-loras", str(len(adapters))] if len(adapters) > 1 else []  # in one batch, which is 1 otherwise
    modules = [_lora_module(name, path) for name, path in adapters.items()]
    words = ["vllm", "serve", operand(base or "BASE_MODEL"), "--enable-lora", *flags.split(), *together]
    return shell([*words, "--lora-modules", *modules])


def _lora_module(name: str, path: str) -> str:
    module = f"{name}={path}"
    if "," in module or module.count("=") > 1 or module.startswith("-"):  # vLLM's parser would split it elsewhere
        return json.dumps({"name": name, "path": path})
    return module


def _origin(record: Mapping[str, Any]) -> str:
    version = record["versions"]["extsub"]
    if "operation" not in record:
        return f"written by extsub {version}"
    expert, *others = (markdown(_name(one)) for one in record["inputs"])
    what = "the deficiency" if record["deficiency"] else markdown(record["operation"])
    return f"made by extsub {version}: {what} of {expert} and {', '.join(others)}"


def _name(given: Mapping[str, Any]) -> str:
    return given["name"] or "a result that was not saved"


def _making(record: Mapping[str, Any], stated: Sequence[Stated]) -> list[str]:
    lines = [
        "## How it was made",
        "",
        f"{markdown(record['operation'])}, row by row of every module: result = {markdown(record['formula'])}",
        "",
        "| role | adapter | α | trained on | licence | SHA-256 of the weights |",
        "|---|---|---|---|---|---|",
    ]
    for given, says in zip(record["inputs"], stated, strict=True):
        commit, digest = given.get("commit"), given.get("weights_sha256")
        name = markdown(_name(given) + (f" @ {commit[:12]}" if commit else ""))
        alpha = "" if given["alpha"] is None else f"{given['alpha']:g}"
        data = ", ".join(map(markdown, filter(None, (*says.datasets, says.data)))) or "not stated"
        cells = [
            given["role"],
            name,
            alpha,
            data,
            _terms(says.licence) or "not stated",
            f"`{digest[:16]}`" if digest else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    size = f"{record['modules']} module{'s' * (record['modules'] > 1)}"
    size += f", rank {record['rank']}" if record["rank"] else ""
    spread = "; α is spread over them by the profile in `extsub.json`" if "profile" in record else ""
    return [*lines, "", f"{size}{spread}.", ""]


def _terms(licence: Mapping[str, str]) -> str:
    return markdown(licence.get("license_name") or licence.get("license", ""))


def _licence(licence: Mapping[str, str], stated: Sequence[Stated]) -> str:
    others = "that of the base model and of the data"
    if licence:
        return f"Licence: {_terms(licence)}, as the inputs state; {others} holds as well."
    if any(one.licence for one in stated):
        return f"Licence: those of all inputs, which are not the same, and {others}."
    return f"Licence: {others}; not stated by the inputs."


def _limits(record: Mapping[str, Any]) -> list[str]:
    suppresses = record["operation"] in ("ext-sub", "subtract", "contrast")
    purpose = "It is meant to suppress what the anti-expert was trained to show, and adds no knowledge. " * suppresses
    lines = [
        f"{purpose}What it does, and what that costs in other abilities, was not measured here: evaluate before you "
        "rely on it.",
        "It means something on this base model only, and keeps what the base and the expert have of errors and biases.",
    ]
    if caution := CODECS[record["kind"]].caution:
        lines.append(f"{caution[0].upper()}{caution[1:]}.")
    if record["truncation"]:
        lines.append(
            f"It was truncated to rank {record['truncation']['rank']}, with a relative error of "
            f"{record['truncation']['relative_error']:.2%}."
        )
    return ["## Limits", "", *(f"- {text}" for text in lines), ""]
