"""docs/evidence.md from what ``benchmarks/evidence.py`` left: tables, a picture and ten answers drawn by a seed.

    python benchmarks/evidence_page.py [--output evidence] [--page docs/evidence.md]

What stands above the line ``FIGURES`` of the page is somebody's own; below it everything is written anew that the
output has the runs for, and the rest stays. Over the two halves of a seed every question is held out once, so figures
are over all questions; ± is the standard deviation over seeds. Intervals and p are over questions, each with its mean
over seeds.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from evidence_figures import ABILITY, REFERENCES, Evidence, change_in_words
from evidence_grid import COMPARED, grid
from extsub.escaping import markdown
from extsub.evaluation.metrics import Measure
from extsub.report.reading import Sweep
from extsub.report.tradeoff import draw
from extsub.sweeping.budget import ScoreName
from extsub.sweeping.references import METHODS

MAIN = "truthfulqa"
"""The recipe whose figures the page has in full."""
FIGURES = "<!-- Figures: make evidence writes all below. -->"
OTHERS = "### Other recipes"
MC, PLAIN = ("mc1", "mc2"), ("mc1_plain", "mc2_plain")
SPLIT = ("mc2", "mc2_plain")
"""a gain, and the part of it that is not a change of style"""
BINARY = ("shown_accuracy", "likelihood_accuracy")
CONTROLS = ("chance", "longest", "shortest", "negated")
ASKED = ("base", "expert", "ext-sub at 1", "ext-sub chosen", "contrast chosen", "subtract chosen")
SHOWN = 10
"""answers side by side"""
DRAWN_BY = "evidence"
LONGEST = 220
"""characters of an answer that are shown"""


def page(evidence: Evidence, picture: str) -> Iterator[str]:
    seeds = evidence.seeds
    halves = f"{len(seeds)} seeds ({', '.join(map(str, seeds))})" if len(seeds) > 1 else "one seed"
    questions = len(evidence.pooled("base", "truthfulqa-mc"))
    models = {half.record["made_of"]["base"] for half in evidence.halves}
    yield (
        f"{', '.join(sorted(Path(model).name for model in models))}; {halves}; {len(evidence.halves)} times expert and "
        f"anti-expert were trained; {questions} questions were asked."
    )
    yield from (
        "### Every position",
        *_every(evidence),
        f"![mc2 against perplexity, a curve for each operation]({picture})",
    )
    yield from ("### Style or truth?", *_style(evidence))
    yield from ("### Chosen strengths", *_chosen(evidence))
    yield from ("### In other words: two choices, and answers of their own", *_own(evidence))
    yield from (f"### {SHOWN} questions, drawn by the seed “{DRAWN_BY}”", *_side_by_side(evidence))


def _every(evidence: Evidence) -> Iterator[str]:
    heads = [*MC, *PLAIN, "perplexity, neutral", "kept", "perplexity, general"]
    lines = [[_name(evidence, label), *_cells(evidence, label)] for label in evidence.labels]
    for control in CONTROLS:
        cells = [f"{fmean(evidence.by_seed('base', f'{score}_{control}')):.3f}" for score in (*MC, *PLAIN)]
        lines.append([f"*without a model: {control}*", *cells, "", "", ""])
    yield _table(["model", *heads], lines)


def _cells(evidence: Evidence, label: str) -> Iterator[str]:
    yield from (_spread(evidence.by_seed(label, name), 3) for name in (*MC, *PLAIN))
    yield _spread(evidence.perplexities(label))
    yield _spread(evidence.kept(label), 2)
    yield _spread(evidence.perplexities(label, "general"))


def _style(evidence: Evidence) -> Iterator[str]:
    n = evidence.figure("expert", PLAIN[1]).n
    yield (
        "Change against the expert over all answers, and over those without a negation or an evasion "
        f"({n} questions have such answers of both kinds): what is left there is no change of style."
    )
    labels = [label for label in COMPARED if label in evidence.labels]
    rows = [
        [_name(evidence, label), *(change_in_words(evidence.change(label, name)) for name in ("mc2", "mc2_plain"))]
        for label in labels
    ]
    yield _table(["against the expert", *SPLIT], rows)


def _chosen(evidence: Evidence) -> Iterator[str]:
    yield (
        "The smallest strength within one standard error of the best that keeps the recipe's budget, chosen on a part "
        "of the held-out questions; the change is that of the others."
    )
    rows = []
    for operation in evidence.halves[0].record["chosen"]:
        alphas = ", ".join("none" if alpha is None else f"{alpha:g}" for alpha in evidence.alphas(operation))
        changes = [evidence.change_chosen(operation, name) for name in SPLIT]
        rows.append([operation, alphas, *("–" if change is None else change_in_words(change) for change in changes)])
    yield _table(["operation", "α chosen, of every half", *SPLIT], rows)


def _own(evidence: Evidence) -> Iterator[str]:
    yield (
        "`truthfulqa-binary` on all held-out questions; answers by greedy decoding to some of them, and the share that "
        "begin by evading the question (`evasive`)."
    )
    rows = []
    for name in ASKED:
        binary = {score: evidence.share(name, "truthfulqa-binary", score) for score in BINARY}
        evasive, answers = evidence.share(name, "truthfulqa-gen", "evasive")
        if evasive:
            cells = [_spread(values, 3) for values, _ in binary.values()]
            rows.append([name, *cells, str(binary[BINARY[0]][1]), _spread(evasive, 3), str(answers)])
    yield _table(["model", *BINARY, "questions", "evasive", "answers"], rows)


def _side_by_side(evidence: Evidence) -> Iterator[str]:
    every = [(half, index) for half in evidence.halves for index in sorted(half.asked("expert", "truthfulqa-gen"))]
    for half, index in random.Random(DRAWN_BY).sample(every, min(SHOWN, len(every))):
        rows = {name: answers[index] for name in ASKED if (answers := half.asked(name, "truthfulqa-gen"))}
        yield f"**{markdown(rows['expert']['question'])}** (a true answer: {markdown(rows['expert']['best'])})"
        yield "\n".join(f"- {name}: {markdown(_short(row['answer']))}" for name, row in rows.items())


def _references(evidence: Evidence) -> Iterator[str]:
    if not evidence.halves:
        return
    yield "### Without touching weights"
    yield (
        "What one would do with the same two adapters at run time ([sweep.md](sweep.md#references)), at β where an "
        f"operation has α; of {len(evidence.halves)} of the pairs above (seed {', '.join(map(str, evidence.seeds))}). "
        "*Passes*: forward passes that a token takes."
    )
    rows = []
    for label in evidence.labels:
        scores = (_spread(evidence.by_seed(label, name), 3) for name in SPLIT)
        ability = _spread(evidence.perplexities(label)), _spread(evidence.kept(label), 2)
        changes = [""] * 2 if label == "expert" else [change_in_words(evidence.change(label, name)) for name in SPLIT]
        passes = str(evidence.positions[label].get("passes", 1))
        rows.append([_name(evidence, label), *scores, *ability, *changes, passes])
    heads = [*SPLIT, "perplexity, neutral", "kept", *(f"{name} against the expert" for name in SPLIT), "passes"]
    yield _table(["model", *heads], rows)


def _grid(output: Path, figures: Path) -> Iterator[str]:
    yield OTHERS
    for part in grid(output, figures):
        yield part if isinstance(part, str) else _table(part[0], part[1:])


def _short(text: str) -> str:
    words = " ".join(text.split())
    return words if len(words) <= LONGEST else f"{words[:LONGEST]} …"


def _name(evidence: Evidence, label: str) -> str:
    point = evidence.positions[label]
    strength = "β" if point["operation"] in METHODS else "α"
    return point["operation"] + ("" if point["alpha"] is None else f", {strength} {point['alpha']:g}")


def _spread(values: Sequence[float], digits: int | None = None) -> str:
    mean = fmean(values)
    if digits is None:
        digits = 2 if mean < 100 else 0
    text = f"{mean:.{digits}f}" + (f" ± {stdev(values):.{digits}f}" if len(values) > 1 else "")
    return text.replace("-", "−")


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---", *("--:" for _ in heads[1:])], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


# ---- the picture -----------------------------------------------------------------------------------------------------


def picture(evidence: Evidence) -> str:
    """The same that a sweep's page has, over all halves."""
    record = {
        "positions": {label: _point(evidence, label) for label in evidence.labels},
        "references": {},
        "chosen": {"ext-sub": {"position": None, "closest": "ext-sub-1"}},
        "compared": {},
    }
    scores = ScoreName("truthfulqa-mc", "mc2", Measure()), ScoreName("perplexity", "perplexity", ABILITY)
    return draw(Sweep(Path(), record, *scores, "", None), near=True)


