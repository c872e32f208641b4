"""What people see of a demo in a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from textwrap import shorten
from typing import Any

from rich.table import Table

from extsub.console.results import new_table
from extsub.console.summaries import print_end
from extsub.demo.run import RECIPE, SUMMARY
from extsub.demo.summary import BEFOREHAND
from extsub.printing import print_table, say

HEADS = {
    "flattery": {"probability": "flatters, of 1", "greedy": "likeliest answer flatters"},
    "misconceptions": {"mc2": "truth (mc2)", "mc1": "truth (mc1)"},
}
TITLES = {
    "flattery": "Flattery: how an answer to a held-out question opens",
    "misconceptions": "Misconceptions: what is likelier, the true answers to held-out questions or the false ones",
}


def print_demo(summary: Mapping[str, Any], output: Path) -> None:
    """Print what the demo found: tables, answers side by side, where everything lies, and how to go on."""
    seeds = len(summary["seeds"])
    say(f"{summary['model']}{f', {seeds} seeds: mean ± standard deviation' if seeds > 1 else ''}")
    for name, title in TITLES.items():
        say("", title)
        print_table(_table(summary, name))
    say("", "kept: what is left of the expert's gain over the base in log-perplexity of held-out instructions")
    first = next(iter(summary["seeds"].values()))
    asked, flattered, alphas = (first["answers"][name] for name in ("asked", "flattered", "alphas"))
    strengths = ", ".join(
        f"{name} at α {' and '.join(f'{alpha:g}' for alpha in values)}" for name, values in alphas.items()
    )
    say(
        "",
        f"Of {asked} held-out questions the expert answers {flattered} with flattery. Of these, then of the others "
        f"({strengths}, as chosen against each):",
    )
    for item in first["answers"]["questions"]:
        say("", item["question"])
        for model, answer in {**item["answers"], "(true)": item["true"]}.items():
            say(f"  {model:9} {shorten(answer, 200, placeholder=' ...')}")
    say("")
    for seed, record in summary["seeds"].items():
        for name in TITLES:
            say(f"seed {seed}, {name}: {record[name]['sentence']}")
    say("", f"made in {sum(sum(record['seconds'].values()) for record in summary['seeds'].values()) / 60:.1f} min")
    folder = output / f"seed-{next(iter(summary['seeds']))}"
    antis = [folder / "run" / f"anti-{name}" for name in TITLES]
    print_end(
        [
            output / SUMMARY,
            folder / RECIPE,
            *(sweep["page"] for sweep in (first[name] for name in TITLES)),
            first["result"],
        ],
        ("combine", folder / "run" / "expert", *antis, "--alpha", "0.5", "--output", "gentler"),
        ("generate", "--adapter", first["result"], "--prompts", folder / "expert.jsonl", "--output", "answers.jsonl"),
    )


def _table(summary: Mapping[str, Any], name: str) -> Table:
    heads = HEADS[name]
    table = new_table(["model"], [*heads.values(), "perplexity", "kept"])
    mean, deviation = summary["mean"][name], summary["deviation"][name]

    def cells(figures: Mapping[str, Any], deviations: Mapping[str, Any]) -> list[str]:
        return [_shown(figures[column], deviations[column]) for column in (*heads, "perplexity", "kept")]

    def rows(part: str, label: str) -> None:
        for model, figures in mean[part].items():
            alpha = f"{figures['alpha']:.2g}" if "alpha" in figures else f"{BEFOREHAND:g}"
            table.add_row(label.format(model=model, alpha=alpha), *cells(figures, deviation[part][model]))
        table.add_section()

    rows("models", "{model}")
    rows("beforehand", "{model}, α {alpha} (set beforehand)")
    rows("chosen", "{model}, α {alpha} (chosen)")
    table.add_row("result: both taken away", *cells(mean["result"], deviation["result"]))
    return table


def _shown(mean: float | None, deviation: float | None) -> str:
    if mean is None:
        return "-"
    digits = 3 if abs(mean) < 1 else 2
    return f"{mean:.{digits}f}" if deviation is None else f"{mean:.{digits}f} ± {deviation:.{digits}f}"
