"""Host memory of a reader's batches."""

from __future__ import annotations

import numpy as np
import torch

from pipeline.data.pixels import pinned_array


def test_an_array_is_pinned_where_a_gpu_is() -> None:
    array = pinned_array((2, 3, 4))
    assert (array.shape, array.dtype) == ((2, 3, 4), np.uint8) and array.flags.c_contiguous and array.flags.writeable
    assert torch.from_numpy(array).is_pinned() == torch.cuda.is_available()
