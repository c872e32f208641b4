"""Between numpy, in which adapters are combined, and torch, in which models are: the one place that converts."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from extsub.arrays import BFLOAT16, Array


def to_torch(array: Array) -> Tensor:
    """The same numbers as a tensor on the CPU, in a dtype of the same name; memory is shared where it can be."""
    array = np.require(array, requirements=["C", "W"])
    if array.dtype == BFLOAT16:
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
