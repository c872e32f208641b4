"""Read an adapter: the one entrance from the disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from os import PathLike
from typing import Any

from extsub.adapters import ia3, lora, prefix
from extsub.adapters.adapter import Adapter, Source
from extsub.adapters.config import kind_of
from extsub.adapters.names import unwrapped
from extsub.adapters.reading import TensorFile, open_tensors, read_config
from extsub.adapters.source import find_adapter

DECODERS: dict[str, Callable[[Mapping[str, Any], TensorFile, Source], Adapter]] = {
    "LORA": lora.decode,
    "ADALORA": lora.decode,
    "IA3": ia3.decode,
    "PREFIX_TUNING": prefix.decode,
}


def load_adapter(name: str | PathLike[str]) -> Adapter:
    """Open a PEFT adapter: a folder, or ``owner/name[/subfolder][@revision]`` on the Hugging Face hub.

    Every field and every key is checked; numbers are read, one module at a time, when they are asked for.

    Raises:
        ExtSubError: nothing there, a damaged file, or an adapter that is not exactly a set of deltas (DoRA, biases,
            soft prompts, ...). The message names the field or tensor.
    """
    return decode(find_adapter(str(name)))


def decode(source: Source) -> Adapter:
    """The adapter in files that were found."""
    config = unwrapped(read_config(source.config, source.name), source.name)
    decoder = DECODERS[kind_of(config, source.name)]
    adapter = decoder(config, open_tensors(source.weights, source.name), source)
    return replace(adapter, notes=(*adapter.notes, *source.notes))
