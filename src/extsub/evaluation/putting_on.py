"""An adapter onto a base model, by PEFT, strictly: what is missing or fits nowhere is refused."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import torch

from extsub.adapters.patterns import check_expressions
from extsub.adapters.reading import read_config
from extsub.errors import ExtSubError
from extsub.escaping import brief, line
from extsub.evaluation.adapter_name import AdapterName
from extsub.models import is_out_of_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel

PEFT_RAISES = (
    *(RuntimeError, ValueError, OSError, LookupError, TypeError, AttributeError),
    *(ArithmeticError, AssertionError, ImportError),
)
"""for a config or tensors that it does not expect"""
LAYER = ".base_layer."
"""stands in the name of a weight whose layer has an adapter"""


def put_on(model: PreTrainedModel, adapter: AdapterName) -> Any:
    """PEFT's loader turns what is missing into a warning and ignores what it does not know: here both are refused.

    Raises:
        ExtSubError: the adapter does not fit.
    """
    from peft import PeftConfig, get_peft_model

    weights, folder = _own_weights(model, adapter), str(adapter.source.folder)
    with _explained(adapter), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = PeftConfig.from_pretrained(folder)
        config.inference_mode = True
        module = get_peft_model(model, config)
        try:
            module.load_adapter(folder, adapter_name="default")
            _check_complete(module, "default", weights, adapter)
        except BaseException:
            take_off(module)
            raise
    return module


def take_off(module: Any) -> None:
    """Leave the base as it was."""
    base = module.get_base_model()
    if not module.active_peft_config.is_prompt_learning:
        module.unload()
    if hasattr(base, "peft_config"):
        del base.peft_config


def put_beside(module: Any, reference: AdapterName, adapter: AdapterName) -> None:
    """A second adapter, named ``reference``, to switch to; the first stays active.

    Raises:
        ExtSubError: it does not fit, or it is of another kind.
    """
    if reference.kind != adapter.kind:
        raise ExtSubError(
            f"--reference {reference.given} is {reference.kind} and {adapter.given} {adapter.kind}: two kinds cannot "
            "be in one model; compare with the base (leave --reference out)"
        )
    weights = _own_weights(module.get_base_model(), reference)
    with _explained(reference), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module.load_adapter(str(reference.source.folder), adapter_name="reference")
        _check_complete(module, "reference", weights, reference)
    module.set_adapter("default")


def _own_weights(model: PreTrainedModel, adapter: AdapterName) -> set[str]:
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
    theirs = {f"base_model.model.{name}".replace(LAYER, "."): one for name, one in model.state_dict().items()}
    copies = {
        name: theirs[one]
        for name in weights
        if (one := name.replace(LAYER, ".")) in theirs and not any(f".{module}." in name for module in own)
    }
    for name, tensor in copies.items():
        base = tensor.detach().cpu()
        if weights[name].shape != base.shape or not torch.equal(weights[name].to(base.dtype), base):
            raise ExtSubError(
                f"{adapter.given}: {brief(name)} is a weight of the base, and another than in {model.name_or_path}: "
                "say which --model it was trained on, or merge the adapter into that and evaluate the merged model"
            )
    return set(weights) - copies.keys()


def _check_complete(module: Any, name: str, found: set[str], adapter: AdapterName) -> None:
    from peft import get_peft_model_state_dict

    expected = set(get_peft_model_state_dict(module, adapter_name=name, save_embedding_layers=False))
    if missing := sorted(expected - found):
        raise ExtSubError(
            f"{adapter.given}: {len(missing)} tensors are missing, first {brief(missing[0])}: is the base another?"
        )
    if unknown := sorted(found - expected):
        raise ExtSubError(
            f"{adapter.given}: {len(unknown)} tensors fit nowhere in this base, first {brief(unknown[0])}: say which "
            "--model"
        )


@contextlib.contextmanager
def _explained(adapter: AdapterName) -> Generator[None]:
    try:
        yield
    except PEFT_RAISES as error:
        if is_out_of_memory(error):
            raise
        said = line(" ".join(str(error).split())[:300])
        raise ExtSubError(f"{adapter.given}: the adapter does not fit its base model: {said}") from error
