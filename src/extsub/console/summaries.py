"""What a command ends with: what it did, what it wrote, what to do next. Nothing here computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from extsub.adapters.card_use import serve_line
from extsub.errors import counted
from extsub.escaping import brief, operand, shell, to_json
from extsub.formatting import in_bytes
from extsub.printing import duration, say, write
from extsub.rewriting.summary import figures_of

if TYPE_CHECKING:
    from extsub.export.gguf import GgufRecord
    from extsub.publishing.push import PushRecord
    from extsub.rewriting.make import NegativesPlan
    from extsub.rewriting.settings import NegativesSettings
    from extsub.rewriting.summary import NegativesSummary

SERVING = "see:     docs/serving.md for servers, several strengths and the way back"
"""The last line of a summary, where a result is ready to be used."""
MOST_ROWS = 20
"""The most rows of a table; --json has all."""


def print_end(written: Sequence[str | Path], *then: str | Sequence[str | Path]) -> None:
    """Print the end of a summary: which files were written, and commands to go on with, in the user's words.

    Args:
        then: the words of a command of extsub, or the line of another program's.
    """
    if written:
        say(f"written: {', '.join(map(str, written))}")
    for command in then:
        say(f"next:    {command if isinstance(command, str) else shell(('extsub', *map(str, command)))}")


def print_plan(plan: dict[str, Any]) -> None:
    """Print what ``extsub train --dry-run`` found."""
    data, memory = plan["data"], plan["memory_estimate"]
    say(f"{plan['kind']} adapter for {plan['model']}")
    devices = f" on {plan['processes']} processes" if plan["processes"] > 1 else ""
    shared = f"{plan['accumulation']} x {counted(plan['micro_batch_size'], 'row')}{devices} a step"
    parts = ", ".join(f"{name} {in_bytes(size)}" for name, size in memory.items() if name != "together")
    share = plan["trainable_parameters"] / plan["base_parameters"]
    rows = {
        "data": f"{data['name']}: {counted(data['rows'], 'row')}, longest {counted(plan['longest'], 'token')}",
        "packed": f"into {counted(plan['packed_rows'], 'row')}" if plan["packed_rows"] else None,
        "template": plan["template"],
        "steps": f"{plan['steps']:,}; {shared}",
        "tokens": f"{plan['tokens_per_epoch']:,} an epoch, {plan['loss_tokens_per_epoch']:,} of them in the loss, "
        f"{plan['padding']:.1%} padding beside",
        "parameters": f"{plan['trainable_parameters']:,} trained ({share:.2%} of {plan['base_parameters']:,})",
        "memory": f"about {in_bytes(memory['together'])} a device, {plan['dtype']}: {parts}",
        "masked": repr(plan["example"]["masked"]),
        "loss on": repr(plan["example"]["loss_on"]),
    }
    print_facts(rows, 10)
    print_notes(plan["notes"])


def print_training(output: Path, record: Mapping[str, Any]) -> None:
    """Print the summary of a trained adapter."""
    plan = record["plan"]
    speed = f" ({record['tokens_per_second']:,.0f} tokens/s)" if record["tokens_per_second"] else ""
    engine = f", {record['distributed']} on {plan['processes']} processes" if plan["processes"] > 1 else ""
    resumed = f", resumed after step {record['resumed_from_step']}" if record["resumed_from_step"] else ""
    say(f"{output}: {plan['kind']} adapter for {plan['model']}")
    rows = {
        "steps": f"{plan['steps']:,} in {duration(record['seconds'])}{speed}{engine}{resumed}",
        "loss": f"{record['first_loss']:.4f} at first, {record['last_loss']:.4f} at last",
        "parameters": f"{plan['trainable_parameters']:,}",
    }
    print_facts(rows, 10)
    print_notes(plan["notes"])
    names = ("adapter_model.safetensors", "adapter_config.json", "README.md", "training.json", "loss.png")
    print_end([f"{output}/: {', '.join(names)}"], ("combine", output, "ANTI_EXPERT", "--output", "better"))


def print_generation(output: Path, model: str | None, record: Mapping[str, Any]) -> None:
    """Print the summary of generated answers of a model, by the name it was given with."""
    how = f"in {duration(record['seconds'])}, asked with --prompt {record['prompt']}"
    say(f"{output}: {record['prompts']:,} answers {how}")
    if record["unfinished"]:
        say(f"  note: {counted(record['unfinished'], 'answer')} reached --max-new-tokens and stopped there")
    if record["shortened"]:
        say(f"  note: {counted(record['shortened'], 'prompt')} lost the beginning: too long for the model")
    for name, new in record["renamed"].items():
        say(f"  note: the prompts have a field {name} of their own: it is {new} there")
    print_notes(record["notes"])
    print_end([output], ("evaluate", "repetition", "--data", output, "--model", model or "BASE_MODEL"))


def print_requests(plan: NegativesPlan) -> None:
    """Print what ``extsub negatives --dry-run`` would send: the first request in full."""
    say(f"{counted(plan['rows'], 'request')}; the first, and --json has all:")
    write(to_json(plan["requests"][0]) + "\n")
    print_notes(plan["notes"])


def print_negatives(settings: NegativesSettings, summary: NegativesSummary) -> None:
    """Print the summary of an anti-expert's data, with one of its pairs."""
    say(f"{settings.output}: {summary['behaviour']['name']}, written by {settings.model}")
    for name, value in figures_of(summary):
        say(f"  {value:>16}  {name}")
    pair = summary["pairs"][0]
    for name in ("instruction", "good", "bad"):
        if pair[name]:
            say(f"  {name + ':':12} {brief(pair[name])}")
    print_notes(summary["notes"])
    train = ("train", "--model", "BASE_MODEL", "--data", settings.output, "--output", "anti-expert")
    print_end(list(summary["files"].values()), train)


