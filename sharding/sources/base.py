"""The interface of a source, and the helpers that the sources share.

A source lists its images without decoding them, reads the bytes of one, and decodes those to the stored pixels. It is a
small frozen dataclass, which travels to another machine by pickling.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable, Set
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from infra.storage import UserError
from sharding.write.decode import crop_resize, decode_rgb

SPLITS = ("train", "val", "test")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
HASH_SPLIT = "90/5/5 by the hash of the key"
VAL_OF_TRAIN = "a tenth of train is val, by the hash of the key"
"""Text of this rule in dataset.json, which decides a plan's hash."""
MIN_SIZE_PX = 8
MAX_KEY_CHARS = 80
"""Longest key: with a field's name behind it, it fits the 100 bytes of a USTAR name."""
_READ_BYTES = 1 << 17


@dataclass(frozen=True, order=True)
class SourceImage:
    """One image of a source, before its file is read."""

    key: str
    """Unique in the data set; letters, digits, `_`, `-` and `/` only: WebDataset splits names at the first dot."""
    file: str
    """Path below the source's root, or the name of a generated image."""
    split: str
    """One of `SPLITS`."""
    label: int | None = None
    """Class number in the source's own count, or None."""


class Source(Protocol):
    """The interface of every source."""

    @property
    def name(self) -> str:
        """A name of `open_source`."""

    @property
    def size(self) -> int:
        """Height and width of the stored images, px."""

    def settings(self) -> dict[str, Any]:
        """Everything that decides the pixels, as JSON values for dataset.json. No local path."""

    def images(self) -> list[SourceImage]:
        """All images, sorted by key. Raises UserError when the layout is not the publisher's."""

    def read(self, image: SourceImage) -> bytes:
        """The file's bytes, unchanged: their hash goes into the manifest."""

    def pixels(self, image: SourceImage, data: bytes) -> np.ndarray:
        """Decode, crop and resize: uint8 (size, size, 3), RGB. Raises `decode.BadImage` with the reason."""


@dataclass(frozen=True)
class FileSource:
    """A source of files below `root`."""

    root: Path
    size: int
    crop: int | None = field(default=None, init=False)
    """Side of the centre crop, px; None for the largest square."""

    def __post_init__(self) -> None:
        check_size(self.size)

    def read(self, image: SourceImage) -> bytes:
        return read_file(self.root, image.file)

    def pixels(self, image: SourceImage, data: bytes) -> np.ndarray:
        return crop_resize(decode_rgb(data), self.crop, self.size)


def check_size(size: int) -> None:
    """Raise UserError for stored images that are too small."""
    if size < MIN_SIZE_PX:
        raise UserError(f"the image size is {size} px, but must be at least {MIN_SIZE_PX}.")


def check_choice(what: str, value: str, choices: Iterable[str]) -> None:
    """Raise UserError when `value` is none of the choices."""
    if value not in choices:
        raise UserError(f"{what} is {value!r}, but must be one of {', '.join(choices)}.")


def find_below(root: Path, *paths: str) -> Path:
    """The first of the paths that exists below the root. Raises UserError with the paths and the root's entries."""
    for path in paths:
        if (root / path).exists():
            return root / path
    if not root.is_dir():
        raise UserError(f"the folder {root} does not exist.")
    raise UserError(f"no {' or '.join(paths)} in {root}: there is {examples(os.listdir(root)) or 'nothing'}.")


def image_names(folder: Path) -> set[str]:
    """Names of the image files in a folder, without a stat of each: 200,000 would take minutes on NFS."""
    return {name for name in os.listdir(folder) if is_image(name)}


def read_file(root: Path, file: str) -> bytes:
    """The bytes of root/file by four system calls: for a small file, `open` takes twice as long (docs/log.md)."""
    descriptor = os.open(f"{root}/{file}", os.O_RDONLY)
    try:
        data = os.read(descriptor, _READ_BYTES)
        while more := os.read(descriptor, _READ_BYTES):
            data += more
        return data
    finally:
        os.close(descriptor)


def is_image(name: str) -> bool:
    """Whether the suffix is an image's; hidden files are none."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def read_table(path: Path, columns: int = 2) -> dict[str, str]:
    """First column -> last column of a text file separated by blanks or commas, with or without CelebA's header line.

    Raises UserError for the first line with another number of columns, or a repeated first column.
    """
    rows: dict[str, str] = {}
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            cells = line.replace(",", " ").split()
            if not cells or (number == 1 and cells[0] in ("image_id", "idx")):
                continue
            if len(cells) != columns or cells[0] in rows:
                wrong = "occurs twice" if cells[0] in rows else f"should have {columns} columns"
                raise UserError(f"line {number} of {path} {wrong}: {line.strip()[:80]!r}.")
            rows[cells[0]] = cells[-1]
    return rows


def check_listed(path: Path, listed: Set[str], present: Set[str]) -> None:
    """Raise UserError unless the list at `path` and the image files have the same names, and at least one."""
    problems = []
    for names, wrong in ((listed - present, "named there have no file"), (present - listed, "are not named there")):
        if names:
            problems.append(f"{len(names)} images {wrong} ({examples(names)})")
    if problems:
        raise UserError(f"{path} does not match the images: {'; '.join(problems)}.")
    if not listed:
        raise UserError(f"{path} names no images.")


def examples(names: Iterable[str]) -> str:
    """The first three names in order, for a message."""
    ordered = sorted(names)
    return ", ".join(ordered[:3]) + (", ..." if len(ordered) > 3 else "")


def safe_key(path: str) -> str:
    """Key of a file path below the root: no extension, `_` for each odd character, at most `MAX_KEY_CHARS`."""
    key = re.sub(r"[^A-Za-z0-9_/-]", "_", os.path.splitext(path)[0])
    if len(key) > MAX_KEY_CHARS:
        digest = hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
        key = f"{key[: MAX_KEY_CHARS - 17].rstrip('/')}-{digest}"
    return key


def hash_split(key: str) -> str:
    """train, val or test with shares of 90, 5 and 5 %, by the key alone, so that added images move none."""
    share = _hash_share(key)
    return "train" if share < 0.9 else "val" if share < 0.95 else "test"


def split_off_val(images: Iterable[SourceImage]) -> list[SourceImage]:
    """The same images with a tenth of train as val, by the key alone: for publishers' splits without val."""
    return [
        replace(image, split="val") if image.split == "train" and _hash_share(image.key) < 0.1 else image
        for image in images
    ]


def _hash_share(key: str) -> float:
    """A number in [0, 1), uniform over keys."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little") / 2**64
