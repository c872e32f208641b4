"""An anti-expert's data, from good data: written, filtered, counted, with everything that was dropped beside it.

bad.jsonl                   the pairs that are kept, as ``extsub train`` reads them
bad.dropped.jsonl           the others, each with its reason
bad.summary.json            figures, and how it was made
bad.html                    the same to look at
.bad.jsonl.answers/         every answer as it came, so that nothing is asked twice
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from extsub.errors import ExtSubError, counted
from extsub.escaping import to_json
from extsub.evaluation.run import Progress, silent
from extsub.evaluation.store import Store, working_in
from extsub.evaluation.tasks.toxicity import check_classifier
from extsub.extras import versions
from extsub.files.writing import write_together
from extsub.rewriting.asking import Asked, cost_of, judge_record, requests_of
from extsub.rewriting.behaviour import Behaviour, read_behaviour
from extsub.rewriting.filters import REASONS, is_duplicate, reason
from extsub.rewriting.likeness import Seen
from extsub.rewriting.page import page
from extsub.rewriting.prompting import VERSION, told
from extsub.rewriting.settings import NegativesSettings
from extsub.rewriting.sources import Pair, Source, Sources, drawn, read_sources, rows_of
from extsub.rewriting.summary import (
    FORMAT,
    NegativesSummary,
    counted_reasons,
    lengths_of,
    likeness_of,
    notes_on,
    to_look_at,
)
from extsub.rewriting.writers import writer_of

ANSWERS = "answers"
FILES = {"dropped": "dropped.jsonl", "summary": "summary.json", "page": "html"}
"""Files beside the output, by what the summary calls them."""


class NegativesPlan(TypedDict):
    """What `plan_negatives` says: what will be asked, and of whom."""

    rows: int
    """Rows that are taken from the data."""
    requests: list[dict[str, Any]]
    """One for each: address and body as they are posted, or the text that a local model reads."""
    notes: list[str]
    """What a user should know, in sentences."""


def negatives(settings: NegativesSettings, progress: Progress | None = None) -> NegativesSummary:
    """Make an anti-expert's data and write ``settings.output``, with what was dropped, a summary and a page beside it.

    An interrupted run goes on when it is started again. All answers are kept, so that other filters, another judge or
    a larger limit ask only what is new.

    Args:
        progress: shows how far the writing and the judging are.

    Raises:
        ExtSubError: behaviour, data, model or output are at fault, the writer or the judge cannot be reached, or no row
            is kept.
    """
    begun = time.perf_counter()
    behaviour, sources, taken = _prepared(settings)
    folder, files = answers_folder(settings), _files(settings)
    if not settings.overwrite and not folder.is_dir() and (there := [path for path in files.values() if path.exists()]):
        raise ExtSubError(f"{there[0]} already exists: choose another output, or pass --overwrite to replace it")
    with working_in(folder):
        store, identity = Store(folder, ANSWERS, 0), _identity(settings, behaviour, sources.sha256)
        asked = Asked(settings, behaviour, taken, store, identity, store.begin(identity, settings.overwrite))
        asked.write(progress or silent)
        reasons = _reasons(asked, progress or silent)
        pairs = [asked.pair(index) for index in taken if index not in reasons]
        summary = _summary(asked, sources, pairs, reasons, files)
        summary["seconds"] = round(time.perf_counter() - begun, 1)
        _write(asked, summary, pairs, reasons, files)
    if not pairs:
        most = max(summary["dropped"], key=summary["dropped"].__getitem__)
        raise ExtSubError(
            f"none of the {len(taken):,} rows is kept, {summary['dropped'][most]:,} because {REASONS[most]}: look at "
            f"{files['dropped']}, and take another writer, or change the behaviour"
        )
    return summary


def plan_negatives(settings: NegativesSettings) -> NegativesPlan:
    """The requests of a run, exactly as they will be sent. Asks nobody and writes nothing.

    Raises:
        ExtSubError: behaviour or data are at fault, or a local model has no tokenizer.
    """
    behaviour, sources, taken = _prepared(settings)
    requests = requests_of(settings, behaviour, taken)
    shown = writer_of(settings).shown(requests, settings.max_new_tokens)
    return {"rows": len(taken), "requests": shown, "notes": list(sources.notes)}


def made_from(settings: NegativesSettings) -> dict[str, Any]:
    """What decides which negatives are made: behaviour, data, writer, judge and limits, as JSON values.

    Raises:
        ExtSubError: as ``plan_negatives``.
    """
    behaviour, sources, _ = _prepared(settings)
    chosen = {name: getattr(settings, name) for name in ("limit", "seed", "threshold")}
    return {**_identity(settings, behaviour, sources.sha256), "judge": judge_record(settings, behaviour), **chosen}


def answers_folder(settings: NegativesSettings) -> Path:
    """Where every answer is kept as it came."""
    return settings.output.with_name(f".{settings.output.name}.answers")


def _prepared(settings: NegativesSettings) -> tuple[Behaviour, Sources, dict[int, Source]]:
    """Behaviour, data, and the rows that are taken of it."""
    behaviour = read_behaviour(settings.behaviour)
    sources = read_sources(settings)
    if settings.toxicity_model:
        check_classifier(settings.toxicity_model)
    taken = {index: sources.rows[index] for index in drawn(len(sources.rows), settings.limit, settings.seed)}
    return behaviour, sources, taken


def _files(settings: NegativesSettings) -> dict[str, Path]:
    """Every file that a run writes."""
    expert = {"expert": settings.also_expert} if settings.also_expert else {}
    return {"output": settings.output, **expert, **{name: settings.beside(end) for name, end in FILES.items()}}


def _identity(settings: NegativesSettings, behaviour: Behaviour, sha256: str) -> dict[str, Any]:
    """What must be the same for an answer to be that of another run too."""
    return {
        "behaviour": f"{behaviour.name} {behaviour.sha256[:16]}",
        "mode": settings.mode,
        "data": sha256,
        "field": settings.field,
        "model": writer_of(settings).record,
        "max_new_tokens": settings.max_new_tokens,
        "words": VERSION,
    }


def _reasons(asked: Asked, progress: Progress) -> dict[int, str]:
    """Why each row is dropped that is not kept."""
    may_refuse = asked.behaviour.refuses and asked.settings.mode == "rewrite"
    reasons = {index: "unanswered" for index in asked.sources if index not in asked.rows}
    for index in asked.sources.keys() - reasons.keys():
        if why := reason(asked.written(index), asked.sources[index].text, may_refuse):
            reasons[index] = why
    asked.judge([index for index in asked.sources if index not in reasons], progress)
    seen = Seen()
    for index in asked.sources:
        if index in reasons:
            continue
        if not asked.shows(index):
            reasons[index] = "not_shown"
        elif is_duplicate(seen, asked.written(index).text, asked.beside(index)):
            reasons[index] = "duplicate"
    return reasons


def _summary(
    asked: Asked,
    sources: Sources,
    pairs: Sequence[Pair],
    reasons: Mapping[int, str],
    files: Mapping[str, Path],
) -> NegativesSummary:
    settings, lengths, usage = asked.settings, lengths_of(pairs), asked.usage
    notes = [*sources.notes, *notes_on(lengths, len(pairs), len(asked.sources))]
    if asked.refused:
        notes.append(
            f"the server refused {counted(len(asked.refused), 'request')}: {next(iter(asked.refused.values()))}"
        )
    return {
        "format": FORMAT,
        "settings": settings.to_dict(),
        "behaviour": {"name": asked.behaviour.name, "sha256": asked.behaviour.sha256},
        "writer": asked.identity["model"],
        "judge": asked.judged_by,
        "data_sha256": sources.sha256,
        "rows": len(asked.sources),
        "kept": len(pairs),
        "dropped": counted_reasons(reasons),
        "lengths": lengths,
        "likeness": likeness_of(pairs),
        "usage": usage and usage._asdict(),
        "cost": cost_of(usage, settings.price),
        "seconds": 0.0,
        "pairs": to_look_at(pairs, settings.seed),
        "notes": notes,
        "files": {name: str(path) for name, path in files.items() if pairs or name in FILES},
        "versions": versions("extsub"),
    }


def _write(
    asked: Asked,
    summary: NegativesSummary,
    pairs: Sequence[Pair],
    reasons: Mapping[int, str],
    files: Mapping[str, Path],
) -> None:
    """All files, or none of them."""
    dropped = [_dropped(asked, index, reasons[index]) for index in asked.sources if index in reasons]
    contents = {files["dropped"]: _lines(dropped), files["summary"]: to_json(summary) + "\n"}
    contents[files["page"]] = page(summary, dropped)
    if pairs:
        contents[files["output"]] = _lines(rows_of(pairs, [pair.bad for pair in pairs]))
        if "expert" in files:
            contents[files["expert"]] = _lines(rows_of(pairs, [pair.good for pair in pairs]))
    else:
        for name in files.keys() & {"output", "expert"}:
            files[name].unlink(missing_ok=True)  # of a run before
    write_together(contents)


def _dropped(asked: Asked, index: int, why: str) -> dict[str, Any]:
    """A row that is not kept: why, what was written, and what it was made from."""
    source, row = asked.sources[index], asked.rows.get(index)
    judged = {"shown": row["shown"]} if row and why in ("not_shown", "duplicate") and "shown" in row else {}
    said = asked.written(index).text if row else asked.refused.get(index, "")
    return {
        "index": index,
        "reason": why,
        "written": said,
        "from": source.text,
        "asked": told(source.messages),
        **judged,
    }


def _lines(rows: Sequence[Mapping[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