def print_record(output: Path, record: Mapping[str, Any], expert: str) -> None:
    """Print the summary of a combined adapter."""
    given = [
        f"{adapter['name']} (α {adapter['alpha']:g})"
        for adapter in record["inputs"][1:]
        if adapter["alpha"] is not None
    ]
    what = "the deficiency" if record["deficiency"] else record["operation"]
    antis = ", ".join(given or [adapter["name"] for adapter in record["inputs"][1:]])
    rank, largest = f", rank {record['rank']}" if record["rank"] else "", record["largest_amplification"]
    say(f"{output}: {what} of {record['inputs'][0]['name']} and {antis}")
    rows = {
        "size": f"{counted(record['modules'], 'module')}{rank}, {record['dtype']}, {in_bytes(record['bytes'])}",
        "zero rows": _zero_rows(record),
        "amplification": f"expert rows are scaled by {largest['factor']:.3g} at most ({largest['module']})",
        "truncation": _truncation(record["truncation"]) if record["truncation"] else None,
        "verified": _verified(record),
        "serve": _serve(output, record),
    }
    print_facts(rows, 14)
    print_notes(record["notes"])
    if not record["deficiency"]:
        then = [("evaluate", "truthfulqa-mc", "--adapter", expert, output, "--output", "results")]
    else:  # which llama.cpp loads beside the expert, at any scale
        then = [("export", "gguf", output, "--output", f"{output}.gguf")] if record["rank"] else []
    print_end([f"{output}/: adapter_model.safetensors, adapter_config.json, README.md, extsub.json"], *then)
    say(SERVING)


def print_push(record: PushRecord) -> None:
    """Print what was uploaded; or what would be, with the card."""
    visible, is_there = "private" if record["private"] else "public", record["commit"] is not None
    say(f"{record['repository']}: {record['what']}, {visible}{'' if is_there else ', not uploaded'}")
    for file in record["files"]:
        say(f"  {in_bytes(file['bytes']):>12}  {file['name']}")
    for name in record["left_out"]:
        say(f"  {'stays here':>12}  {name}")
    print_notes(record["notes"])
    if is_there:
        print_end([record["url"]], ("inspect", record["repository"]))
    else:
        say("", *record["card"].splitlines(), "", "next:    the same command without --dry-run")


