"""Where photographs come from: one file for each source.

A source lists its images without decoding them, reads the bytes of one, and turns those bytes into the pixels that
are stored. It is a small frozen dataclass, so that it travels to another machine by pickling.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import re
from collections.abc import Iterable, Set
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from infra.storage import UserError

SPLITS = ("train", "val", "test")
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif")
HASH_SPLIT = "90/5/5 by the hash of the key"
HELD_OUT = "a tenth of train is val, by the hash of the key"
MIN_SIZE = 8
LONGEST_KEY = 80
_READ_BYTES = 1 << 17
"""With a field's name behind it, such a key still fits the 100 characters of a plain tar header."""

_SOURCES = {
    "celeba": ("celeba", "Celeba"),
    "celeba-hq": ("celeba", "CelebaHq"),
    "cub": ("cub", "Cub"),
    "flowers": ("flowers", "Flowers"),
    "folder": ("folder", "Folder"),
    "synthetic": ("synthetic", "Synthetic"),
}


@dataclass(frozen=True, order=True)
class SourceImage:
    """One image of a source, before anything was read of it."""

    key: str
    """Unique in the data set; letters, digits, `_`, `-` and `/` only: WebDataset splits names at the first dot."""
    file: str
    """Path below the source's root, or a name for a generated image."""
    split: str
    """One of `SPLITS`."""
    label: int | None = None
    """Class number as the source counts it, or None."""


class Source(Protocol):
    """What every source offers."""

    @property
    def name(self) -> str:
        """One of the names that `open_source` knows."""

    @property
    def size(self) -> int:
        """Height and width of the stored images, px."""

    def settings(self) -> dict[str, Any]:
        """Everything that decides the pixels, as JSON values; goes into dataset.json. No local path."""

    def images(self) -> list[SourceImage]:
        """All images, sorted by key. ValueError with one sentence when the layout is not the expected one."""

    def read(self, image: SourceImage) -> bytes:
        """The file's bytes, as they are (their hash goes into the manifest)."""

    def pixels(self, image: SourceImage, data: bytes) -> np.ndarray:
        """Decode, crop and resize: uint8 (size, size, 3), RGB. Raises `decode.BadImage` with the reason."""


def open_source(name: str, root: str | Path | None = None, size: int | None = None, **options: Any) -> Source:
    """The source `name` with its images below `root`; `size` None is the source's own default.

    Options are the source's other fields (crop, split, seed, count_train, ...). Raises ValueError for an unknown name
    or option, a missing root and values out of range; the folder itself is looked at by `Source.images`.
    """
    if name not in _SOURCES:
        raise UserError(f"there is no source {name!r}: choose from {', '.join(_SOURCES)}.")
    module, cls_name = _SOURCES[name]
    cls = getattr(importlib.import_module(f"sharding.sources.{module}"), cls_name)
    known = {field.name for field in fields(cls) if field.init} - {"root", "size"}
    if unknown := sorted(set(options) - known):
        choices = f"it has {', '.join(sorted(known))}" if known else "it has none"
        raise UserError(f"the source {name} has no option {', '.join(unknown)}: {choices}.")
    if name == "synthetic" and root is not None:
        raise UserError(f"the source synthetic reads no folder: leave out root {str(root)!r}.")
    if name != "synthetic":
        if root is None:
            raise UserError(f"the source {name} needs a root: the folder that holds its images.")
        options["root"] = Path(root)
    if size is not None:
        options["size"] = size
    return cls(**options)


# What the sources share.


def check_size(size: int) -> None:
    """ValueError for a size of the stored images that is too small."""
    if size < MIN_SIZE:
        raise UserError(f"the image size is {size} px, but must be at least {MIN_SIZE}.")


def check_choice(what: str, value: str, choices: Iterable[str]) -> None:
    """ValueError when `value` is none of the choices."""
    if value not in choices:
        raise UserError(f"{what} is {value!r}, but must be one of {', '.join(choices)}.")


