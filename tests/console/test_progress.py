"""How far the work is, in lines, where standard error is no terminal."""

from __future__ import annotations

import re

import pytest

from extsub.console import progress
from extsub.printing import be_quiet


def test_nothing_is_said_of_the_time_left_before_anything_is_done(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A download that is slow to begin, say."""
    monkeypatch.setattr(progress, "SECONDS", 0)
    be_quiet(False)
    with progress.items("megabytes", 4, 0) as advance:
        advance(0)
        advance(2, "from a mirror")
    first, second = capsys.readouterr().err.splitlines()
    assert first == "megabytes: 0 of 4, 0.0 a second"
    assert re.fullmatch(r"megabytes: 2 of 4, [\d,.]+ a second, from a mirror, [\d.]+ s left", second)
