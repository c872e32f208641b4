"""A sweep as a page: the verdict, the picture, the tables, what was said, what it was made from."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, TypedDict

from extsub.errors import ExtSubError
from extsub.escaping import block
from extsub.evaluation.tasks import load_task_files
from extsub.extras import require
from extsub.files.disk import check_writable
from extsub.files.writing import write_together
from extsub.report import provenance, tables
from extsub.report.heat import heat_map
from extsub.report.markdown import markdown
from extsub.report.matched import matched
from extsub.report.reading import Sweep, read_sweep
from extsub.report.references import references
from extsub.report.samples import samples
from extsub.report.searched import search_table
from extsub.report.tradeoff import NARROW, WIDE, draw, has_far, name_of
from extsub.report.verdict import verdict_on
from extsub.report.wording import capital, named

MARKER = "written by extsub report"
"""The mark by which a file is known that may be replaced."""
PICTURES = {"picture_near": "near_wide", "picture": "wide"}
"""Each file and its picture; the one of the surroundings is there where the whole is much wider."""
TEMPLATE, SCRIPT = "page.html.j2", "hover.js"


class ReportRecord(TypedDict):
    """What `write_report` found and wrote."""

    verdict: str
    """``better``, ``no difference`` or ``worse`` than the expert; or that nothing keeps the budget."""
    sentence: str
    beside: list[str]
    """Sentences on how the others do."""
    matched: list[dict[str, Any]]
    """Comparisons at equal ability, and at equal score."""
    files: dict[str, str]
    """The path of each file that was written."""


def write_report(folder: str | Path, output: str | Path | None = None, task_file: Sequence[str] = ()) -> ReportRecord:
    """Write the page, the same as Markdown, and the picture.

    Args:
        folder: what ``extsub sweep`` wrote.
        output: the page; ``report.html`` in the folder unless given. The other files lie beside it.
        task_file: Python files of your own that register tasks.

    Returns:
        verdict, matched comparisons, and the paths

    Raises:
        ExtSubError: the folder holds no sweep, a file is in the way that is not a report, or jinja2 is missing.
    """
    require("jinja2", "report")
    load_task_files(tuple(task_file))
    folder = Path(folder).expanduser()
    paths = _paths(folder, output)
    sweep = read_sweep(folder)
    _check(paths)
    content = contents(sweep)
    not_near = None if content["near_wide"] else paths.pop("picture_near")
    texts: dict[Path, str] = {}
    pictures = {}
    for name, drawn in PICTURES.items():
        if name in paths:
            picture = content[drawn].replace("<style>", f"<!-- {MARKER} --><style>", 1)
            texts[paths[name]] = f"{picture}\n"
            pictures[paths[name].name] = name_of(sweep, near=drawn.startswith("near"))
    texts[paths["markdown"]] = markdown(content, pictures, MARKER)
    texts[paths["page"]] = _page(content)
    write_together(texts)
    if not_near:
        not_near.unlink(missing_ok=True)  # of a report before
    verdict = content["verdict"]
    return {
        "verdict": verdict.word,
        "sentence": verdict.sentence,
        "beside": list(verdict.beside),
        "matched": [comparison.to_dict() for comparison in content["matched"]],
        "files": {name: str(path) for name, path in paths.items()},
    }


def _paths(folder: Path, output: str | Path | None) -> dict[str, Path]:
    page = Path(output).expanduser() if output else folder / "report.html"
    if page.suffix != ".html":
        raise ExtSubError(f"--output {page}: give the name of an .html file")
    picture = page.with_name(f"{page.stem}-tradeoff.svg" if output else "tradeoff.svg")
    near = picture.with_stem(f"{picture.stem}-near")
    return {"page": page, "markdown": page.with_suffix(".md"), "picture": picture, "picture_near": near}


def _check(paths: dict[str, Path]) -> None:
    """Before any work: only what a report wrote is replaced."""
    if not paths["page"].parent.is_dir():
        raise ExtSubError(f"{paths['page'].parent}: no such folder for the report")
    check_writable(paths["page"].parent)
    for path in paths.values():
        if not path.exists():
            continue
        if not path.is_file() or MARKER not in path.read_text(encoding="utf-8", errors="replace")[:4000]:
            raise ExtSubError(f"{path} was not written by extsub report: move it, or choose another --output")


def contents(sweep: Sweep) -> dict[str, Any]:
    """All that a report says, by the names that the page's template uses."""
    far, pairs = has_far(sweep), matched(sweep)
    heat, heat_note = heat_map(sweep)
    return {
        "title": f"{capital(named(sweep.main))} on {sweep.record['made_of']['base']}",
        "verdict": verdict_on(sweep),
        "ability": sweep.ability,
        "why": sweep.why,
        "main": sweep.main,
        "methods": sweep.methods,
        "wide": draw(sweep, WIDE),
        "narrow": draw(sweep, NARROW),
        "near_wide": draw(sweep, WIDE, near=True) if far else "",
        "near_narrow": draw(sweep, NARROW, near=True) if far else "",
        "matched": pairs,
        "tables": [
            *tables.level(sweep, pairs),
            tables.beside(sweep),
            *references(sweep),
            tables.chosen(sweep),
            *search_table(sweep.record),
            tables.everything(sweep),
        ],
        "heat": heat,
        "heat_note": heat_note,
        "samples": samples(sweep),
        "name": sweep.title,
        "made_of": provenance.made_of(sweep),
        "commands": provenance.commands(sweep),
    }


def _close(text: str) -> str:
    """With no line break inside ``α = 1`` and ``[0.1, 0.2]``."""
    text = re.sub(r" ([=<≤≥]) ", "\u00a0\\1\u00a0", text)
    return re.sub(r"\[[^\] ]+, [^\] ]+\]", lambda match: match[0].replace(" ", "\u00a0"), text)


def _page(content: dict[str, Any]) -> str:
    """The page; all text is escaped, and only its own script may run."""
    import jinja2
    from markupsafe import Markup

    room = files("extsub.report")
    script = room.joinpath(SCRIPT).read_text(encoding="utf-8")
    template = room.joinpath(TEMPLATE).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = jinja2.Environment(
        autoescape=True,
        finalize=lambda value: block(value) if isinstance(value, str) and not isinstance(value, Markup) else value,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["close"] = _close
    drawn = {
        name: Markup(content[name]) for name in ("wide", "narrow", "near_wide", "near_narrow", "heat")
    }  # made here, from escaped text
    return environment.from_string(template).render(
        {**content, **drawn}, script=Markup(script), script_hash=digest, marker=MARKER
    )