def find_below(root: Path, *paths: str) -> Path:
    """The first of the paths that exists below the root; ValueError that says what was looked for and what is there."""
    for path in paths:
        if (root / path).exists():
            return root / path
    if not root.is_dir():
        raise UserError(f"the folder {root} does not exist.")
    there = sorted(entry.name for entry in os.scandir(root))
    shown = ", ".join(there[:5]) + (f" and {len(there) - 5} more" if len(there) > 5 else "") if there else "nothing"
    raise UserError(f"no {' or '.join(paths)} in {root}: there is {shown}.")


def image_names(folder: Path) -> set[str]:
    """Names of the image files of one folder, read in one go: a stat of 200,000 files would take minutes on NFS."""
    with os.scandir(folder) as entries:
        return {entry.name for entry in entries if is_image(entry.name)}


def read_file(root: Path, file: str) -> bytes:
    """The bytes of root/file by four system calls: for a small file, `open` spends as long again on further ones."""
    descriptor = os.open(f"{root}/{file}", os.O_RDONLY)
    try:
        data = os.read(descriptor, _READ_BYTES)
        while more := os.read(descriptor, _READ_BYTES):
            data += more
        return data
    finally:
        os.close(descriptor)


def is_image(name: str) -> bool:
    """By its suffix; hidden files are none."""
    return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith(".")


def read_table(path: Path, columns: int = 2) -> dict[str, str]:
    """First column -> last column of a text file parted by blanks or commas, with or without CelebA's header line.

    Raises ValueError with the first line that has another number of columns, or a first column seen before.
    """
    rows: dict[str, str] = {}
    with path.open(encoding="utf-8", errors="replace") as lines:
        for number, line in enumerate(lines, 1):
            cells = line.replace(",", " ").split()
            if not cells or (number == 1 and cells[0] in ("image_id", "idx")):
                continue
            if len(cells) != columns or cells[0] in rows:
                wrong = "is there twice" if cells[0] in rows else f"should have {columns} columns"
                raise UserError(f"line {number} of {path} {wrong}: {line.strip()[:80]!r}.")
            rows[cells[0]] = cells[-1]
    return rows


def check_listed(path: Path, listed: Set[str], present: Set[str]) -> None:
    """ValueError unless the list at `path` and the image files hold the same names, and at least one."""
    problems = []
    for names, wrong in ((listed - present, "named there have no file"), (present - listed, "are not named there")):
        if names:
            problems.append(f"{len(names)} images {wrong} ({some(names)})")
    if problems:
        raise UserError(f"{path} does not match the images: {'; '.join(problems)}.")
    if not listed:
        raise UserError(f"{path} names no images.")


def some(names: Iterable[str]) -> str:
    """The first three in order, for a message."""
    ordered = sorted(names)
    return ", ".join(ordered[:3]) + (", ..." if len(ordered) > 3 else "")


def safe_key(path: str) -> str:
    """Path of a file below the root -> its key: no extension, `_` for each odd character, at most `LONGEST_KEY`."""
    key = re.sub(r"[^A-Za-z0-9_/-]", "_", os.path.splitext(path)[0])
    if len(key) > LONGEST_KEY:
        digest = hashlib.blake2b(path.encode("utf-8", "surrogateescape"), digest_size=8).hexdigest()
        key = f"{key[: LONGEST_KEY - 17].rstrip('/')}-{digest}"
    return key


def hash_split(key: str) -> str:
    """train, val or test with shares of 90, 5 and 5 %: of the key alone, so that more images move none."""
    share = _hash_share(key)
    return "train" if share < 0.9 else "val" if share < 0.95 else "test"


def split_off_val(images: Iterable[SourceImage]) -> list[SourceImage]:
    """For splits without val, which training needs: the same images, a tenth of train as val, by the key alone."""
    return [
        replace(image, split="val") if image.split == "train" and _hash_share(image.key) < 0.1 else image
        for image in images
    ]


def _hash_share(key: str) -> float:
    """A number in [0, 1) that stands for the key."""
    return int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "little") / 2**64