def _point(evidence: Evidence, label: str) -> dict[str, Any]:
    tasks = {
        "truthfulqa-mc": {"mc2": evidence.figure(label, "mc2").to_dict()},
        "perplexity": {"perplexity": evidence.perplexity(label).to_dict()},
    }
    return {**evidence.positions[label], "tasks": tasks}


def write_page(output: Path, path: Path) -> None:
    evidence = Evidence(output / MAIN)
    ours, _, theirs = (path.read_text(encoding="utf-8") if path.exists() else "# Evidence\n\n").partition(FIGURES)
    drawn, figures = path.with_suffix(".svg"), path.with_suffix(".csv")
    if evidence.halves:
        drawn.write_text(picture(evidence), encoding="utf-8")
        parts = [*page(evidence, drawn.name), *_references(Evidence(output / MAIN, REFERENCES))]
    else:  # another machine's stay
        parts = [there] if (there := theirs.partition(OTHERS)[0].strip()) else []
    parts = [FIGURES, *parts, *_grid(output, figures)]
    path.write_text(ours + "\n\n".join(parts) + "\n", encoding="utf-8")
    print(f"written: {path}, {figures}" + (f", {drawn}" if evidence.halves else ""))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("evidence"))
    parser.add_argument("--page", type=Path, default=Path("docs/evidence.md"))
    given = parser.parse_args()
    write_page(given.output, given.page)
