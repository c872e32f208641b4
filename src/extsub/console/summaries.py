"""What a command ends with: what it did, what it wrote, what to do next. Nothing here computes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table

from extsub.adapters.card_use import serve_line
from extsub.adapters.codec import Codec
from extsub.adapters.codecs import READERS
from extsub.errors import counted
from extsub.escaping import brief, operand, shell, to_json
from extsub.printing import duration, print_table, say, write
from extsub.rewriting.summary import figures_of

if TYPE_CHECKING:
    from extsub.export.gguf import GgufRecord
    from extsub.inspection.inspect import AdapterInfo, PairInfo
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
    parts = ", ".join(f"{name} {_size(size)}" for name, size in memory.items() if name != "together")
    share = plan["trainable_parameters"] / plan["base_parameters"]
    rows = {
        "data": f"{data['name']}: {counted(data['rows'], 'row')}, longest {counted(plan['longest'], 'token')}",
        "packed": f"into {counted(plan['packed_rows'], 'row')}" if plan["packed_rows"] else None,
        "template": plan["template"],
        "steps": f"{plan['steps']:,}; {shared}",
        "tokens": f"{plan['tokens_per_epoch']:,} an epoch, {plan['loss_tokens_per_epoch']:,} of them in the loss, "
        f"{plan['padding']:.1%} padding beside",
        "parameters": f"{plan['trainable_parameters']:,} trained ({share:.2%} of {plan['base_parameters']:,})",
        "memory": f"about {_size(memory['together'])} a device, {plan['dtype']}: {parts}",
        "masked": repr(plan["example"]["masked"]),
        "loss on": repr(plan["example"]["loss_on"]),
    }
    for name, value in rows.items():
        if value:
            say(f"  {name:10} {value}")
    _print_notes(plan["notes"])


def print_training(output: Path, record: Mapping[str, Any]) -> None:
    """Print the summary of a trained adapter."""
    plan = record["plan"]
    speed = f" ({record['tokens_per_second']:,.0f} tokens/s)" if record["tokens_per_second"] else ""
    engine = f", {record['distributed']} on {plan['processes']} processes" if plan["processes"] > 1 else ""
    resumed = f", resumed after step {record['resumed_from_step']}" if record["resumed_from_step"] else ""
    say(f"{output}: {plan['kind']} adapter for {plan['model']}")
    say(f"  {'steps':10} {plan['steps']:,} in {duration(record['seconds'])}{speed}{engine}{resumed}")
    say(f"  {'loss':10} {record['first_loss']:.4f} at first, {record['last_loss']:.4f} at last")
    say(f"  {'parameters':10} {plan['trainable_parameters']:,}")
    _print_notes(plan["notes"])
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
    _print_notes(record["notes"])
    print_end([output], ("evaluate", "repetition", "--data", output, "--model", model or "BASE_MODEL"))


def print_requests(plan: NegativesPlan) -> None:
    """Print what ``extsub negatives --dry-run`` would send: the first request in full."""
    say(f"{counted(plan['rows'], 'request')}; the first, and --json has all:")
    write(to_json(plan["requests"][0]) + "\n")
    _print_notes(plan["notes"])


def print_negatives(settings: NegativesSettings, summary: NegativesSummary) -> None:
    """Print the summary of an anti-expert's data, with one of its pairs."""
    say(f"{settings.output}: {summary['behaviour']['name']}, written by {settings.model}")
    for name, value in figures_of(summary):
        say(f"  {value:>16}  {name}")
    pair = summary["pairs"][0]
    for name in ("instruction", "good", "bad"):
        if pair[name]:
            say(f"  {name + ':':12} {brief(pair[name])}")
    _print_notes(summary["notes"])
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
    rank = f", rank {record['rank']}" if record["rank"] else ""
    say(f"{output}: {what} of {record['inputs'][0]['name']} and {antis}")
    rows = {
        "size": f"{counted(record['modules'], 'module')}{rank}, {record['dtype']}, {_size(record['bytes'])}",
        "zero rows": _zero_rows(record),
        "amplification": _amplification(record["largest_amplification"]),
        "truncation": _truncation(record["truncation"]) if record["truncation"] else None,
        "verified": _verified(record),
        "serve": _serve(output, record),
    }
    for name, value in rows.items():
        if value:
            say(f"  {name:14} {value}")
    _print_notes(record["notes"])
    asked = ("evaluate", "truthfulqa-mc", "--adapter", expert, output, "--output", "results")
    print_end([f"{output}/: adapter_model.safetensors, adapter_config.json, README.md, extsub.json"], asked)
    say(SERVING)


def print_push(record: PushRecord) -> None:
    """Print what was uploaded; or what would be, with the card."""
    visible, is_there = "private" if record["private"] else "public", record["commit"] is not None
    say(f"{record['repository']}: {record['what']}, {visible}{'' if is_there else ', not uploaded'}")
    for file in record["files"]:
        say(f"  {_size(file['bytes']):>12}  {file['name']}")
    for name in record["left_out"]:
        say(f"  {'stays here':>12}  {name}")
    _print_notes(record["notes"])
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
        f"{', '.join(record['dtypes'])}, {_size(record['bytes'])}",
        "changed": f"{counted(record['changed'], 'tensor')}; the others are the base's",
        "verified": f"{counted(checked['rows'], 'row')} against the dense formula, largest relative error "
        f"{checked['largest_relative_error']:.1e}",
    }
    for name, value in rows.items():
        say(f"  {name:14} {value}")
    _print_notes(record["notes"])
    weights = [name for name in record["files"] if name.endswith(".safetensors")]
    shown = weights[0] if len(weights) == 1 else f"{counted(len(weights), 'shard')} and their index"
    asked = ("evaluate", "truthfulqa-mc", "--model", output, "--output", "results")
    print_end([f"{output}/: {shown}, config.json, what the base has beside them, README.md, extsub.json"], asked)


