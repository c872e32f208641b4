"""Read an adapter: the one entrance from the disk."""

from __future__ import annotations

from dataclasses import replace
from os import PathLike

from extsub.adapters.adapter import Adapter, Source
from extsub.adapters.codecs import READERS
from extsub.adapters.config import kind_of
from extsub.adapters.names import unwrapped
from extsub.adapters.reading import open_tensors, read_config
from extsub.adapters.source import find_adapter


def load_adapter(name: str | PathLike[str]) -> Adapter:
    """Open a PEFT adapter: a folder, or ``owner/name[/subfolder][@revision]`` on the Hugging Face hub.

    Every field and every key is checked; numbers are read, one module at a time, when they are asked for.

    Raises:
        ExtSubError: nothing there, a damaged file, or an adapter that is not exactly a set of deltas (DoRA, biases,
            soft prompts, ...). The message names the field or tensor.
    """
    return decode(find_adapter(str(name)))


def opened(adapter: Adapter | str | PathLike[str]) -> Adapter:
    """The adapter itself, or the one of that name.

    Raises:
        ExtSubError: as `load_adapter`.
    """
    return adapter if isinstance(adapter, Adapter) else load_adapter(adapter)


def decode(source: Source) -> Adapter:
    """The adapter in files that were found."""
    config = unwrapped(read_config(source.config, source.name), source.name)
    codec = READERS[kind_of(config, READERS, source.name)]
    adapter = codec.decode(config, open_tensors(source.weights, source.name), source)
    return replace(adapter, notes=(*adapter.notes, *source.notes))
