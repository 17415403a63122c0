"""Assignment of images to shards: decided before a pixel is read, the same on any number of machines."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from infra.storage import UserError
from sharding.sources import SPLITS, SourceImage

SHARD_BYTES = 32 << 20
"""Default size of a shard: large enough for S3's throughput, small enough to make again and to cache."""
FIELD_OVERHEAD_BYTES = 512 + 128 + 256
"""Overhead of a stored field: tar header, .npy header, mean padding."""


@dataclass(frozen=True)
class ShardPlan:
    """One shard: its name and its images, in order."""

    index: int
    name: str
    split: str
    images: tuple[SourceImage, ...]


@dataclass(frozen=True)
class Plan:
    """All shards of a data set, and all settings that decide their bytes."""

    shards: tuple[ShardPlan, ...]
    settings: dict[str, Any]
    sha256: str


def make_plan(
    images: Sequence[SourceImage], settings: dict[str, Any], shuffle_seed: int, images_per_shard: int
) -> Plan:
    """Shuffle each split with the seed and cut it into shards. Raises UserError for keys that `check_keys` refuses."""
    check_keys(images)
    shards: list[ShardPlan] = []
    for split_number, split in enumerate(SPLITS):
        members = sorted(image for image in images if image.split == split)
        order = np.random.Generator(np.random.Philox([shuffle_seed, split_number])).permutation(len(members))
        for start in range(0, len(members), images_per_shard):
            chosen = tuple(members[i] for i in order[start : start + images_per_shard])
            name = f"{split}-{start // images_per_shard:05d}.tar"
            shards.append(ShardPlan(len(shards), name, split, chosen))
    settings = {**settings, "shuffle_seed": shuffle_seed, "images_per_shard": images_per_shard}
    listing = [[[i.key, i.file, i.split, i.label] for i in shard.images] for shard in shards]
    digest = hashlib.sha256(json.dumps([settings, listing], sort_keys=True).encode()).hexdigest()
    return Plan(tuple(shards), settings, digest)


def check_keys(images: Sequence[SourceImage]) -> None:
    """Raise UserError for keys that occur twice or contain a dot: WebDataset ends a key at its first dot."""
    counts = Counter(image.key for image in images)
    doubles = [key for key, count in counts.items() if count > 1]
    dotted = [key for key in counts if "." in key]
    problems = []
    if doubles:
        files = [image.file for image in images if image.key == doubles[0]]
        problems.append(f"{len(doubles)} keys occur twice, the first being {doubles[0]!r} ({', '.join(files)})")
    if dotted:
        problems.append(f"{len(dotted)} keys contain a dot, the first being {dotted[0]!r}")
    if problems:
        raise UserError("; ".join(problems) + ". Rename the files.")


def default_images_per_shard(size: int, fields: Mapping[str, str]) -> int:
    """Number of images of `size` x `size` px with these fields (name -> extension) in a shard of about 32 MiB.

    A rough estimate by extension, because the plan must not depend on an encoder's version.
    """
    estimated_bytes = {"npy": size**2, "jpg": 3 * size**2 // 8}
    degraded_bytes = sum(estimated_bytes.get(extension, 3 * size**2) for extension in list(fields.values())[1:])
    return max(1, SHARD_BYTES // (3 * size**2 + degraded_bytes + FIELD_OVERHEAD_BYTES * len(fields)))
