"""Oxford Flowers 102."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from infra.storage import UserError
from sharding.sources.base import (
    VAL_OF_TRAIN,
    FileSource,
    SourceImage,
    check_choice,
    check_listed,
    find_below,
    image_names,
    safe_key,
    split_off_val,
)

SPLIT_OF = {
    "official": {"trnid": "train", "valid": "val", "tstid": "test"},
    "released": {"tstid": "train", "trnid": "test", "valid": "test"},
}
SPLIT_NAME = {"official": "official", "released": f"released; {VAL_OF_TRAIN}"}


@dataclass(frozen=True)
class Flowers(FileSource):
    """Oxford Flowers 102 in its authors' layout: jpg/, setid.mat, imagelabels.mat.

    Splits: "official", or "released", that of the paper's code: training on the large test set (a tenth of it is split
    off as val), testing on the other two. The centre crop is the paper's, 400 px. Labels are those of imagelabels.mat.
    """

    size: int = 128
    crop: int | None = field(default=400, init=False)
    split: str = "official"
    name: str = field(default="flowers", init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("split", self.split, SPLIT_OF)

    def settings(self) -> dict[str, Any]:
        return {"source": self.name, "size": self.size, "crop": self.crop, "split": SPLIT_NAME[self.split]}

    def images(self) -> list[SourceImage]:
        folder = find_below(self.root, "jpg")
        set_path, label_path = find_below(self.root, "setid.mat"), find_below(self.root, "imagelabels.mat")
        sets, labels = _read_mat(set_path, *SPLIT_OF[self.split]), _read_mat(label_path, "labels")["labels"]
        numbers = [number for members in sets.values() for number in members]
        if len(numbers) > len(set(numbers)):
            raise UserError(f"{set_path} names {len(numbers) - len(set(numbers))} images more than once.")
        check_listed(set_path, {_file(number) for number in numbers}, image_names(folder))
        if max(numbers) > len(labels):
            raise UserError(f"{label_path} has {len(labels)} labels, but {set_path.name} names image {max(numbers)}.")
        images = [
            SourceImage(safe_key(_file(number)), f"jpg/{_file(number)}", SPLIT_OF[self.split][name], labels[number - 1])
            for name, members in sets.items()
            for number in members
        ]
        return sorted(split_off_val(images) if self.split == "released" else images)


def _file(number: int) -> str:
    return f"image_{number:05d}.jpg"


def _read_mat(path: Path, *names: str) -> dict[str, list[int]]:
    """The named arrays of a MATLAB file, flattened."""
    try:
        from scipy.io import loadmat
    except ImportError as error:
        raise UserError(f"reading {path.name} needs scipy; install it with `pip install -e '.[matlab]'`.") from error
    try:
        arrays = loadmat(path)
        return {name: [int(value) for value in arrays[name].ravel()] for name in names}
    except KeyError as error:
        raise UserError(f"{path} holds no array {error}: it should have {', '.join(names)}.") from error
    except Exception as error:  # scipy raises many kinds for a file that is not MATLAB's
        raise UserError(f"{path} is no readable MATLAB file ({error}).") from error
