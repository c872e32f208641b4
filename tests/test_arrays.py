"""Numbers between numpy, bfloat16 and torch."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from extsub.arrays import BFLOAT16, DTYPES, FLOAT16, FLOAT32, as_array, double, is_finite, rounded, single
from extsub.models.tensors import to_torch

EVERY = np.arange(2**16, dtype=np.uint16)


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # signalling NaN
@pytest.mark.parametrize("dtype", [BFLOAT16, FLOAT16])
def test_every_number_of_half_precision_is_the_same_in_float32_and_float64(dtype: np.dtype) -> None:
    every = EVERY.view(dtype)
    theirs = to_torch(every)
    np.testing.assert_array_equal(single(every), theirs.float().numpy())
    np.testing.assert_array_equal(double(every), theirs.double().numpy())
    finite = np.isfinite(double(every))
    assert np.array_equal(rounded(double(every[finite]), dtype).view(np.uint16), every[finite].view(np.uint16))


@pytest.mark.filterwarnings("ignore:invalid value encountered in cast")  # signalling NaN
@pytest.mark.parametrize("dtype", [BFLOAT16, FLOAT16])
def test_ties_go_to_the_even_neighbour(dtype: np.dtype) -> None:
    """Between each two neighbours, and just beside the middle, as torch rounds."""
    finite = EVERY.view(dtype)[np.isfinite(double(EVERY.view(dtype)))]
    finite = np.unique(double(finite)).astype(FLOAT32).astype(dtype)
    low, high = finite[:-1], finite[1:]
    middle = ((double(low) + double(high)) / 2).astype(FLOAT32)
    for values in (middle, np.nextafter(middle, np.float32(np.inf)), np.nextafter(middle, np.float32(-np.inf))):
        theirs = torch.from_numpy(values).to(getattr(torch, dtype.name))
        ours = rounded(values.astype(np.float64), dtype)
        np.testing.assert_array_equal(single(ours), theirs.float().numpy())


@given(st.sampled_from(sorted(DTYPES)), st.integers(0, 3), st.sampled_from([np.nan, np.inf, -np.inf]))
def test_one_number_that_is_not_finite_is_found(name: str, place: int, wrong: float) -> None:
    values = np.array([1.0, -2.0, 0.0, DTYPES[name].type(1e-3)]).astype(DTYPES[name])
    assert is_finite(values)
    values[place] = wrong
    assert not is_finite(values)
    assert not is_finite(values[::-1])
    assert is_finite(values[:0])


@pytest.mark.parametrize("name", sorted(DTYPES))
def test_torch_tensors_come_and_go_bit_for_bit(name: str) -> None:
    tensor = torch.randn(4, 6, dtype=torch.float64).to(getattr(torch, name))
    for view in (tensor, tensor.T, tensor[::2], tensor.requires_grad_()):
        array = as_array(view)
        assert (array.dtype.name, array.shape) == (name, tuple(view.shape))
        assert torch.equal(to_torch(array), view)


def test_bfloat16_is_that_of_ml_dtypes() -> None:
    assert as_array(np.ones(3, ml_dtypes.bfloat16)).dtype == BFLOAT16
    assert as_array([1.0, 2.0]).dtype == np.float64