def _zero_rows(record: Mapping[str, Any]) -> str:
    zero = record["zero_rows"]
    antis = ", ".join(f"{rows:,}" for rows in zero["anti_experts"])
    return f"{zero['expert']:,} in the expert, {antis} in the anti-expert, of {record['rows']:,}"


def _amplification(largest: dict[str, Any]) -> str:
    return f"expert rows are scaled by {largest['factor']:.3g} at most ({largest['module']})"


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
    size = f"{counted(record['modules'], 'module')}, rank {record['rank']}, {record['dtype']}, {_size(record['bytes'])}"
    say(f"{output}: {adapter} for llama.cpp's {record['architecture']}")
    say(f"  {'size':6} {size}", f"  {'serve':6} {shell(('llama-server', '-m', 'BASE.gguf', *loaded))}")
    _print_notes(record["notes"])
    print_end([output])
    say(SERVING)


def print_inspection(info: AdapterInfo | PairInfo, adapter: str, anti_expert: str | None, plot: Path | None) -> None:
    """Print what ``extsub inspect`` found."""
    from extsub.inspection.inspect import PairInfo

    if isinstance(info, PairInfo):
        print_pair(info)
        print_end([plot] if plot else [], ("combine", adapter, anti_expert or "", "--output", "better"))
    else:
        print_adapter(info)
        if not info.problem:
            print_end([], ("inspect", adapter, "ANTI_EXPERT", "--plot", "pair.png"))


def print_report(written: Mapping[str, Any]) -> None:
    """Print what ``extsub report`` wrote, and the verdict."""
    say(written["sentence"], *(f"- {comparison}" for comparison in written["beside"]))
    print_end(list(written["files"].values()))


def print_adapter(info: AdapterInfo) -> None:
    """Print what one adapter is."""
    say(f"{info.name}: {info.kind or 'not PEFT'} adapter of {info.base or 'an unnamed base'}")
    codec = READERS.get(info.kind or "")
    ranks = sorted({module.rank for module in info.modules})
    scalings = sorted({module.scaling for module in info.modules})
    rows = {
        "task": info.task_type,
        "commit": info.commit,
        "size": f"{counted(info.tensors, 'tensor')}, {info.parameters:,} parameters, {info.dtype}, {_size(info.bytes)}"
        if info.dtype
        else _size(info.bytes),
        "modules": _kinds(info) if info.modules else None,
        "rank": _range(ranks) if codec and codec.ranked and ranks else None,
        "scaling": _range(scalings) if codec and codec.ranked and scalings else None,
        "combine": f"no: {info.problem}" if info.problem else _can(codec),
    }
    for name, value in rows.items():
        if value:
            say(f"  {name:10} {value}")
    _print_notes(info.notes)


def _can(codec: Codec | None) -> str:
    return "yes, by the paper's heuristic" if codec and codec.caution else "yes, exactly"


def _kinds(info: AdapterInfo) -> str:
    """Modules counted by the last part of their name, with their shape."""
    counts: dict[str, int] = {}
    for module in info.modules:
        kind = f"{module.name.rpartition('.')[2]} {'x'.join(str(size) for size in module.shape)}"
        counts[kind] = counts.get(kind, 0) + 1
    return f"{len(info.modules)}: " + ", ".join(f"{count} {kind}" for kind, count in counts.items())


def _range(values: list[Any]) -> str:
    return f"{values[0]:g}" if len(values) == 1 else f"{values[0]:g} to {values[-1]:g}"


def print_pair(info: PairInfo) -> None:
    """Print how two adapters compare: a table, modules with the largest norm ratio first."""
    print_adapter(info.expert)
    print_adapter(info.anti_expert)
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("module", no_wrap=True, overflow="ellipsis")
    for name in ("|e|", "|a|", "|a|/|e|", "row cosine", "shared", "largest |a|/|e| of a row"):
        table.add_column(name, justify="right")
    for module in info.modules[:MOST_ROWS]:
        values = (module.expert_norm, module.anti_norm, module.ratio, module.mean_row_cosine)
        shared = "-" if module.shared_energy is None else f"{module.shared_energy:.0%}"
        largest = "-" if module.largest_row_ratio is None else f"{module.largest_row_ratio:.3g}"
        table.add_row(module.name, *("-" if value is None else f"{value:.3g}" for value in values), shared, largest)
    say()
    print_table(table)
    if len(info.modules) > MOST_ROWS:
        say(f"... and {counted(len(info.modules) - MOST_ROWS, 'further module')}; --json has all")
    zero = sum(module.zero_expert_rows for module in info.modules)
    if zero:
        say(f"zero rows of the expert: {zero:,} of {sum(module.rows for module in info.modules):,}")
    say("shared: the part of the anti-expert that ext-sub keeps; the rest is subtracted")
    _print_notes(info.notes)


def _print_notes(notes: list[str]) -> None:
    for note in notes:
        say(f"  note: {note}")


def _size(size: int) -> str:
    return f"{size / 1e6:,.1f} MB" if size >= 1e5 else f"{size / 1e3:,.1f} kB"
