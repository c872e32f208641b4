"""The kinds of adapters that can be combined."""

from __future__ import annotations

from extsub.adapters import ia3, lora, prefix
from extsub.adapters.codec import Codec

CODECS: dict[str, Codec] = {codec.kind: codec for codec in (lora.CODEC, ia3.CODEC, prefix.CODEC)}
"""The codec of each ``Adapter.kind``."""
READERS: dict[str, Codec] = {kind: codec for codec in CODECS.values() for kind in (codec.kind, *codec.reads)}
"""The codec that reads each ``peft_type`` of a config."""
