"""Caltech-UCSD Birds 200-2011."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.storage import UserError
from sharding.sources.base import (
    VAL_OF_TRAIN,
    FileSource,
    SourceImage,
    check_listed,
    examples,
    find_below,
    image_names,
    read_file,
    read_table,
    safe_key,
    split_off_val,
)


@dataclass(frozen=True)
class Cub(FileSource):
    """CUB-200-2011 in its authors' layout; `root` is CUB_200_2011 or the folder that holds it.

    The split is the official one, train and test; a tenth of train is split off as val. The centre crop is the paper's,
    300 px. Labels are the species, 1 to 200.
    """

    size: int = 128
    crop: int | None = field(default=300, init=False)
    name: str = field(default="cub", init=False)

    def settings(self) -> dict[str, Any]:
        return {"source": self.name, "size": self.size, "crop": self.crop, "split": f"official; {VAL_OF_TRAIN}"}

    def images(self) -> list[SourceImage]:
        base = self._base()
        list_path = find_below(base, "images.txt")
        files = read_table(list_path)
        is_train = _read_column(find_below(base, "train_test_split.txt"), list_path, files.keys(), 1)
        labels = _read_column(find_below(base, "image_class_labels.txt"), list_path, files.keys(), 200)
        folders = [folder for folder in find_below(base, "images").iterdir() if folder.is_dir()]
        birds = {f"{species.name}/{file}" for species in folders for file in image_names(species)}
        check_listed(list_path, set(files.values()), birds)
        images = [
            SourceImage(safe_key(file), f"images/{file}", "train" if is_train[i] == 1 else "test", labels[i])
            for i, file in files.items()
        ]
        return sorted(split_off_val(images))

    def read(self, image: SourceImage) -> bytes:
        return read_file(self._base(), image.file)

    def _base(self) -> Path:
        inner = self.root / "CUB_200_2011"
        return inner if inner.is_dir() else self.root


def _read_column(path: Path, list_path: Path, ids: Set[str], highest: int) -> dict[str, int]:
    """Image id -> number from 0 to `highest`; the ids must be those of images.txt."""
    table = read_table(path)
    if differing := table.keys() ^ ids:
        raise UserError(f"{path} and {list_path} differ in {len(differing)} images' numbers ({examples(differing)}).")
    if strange := {value for value in table.values() if not (value.isdecimal() and int(value) <= highest)}:
        raise UserError(f"{path} holds something else than numbers from 0 to {highest} ({examples(strange)}).")
    return {i: int(value) for i, value in table.items()}
