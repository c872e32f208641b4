"""Asks for what was not written yet, or not judged, and saves each answer as it comes: whoever is killed goes on."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Container, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from extsub.errors import counted, kept_when_interrupted
from extsub.evaluation.run import Progress
from extsub.evaluation.store import Store
from extsub.evaluation.tasks.toxicity import classify
from extsub.inference.requests import Usage
from extsub.inference.server import RefusedRequestError
from extsub.models.prompts import Message
from extsub.rewriting.behaviour import Behaviour
from extsub.rewriting.filters import Written
from extsub.rewriting.prompting import instructing, judging, rewriting, told, unwrapped
from extsub.rewriting.settings import NegativesSettings
from extsub.rewriting.sources import Pair, Source
from extsub.rewriting.writers import judge_of, writer_of

MOST_REFUSED = 16
"""Requests that a server refuses one by one, and answers none, before it counts as refusing all."""


@dataclass
class Asked:
    """What was written and judged of the rows that are taken."""

    settings: NegativesSettings
    behaviour: Behaviour
    sources: Mapping[int, Source]
    store: Store
    identity: dict[str, Any]
    rows: dict[int, dict[str, Any]]
    """As they are saved: an `Answer`, its text as it came; ``shown``, once it is judged, and by whom (``judge``)."""
    refused: dict[int, str] = field(default_factory=dict)
    """What the server said of requests that it does not answer; they are asked again by the next run."""

    def written(self, index: int) -> Written:
        """What was written for the row of this index."""
        row = self.rows[index]
        return Written(unwrapped(row["text"], self.sources[index].text), row["finished"], row["shortened"])

    def pair(self, index: int) -> Pair:
        """A row as it becomes one of the output: what was written is its answer, or its instruction."""
        source, text = self.sources[index], self.written(index).text
        if self.settings.mode == "instruct":
            return Pair(index, (Message("user", text),), "", source.text)
        return Pair(index, source.messages, source.text, text)

    def beside(self, index: int) -> str:
        """The other half of a pair: what was asked, or the text that an instruction was written to."""
        source = self.sources[index]
        return source.text if self.settings.mode == "instruct" else told(source.messages)

    @functools.cached_property
    def judged_by(self) -> dict[str, Any] | None:
        """Who judges what, if anybody does."""
        return judge_record(self.settings, self.behaviour)

    @property
    def usage(self) -> Usage | None:
        """The tokens of prompts and of answers, in all runs; None where a server does not say."""
        spent = None
        for index in self.sources:
            used = self.rows.get(index, {}).get("usage")
            spent = together(spent, Usage(*used) if used else None)
        return spent

    def write(self, progress: Progress) -> None:
        """Ask for what is not written yet.

        Raises:
            ExtSubError: the writer is not there, or refuses everything.
        """
        requests = requests_of(self.settings, self.behaviour, self.sources, without=self.rows)
        if not requests:
            return
        doing, total = f"{self.settings.model}: {self.behaviour.name}", len(self.sources)
        spent = self.usage
        with self._saved(), progress(doing, total, total - len(requests)) as advance:
            answers = writer_of(self.settings).write(requests, self.settings.max_new_tokens, self._refuse)
            with contextlib.closing(answers):
                for answer in answers:
                    self._save(answer._asdict())
                    spent = together(spent, answer.usage)
                    advance(1, in_words(spent, self.settings.price))

    def judge(self, indices: Sequence[int], progress: Progress) -> None:
        """Have those judged that were not, by the same judge.

        Raises:
            ExtSubError: the judge is not there.
        """
        waiting = [index for index in indices if self.rows[index].get("judge") != self.judged_by]
        if self.judged_by is None or not waiting:
            return
        name = self.settings.judge or self.settings.toxicity_model
        with self._saved(), progress(f"{name}: judging", len(indices), len(indices) - len(waiting)) as advance:
            verdicts = self._verdicts([self.pair(index) for index in waiting])
            with contextlib.closing(verdicts):
                for index, shown in verdicts:
                    self._save({**self.rows[index], "shown": shown, "judge": self.judged_by})
                    advance(1)

    def shows(self, index: int) -> bool:
        """Whether a row shows the behaviour, as far as somebody was asked to judge."""
        return self.judged_by is None or self.rows[index]["shown"] >= self.settings.threshold

    def _verdicts(self, pairs: Sequence[Pair]) -> Generator[tuple[int, float]]:
        """How probably each shows the behaviour."""
        if judge := judge_of(self.settings):
            yield from judge.judge({pair.index: judging(pair.messages, pair.bad, self.behaviour) for pair in pairs})
        else:
            texts = {pair.index: pair.bad for pair in pairs}
            for index, labels in classify(str(self.settings.toxicity_model), texts, self.settings.rows_at_once):
                yield index, labels["toxicity"]

    def _save(self, row: dict[str, Any]) -> None:
        self.store.add(self.identity, row)
        self.rows[row["index"]] = row  # after that: what counts as saved is

    def _refuse(self, index: int, error: RefusedRequestError) -> None:
        """A row of which the server wants to know nothing; where it is every row, the server does."""
        self.refused[index] = str(error)
        if not self.rows and len(self.refused) >= min(MOST_REFUSED, len(self.sources)):
            raise error

    @contextlib.contextmanager
    def _saved(self) -> Generator[None]:
        """Say what was saved when somebody stops the work; let go of the file in any case."""

        def saved() -> str:
            return (
                f"{counted(len(self.rows), 'answer')} saved: the same command goes on from there" if self.rows else ""
            )

        try:
            with kept_when_interrupted(saved):
                yield
        finally:
            self.store.close()


def requests_of(
    settings: NegativesSettings, behaviour: Behaviour, sources: Mapping[int, Source], without: Container[int] = ()
) -> dict[int, list[Message]]:
    """The requests to a writer, one for each row."""
    return {
        index: instructing(source.text, behaviour)
        if settings.mode == "instruct"
        else rewriting(source.messages, source.text, behaviour)
        for index, source in sources.items()
        if index not in without
    }


def judge_record(settings: NegativesSettings, behaviour: Behaviour) -> dict[str, Any] | None:
    """Who judges what, if anybody does: a verdict of anybody else is not taken for theirs."""
    if judge := judge_of(settings):
        return {**judge.record, "recognise": behaviour.recognise}
    return {"toxicity_model": settings.toxicity_model} if settings.toxicity_model else None


def together(first: Usage | None, second: Usage | None) -> Usage | None:
    """The tokens of two usages added up, as far as they are known."""
    if first is None or second is None:
        return first or second
    return Usage(first.prompt_tokens + second.prompt_tokens, first.completion_tokens + second.completion_tokens)


def in_words(usage: Usage | None, price: tuple[float, float] | None) -> str:
    """Tokens and what they cost, as far as that is known."""
    if usage is None:
        return ""
    cost = cost_of(usage, price)
    return f"{sum(usage):,} tokens" + ("" if cost is None else f", cost {cost:,.4f}")


def cost_of(usage: Usage | None, price: tuple[float, float] | None) -> float | None:
    """What tokens cost, in the currency of the prices; None where no prices or no tokens are known."""
    if usage is None or price is None:
        return None
    return (usage.prompt_tokens * price[0] + usage.completion_tokens * price[1]) / 1_000_000
