"""Figures of evaluations in a terminal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from extsub.console.arguments import Form
from extsub.console.summaries import SERVING, print_end, print_notes
from extsub.escaping import line
from extsub.evaluation.compare import (
    CONTROLS,
    EXPLANATION,
    Comparison,
    control_of,
    shown,
    shown_change,
    shown_p,
)
from extsub.evaluation.store import RESULTS, Results
from extsub.evaluation.tasks import TASKS
from extsub.models.position import STARTS
from extsub.printing import print_table, say
from extsub.report.reading import measured
from extsub.report.searched import search_sentence
from extsub.report.wording import aim, capital
from extsub.tables import Table as Findings
from extsub.tables import latex, markdown

LEFT = ["task", "score", "model"]


def print_results(results: list[Results], tasks: list[str], output: Path | None) -> None:
    """Print a line for each score of each model, and the score's controls beside it."""
    names = [_name(result["model"]) for result in results]
    known = [name for task in tasks for name in results[0]["tasks"][task]]
    kinds = [kind for kind in CONTROLS if any(name.endswith(kind) for name in known)]
    table = new_table(LEFT, ["value", *kinds, "n"])
    for task in tasks:
        figures = results[0]["tasks"][task]
        for metric in (name for name in figures if not TASKS[task].measure(name).control):
            controls = {control_of(task, name, metric): f"{figure['value']:.3g}" for name, figure in figures.items()}
            head = (task, metric)
            for model, result in zip(names, results, strict=True):
                if (figure := result["tasks"][task].get(metric)) is not None:
                    beside = [controls.get(kind, "") for kind in kinds]
                    table.add_row(*head, model, shown(figure), *beside, f"{figure['n']:,}")
                    head = ("", "")
        table.add_section()
    print_table(table)
    say("in brackets: 95 % intervals" + (f"; {', '.join(kinds)}: what one gets without a model" if kinds else ""))
    if "negated" in kinds:
        say(f"negated: {CONTROLS['negated']}; _plain: over the answers without one")
    prompts = {results[0]["runs"][task]["identity"]["prompt"] for task in tasks if TASKS[task].needs != "tokenizer"}
    if prompts:
        say(f"asked with --prompt {', '.join(sorted(prompts))}")
    _print_notes(results, names, tasks)
    if output is not None:
        several = len(results) > 1
        folders = [output / name.rpartition("/")[2] if several else output for name in names]
        print_end(
            [folder / RESULTS for folder in folders], ("compare", *folders, *([] if several else ["OTHER_RESULTS"]))
        )


def _print_notes(results: list[Results], names: list[str], tasks: list[str]) -> None:
    """A note once, with the models that it is true of."""
    whose: dict[str, list[str]] = {}
    for result, name in zip(results, names, strict=True):
        for task in tasks:
            for note in result["runs"][task]["notes"]:
                whose.setdefault(f"{task}: {note}", []).append(name)
    for note, models in whose.items():
        say(f"  note: {note}" if len(models) == len(names) else f"  note: {', '.join(models)}, {note}")


def print_comparison(comparison: Comparison, form: Form = "", plot: Path | None = None) -> None:
    """Print runs side by side, a line for each."""
    print_findings(comparison.table(), (EXPLANATION, *comparison.notes), comparison.to_csv, form)
    if plot and not form:
        print_end([plot])


def print_findings(table: Findings, notes: Sequence[str], to_csv: Callable[[], str], form: Form = "") -> None:
    """Print a table with its notes on a terminal, or in a form to be pasted and nothing else."""
    if form:
        text = to_csv() if form == "csv" else {"markdown": markdown, "latex": latex}[form](table, notes)
        say(*text.splitlines())
        return
    printed = new_table(table.head[: table.left], table.head[table.left :])
    for row in table.rows:
        if "first" in row.kind:
            printed.add_section()
        texts = (line(f"{cell.text} {cell.small}".strip()) for cell in row.cells)
        styles = ("bold" if cell.bold else "" for cell in row.cells)
        printed.add_row(*map(Text, texts, styles))
    print_table(printed)
    for note in notes:
        say(f"note: {note}")


def print_sweep(record: Mapping[str, Any]) -> None:
    """Print a line for each position with every score that can be better or worse, then what was chosen."""
    names = measured(record)
    table, before = new_table(["operation", "α"], [name.score for name in names]), None
    references = record.get("references", {})
    for point in (record["positions"] | references).values():
        if point["operation"] not in (before, *STARTS):
            table.add_section()
        values = [point["tasks"][name.task].get(name.score) for name in names]
        alpha = "" if point["alpha"] is None else f"{point['alpha']:g}"
        head = "" if point["operation"] == before else point["operation"]
        table.add_row(head, alpha, *("" if value is None else f"{value['value']:.4g}" for value in values))
        before = point["operation"]
    counts = [record["positions"]["expert"]["tasks"][name.task][name.score]["n"] for name in names]
    table.add_section()
    table.add_row("n", "", *(f"{count:,}" for count in counts))
    print_table(table)
    if references:
        passes = {point["operation"]: point["passes"] for point in references.values()}
        costs = ", ".join(f"{name} {number}" for name, number in passes.items())
        say(f"for reference, with β under α, in no adapter: {costs} forward passes a token, all others 1")
    wanted = aim(record["settings"]["choose"], record["score"], record["budget"])
    say("", f"{capital(wanted)}, chosen on one half of the items, its figures on the other:")
    costs = ["budget's score"] if record["budget"] else []
    chosen = new_table(["operation", "chosen"], [record["score"], "against the expert", "p", *costs])
    for choice in (record["chosen"] | record.get("compared", {})).values():
        if choice["position"] is None:
            chosen.add_row(choice["operation"], f"none; closest {choice['closest']}")
            continue
        change = choice["against_expert"]
        difference = shown_change(change["value"], change["ci95"])
        cost = [shown(choice["budget_test"])] if record["budget"] else []
        chosen.add_row(
            choice["operation"], choice["position"], shown(choice["test"]), difference, shown_p(change["p"]), *cost
        )
    print_table(chosen)
    if sentence := search_sentence(record):
        say("", sentence)
    say("", f"Everybody was asked with --prompt {record['settings']['prompt']}.")
    print_notes(record["notes"])
    _print_sweep_end(record)


def _print_sweep_end(record: Mapping[str, Any]) -> None:
    folder, chosen, then = Path(record["settings"]["output"]), record["chosen"].get("ext-sub"), []
    names = ["sweep.json", "sweep.csv"]
    if record.get("search", {}).get("best", {}).get("profile"):
        names.append("profile.json")
    if chosen and chosen["position"]:
        alpha, given = record["positions"][chosen["position"]]["alpha"], record["given"]
        adapters = (given["expert"], *given["anti_experts"])
        then.append(("combine", *adapters, "--alpha", f"{alpha:g}", "--output", "better"))
    print_end([folder / name for name in names], ("report", folder), *then)
    if then:
        say(SERVING)


def _name(model: dict[str, Any]) -> str:
    return (model.get("adapter") or {}).get("name") or model.get("served_name") or model["base"]


def new_table(left: Sequence[str], right: Sequence[str]) -> Table:
    """An empty table with columns of names on the left, then columns of figures."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table
