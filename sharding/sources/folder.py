"""Any folder of images."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.storage import UserError
from sharding.sources.base import (
    HASH_SPLIT,
    IMAGE_SUFFIXES,
    SPLITS,
    FileSource,
    SourceImage,
    check_choice,
    examples,
    find_below,
    hash_split,
    is_image,
    safe_key,
)

SPLIT_FOLDERS = {"train": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}


@dataclass(frozen=True)
class Folder(FileSource):
    """All images below `root`, at any depth, in any layout; other files and hidden ones are ignored.

    Folders train, val (valid, validation) and test at the top are the splits, and then must hold all images. Without
    such folders `split` decides: "train", "val" or "test" for all images, or "auto", 90/5/5 by the hash of the key. The
    centre crop is `crop` px, or the largest square.
    """

    size: int = 128
    crop: int | None = None
    split: str = "auto"
    name: str = field(default="folder", init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("split", self.split, ("auto", *SPLITS))
        if self.crop is not None and self.crop < 1:
            raise UserError(f"crop is {self.crop} px, but must be at least 1.")

    def settings(self) -> dict[str, Any]:
        rule = f"folders, else {HASH_SPLIT}" if self.split == "auto" else self.split
        return {"source": self.name, "size": self.size, "crop": self.crop, "split": rule}

    def images(self) -> list[SourceImage]:
        find_below(self.root, ".")
        folders = {f.name: SPLIT_FOLDERS[f.name.lower()] for f in os.scandir(self.root) if _is_split(f)}
        files = [file for top in folders or ["."] for file in _image_files(self.root, top)]
        self._check(folders, files)
        return sorted(SourceImage(safe_key(file), file, self._split(file, folders)) for file in files)

    def _split(self, file: str, folders: dict[str, str]) -> str:
        if folders:
            return folders[file.split("/")[0]]
        return hash_split(safe_key(file)) if self.split == "auto" else self.split

    def _check(self, folders: dict[str, str], files: list[str]) -> None:
        problems = []
        if folders and self.split != "auto":
            problems.append(f"split {self.split!r} is given, but the folders {examples(folders)} are the splits")
        outside = set(_image_files(self.root, ".")) - set(files) if folders else set()
        if outside:
            problems.append(f"{len(outside)} images lie outside the folders {examples(folders)} ({examples(outside)})")
        if not files:
            problems.append(f"there are no images in it (files ending in {', '.join(IMAGE_SUFFIXES)})")
        if problems:
            raise UserError(f"{self.root}: {'; '.join(problems)}.")


def _is_split(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower() in SPLIT_FOLDERS and entry.is_dir()


def _image_files(root: Path, top: str) -> list[str]:
    """Paths below the root, with slashes, of the images in root/top; symbolic links to folders are not followed."""
    found = []
    for folder, subfolders, names in os.walk(root / top):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        below = Path(folder).relative_to(root)
        found += [(below / name).as_posix() for name in names if is_image(name)]
    return found
