"""Sources of photographs: one file for each, opened by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from infra.storage import UserError
from sharding.sources.base import SPLITS, Source, SourceImage
from sharding.sources.celeba import Celeba, CelebaHq
from sharding.sources.cub import Cub
from sharding.sources.flowers import Flowers
from sharding.sources.folder import Folder
from sharding.sources.synthetic import Synthetic

__all__ = ["SOURCES", "SPLITS", "Source", "SourceImage", "open_source"]

SOURCES: dict[str, Callable[..., Source]] = {
    "celeba": Celeba,
    "celeba-hq": CelebaHq,
    "cub": Cub,
    "flowers": Flowers,
    "folder": Folder,
    "synthetic": Synthetic,
}


def open_source(name: str, root: str | Path | None = None, size: int | None = None, **options: Any) -> Source:
    """The source `name` of the images below `root`; `size` None is the source's default.

    Options are the source's other fields (crop, split, seed, count_train, ...). Raises UserError for an unknown name or
    option, a missing root and values out of range; the folder itself is checked by `Source.images`.
    """
    if name not in SOURCES:
        raise UserError(f"there is no source {name!r}: choose from {', '.join(SOURCES)}.")
    source_class: Any = SOURCES[name]
    known = {field.name for field in fields(source_class) if field.init} - {"root", "size"}
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
    return source_class(**options)
