"""Stored fields of samples to the arrays of a batch: raw ones are copied, JPEGs are decoded."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from infra.storage import UserError
from sharding.dataset import Dataset, Split
from sharding.tar import NPY_HEADER_BYTES

DECODE_THREADS = 4


@dataclass(frozen=True)
class Batch:
    """B samples of a split in the requested order."""

    keys: list[str]
    fields: dict[str, np.ndarray]
    """Field name -> uint8 as stored: (B, H, W, 3) for images, (B, H, W) for masks."""
    epoch: np.ndarray | None = None
    """int64 (B,): epoch of each sample, for a batch of a loader."""

    @property
    def clean(self) -> np.ndarray:
        """uint8 (B, H, W, 3) as stored."""
        return self.fields["clean"]


def open_field(dataset: Dataset, split: Split, name: str) -> RawField | JpegField:
    """The reader of a field. Raises UserError unless the data set stores it as images or masks of one size."""
    extension = dataset.fields.get(name)
    if extension is None:
        raise UserError(f"the data set {dataset.name} has no field {name!r}; it has {', '.join(dataset.fields)}.")
    size = dataset.image_size
    if extension == "jpg":
        return JpegField(split.offsets[name], split.sizes[name], (size, size, 3))
    pixels = int(split.sizes[name][0]) - NPY_HEADER_BYTES
    shapes = {size * size: (size, size), size * size * 3: (size, size, 3)}
    if extension != "npy" or pixels not in shapes or (split.sizes[name] != split.sizes[name][0]).any():
        raise UserError(
            f"the field {name!r} of the data set {dataset.name} does not hold images or masks of {size} px, which are "
            "all that this reader supports; read it with webdataset."
        )
    return RawField(split.offsets[name] + NPY_HEADER_BYTES, shapes[pixels])


class RawField:
    """uint8 arrays, stored as they are in memory. A plain loop: at kilobytes a sample numpy's indexing is no faster."""

    def __init__(self, starts: np.ndarray, shape: tuple[int, ...]) -> None:
        self._starts, self.shape = starts, shape
        self._bytes = int(np.prod(shape))

    def copy(self, content: np.ndarray, rows: np.ndarray, out: np.ndarray, slots: np.ndarray) -> None:
        """Write the field of samples `rows`, all in the shard with these bytes, to `out[slots]`."""
        flat, length = out.reshape(len(out), -1), self._bytes
        for slot, start in zip(slots.tolist(), self._starts[rows].tolist(), strict=True):
            flat[slot] = content[start : start + length]


class JpegField:
    """JPEGs decoded to RGB by Pillow, their encoder; another decoder may give other pixels."""

    def __init__(self, starts: np.ndarray, sizes: np.ndarray, shape: tuple[int, ...]) -> None:
        self._starts, self._sizes, self.shape = starts, sizes, shape
        self._threads = ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="jpeg")

    def copy(self, content: np.ndarray, rows: np.ndarray, out: np.ndarray, slots: np.ndarray) -> None:
        """As RawField.copy."""

        def decode(row: int, slot: int) -> None:
            start = int(self._starts[row])
            data = content[start : start + int(self._sizes[row])].tobytes()
            out[slot] = np.asarray(Image.open(io.BytesIO(data), formats=("JPEG",)).convert("RGB"))

        list(self._threads.map(decode, rows.tolist(), slots.tolist()))
