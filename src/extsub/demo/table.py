"""What a demo found, in a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from extsub.demo.answers import COMPARED
from extsub.demo.manners import MADE
from extsub.demo.picture import PICTURE
from extsub.printing import print_table, say
from extsub.results_table import new_table

FIGURES = ("mc1", "mc2", "retained")
HEADS = ("mc1", "mc2", "ability")
MANNERS = {"mc2": "mc2 (truth)", "polite": "polite", "retained": "ability"}
"""figure: head"""


def print_demo(summary: Mapping[str, Any], output: Path) -> None:
    """The table of every strength shown, the choice, and where things are."""
    seeds = summary["seeds"]
    several = len(seeds) > 1
    items = next(iter(seeds.values()))["items"]
    spread = f", mean ± standard deviation over seeds {', '.join(seeds)}" if several else ""
    say(f"{items['facts']} held-out facts and {items['neutral']} neutral questions a seed{spread}:", "")
    table = new_table(["model"], HEADS)
    shown = [f"{alpha:g}" for alpha in summary["alphas"]]
    for label in summary["mean"]["all_items"]:
        operation, _, alpha = label.rpartition("-")
        if _is_number(alpha) and alpha not in shown:
            continue
        if alpha == f"{summary['alphas'][0]:g}":
            table.add_section()
        name = f"{operation}, α {alpha}" if _is_number(alpha) else label
        table.add_row(name, *_cells(summary, "all_items", label))
    print_table(table)
    say(
        "",
        "ability: the part of what the expert gained over the base in log-perplexity of neutral answers"
        " (1 the expert, 0 the base)",
        "amplify: the expert alone, scaled; negated: minus the anti-expert, alone",
        "random: ext-sub with a random anti-expert of equal norms",
        "",
        f"Best mc2 with at least {summary['retained_at_least']:.0%} of the ability, chosen on one half of the items; "
        "figures on the other half:",
        "",
    )
    print_table(_chosen(summary))
    say()
    print_table(_exact(summary))
    say("", f"Two deficiencies at once (α {summary['alpha_of_manners']:g}, set beforehand):", "")
    print_table(_manners(summary))
    say(
        "",
        "myths, rudeness, both: which anti-experts were taken from the expert",
        "polite: how probably the true answer to a held-out question ends politely",
    )
    _where(summary, output)


def _chosen(summary: Mapping[str, Any]) -> Table:
    table = new_table(["model"], [*HEADS, "chosen α"])
    for label in summary["mean"]["test_half"]:
        found = [one["test_half"][label] for one in summary["seeds"].values()]
        alphas = [_alpha(one["position"]) if one else "none" for one in found if one is None or "position" in one]
        table.add_row(label, *_cells(summary, "test_half", label), ", ".join(alphas))
    return table


def _exact(summary: Mapping[str, Any]) -> Table:
    table = new_table(["neutral questions answered word for word"], ["part"])
    alpha = next(iter(summary["seeds"].values()))["answers"]["alpha"]
    for name, value in summary["mean"]["exact"].items():
        label = f"{name}, α {alpha:g}" if name in COMPARED else name
        table.add_row(label, _shown(value, summary["deviation"]["exact"][name]))
    return table


def _manners(summary: Mapping[str, Any]) -> Table:
    table = new_table(["model"], list(MANNERS.values()))
    for label in summary["mean"]["manners"]:
        if label == next(iter(MADE)):
            table.add_section()
        operation, _, taken = label.rpartition("-")
        name = f"{operation}, {taken}" if label in MADE else label
        table.add_row(name, *_cells(summary, "manners", label, tuple(MANNERS)))
    return table


def _where(summary: Mapping[str, Any], output: Path) -> None:
    seconds = sum(stage["wall"] for one in summary["seeds"].values() for stage in one["seconds"].values())
    say()
    for seed, one in summary["seeds"].items():
        say(f"seed {seed}: {one['report']['sentence']}")
    say("", f"made in {seconds:.0f} s")
    say(f"  {output / 'summary.json'}: these figures; {PICTURE}: the same as a picture")
    for seed in summary["seeds"]:
        folder = output / f"seed-{seed}"
        say(f"  {folder / 'sweep' / 'report.html'}: every strength as a page; the models lie in {folder}")


def _cells(summary: Mapping[str, Any], part: str, label: str, figures: Sequence[str] = FIGURES) -> list[str]:
    mean, deviation = (summary[name][part][label] for name in ("mean", "deviation"))
    return [_shown(mean[name], deviation[name]) for name in figures]


def _shown(mean: float | None, deviation: float | None) -> str:
    if mean is None:
        return "-"
    return f"{mean:.2f}" if deviation is None else f"{mean:.2f} ± {deviation:.2f}"


def _alpha(position: str) -> str:
    return position.rpartition("-")[2]


def _is_number(text: str) -> bool:
    return text.replace(".", "", 1).isdigit()
