"""What extsub knows of a kind of adapter. A new kind is one codec, and a line in ``codecs.py``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from extsub.adapters.adapter import Adapter, Source
from extsub.adapters.tensors import TensorFile


@dataclass(frozen=True)
class Codec:
    """A kind of adapter, from the disk and back."""

    kind: str
    """Its ``peft_type``, which is also ``Adapter.kind``."""
    title: str
    """How a sentence on it begins: "A LoRA". """
    decode: Callable[[Mapping[str, Any], TensorFile, Source], Adapter]
    """(adapter_config.json, the tensors, where they are) to the adapter"""
    encode: Callable[[Adapter], dict[str, Any]]
    """Makes the smallest adapter_config.json that says what an adapter is."""
    reads: tuple[str, ...] = ()
    """Other ``peft_type`` whose adapters become this kind."""
    ranked: bool = False
    """Whether its modules have a rank, which can be smaller, and a scaling."""
    served: bool = False
    """Whether servers take it."""
    caution: str = ""
    """What makes arithmetic on it less than exact, as a sentence without its full stop."""
