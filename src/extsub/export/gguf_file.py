"""The file that holds a LoRA adapter for llama.cpp: written a layer at a time, and read again.

llama.cpp multiplies ``B @ A`` by ``alpha / rank``, with one alpha for all layers. The scaling of each layer is folded
into B before (`extsub.adapters.lora`), all layers get one rank, and alpha is that rank.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from extsub.adapters.adapter import Adapter, Module
from extsub.adapters.base import hub_id, public
from extsub.adapters.layouts import Embedding
from extsub.adapters.number_range import factors_in_range
from extsub.adapters.writing import PartProgress
from extsub.arrays import Array, DType
from extsub.parallel import in_order

if TYPE_CHECKING:
    from gguf import GGUFWriter

TYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
"""The dtypes, as GGUF calls them."""


@dataclass(frozen=True)
class Layer:
    """One layer of an adapter, and where it goes."""

    name: str
    """In the adapter."""
    module: Module
    weight: str
    """What it changes, by llama.cpp's name: ``blk.0.attn_q.weight``."""
    heads: int
    """How many heads its rows belong to, where llama.cpp stores them in an order of its own; else 0."""

    @property
    def is_embedding(self) -> bool:
        return isinstance(self.module.layout, Embedding)

    def shapes(self, rank: int) -> dict[str, tuple[int, int]]:
        """The shapes of its two tensors by their names: A (rank, columns) and B (rows, rank). Of an embedding
        (tokens, rank) and (width, rank), since llama.cpp looks tokens up in the first."""
        rows, columns = self.module.shape
        a, b = ((rows, rank), (columns, rank)) if self.is_embedding else ((rank, columns), (rows, rank))
        return {f"{self.weight}.lora_a": a, f"{self.weight}.lora_b": b}

    def tensors(self, rank: int, dtype: DType) -> dict[str, Array]:
        """The two tensors by their names.

        Raises:
            ExtSubError: a number is too large or too small for ``dtype``, or not finite.
        """
        B, A = factors_in_range(self.module.read(), dtype, rank, self.name)
        if self.is_embedding:
            A, B = B, A.mT
        elif self.heads:
            B = B[llama_rows(len(B), self.heads)]
        return dict(zip(self.shapes(rank), map(np.ascontiguousarray, (A, B)), strict=True))


def size_of(layers: Sequence[Layer], rank: int, dtype: DType) -> int:
    """The bytes of all numbers of the file."""
    shapes = (shape for layer in layers for shape in layer.shapes(rank).values())
    return dtype.itemsize * sum(rows * columns for rows, columns in shapes)


def llama_rows(rows: int, heads: int) -> Array:
    """For each row of q or k as llama.cpp stores it, the same row's place in transformers."""
    return np.arange(rows).reshape(heads, 2, -1).swapaxes(1, 2).reshape(-1)


def write(
    path: Path, adapter: Adapter, architecture: str, layers: Sequence[Layer], dtype: DType, progress: PartProgress
) -> None:
    """Fill ``path``; the next layers are computed while one is written.

    Args:
        architecture: llama.cpp's name for that of the base.

    Raises:
        ExtSubError: as `Layer.tensors`.
    """
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(path, architecture)
    try:
        _describe(writer, adapter)
        for layer in layers:
            for name, shape in layer.shapes(adapter.rank).items():
                size = shape[0] * shape[1] * dtype.itemsize
                writer.add_tensor_info(name, shape, dtype, size, GGMLQuantizationType[TYPES[dtype.name]])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        pairs = in_order(lambda layer: layer.tensors(adapter.rank, dtype), layers)
        for _, pair in zip(progress(layer.name for layer in layers), pairs, strict=True):
            for tensor in pair.values():
                writer.write_tensor_data(tensor)
    finally:
        writer.close()


def _describe(writer: GGUFWriter, adapter: Adapter) -> None:
    """What the file says of itself beside its architecture. It names no folder of this machine."""
    from gguf import GGML_QUANT_VERSION, GGUFType, Keys

    writer.add_type(GGUFType.ADAPTER)
    writer.add_name(adapter.label)
    if adapter.base is not None:
        writer.add_base_model_count(1)
        writer.add_base_model_name(0, public(adapter.base))
        if on_hub := hub_id(adapter.base):
            writer.add_base_model_repo_url(0, f"https://huggingface.co/{on_hub}")
    writer.add_string(Keys.Adapter.TYPE, "lora")
    writer.add_float32(Keys.Adapter.LORA_ALPHA, float(adapter.rank))
    writer.add_quantization_version(GGML_QUANT_VERSION)


def verify(path: Path, architecture: str, layers: Sequence[Layer], rank: int, dtype: DType) -> None:
    """Read the file again with gguf's own reader, and compare every number.

    Raises:
        RuntimeError: something differs: that is a bug, or a broken disk.
    """
    from gguf import GGUFReader

    reader = GGUFReader(path)
    fields = [reader.get_field(name) for name in ("general.architecture", "general.type", "adapter.lora.alpha")]
    if [field and field.contents() for field in fields] != [architecture, "adapter", float(rank)]:
        raise RuntimeError(f"{path} does not say what was written")
    tensors = {tensor.name: tensor for tensor in reader.tensors}
    for layer in layers:
        for name, expected in layer.tensors(rank, dtype).items():
            tensor = tensors.pop(name)
            said = (tensor.tensor_type.name, *reversed(tensor.shape.tolist()))
            numbers = tensor.data.reshape(-1).view(np.uint8)
            if said != (TYPES[dtype.name], *expected.shape) or numbers.tobytes() != expected.tobytes():
                raise RuntimeError(f"{path} does not hold {name} as it was written")
    if tensors:
        raise RuntimeError(f"{path} holds more than was written")
