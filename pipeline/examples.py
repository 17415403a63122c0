"""Pictures that an evaluation keeps: which images, and under which names."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

FOLDER = "examples"
KINDS = ("clean", "degraded", "restored")


def file_name(key: str, kind: str) -> str:
    """Of one picture, in the evaluation's folder."""
    return f"{FOLDER}/{key.replace('/', '_')}-{kind}.png"


def best_median_worst(rows: Sequence[dict[str, Any]]) -> dict[str, str]:
    """Keys of the images that were restored best, worst and in between, by PSNR; of equal ones the first key counts.

    `rows` have `key` and `psnr_db_restored`, and are not empty. What is not a number counts as the worst.
    """

    def rank(row: dict[str, Any]) -> tuple[float, str]:
        psnr_db = row["psnr_db_restored"]
        return (-math.inf if math.isnan(psnr_db) else psnr_db, row["key"])

    ranked = sorted(rows, key=rank)
    return {"best": ranked[-1]["key"], "median": ranked[len(ranked) // 2]["key"], "worst": ranked[0]["key"]}
