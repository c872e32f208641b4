"""The model card of a written adapter: metadata for the hub, and how it was made, for people."""

from __future__ import annotations

from typing import Any

from extsub.adapters.adapter import Adapter
from extsub.adapters.base import hub_id

PIPELINES = {"CAUSAL_LM": "text-generation", "SEQ_CLS": "text-classification", "TOKEN_CLS": "token-classification"}


def model_card(adapter: Adapter, record: dict[str, Any]) -> str:
    """README.md for the folder, from the provenance ``record``."""
    kind = {"LORA": "lora", "IA3": "ia3", "PREFIX_TUNING": "prefix-tuning"}[adapter.kind]
    return f"---\n{metadata(adapter.base, kind, adapter.settings.get('task_type'))}---\n\n{_text(adapter, record)}"


def metadata(base: str | None, kind: str, task_type: str | None) -> str:
    """The lines between the dashes that the hub reads."""
    lines = []
    if base := hub_id(base):
        lines += [f"base_model: {base}", "base_model_relation: adapter"]
    lines += ["library_name: peft"]
    if pipeline := PIPELINES.get(task_type or ""):
        lines += [f"pipeline_tag: {pipeline}"]
    lines += ["tags:", *(f"- {tag}" for tag in ("extsub", "ext-sub", "peft", kind))]
    return "".join(f"{line}\n" for line in lines)


def _text(adapter: Adapter, record: dict[str, Any]) -> str:
    base = adapter.base or "its base model"
    lines = [f"A {record['kind']} adapter for {base}, written by extsub {record['versions']['extsub']}.", ""]
    if "operation" in record:
        lines += _making(record)
    lines += [
        "## Use",
        "",
        "```python",
        "from peft import PeftModel",
        "from transformers import AutoModelForCausalLM",
        "",
        f'model = AutoModelForCausalLM.from_pretrained("{adapter.base or "BASE_MODEL"}")',
        'model = PeftModel.from_pretrained(model, "this folder")',
        "```",
        "",
    ]
    if "vllm" in record.get("serve", {}):
        flags = f"--enable-lora {record['serve']['vllm']} --lora-modules NAME=THIS_FOLDER"
        lines += ["```console", f"$ vllm serve {adapter.base or 'BASE_MODEL'} {flags}", "```", ""]
    if record["notes"]:
        lines += ["## Notes", "", *(f"- {note}" for note in record["notes"]), ""]
    lines += ["Full figures, hashes and versions: `extsub.json`.", ""]
    return "\n".join(lines)


def _making(record: dict[str, Any]) -> list[str]:
    lines = [
        "# How it was made",
        "",
        f"`{record['operation']}`, row by row of every module: result = {record['formula']}",
        "",
        "| role | adapter | α | SHA-256 of the weights |",
        "|---|---|---|---|",
    ]
    for given in record["inputs"]:
        name = given["name"] + (f" @ {given['commit'][:12]}" if given["commit"] else "")
        alpha = "" if given["alpha"] is None else f"{given['alpha']:g}"
        lines.append(f"| {given['role']} | {name} | {alpha} | `{given['weights_sha256'][:16]}` |")
    lines += ["", f"{record['modules']} modules" + (f", rank {record['rank']}" if record["rank"] else "") + "."]
    if record["deficiency"]:
        lines += [
            "",
            "This is the **deficiency** d, not the result: load it beside the expert and give it the scale −α, so that "
            "expert + (−α)·d is the result at strength α.",
        ]
    else:
        lines += [
            "",
            "The operation *suppresses* what the anti-expert was trained to show. How far it does, and what it costs, "
            "was not measured here: evaluate before you rely on it.",
        ]
    return [*lines, ""]
