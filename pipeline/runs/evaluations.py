"""An evaluation's folder: metrics.json, per_image.parquet and example images, shared by `evaluate` and `report`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from infra.storage import Storage, StorageError, UserError
from infra.storage.parquet import read_parquet

EVALUATIONS, METRICS, PER_IMAGE = "evaluations", "metrics.json", "per_image.parquet"
NUMBERS = ("psnr_db_degraded", "psnr_db_restored", "ssim_degraded", "ssim_restored", "images", "image_size", "bits")
TEXTS = ("data", "split", "psnr", "ssim", "label")
"""Values of metrics.json without which an evaluation cannot be shown."""
SAME_IMAGES = ("dataset_sha256", "data", "split", "label", "sigma_255", "protocol", "image_size", "noise_seed")
"""Values of metrics.json that are equal for evaluations of the same images."""
EXAMPLES = "examples"
EXAMPLE_KINDS = ("clean", "degraded", "restored")


@dataclass(frozen=True)
class Evaluation:
    """One folder below a run's evaluations/."""

    store: Storage
    metrics: dict[str, Any]
    per_image: list[dict[str, Any]]
    """Rows of per_image.parquet: key, psnr_db_restored, ..."""
    examples: frozenset[str]
    """Names of the example files."""

    @property
    def group(self) -> tuple[Any, ...]:
        """Equal for evaluations that can be compared image by image; the data set's hash stands for its URL."""
        sha256, url, *others = (json.dumps(self.metrics.get(name)) for name in SAME_IMAGES)
        return (url if sha256 == "null" else sha256, *others)

    def image(self, key: str) -> dict[str, Any]:
        """Measures of one image; a PSNR of NaN for an unknown key."""
        return next((row for row in self.per_image if row["key"] == key), {"psnr_db_restored": math.nan})

    def has_examples(self, key: str, *kinds: str) -> bool:
        """Whether the folder has these example images."""
        return self.examples.issuperset(example_name(key, kind) for kind in kinds)


def read_evaluation(store: Storage) -> Evaluation | None:
    """None for a folder without metrics.json, which is written last. UserError for a damaged one."""
    try:
        metrics = json.loads(store.get(METRICS))
        per_image = read_parquet(store, PER_IMAGE).to_pylist()
        missing = [name for name in NUMBERS if not isinstance(metrics.get(name), int | float)]
        missing += [name for name in TEXTS if not isinstance(metrics.get(name), str)]
        for name, kind in (("key", str), ("psnr_db_restored", float)):
            if not per_image or not all(isinstance(row.get(name), kind) for row in per_image):
                missing.append(f"{name} of each image")
        if missing:
            raise UserError(f"no {', '.join(missing)}")
    except FileNotFoundError:
        return None
    except StorageError:
        raise
    except (pa.ArrowException, AttributeError, ValueError) as error:
        raise UserError(
            f"the evaluation {store.url} is damaged, or another version's ({one_line(error)}); delete it, or make it "
            "again with `python -m pipeline.evaluate`."
        ) from None
    metrics.setdefault("model", metrics.get("system"))  # the first version's name
    return Evaluation(store, metrics, per_image, frozenset(entry.name for entry in store.list(f"{EXAMPLES}/")))


def example_name(key: str, kind: str) -> str:
    """Name of an example image in the evaluation's folder."""
    return f"{EXAMPLES}/{key.replace('/', '_')}-{kind}.png"


def best_median_worst(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Keys of the images with the best, median and worst PSNR; equal ones are ordered by key, NaN is the worst.

    rows: `key` and `psnr_db_restored` of each image, not empty.
    """

    def rank(row: dict[str, Any]) -> tuple[float, str]:
        psnr_db = row["psnr_db_restored"]
        return (-math.inf if math.isnan(psnr_db) else psnr_db, row["key"])

    ranked = sorted(rows, key=rank)
    return {"best": ranked[-1]["key"], "median": ranked[len(ranked) // 2]["key"], "worst": ranked[0]["key"]}


def one_line(error: Exception) -> str:
    """An error's text without line breaks."""
    return " ".join(str(error).split())
