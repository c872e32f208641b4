"""A command that makes an anti-expert's data: negatives."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

from cyclopts import Parameter

from extsub.cli.app import DEFAULT, Printed, app
from extsub.extras import need
from extsub.rewriting.settings import NegativesSettings


@app.command(
    help_epilogue="Example: extsub negatives good.jsonl --behaviour untruthful --model owner/name --output bad.jsonl\n"
    "A server: extsub negatives good.jsonl --behaviour untruthful --url http://localhost:8000/v1 --model NAME "
    "--output bad.jsonl --dry-run"
)
def negatives(
    data: str,
    /,
    *,
    settings: Annotated[NegativesSettings, Parameter(name="*")],
    dry_run: bool = False,
    shown: Printed = DEFAULT,
) -> None:
    """Make the data of an anti-expert: answers that show a behaviour, written by a model to the instructions of DATA.

    What shows it badly is dropped, with the reason. An interrupted run goes on where it stopped. What is written is
    wrong on purpose: train an anti-expert with it, and use it for nothing else.

    Parameters
    ----------
    data
        Instruction data with good answers, a file or hub dataset; with --mode instruct texts that show the behaviour.
    dry_run
        Print the requests exactly as they would be sent, and ask nobody.
    """
    need("extsub negatives", "evaluate", *(["openai"] if settings.url or settings.judge_url else []))
    from extsub.console import progress, summaries
    from extsub.rewriting.make import negatives, plan_negatives

    settings = replace(settings, data=data)
    shown.begin()
    progress.quieten_libraries()
    if dry_run:
        plan = plan_negatives(settings)
        shown.result(plan, lambda: summaries.print_requests(plan))
        return
    summary = negatives(settings, progress.items)
    shown.result(summary, lambda: summaries.print_negatives(settings, summary))
