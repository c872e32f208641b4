"""The keys of a checkpoint, looked up by what an adapter calls its layers."""

from __future__ import annotations

from collections.abc import Collection

from extsub.adapters.names import Layers
from extsub.errors import ExtSubError
from extsub.escaping import brief


class CheckpointKeys:
    """A name that is not in the checkpoint counts where one tensor alone may be called so by another version of a
    library (`extsub.adapters.names`)."""

    def __init__(self, keys: Collection[str], adapter: str, base: str) -> None:
        """``adapter`` and ``base`` are names for messages."""
        self.layers = {key.removesuffix(".weight"): key for key in keys}
        self._alike, self._adapter, self._base = Layers(self.layers), adapter, base

    def find(self, name: str) -> str | None:
        """The key of the tensor that ``name`` means; None where there is none.

        Raises:
            ExtSubError: several may be meant.
        """
        name = name.removesuffix(".weight")
        if name in self.layers:
            return self.layers[name]
        alike = self._alike.like(name)
        if len(alike) > 1:
            raise ExtSubError(
                f"{self._adapter}: {brief(name)} may be {' or '.join(map(brief, alike[:3]))} of {self._base}: give the "
                "layers of the adapter the names that they have in the base"
            )
        return self.layers[alike[0]] if alike else None
