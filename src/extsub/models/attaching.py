"""An adapter onto a base model, by PEFT, strictly: what is missing or fits nowhere is refused."""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from extsub.adapters.adapter import PREFIX, Adapter
from extsub.adapters.load import decode
from extsub.adapters.patterns import check_expressions
from extsub.adapters.reading import read_config
from extsub.errors import ExtSubError, counted
from extsub.escaping import brief, line
from extsub.models import layer_names
from extsub.models.adapter_handle import AdapterHandle
from extsub.models.forward import is_out_of_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PEFT_RAISES = (
    *(RuntimeError, ValueError, OSError, LookupError, TypeError, AttributeError),
    *(ArithmeticError, AssertionError, ImportError),
)
"""What PEFT raises for a config or tensors that it does not expect."""
LAYER = f"{layer_names.LAYER}."


def attach(model: PreTrainedModel, adapter: AdapterHandle) -> Any:
    """Put an adapter on a base model, which becomes a PEFT model.

    PEFT's loader turns what is missing into a warning and ignores what it does not know: here both are refused.

    Raises:
        ExtSubError: the adapter does not fit, or the model has one already.
    """
    from peft import PeftConfig, get_peft_model

    _check_bare(model)
    weights, folder = _own_weights(model, adapter), str(adapter.source.folder)
    moved = _moved(model, adapter, weights)
    with _explained(adapter), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = moved.config if moved else PeftConfig.from_pretrained(folder)
        config.inference_mode = True
        if hasattr(config, "lora_dropout"):  # nothing is trained, and PEFT puts none on fused experts
            config.lora_dropout = 0.0
        module = get_peft_model(model, config)
        try:
            _load(module, "default", adapter, weights, moved)
            if config.is_prompt_learning:
                _check_heeded(module, adapter)
        except BaseException:
            detach(module)
            raise
    return module


def _load(module: Any, name: str, adapter: AdapterHandle, weights: set[str], moved: _Moved | None) -> None:
    if moved:
        layer_names.fill(module, name, moved.adapter, moved.where)
    else:
        loaded = module.load_adapter(str(adapter.source.folder), adapter_name=name)
        if not loaded.missing_keys and not loaded.unexpected_keys:
            # some files name the adapter, as PEFT does in memory
            weights = {re.sub(rf"\.{name}(?=\.|$)", "", weight) for weight in weights}
        _check_complete(module, name, weights, adapter)


def _check_bare(model: Any) -> None:
    from peft import PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    if isinstance(model, PeftModel) or any(
        isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)) for module in model.modules()
    ):
        raise ExtSubError(
            f"{model.name_or_path}: the model in memory has an adapter already: load the base model alone, or take the "
            "adapter off (unload)"
        )


@dataclass(frozen=True)
class _Moved:
    """A LoRA whose names are not all the base's own."""

    adapter: Adapter
    where: dict[str, layer_names.Place]
    config: Any


def _moved(model: PreTrainedModel, adapter: AdapterHandle, weights: set[str]) -> _Moved | None:
    base = layer_names.Base(model)
    layers = {key.removeprefix(PREFIX).partition(".lora_")[0] for key in weights if ".lora_" in key}
    if all(map(base.has_as_named, layers)) and not any(".default." in key for key in weights):
        return None
    try:
        read = decode(adapter.source)
    except ExtSubError:  # of a kind that is not combined; PEFT may know it
        return None
    where = layer_names.places(base, read.modules) if read.kind == "LORA" else None
    return _Moved(read, where, layer_names.config_for(base, read, where)) if where else None


def _check_heeded(module: Any, adapter: AdapterHandle) -> None:
    """Not every architecture goes on from keys and values, or embeddings, that are handed to it."""
    tokens = torch.zeros(1, 2, dtype=torch.long, device=module.device)
    module.eval()
    with torch.no_grad():
        with_it = module(input_ids=tokens).logits[:, -2:]
        with module.disable_adapter():
            without = module(input_ids=tokens).logits
    if torch.equal(with_it, without):
        raise ExtSubError(
            f"{adapter.given}: {module.config.model_type} goes past a {adapter.kind} adapter: it would change nothing"
        )


