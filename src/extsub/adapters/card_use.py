"""How an adapter is used, on its card: the prompt it expects, and code for PEFT, vLLM and llama.cpp."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from extsub.adapters.base import hub_id, is_local, public
from extsub.escaping import markdown, operand, shell

TASKS = {
    "CAUSAL_LM": ("text-generation", "AutoModelForCausalLM"),
    "SEQ_2_SEQ_LM": (None, "AutoModelForSeq2SeqLM"),
    "SEQ_CLS": ("text-classification", "AutoModelForSequenceClassification"),
    "TOKEN_CLS": ("token-classification", "AutoModelForTokenClassification"),
    "QUESTION_ANS": ("question-answering", "AutoModelForQuestionAnswering"),
    "FEATURE_EXTRACTION": ("feature-extraction", "AutoModel"),
}
"""``task_type``: the hub's pipeline, the class of transformers"""
TEMPLATES = {
    "chat": [
        "It expects the chat template of the base model's tokenizer: "
        "`tokenizer.apply_chat_template(messages, add_generation_prompt=True)`, or a server's chat endpoint."
    ],
    "extsub": [
        "It expects this prompt template, so use the completion endpoint of a server:",
        "",
        *("```text", "<|user|>", "{question}", "<|assistant|>", "```"),
    ],
    "none": ["It expects no prompt template: give it the text as it is."],
    None: ["Which prompt template it expects is not known: ask it as what it was made from was trained."],
}
"""The prompt that an adapter expects, in words, by the template it was trained with."""


def use(
    config: Mapping[str, Any], path: str, vllm: str | None, template: str | None, deficiency: bool = False
) -> list[str]:
    """How the adapter is loaded and asked.

    Args:
        config: what ``adapter_config.json`` holds.
        path: the name of its folder, or its id on the hub.
        vllm: the flags that vLLM needs; None where servers do not take the adapter.
        template: the prompt template that it was trained with, as far as that is known.
    """
    base = config.get("base_model_name_or_path")
    _, model = TASKS.get(config.get("task_type") or "", (None, "AutoModelForCausalLM"))
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
        f"model = PeftModel.from_pretrained(model, {path!r})",
        "```",
        "",
        *TEMPLATES.get(template, TEMPLATES[None]),
        "",
    ]
    if vllm is not None:
        lines += ["With vLLM:", "", *_console([serve_line(called, vllm, {_name(path): path})])]
        lines += ["With llama.cpp, where BASE.gguf is the base model:", "", *_console(_llama_cpp(path))]
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


def _llama_cpp(path: str) -> list[str]:
    file = operand(f"{_name(path)}.gguf")
    return [
        shell(["extsub", "export", "gguf", operand(path), "--output", file]),
        shell(["llama-server", "-m", "BASE.gguf", "--lora", file]),
    ]


def _console(commands: Iterable[str]) -> list[str]:
    return ["```console", *(f"$ {command}" for command in commands), "```", ""]


def _name(path: str) -> str:
    """What it is called, without its owner."""
    return path.rpartition("/")[2]
