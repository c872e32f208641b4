"""What the tests of the page share. Each file has a ``session`` of its own."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor

from extsub import Session
from extsub.inference import streaming


@pytest.fixture
def heard(session: Session, monkeypatch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """The logits by which the first token of each answer was chosen, by the position's label."""
    logits: dict[str, Tensor] = {}
    continued = streaming.continued

    def listening(model: Any, prompts: Any, most: int, ends: Any, processor: Any, cache: bool) -> Tensor:
        def hear(ids: Tensor, scores: Tensor) -> Tensor:
            logits.setdefault(session.position.label, scores[0].double())
            return processor(ids, scores)

        return continued(model, prompts, most, ends, hear, cache)

    monkeypatch.setattr(streaming, "continued", listening)
    return logits
