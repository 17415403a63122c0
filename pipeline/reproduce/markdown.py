"""A table as Markdown: one block a data set, ours beside the paper's, then what each system took."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Row = dict[str, Any]
NAMES = {"irae": "IRAE", "dncnn": "DnCNN", "ffdnet": "FFDNet", "unet": "U-Net", "arcnn": "AR-CNN"}
NAMES |= {"contextual-attention": "Contextual Attention", "shift-net": "Shift-Net"}
NAMES |= {"coherent-semantic-attention": "Coherent Semantic Attention"}


def to_markdown(table: dict[str, Any]) -> str:
    """table.md's content."""
    rows: list[Row] = table["rows"]
    lines = [f"# {table['title']}", ""]
    lines += [f"Budget {table['budget']} for each network, protocol {table['protocol']}."]
    lines += ["Ours, [95 % confidence interval], (the paper's)."]
    for dataset in dict.fromkeys(row["dataset"] for row in rows):
        mine = [row for row in rows if row["dataset"] == dataset]
        block = _block(mine, psnr_cell, first=_degraded_column(mine), last=_order_column(table, dataset))
        lines += ["", f"## {dataset}: PSNR in dB", "", *block]
        if any(row["psnr_db_hole"] is not None for row in mine):
            lines += ["", f"## {dataset}: PSNR in dB inside the hole", "", *_block(mine, hole_cell)]
        if table["table"] != 1:
            lines += ["", f"## {dataset}: SSIM (Wang et al. 2004)", "", *_block(mine, ssim_cell)]
            lines += ["", f"## {dataset}: SSIM of the released code (the paper's)", "", *_block(mine, released_cell)]
        lines += ["", f"## {dataset}: what it took", "", *_details(mine)]
    if failed := [row for row in rows if row["error"] not in (None, "not here")]:
        lines += ["", "## Failed", ""]
        lines += [f"- {row['dataset']} {row['task_label']} {row['system']}: {row['error']}" for row in failed]
    lines += ["", "## What to keep in mind", "", *(f"- {caveat}" for caveat in table["caveats"])]
    return "\n".join(lines) + "\n"


def psnr_cell(row: Row) -> str:
    if row["psnr_db"] is None:
        ours = "failed" if row["error"] != "not here" else "not here"
    else:
        ours = f"{row['psnr_db']:.2f} [{row['psnr_db_low']:.2f}, {row['psnr_db_high']:.2f}]"
    return ours + (f" ({row['paper_psnr_db']:.2f})" if row["paper_psnr_db"] is not None else "")


def hole_cell(row: Row) -> str:
    return _number(row, "psnr_db_hole", ".2f")


def ssim_cell(row: Row) -> str:
    return _number(row, "ssim", ".4f")


def released_cell(row: Row) -> str:
    return _number(row, "ssim_released", ".4f") + (f" ({row['paper_ssim']:.4f})" if row["paper_ssim"] else "")


def _number(row: Row, column: str, form: str) -> str:
    if row[column] is None:
        return "not here" if row["error"] == "not here" else "failed"
    return format(row[column], form)


def _block(
    rows: Sequence[Row],
    cell: Callable[[Row], str],
    first: dict[str, str] | None = None,
    last: dict[str, str] | None = None,
) -> list[str]:
    """One line a task, one column a system; `first`, `last`: task -> what the columns before and after them say."""
    systems = list(dict.fromkeys(row["system"] for row in rows))
    texts = {(row["task_label"], row["system"]): cell(row) for row in rows}
    columns = [*(["degraded"] if first else []), *(NAMES[system] for system in systems)]
    lines = [["task", *columns, *(["order as in the paper"] if last else [])]]
    lines.append(["---", *(["---:"] * len(columns)), *(["---"] if last else [])])
    for label in dict.fromkeys(row["task_label"] for row in rows):
        line = [label, *([first.get(label, "")] if first else [])]
        line += [texts.get((label, system), "") for system in systems]
        lines.append([*line, *([last.get(label, "")] if last else [])])
    return [f"| {' | '.join(line)} |" for line in lines]


def _degraded_column(rows: Sequence[Row]) -> dict[str, str]:
    """What there was before any restoration."""
    return {row["task_label"]: f"{row['psnr_db_degraded']:.2f}" for row in rows if row["psnr_db_degraded"] is not None}


def _order_column(table: dict[str, Any], dataset: str) -> dict[str, str]:
    found = {}
    for name, agrees in table["order_agrees"].items():
        of, label = name.rsplit(" ", 1)
        if of == dataset:
            found[label] = ("yes" if agrees else "no") + ("" if table["order_certain"][name] else ", ours uncertain")
    return found


def _details(rows: Sequence[Row]) -> list[str]:
    """Size, speed and training of each system; over the tasks, from the least to the most."""
    lines = ["| system | parameters | training images/s | training images | test images |", "|---|---:|---:|---:|---:|"]
    for system in dict.fromkeys(row["system"] for row in rows):
        done = [row for row in rows if row["system"] == system and row["psnr_db"] is not None]
        if done:
            names = ("parameters", "images_per_sec", "trained_images", "test_images")
            lines.append(f"| {NAMES[system]} | {' | '.join(span([row[name] for row in done]) for name in names)} |")
    return lines


def span(values: Sequence[float]) -> str:
    """One number, or the least and the most."""
    texts = [
        f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"
        for value in (min(values), max(values))
    ]
    return " to ".join(dict.fromkeys(texts))
