"""What a model thought while it answered, for tests of the page and the chat."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from extsub import Session
from extsub.inference import streaming


def first_logits(session: Session, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """The logits by which the first token of each answer is chosen from now on, by the position's label."""
    logits: dict[str, Tensor] = {}
    continued = streaming.continued

    def listening(model: Any, prompts: Any, most: int, ends: Any, processor: Any, cache: bool) -> Tensor:
        def hear(ids: Tensor, scores: Tensor) -> Tensor:
            logits.setdefault(session.position.label, scores[0].double())
            return processor(ids, scores)

        return continued(model, prompts, most, ends, hear, cache)

    monkeypatch.setattr(streaming, "continued", listening)
    return logits
