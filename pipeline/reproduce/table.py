"""Results of cells to rows, and rows to files: table.json, .csv, .parquet, .md."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from infra.storage import Storage
from pipeline.reproduce import paper_numbers as paper
from pipeline.reproduce.caveats import caveats_of
from pipeline.reproduce.config import NOT_HERE, ReproduceConfig
from pipeline.reproduce.markdown import to_markdown
from pipeline.reproduce.run_experiment import Result
from pipeline.reproduce.statistics import bootstrap, order, order_is_certain

Row = dict[str, Any]
MEANS = {"ssim": "ssim_restored", "ssim_released": "ssim_released_restored", "psnr_db_degraded": "psnr_db_degraded"}
MEANS |= {"psnr_db_hole": "psnr_db_hole_restored"}
"""Column of the table -> of an evaluation's metrics.json; means over the seeds."""


def table_of(config: ReproduceConfig, results: Sequence[Result]) -> dict[str, Any]:
    """table.json's content."""
    assert config.table
    groups = grouped(results)
    rows = [row_of(config.table, group) for group in groups]
    for dataset, source, label in dict.fromkeys((r.cell.dataset, r.cell.source, r.cell.label) for r in results):
        rows += [
            not_here(config.table, dataset, source, label, system)
            for system in paper.MODELS[config.table]
            if system in NOT_HERE
        ]
    agrees, certain = orders(config.table, groups)
    return {
        "table": config.table,
        "title": paper.TITLES[config.table],
        "protocol": config.protocol,
        "budget": config.budget,
        "caveats": caveats_of(config, results),
        "rows": rows,
        "order_agrees": agrees,
        "order_certain": certain,
    }


def grouped(results: Iterable[Result]) -> list[list[Result]]:
    """Results that differ by the seed alone, together."""
    groups: dict[tuple[str, str, str], list[Result]] = {}
    for result in results:
        key = (result.cell.dataset, result.cell.label, result.cell.config.system)
        groups.setdefault(key, []).append(result)
    return list(groups.values())


def row_of(table: int, group: Sequence[Result]) -> Row:
    """One system on one task of one data set, all seeds together. Seeds that failed are left out of the figures."""
    cell = group[0].cell
    done = [result for result in group if result.error is None]
    row = _empty_row(table, cell.dataset, cell.source, cell.label, cell.config.system)
    row |= {"seeds": [result.cell.config.seed for result in done], "run": group[0].cell.url}
    row["error"] = "; ".join(f"seed {r.cell.config.seed}: {r.error}" for r in group if r.error is not None) or None
    if not done:
        return row
    estimate = bootstrap(psnr_table(done))
    row |= {"psnr_db": estimate.mean, "psnr_db_low": estimate.low, "psnr_db_high": estimate.high}
    for column, name in MEANS.items():
        values = [r.metrics[name] for r in done if r.metrics.get(name) is not None]
        row[column] = float(np.mean(values)) if values else None
    row["run"] = done[0].cell.url
    row["parameters"] = done[0].metrics["parameters"]
    row["test_images"] = done[0].metrics["images"]
    row["trained_images"] = round(float(np.mean([r.trained["images"] for r in done])))
    row["images_per_sec"] = float(np.mean([r.trained["images"] / max(r.trained["train_s"], 1e-9) for r in done]))
    return row


def not_here(table: int, dataset: str, source: str, label: str, system: str) -> Row:
    """A system of the paper's that is not built here: its row has the paper's numbers alone."""
    return _empty_row(table, dataset, source, label, system) | {"seeds": [], "error": "not here"}


def _empty_row(table: int, dataset: str, source: str, label: str, system: str) -> Row:
    theirs = paper.figure(table, source, label, system)
    row: Row = {"dataset": dataset, "task_label": label, "system": system}
    row |= dict.fromkeys(("psnr_db", "psnr_db_low", "psnr_db_high", *MEANS, "parameters", "images_per_sec"))
    row |= {"trained_images": None, "test_images": None, "seeds": []}
    row |= {"paper_psnr_db": theirs.psnr_db if theirs else None, "paper_ssim": theirs.ssim if theirs else None}
    return row | {"run": None, "error": None}


def psnr_table(done: Sequence[Result]) -> np.ndarray:
    """PSNR (dB), (seeds, images)."""
    return np.array([result.psnr_db for result in done])


def orders(table: int, groups: Iterable[Sequence[Result]]) -> tuple[dict[str, bool], dict[str, bool]]:
    """For each row of the table ("celeba noise25"): whether the systems' order is the paper's, and whether ours is
    certain. Among those that both have; rows with fewer than two such are left out."""
    lines: dict[tuple[str, str, str], dict[str, np.ndarray]] = {}
    for group in groups:
        cell = group[0].cell
        if all(result.error is None for result in group):
            line = lines.setdefault((cell.dataset, cell.source, cell.label), {})
            line[cell.config.system] = psnr_table(group)
    agrees, certain = {}, {}
    for (dataset, source, label), line in lines.items():
        theirs = {system: paper.figure(table, source, label, system) for system in line}
        known = {system: found.psnr_db for system, found in theirs.items() if found}
        if len(known) < 2:
            continue
        ours = {system: line[system] for system in known}
        name = f"{dataset} {label}"
        agrees[name] = order({s: float(v.mean()) for s, v in ours.items()}) == order(known)
        certain[name] = order_is_certain(ours)
    return agrees, certain


def write(store: Storage, table: dict[str, Any]) -> str:
    """All four files; returns the Markdown."""
    text = to_markdown(table)
    store.put("table.csv", csv_bytes(table["rows"]))
    store.put("table.parquet", parquet_bytes(table["rows"]))
    store.put("table.md", text.encode())
    store.put("table.json", json.dumps(table, indent=1).encode())
    return text


def csv_bytes(rows: Sequence[Row]) -> bytes:
    """Seeds parted by blanks."""
    sink = io.StringIO()
    writer = csv.DictWriter(sink, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "seeds": " ".join(map(str, row["seeds"]))} for row in rows)
    return sink.getvalue().encode()


def parquet_bytes(rows: Sequence[Row]) -> bytes:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = {
        "seeds": pa.list_(pa.int64()),
        **dict.fromkeys(("parameters", "trained_images", "test_images"), pa.int64()),
    }
    types |= dict.fromkeys(("dataset", "task_label", "system", "run", "error"), pa.string())
    schema = pa.schema([(name, types.get(name, pa.float64())) for name in rows[0]])
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows), schema=schema), sink)
    return sink.getvalue()
