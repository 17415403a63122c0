"""The table.json of a reproduction, beside the paper's figures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from infra.storage import UserError
from pipeline.report.load import system_title, task_title
from pipeline.runs.evaluations import is_number, one_line


@dataclass(frozen=True)
class TableCell:
    """Ours, its range over the seeds, and the paper's; empty texts for what there is not."""

    psnr_db: str = ""
    low_high: str = ""
    ssim: str = ""
    paper: str = ""
    best: bool = False
    """The highest PSNR of the row, of ours."""
    paper_best: bool = False


@dataclass(frozen=True)
class TableRow:
    title: str
    cells: list[TableCell]
    order_agrees: bool | None


@dataclass(frozen=True)
class PaperTable:
    """One table, a row for each data set and task, a column for each system."""

    title: str
    protocol: str
    budget: str
    caveats: list[str]
    systems: list[str]
    groups: list[tuple[str, list[TableRow]]]
    """Data set -> its rows."""
    has_order: bool
    measured: list[list[tuple[str, str]]]
    """Heading and text of everything that is known of each measured cell."""


def read_table(path: Path) -> PaperTable:
    """ValueError when the file is no table of a reproduction."""
    try:
        values = json.loads(path.read_text())
        return make_table(values)
    except OSError as error:
        raise UserError(f"--table {path} cannot be read ({error.strerror}); name a table.json.") from None
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        reason = f"it has no {error}" if isinstance(error, KeyError) else one_line(error)
        raise UserError(
            f"--table {path} is no table.json of `python -m pipeline.reproduce` ({reason}); name another file."
        ) from None


def make_table(values: dict[str, Any]) -> PaperTable:
    rows: list[dict[str, Any]] = values["rows"]
    systems = list(dict.fromkeys(str(row["system"]) for row in rows))
    by_place: dict[tuple[str, str], dict[str, dict[str, Any]]] = {}
    for row in rows:
        by_place.setdefault((str(row["dataset"]), str(row["task_label"])), {})[str(row["system"])] = row
    agrees = values.get("order_agrees") or {}
    groups: dict[str, list[TableRow]] = {}
    for (dataset, label), found in by_place.items():
        cells = cells_of([found.get(system, {}) for system in systems])
        groups.setdefault(dataset, []).append(TableRow(task_title(label), cells, agrees.get(f"{dataset} {label}")))
    return PaperTable(
        str(values["title"]),
        str(values.get("protocol", "")),
        str(values.get("budget", "")),
        [str(caveat) for caveat in values.get("caveats", [])],
        [system_title(system) for system in systems],
        list(groups.items()),
        bool(agrees),
        [everything(row) for row in rows if is_number(row.get("psnr_db"))],
    )


def cells_of(row: Sequence[dict[str, Any]]) -> list[TableCell]:
    best = max((one["psnr_db"] for one in row if is_number(one.get("psnr_db"))), default=None)
    paper_best = max((one["paper_psnr_db"] for one in row if is_number(one.get("paper_psnr_db"))), default=None)
    cells = []
    for one in row:
        psnr_db, paper = one.get("psnr_db"), one.get("paper_psnr_db")
        low, high = one.get("psnr_db_low"), one.get("psnr_db_high")
        is_range = is_number(low) and is_number(high) and f"{low:.2f}" != f"{high:.2f}"
        has_paper_ssim = is_number(one.get("paper_ssim"))
        ssim = one.get("ssim_released") if is_number(one.get("ssim_released")) else one.get("ssim")
        cells.append(
            TableCell(
                form(psnr_db, "{:.2f}"),
                f"{low:.2f} – {high:.2f}" if is_range else "",
                form(ssim, "{:.4f}") if has_paper_ssim else "",
                form(paper, "{:.2f}") + (form(one.get("paper_ssim"), " / {:.4f}") if has_paper_ssim else ""),
                is_number(psnr_db) and psnr_db == best,
                is_number(paper) and paper == paper_best,
            )
        )
    return cells


def everything(row: dict[str, Any]) -> list[tuple[str, str]]:
    """One measured cell, spelled out."""
    seeds, low, high = row.get("seeds"), row.get("psnr_db_low"), row.get("psnr_db_high")
    return [
        ("Data set", str(row["dataset"])),
        ("Task", task_title(str(row["task_label"]))),
        ("System", system_title(str(row["system"]))),
        ("PSNR (dB)", form(row.get("psnr_db"), "{:.3f}")),
        ("Over the seeds", f"{low:.2f} – {high:.2f}" if is_number(low) and is_number(high) else ""),
        ("SSIM", form(row.get("ssim"), "{:.4f}")),
        ("SSIM (released)", form(row.get("ssim_released"), "{:.4f}")),
        ("Parameters", form(row.get("parameters"), "{:,.0f}")),
        ("Images trained on", form(row.get("trained_images"), "{:,.0f}")),
        ("Images/s", form(row.get("images_per_sec"), "{:,.0f}")),
        ("Seeds", ", ".join(map(str, seeds)) if isinstance(seeds, list) else str(seeds or "")),
    ]


def form(value: Any, pattern: str) -> str:
    """Empty for what is not known."""
    return pattern.format(value) if is_number(value) else ""
