"""A LoRA adapter as one GGUF file, for llama.cpp and what is built on it (Ollama): what can be written, and where each
layer goes. What llama.cpp could not apply with the same meaning is refused before anything is written.
"""

from __future__ import annotations

import re
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from extsub.adapters.adapter import Adapter
from extsub.adapters.layouts import Embedding, Linear
from extsub.adapters.load import opened
from extsub.adapters.stated import is_deficiency
from extsub.adapters.writing import PartProgress
from extsub.arrays import DTYPES
from extsub.errors import ExtSubError, check_choice
from extsub.escaping import brief
from extsub.export.architectures import Base
from extsub.export.base_config import read_base
from extsub.export.gguf_file import TYPES, Layer, size_of, verify, write
from extsub.extras import require
from extsub.files.disk import check_room, check_writable
from extsub.files.reading import located
from extsub.files.writing import filled

if TYPE_CHECKING:
    from gguf import TensorNameMap

SUFFIX = ".gguf"
WITH_IMAGES = re.compile(r"\blanguage_model\.")
"""What stands in the names of layers where the base has images too; llama.cpp has its language model alone."""
INSIDE = re.compile(r"model\.layers\.(0|[1-9][0-9]*)\.(.+)")
ENDS = {"model.embed_tokens": "embed_tokens", "lm_head": "lm_head"}
MERGE = "merge the adapter into its base and convert the whole model"


class GgufRecord(TypedDict):
    """What `export_gguf` wrote."""

    architecture: str
    """llama.cpp's name for that of the base."""
    modules: int
    rank: int
    dtype: str
    bytes: int
    deficiency: bool
    """Whether it is a deficiency d, to be loaded beside the expert with the scale -alpha."""
    notes: list[str]
    """What a user should know of the adapter, in sentences."""


def export_gguf(
    adapter: Adapter | str | PathLike[str],
    output: str | PathLike[str],
    *,
    base: str | PathLike[str] | None = None,
    dtype: str = "float32",
    overwrite: bool = False,
    progress: PartProgress = iter,
) -> GgufRecord:
    """Write a LoRA adapter as a GGUF file that llama.cpp applies with the same meaning (``--lora``).

    The file appears only after it was written and read again. The same adapter gives the same bytes.

    Args:
        adapter: an `Adapter`, or what `load_adapter` takes, a folder or a hub id.
        output: the file, whose name ends in ``.gguf``.
        base: a folder of the base model, its config.json or its hub id; what the adapter names unless given.
        dtype: float32, float16 or bfloat16.
        overwrite: replace the file if it is there.

    Raises:
        ExtSubError: GGUF or llama.cpp cannot hold what the adapter does; the base's config.json cannot be had, or is of
            an architecture that is not known here or of another base; the file is there, the disk refuses, a number
            does not fit the dtype, or the library gguf is not installed.
    """
    require("gguf", "gguf")
    path = located(str(output))
    _check_output(path, overwrite)
    check_choice("dtype", dtype, TYPES)
    adapter = opened(adapter)
    _refuse(adapter)
    of = read_base(adapter, None if base is None else str(base))
    layers, architecture = _layers(adapter, of), of.architecture.name
    check_room(path, size_of(layers, adapter.rank, DTYPES[dtype]))
    with filled(path) as partial:
        write(partial, adapter, architecture, layers, DTYPES[dtype], progress)
        verify(partial, architecture, layers, adapter.rank, DTYPES[dtype])
        size = partial.stat().st_size
    return {
        "architecture": architecture,
        "modules": len(layers),
        "rank": adapter.rank,
        "dtype": dtype,
        "bytes": size,
        "deficiency": _is_deficiency(adapter),
        "notes": list(adapter.notes),
    }


def _is_deficiency(adapter: Adapter) -> bool:
    if adapter.origin:
        return adapter.origin.deficiency
    return adapter.source is not None and is_deficiency(adapter.source.folder)


def _check_output(path: Path, overwrite: bool) -> None:
    if path.suffix != SUFFIX:
        raise ExtSubError(f"{path}: the name of a GGUF file ends in {SUFFIX}")
    if path.is_dir():
        raise ExtSubError(f"{path} is a folder: give the name of a file")
    if path.exists() and not overwrite:
        raise ExtSubError(f"{path} already exists: choose another output, or pass --overwrite to replace it")
    check_writable(path)


def _refuse(adapter: Adapter) -> None:
    """Refuse what no adapter in GGUF can hold, whatever its base."""
    name = adapter.name
    if adapter.kind != "LORA":
        raise ExtSubError(f"{name}: GGUF holds adapters of kind LORA, and this one is {adapter.kind}: {MERGE}")
    if adapter.copies:
        raise ExtSubError(
            f"{name}: {brief(min(adapter.copies))} is stored whole (modules_to_save, or a resized vocabulary), and "
            f"adapters in GGUF hold changes alone ({len(adapter.copies)} such tensors): {MERGE}"
        )
    if adapter.settings.get("layer_replication"):
        raise ExtSubError(f"{name}: it repeats layers of its base (layer_replication), which llama.cpp does not do")
    if not adapter.rank:
        raise ExtSubError(f"{name}: its rank is 0, so it changes nothing")


def _layers(adapter: Adapter, base: Base) -> list[Layer]:
    """Every layer of the adapter, with its place in llama.cpp.

    Raises:
        ExtSubError: llama.cpp has no such layer, one of another shape, or applies no adapter to it.
    """
    from gguf import MODEL_ARCH, get_tensor_name_map

    names = get_tensor_name_map(MODEL_ARCH[base.architecture.name.upper()], 1)
    shapes, number_of_layers = base.shapes(), base.size("num_hidden_layers")
    layers = []
    for name, module in adapter.modules.items():
        where = f"{adapter.name}: {brief(name)}"
        path, weight = _place(name, number_of_layers, names)
        layout = Embedding if path == "embed_tokens" else Linear
        if path not in shapes or not isinstance(module.layout, layout):
            what = "fused experts, which have" if module.parameter else "a layer that has"
            raise ExtSubError(f"{where} is {what} no place in an adapter for {base.architecture.name}: {MERGE}")
        if module.shape != shapes[path]:
            shape, expected = ("x".join(map(str, sizes)) for sizes in (module.shape, shapes[path]))
            raise ExtSubError(
                f"{where} is {shape}, and {expected} by {base.where}: the adapter is for another base; say with --base "
                "for which"
            )
        if path in ENDS.values() and base.is_tied:
            raise ExtSubError(
                f"{where}: the base has its embedding as head (tie_word_embeddings), and llama.cpp loads no adapter of "
                f"that: {MERGE}"
            )
        layers.append(Layer(name, module, weight, base.heads(path)))
    return layers


def _place(name: str, number_of_layers: int, names: TensorNameMap) -> tuple[str, str]:
    """(the path of a layer as in `Base.shapes`, its weight in llama.cpp); empty where llama.cpp has no such layer.

    Args:
        names: llama.cpp's for a model of one layer, which says all.
    """
    plain = WITH_IMAGES.sub("", name)
    if plain in ENDS:
        return ENDS[plain], f"{names.get_name(plain)}.weight"
    inside = INSIDE.fullmatch(plain)
    if inside and int(inside[1]) < number_of_layers and (tensor := names.get_name(f"model.layers.0.{inside[2]}")):
        return inside[2], f"{tensor.replace('blk.0.', f'blk.{inside[1]}.')}.weight"
    return "", ""
