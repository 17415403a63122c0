"""How the stored fields of a sample become arrays: raw ones are copied, pictures are decoded."""

from __future__ import annotations

import io
from concurrent.futures import ThreadPoolExecutor
from typing import Protocol

import numpy as np

from infra.storage import UserError
from sharding.dataset import Dataset, Split
from sharding.write.degrade import NPY_HEADER_BYTES

DECODE_THREADS = 4


class FieldReader(Protocol):
    """One field of a split."""

    shape: tuple[int, ...]
    """Of one sample."""

    def copy(self, content: np.ndarray, rows: np.ndarray, out: np.ndarray, places: np.ndarray) -> None:
        """Write the field of samples `rows`, which lie in the shard with these bytes, to `out[places]`."""


def open_field(dataset: Dataset, split: Split, name: str) -> FieldReader:
    """ValueError when the data set does not store the field, or not as equally large arrays or pictures."""
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
            f"the field {name!r} of the data set {dataset.name} is not made of pictures or masks of {size} px, which "
            "is all that this reader knows; read it with webdataset."
        )
    return RawField(split.offsets[name] + NPY_HEADER_BYTES, shapes[pixels])


class RawField:
    """uint8 arrays that lie in the shard as in memory. A plain loop: at kilobytes a sample numpy's are no faster."""

    def __init__(self, starts: np.ndarray, shape: tuple[int, ...]) -> None:
        self._starts, self.shape = starts, shape
        self._bytes = int(np.prod(shape))

    def copy(self, content: np.ndarray, rows: np.ndarray, out: np.ndarray, places: np.ndarray) -> None:
        flat, length = out.reshape(len(out), -1), self._bytes
        for place, start in zip(places.tolist(), self._starts[rows].tolist(), strict=True):
            flat[place] = content[start : start + length]


class JpegField:
    """JPEG pictures, decoded by Pillow to RGB, which made them too; another decoder may give other pixels."""

    def __init__(self, starts: np.ndarray, sizes: np.ndarray, shape: tuple[int, ...]) -> None:
        self._starts, self._sizes, self.shape = starts, sizes, shape
        self._threads = ThreadPoolExecutor(DECODE_THREADS, thread_name_prefix="jpeg")

    def copy(self, content: np.ndarray, rows: np.ndarray, out: np.ndarray, places: np.ndarray) -> None:
        from PIL import Image

        def decode(row: int, place: int) -> None:
            start = int(self._starts[row])
            data = content[start : start + int(self._sizes[row])].tobytes()
            picture = Image.open(io.BytesIO(data), formats=("JPEG",))
            out[place] = np.asarray(picture.convert("RGB"))

        list(self._threads.map(decode, rows.tolist(), places.tolist()))