def detach(module: Any) -> None:
    """Leave the base as it was. PEFT itself would leave heads and embeddings that an adapter stores whole."""
    from peft.utils import ModulesToSaveWrapper

    base = module.get_base_model()
    for name, submodule in list(base.named_modules()):
        if isinstance(submodule, ModulesToSaveWrapper):
            base.set_submodule(name, submodule.original_module)
    if not module.active_peft_config.is_prompt_learning:
        module.unload()
    if hasattr(base, "peft_config"):
        del base.peft_config


def attach_reference(module: Any, reference: AdapterHandle) -> None:
    """Put a second adapter of the same kind on a PEFT model, named ``reference``, to switch to; the first stays active.

    Raises:
        ExtSubError: it does not fit.
    """
    base = module.get_base_model()
    weights = _own_weights(base, reference)
    moved = _moved(base, reference, weights)
    with _explained(reference), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if moved:
            module.add_adapter("reference", moved.config)
        _load(module, "reference", reference, weights, moved)
    module.set_adapter("default")
    module.eval()  # nothing is trained, so no dropout


def _own_weights(model: PreTrainedModel, adapter: AdapterHandle) -> set[str]:
    """The names of an adapter's tensors. PEFT saves embeddings beside it when they have an adapter or were resized; as
    long as they are the base's, they change nothing.

    Raises:
        ExtSubError: they are not the base's: PEFT would put them in the place of the base's, for good.
    """
    from peft import PeftConfig, load_peft_weights

    modules = [name for name, _ in (*model.named_modules(), *model.named_parameters())]
    check_expressions(read_config(adapter.source.config, adapter.given), modules, adapter.given)
    with _explained(adapter):
        weights = load_peft_weights(str(adapter.source.folder), device="cpu")
        own = getattr(PeftConfig.from_pretrained(str(adapter.source.folder)), "modules_to_save", None) or ()
    theirs = {
        f"{PREFIX}{name}".replace(LAYER, "."): tensor
        for name, tensor in model.state_dict().items()
        if ".default" not in name
    }
    copies = {
        name: theirs[plain]
        for name in weights
        if (plain := name.replace(LAYER, ".")) in theirs and not any(f".{module}." in name for module in own)
    }
    for name, tensor in copies.items():
        base = tensor.detach().cpu()
        if weights[name].shape != base.shape or not torch.equal(weights[name].to(base.dtype), base):
            raise ExtSubError(
                f"{adapter.given}: {brief(name)} is a weight of the base, and another than in {model.name_or_path}: "
                "say which --model it was trained on, or merge it into that (extsub merge) and evaluate the result"
            )
    return set(weights) - copies.keys()


def _check_complete(module: Any, name: str, weights: set[str], adapter: AdapterHandle) -> None:
    from peft import get_peft_model_state_dict

    expected = set(get_peft_model_state_dict(module, adapter_name=name, save_embedding_layers=False))
    if missing := sorted(expected - weights):
        lost = counted(len(missing), "tensor")
        raise ExtSubError(f"{adapter.given}: {lost} missing, first {brief(missing[0])}: is the base another?")
    if unknown := sorted(weights - expected):
        more = counted(len(unknown), "tensor")
        raise ExtSubError(
            f"{adapter.given}: {more} without a place in this base, first {brief(unknown[0])}: say which --model"
        )


@contextlib.contextmanager
def _explained(adapter: AdapterHandle) -> Generator[None]:
    try:
        yield
    except PEFT_RAISES as error:
        if is_out_of_memory(error):
            raise
        said = line(" ".join(str(error).split())[:300])
        raise ExtSubError(f"{adapter.given}: the adapter does not fit its base model: {said}") from error
