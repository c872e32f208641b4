"""In which dtype this machine scores fastest."""

from __future__ import annotations

import pytest
import torch

from extsub.models.base import quickest_dtype


@pytest.mark.parametrize(
    ("gpu", "processor", "expected"),
    [
        (None, {"avx2": True, "avx512_bf16": False, "amx_bf16": False}, "float32"),
        (None, {"avx512_bf16": True}, "bfloat16"),
        (None, {"amx_bf16": True}, "bfloat16"),
        (None, {}, "float32"),
        (True, {}, "bfloat16"),
        (False, {"amx_bf16": True}, "float32"),  # the GPU computes, and has none
    ],
)
def test_bfloat16_is_taken_only_where_it_is_multiplied(
    gpu: bool | None, processor: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu is not None)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: gpu)
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: processor, raising=False)
    assert quickest_dtype() == expected
