"""A table made of results, and its files: table.json, .csv, .parquet, .md."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from infra.storage import Storage
from pipeline.reproduce import paper_numbers as paper
from pipeline.reproduce.caveats import caveats_of
from pipeline.reproduce.config import ReproduceConfig
from pipeline.reproduce.markdown import to_markdown
from pipeline.reproduce.run_experiment import Result
from pipeline.reproduce.statistics import bootstrap, ranking, ranking_is_certain
from pipeline.runs.paper_table import NOT_BUILT, PaperTable, Row

MEANS = {
    "ssim": "ssim_restored",
    "ssim_released": "ssim_released_restored",
    "psnr_db_degraded": "psnr_db_degraded",
    "psnr_db_hole": "psnr_db_hole_restored",
}
"""Column of the table: value of metrics.json; means over the seeds."""
PARQUET_TYPES = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "tuple[int, ...]": pa.list_(pa.int64())}


def table_of(config: ReproduceConfig, results: Sequence[Result]) -> PaperTable:
    """The table of all results."""
    assert config.table
    groups: dict[Any, list[Result]] = {}  # of results that differ by the seed alone
    for result in results:
        groups.setdefault((result.experiment.row, result.experiment.model), []).append(result)
    rows = [row_of(config.table, group) for group in groups.values()]
    not_built = [model for model in paper.MODELS[config.table] if model in paper.NOT_BUILT]
    for dataset, source, label in dict.fromkeys(result.experiment.row for result in results):
        theirs = {model: paper_columns(config.table, source, label, model) for model in not_built}
        rows += [Row(dataset, label, model, error=NOT_BUILT, **columns) for model, columns in theirs.items()]
    agrees, certain = compare_rankings(config.table, groups.values())
    title, caveats = paper.TITLES[config.table], caveats_of(config, results)
    return PaperTable(config.table, title, config.protocol, config.budget, caveats, rows, agrees, certain)


def row_of(table: int, group: Sequence[Result]) -> Row:
    """Row of a model on a task of a data set, over the seeds that did not fail."""
    done = [result for result in group if result.error is None]
    first = (done or group)[0].experiment
    return Row(
        first.dataset,
        first.label,
        first.model,
        **(measured_columns(done) if done else {}),
        seeds=tuple(result.experiment.config.seed for result in done),
        **paper_columns(table, first.source, first.label, first.model),
        run=first.url,
        error="; ".join(f"seed {r.experiment.config.seed}: {r.error}" for r in group if r.error is not None) or None,
    )


def measured_columns(done: Sequence[Result]) -> dict[str, Any]:
    """Measures of a row: means over images and seeds, sizes and speed."""
    psnr, metrics = bootstrap(np.array([r.psnr_db for r in done])), done[0].metrics
    means = {
        column: [r.metrics[name] for r in done if r.metrics.get(name) is not None] for column, name in MEANS.items()
    }
    return {
        "psnr_db": psnr.mean,
        "psnr_db_low": psnr.low,
        "psnr_db_high": psnr.high,
        **{column: float(np.mean(values)) for column, values in means.items() if values},
        "parameters": metrics["parameters"],
        "images_per_sec": float(np.mean([r.trained["images"] / max(r.trained["train_s"], 1e-9) for r in done])),
        "trained_images": round(float(np.mean([r.trained["images"] for r in done]))),
        "test_images": metrics["images"],
    }


def paper_columns(table: int, source: str, label: str, model: str) -> dict[str, Any]:
    """The paper's values of a row."""
    theirs = paper.figure(table, source, label, model)
    return {"paper_psnr_db": theirs.psnr_db, "paper_ssim": theirs.ssim} if theirs else {}


def compare_rankings(table: int, groups: Iterable[Sequence[Result]]) -> tuple[dict[str, bool], dict[str, bool]]:
    """For each row of the table ("celeba noise25"): whether the ranking of the models is the paper's, and whether ours
    is certain. Of models that both have; rows with fewer than two are left out."""
    lines: dict[tuple[str, str, str], dict[str, np.ndarray]] = {}
    for group in groups:
        if all(result.error is None for result in group):
            lines.setdefault(group[0].experiment.row, {})[group[0].experiment.model] = np.array(
                [r.psnr_db for r in group]
            )
    agrees, certain = {}, {}
    for (dataset, source, label), line in lines.items():
        theirs = {model: paper.figure(table, source, label, model) for model in line}
        known = {model: figure.psnr_db for model, figure in theirs.items() if figure}
        if len(known) < 2:
            continue
        name, ours = f"{dataset} {label}", {model: line[model] for model in known}
        agrees[name] = ranking({model: float(psnr.mean()) for model, psnr in ours.items()}) == ranking(known)
        certain[name] = ranking_is_certain(ours)
    return agrees, certain


def write(store: Storage, table: PaperTable) -> str:
    """Write the four files; returns the Markdown. CSV has the seeds separated by blanks."""
    text, rows = to_markdown(table), [asdict(row) for row in table.rows]
    schema = pa.schema([(f.name, PARQUET_TYPES[str(f.type).removesuffix(" | None")]) for f in fields(Row)])
    parquet, lines = io.BytesIO(), io.StringIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), parquet)
    writer = csv.DictWriter(lines, schema.names, lineterminator="\n")
    writer.writeheader()
    writer.writerows({**row, "seeds": " ".join(map(str, row["seeds"]))} for row in rows)
    store.put("table.csv", lines.getvalue().encode())
    store.put("table.parquet", parquet.getvalue())
    store.put("table.md", text.encode())
    store.put("table.json", json.dumps(asdict(table), indent=1).encode())
    return text
