"""What the runs' folders hold: configuration, curves, evaluations. Everything in them is checked before it is used."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra.storage import Storage, StorageError, UserError

EVALUATIONS, METRICS, PER_IMAGE = "evaluations", "metrics.json", "per_image.parquet"
FIGURES = ("psnr_db_degraded", "psnr_db_restored", "ssim_degraded", "ssim_restored", "images", "image_size", "bits")
TEXTS = ("data", "split", "psnr", "ssim", "label")
EXAMPLES = "examples"
EXAMPLE_KINDS = ("clean", "degraded", "restored")


@dataclass(frozen=True)
class Evaluation:
    """One folder below a run's evaluations/."""

    store: Storage
    metrics: dict[str, Any]
    images: list[dict[str, Any]]
    """Rows of per_image.parquet: key, psnr_db_restored, ..."""
    pictures: frozenset[str]
    """Names of the example files."""

    @property
    def group(self) -> tuple[Any, ...]:
        """Evaluations with the same can be compared, image by image."""
        names = ("dataset_sha256", "data", "split", "label", "sigma_255", "protocol", "image_size", "noise_seed")
        first, *others = (json.dumps(self.metrics.get(name)) for name in names)
        return (first, *(others[1:] if first != "null" else others))

    def image(self, key: str) -> dict[str, Any]:
        """Figures of one image."""
        return next((row for row in self.images if row["key"] == key), {"psnr_db_restored": float("nan")})


def read_evaluation(store: Storage) -> Evaluation | None:
    """None for a folder without metrics.json, which is written last. ValueError for one that is damaged."""
    try:
        metrics = json.loads(store.get(METRICS))
        images = pq.read_table(io.BytesIO(store.get(PER_IMAGE))).to_pylist()
        missing = [name for name in FIGURES if not isinstance(metrics.get(name), int | float)]
        missing += [name for name in TEXTS if not isinstance(metrics.get(name), str)]
        for name, kind in (("key", str), ("psnr_db_restored", float)):
            if not images or not all(isinstance(row.get(name), kind) for row in images):
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
    return Evaluation(store, metrics, images, frozenset(entry.name for entry in store.list("examples/")))


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def example_name(key: str, kind: str) -> str:
    """Name of an example image in the evaluation's folder."""
    return f"{EXAMPLES}/{key.replace('/', '_')}-{kind}.png"


def best_median_worst(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Keys of the images that were restored best, worst and in between, by PSNR; of equal ones the first key counts.

    `rows` have `key` and `psnr_db_restored`, and are not empty. NaN counts as the worst.
    """

    def rank(row: dict[str, Any]) -> tuple[float, str]:
        psnr_db = row["psnr_db_restored"]
        return (-math.inf if math.isnan(psnr_db) else psnr_db, row["key"])

    ranked = sorted(rows, key=rank)
    return {"best": ranked[-1]["key"], "median": ranked[len(ranked) // 2]["key"], "worst": ranked[0]["key"]}


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())