def print_merge(output: Path, record: Mapping[str, Any]) -> None:
    """Print the summary of a merged model."""
    checked = record["verification"]
    say(f"{output}: {record['base']['name']} with {record['adapter']['name']} merged in")
    rows = {
        "size": f"{counted(record['tensors'], 'tensor')}, {record['parameters']:,} parameters, "
        f"{', '.join(record['dtypes'])}, {in_bytes(record['bytes'])}",
        "changed": f"{counted(record['changed'], 'tensor')}; the others are the base's",
        "verified": f"{counted(checked['rows'], 'row')} against the dense formula, largest relative error "
        f"{checked['largest_relative_error']:.1e}",
    }
    print_facts(rows, 14)
    print_notes(record["notes"])
    weights = [name for name in record["files"] if name.endswith(".safetensors")]
    shown = weights[0] if len(weights) == 1 else f"{counted(len(weights), 'shard')} and their index"
    asked = ("evaluate", "truthfulqa-mc", "--model", output, "--output", "results")
    print_end([f"{output}/: {shown}, config.json, what the base has beside them, README.md, extsub.json"], asked)


def _zero_rows(record: Mapping[str, Any]) -> str:
    zero = record["zero_rows"]
    antis = ", ".join(f"{rows:,}" for rows in zero["anti_experts"])
    return f"{zero['expert']:,} in the expert, {antis} in the anti-expert, of {record['rows']:,}"


def _verified(record: Mapping[str, Any]) -> str:
    verification, truncation = record["verification"], record["truncation"]
    error = f"largest relative error {verification['largest_relative_error']:.1e}"
    if truncation and truncation["relative_error"]:
        error += " before truncation; the file is as far from that as reported"
    return f"{counted(verification['rows'], 'row')} against the dense formula, {error}"


def _truncation(truncation: dict[str, Any]) -> str:
    worst = truncation["worst"]
    return (
        f"relative error {truncation['relative_error']:.2%}, at worst {worst['relative_error']:.2%} ({worst['module']})"
    )


def _serve(output: Path, record: Mapping[str, Any]) -> str:
    if "problem" in record["serve"]:
        return f"no: {record['serve']['problem']}"
    return serve_line(record["base_model"], record["serve"]["vllm"], {output.resolve().name: str(output)})


def print_gguf(adapter: str, output: Path, record: GgufRecord) -> None:
    """Print the summary of a GGUF file, and how llama.cpp loads it."""
    file = operand(str(output))
    loaded = ("--lora", "EXPERT.gguf", "--lora-scaled", f"{file}:-1") if record["deficiency"] else ("--lora", file)
    modules = f"{counted(record['modules'], 'module')}, rank {record['rank']}, {record['dtype']}"
    say(f"{output}: {adapter} for llama.cpp's {record['architecture']}")
    say(
        f"  {'size':6} {modules}, {in_bytes(record['bytes'])}",
        f"  {'serve':6} {shell(('llama-server', '-m', 'BASE.gguf', *loaded))}",
    )
    print_notes(record["notes"])
    print_end([output])
    say(SERVING)


def print_report(written: Mapping[str, Any]) -> None:
    """Print what ``extsub report`` wrote, and the verdict."""
    say(written["sentence"], *(f"- {comparison}" for comparison in written["beside"]))
    print_end(list(written["files"].values()))


def print_facts(facts: Mapping[str, str | None], width: int) -> None:
    """Print what is known of a result, a line for each; what is not known is left out.

    Args:
        width: columns for the names.
    """
    for name, value in facts.items():
        if value:
            say(f"  {name:{width}} {value}")


def print_notes(notes: Sequence[str]) -> None:
    """Print what a user should know, a line for each sentence."""
    for note in notes:
        say(f"  note: {note}")
