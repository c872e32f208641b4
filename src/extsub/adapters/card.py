"""The model card of an adapter that extsub wrote: metadata for the hub, and how it was made and is used, for people.

A card is made to be published: it names no folder of this machine, and its words, which are others', do nothing. It is
written from the folder's own files alone, so that it can be written anew for the hub.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import yaml

from extsub.adapters import card_making as making
from extsub.adapters.base import hub_id, is_local, public
from extsub.adapters.card_use import TASKS, use
from extsub.adapters.codecs import CODECS
from extsub.adapters.scores import Scores, model_index, scores_section
from extsub.adapters.stated import data_named
from extsub.escaping import markdown

KINDS = {
    **{kind: codec.title for kind, codec in CODECS.items()},
    "P_TUNING": "A p-tuning",  # trained, and not combined
    "PROMPT_TUNING": "A prompt-tuning",
}
"""``peft_type``: how a sentence begins"""


def combined_card(config: Mapping[str, Any], record: Mapping[str, Any], path: str, scores: Scores | None = None) -> str:
    """README.md of an adapter that was combined.

    Args:
        config: what ``adapter_config.json`` holds.
        record: what ``extsub.json`` holds.
        path: the name of its folder, or its id on the hub.
        scores: what was measured; what the record has unless given.
    """
    inputs, operation = record.get("inputs", []), record.get("operation")
    licence, scores = making.common_licence(inputs), scores or record.get("scores")
    datasets = [dataset for given in inputs for dataset in given.get("datasets", ())]
    vllm = None if record.get("deficiency") else record.get("serve", {}).get("vllm")
    lines = [
        *_beginning(config, path, making.origin(record), datasets, licence, scores, operation),
        *use(config, path, vllm, record.get("template"), record.get("deficiency", False)),
        *(scores_section(scores) if scores else []),
    ]
    if operation:
        lines += [*making.how_combined(record), making.licence_of(inputs), ""]
        lines += making.limits(config["peft_type"], record, scores)
    if record["notes"]:
        lines += ["## Notes", "", *(f"- {markdown(note)}" for note in record["notes"]), ""]
    lines += making.citation(record, with_paper=operation is not None)
    return "\n".join([*lines, "Full figures, hashes and versions: `extsub.json`.", ""])


def trained_card(
    config: Mapping[str, Any],
    record: Mapping[str, Any],
    path: str,
    vllm: str | None = None,
    scores: Scores | None = None,
) -> str:
    """README.md of an adapter that was trained.

    Args:
        config: what ``adapter_config.json`` holds.
        record: what ``training.json`` holds.
        path: the name of its folder, or its id on the hub.
        vllm: the flags that vLLM needs, where it serves the adapter.
        scores: what was measured.
    """
    dataset, _ = data_named(record["plan"]["data"]["name"])
    origin = f"trained by extsub {markdown(record['versions']['extsub'])}"
    lines = [
        *_beginning(config, path, origin, [dataset] if dataset else [], {}, scores),
        *use(config, path, vllm, record["settings"]["template"]),
        *(scores_section(scores) if scores else []),
        *making.how_trained(record),
        *making.limits_of_training(scores),
        *making.citation(record, with_paper=False),
        "All settings, versions and figures: `training.json`.",
        "",
    ]
    return "\n".join(lines)


def front_matter(fields: Mapping[str, Any]) -> str:
    """What the hub reads of a model card, between its dashes."""
    return f"---\n{yaml.safe_dump(fields, sort_keys=False, width=10_000)}---"


def base_in_words(base: str | None) -> str:
    """A base model in a sentence: of a local one its own name only, of the hub's a link."""
    if base is None:
        return "a base model that it does not name"
    if is_local(base):
        return f"the local model {markdown(public(base))}"
    on_hub = hub_id(base)
    return f"[{markdown(on_hub)}](https://huggingface.co/{on_hub})" if on_hub else markdown(base)


def _beginning(
    config: Mapping[str, Any],
    path: str,
    origin: str,
    datasets: Iterable[str],
    licence: Mapping[str, str],
    scores: Scores | None,
    operation: str | None = None,
) -> list[str]:
    """The front matter, and what the adapter is, for people.

    Args:
        origin: who made it, as the end of a sentence.
        licence: ``license``, and what belongs to it.
        operation: what it was combined by, if it was.
    """
    base, kind, name = config.get("base_model_name_or_path"), config["peft_type"], path.rpartition("/")[2]
    pipeline, _ = TASKS.get(config.get("task_type") or "", (None, ""))
    on_hub, datasets = hub_id(base), sorted(set(datasets))
    fields = {
        **({"base_model": on_hub, "base_model_relation": "adapter"} if on_hub else {}),
        "library_name": "peft",
        **({"pipeline_tag": pipeline} if pipeline else {}),
        **licence,
        **({"datasets": datasets} if datasets else {}),
        "tags": [
            *([f"base_model:adapter:{on_hub}"] if on_hub else []),
            *("transformers", "peft", "extsub"),
            *(["ext-sub"] if operation == "ext-sub" else []),
            kind.lower().replace("_", "-"),
        ],
        **({"model-index": model_index(name, scores, pipeline)} if scores else {}),
    }
    words = f"{KINDS[kind]} adapter for {base_in_words(base)}, {origin}."
    return [front_matter(fields), "", f"# {markdown(name)}", "", words, ""]
