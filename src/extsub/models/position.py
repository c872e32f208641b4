"""Where a dial stands: at one of the models to start from, or at an operation with its strength."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from extsub.algebra import spread_alpha
from extsub.combination.profile import Profile

if TYPE_CHECKING:
    from extsub.models.dial import Dial

STARTS = ("base", "expert", "anti-expert")
"""The models to start from, which have no strength."""


@dataclass(frozen=True)
class Position:
    """One model that a dial can be set to."""

    operation: str
    """``base``, ``expert``, ``anti-expert``, or an operation"""
    alpha: float | tuple[float, ...] | None = None
    """Strength, one for all anti-experts or one for each; None at a model to start from."""
    profile: Profile | None = None
    """How α is spread over the modules, where it is not the same in all."""

    @property
    def label(self) -> str:
        """The name of the position, also of its folder in a sweep."""
        if self.alpha is None:
            return self.operation
        alphas = self.alpha if isinstance(self.alpha, tuple) else (self.alpha,)
        plain = "-".join([self.operation, *(f"{alpha:.10g}" for alpha in alphas)])
        if self.profile is None:
            return plain
        text = json.dumps(self.profile.to_dict(), sort_keys=True)
        return f"{plain}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        spread = {"profile": self.profile.to_dict()} if self.profile else {}
        return {"operation": self.operation, "alpha": self.alpha, **spread}

    def __hash__(self) -> int:
        return hash(self.label)

    def set_on(self, dial: Dial, anti_experts: int) -> None:
        """Set a dial to it; adapters that are attached after so many anti-experts do nothing.

        Raises:
            ExtSubError: there is no such operation, or alpha is not finite or not one for each anti-expert.
        """
        if self.alpha is None:
            dial.set_parts(
                *{"base": (0.0,), "expert": (1.0,), "anti-expert": (0.0, *[1.0] * anti_experts)}[self.operation]
            )
        else:
            others = dial.anti_experts - anti_experts
            dial.set(self.operation, [*spread_alpha(self.alpha, anti_experts), *[0.0] * others], self.profile)
