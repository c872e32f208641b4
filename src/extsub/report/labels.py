"""Labels beside points, each where it covers nothing; one that finds no room is left out."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple


class Box(NamedTuple):
    """A rectangle on paper."""

    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: Box) -> bool:
        """Whether two rectangles share any place."""
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )  # fmt: skip


@dataclass
class Labels:
    """Places for the labels of a picture; what is taken already stays free of others."""

    edge: Box
    taken: list[Box] = field(default_factory=list)

    def mark(self, x: float, y: float, size: float) -> None:
        """Keep labels away from a point."""
        self.taken.append(Box(x - size, y - size, x + size, y + size))

    def place(self, x: float, y: float, text: str, size: float, away: float, must: bool = False) -> tuple | None:
        """Find a place for a text: (x, y of its base line, anchor); None where it finds no room."""
        width, height = 0.56 * size * len(text), size
        for far in (away, away + 5, away + 10):
            for right, down in ((1, -1), (-1, -1), (1, 1), (-1, 1), (0, -1), (0, 1), (1, 0), (-1, 0)):
                reach = far if 0 in (right, down) else 0.7 * far
                left = x + right * reach - (width if right < 0 else width / 2 if not right else 0)
                top = y + down * reach - (height if down < 0 else height / 2 if not down else 0)
                box = Box(left, top, left + width, top + height)
                outside = (
                    box.left < self.edge.left
                    or box.right > self.edge.right
                    or box.top < self.edge.top
                    or box.bottom > self.edge.bottom
                )
                if not outside and not any(box.meets(taken) for taken in self.taken):
                    self.taken.append(box)
                    return left, top + 0.82 * height, "start"
        return (x + away, y - away, "start") if must else None
