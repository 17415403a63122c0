"""CelebA (aligned faces) and CelebA-HQ."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from infra.storage import UserError
from sharding.sources.base import (
    HASH_SPLIT,
    VAL_OF_TRAIN,
    FileSource,
    SourceImage,
    check_choice,
    check_listed,
    examples,
    find_below,
    hash_split,
    image_names,
    read_table,
    safe_key,
    split_off_val,
)
from sharding.write.decode import crop_resize, decode_rgb

PARTITIONS = ("list_eval_partition.txt", "Eval/list_eval_partition.txt", "list_eval_partition.csv")
PARTITION = {"0": "train", "1": "val", "2": "test"}
FACES = ("img_align_celeba/img_align_celeba", "img_align_celeba", "Img/img_align_celeba")
HQ_MAPPING = "CelebA-HQ-to-CelebA-mapping.txt"
HQ_SPLITS = ("auto", "official", "released", "hash")


@dataclass(frozen=True)
class Celeba(FileSource):
    """Aligned CelebA in its authors' or Kaggle's layout and partition. The centre crop is the paper's 148 of 178 px."""

    size: int = 64
    name: str = field(default="celeba", init=False)

    def settings(self) -> dict[str, Any]:
        return {"source": self.name, "size": self.size, "crop": "148/178 of the width", "split": "official"}

    def images(self) -> list[SourceImage]:
        folder, partition = find_below(self.root, *FACES), find_below(self.root, *PARTITIONS)
        splits = _read_partition(partition)
        check_listed(partition, splits.keys(), image_names(folder))
        prefix = folder.relative_to(self.root).as_posix()
        return sorted(SourceImage(safe_key(file), f"{prefix}/{file}", split) for file, split in splits.items())

    def pixels(self, image: SourceImage, data: bytes) -> np.ndarray:
        photograph = decode_rgb(data)
        return crop_resize(photograph, round(148 * photograph.width / 178), self.size)


@dataclass(frozen=True)
class CelebaHq(FileSource):
    """CelebA-HQ: one folder of square faces, whose names end in their number (0.jpg, 00000.png, imgHQ00000.png).

    Splits: "official" are CelebA's, by the mapping file and CelebA's partition beside the images; "released" are those
    of the paper's code, which trains on train and val (a tenth of both is split off as val); "hash" is 90/5/5 by the
    hash of the key; "auto" is official with a mapping file, else hash.
    """

    size: int = 256
    split: str = "auto"
    name: str = field(default="celeba-hq", init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("split", self.split, HQ_SPLITS)

    def settings(self) -> dict[str, Any]:
        names = {"official": "official", "released": f"released; {VAL_OF_TRAIN}", "hash": HASH_SPLIT}
        return {"source": self.name, "size": self.size, "crop": None, "split": names[self._rule()]}

    def images(self) -> list[SourceImage]:
        folder = find_below(self.root, "CelebA-HQ-img", ".")
        files = image_names(folder)
        if not files:
            raise UserError(f"no images in {folder}.")
        if self._rule() == "hash":
            splits = {file: hash_split(safe_key(file)) for file in files}
        else:
            splits = self._official_splits(files)
        below = folder.relative_to(self.root)
        images = sorted(SourceImage(safe_key(file), (below / file).as_posix(), splits[file]) for file in files)
        return split_off_val(images) if self._rule() == "released" else images

    def _rule(self) -> str:
        if self.split != "auto":
            return self.split
        return "official" if (self.root / HQ_MAPPING).exists() else "hash"

    def _official_splits(self, files: set[str]) -> dict[str, str]:
        mapping, partition = find_below(self.root, HQ_MAPPING), find_below(self.root, *PARTITIONS)
        original = read_table(mapping, columns=3)
        numbers = {file: _number(file) for file in files}
        check_listed(mapping, original.keys(), set(numbers.values()))
        split_of = _read_partition(partition)
        if unknown := set(original.values()) - split_of.keys():
            raise UserError(f"{len(unknown)} images of {mapping} are not named in {partition} ({examples(unknown)}).")
        splits = {file: split_of[original[number]] for file, number in numbers.items()}
        if self.split == "released":
            splits = {file: "train" if split == "val" else split for file, split in splits.items()}
        return splits


def _number(file: str) -> str:
    """imgHQ00012.png -> 12, as in the mapping file; a name without a number stays."""
    match = re.search(r"0*(\d+)\.\w+$", file)
    return match[1] if match else file


def _read_partition(path: Path) -> dict[str, str]:
    """File name -> split, from 0 (train), 1 (val), 2 (test)."""
    numbers = read_table(path)
    if strange := {file for file, number in numbers.items() if number not in PARTITION}:
        raise UserError(f"{path} gives {len(strange)} images another number than 0, 1 or 2 ({examples(strange)}).")
    return {file: PARTITION[number] for file, number in numbers.items()}
