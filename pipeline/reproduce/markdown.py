"""A table as Markdown: for each data set ours beside the paper's, then sizes and speeds of the models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pipeline.runs.paper_table import NOT_BUILT, PaperTable, Row
from pipeline.runs.texts import formatted, model_title

Text = Callable[[Row], str]


def to_markdown(table: PaperTable) -> str:
    """Content of table.md."""
    lines = [f"# {table.title}", "", f"Budget {table.budget} for each network, protocol {table.protocol}."]
    lines += ["Ours, [95 % confidence interval], (the paper's)."]
    for dataset, tasks in table.datasets().items():
        rows = [row for models in tasks.values() for row in models.values()]
        blocks = {"PSNR in dB": pivot(tasks, psnr_text, table)}
        if any(row.psnr_db_hole is not None for row in rows):
            blocks["PSNR in dB inside the hole"] = pivot(tasks, lambda row: text_of(row, row.psnr_db_hole, ".2f"))
        if table.table != 1:
            blocks["SSIM (Wang et al. 2004)"] = pivot(tasks, lambda row: text_of(row, row.ssim, ".4f"))
            blocks["SSIM of the released code (the paper's)"] = pivot(
                tasks, lambda row: text_of(row, row.ssim_released, ".4f", row.paper_ssim)
            )
        blocks["sizes and speeds"] = size_lines(rows)
        for heading, block in blocks.items():
            lines += ["", f"## {dataset}: {heading}", "", *block]
    if failed := [row for row in table.rows if row.error not in (None, NOT_BUILT)]:
        lines += ["", "## Failed", ""]
        lines += [f"- {row.dataset} {row.task_label} {row.model}: {row.error}" for row in failed]
    lines += ["", "## What to keep in mind", "", *(f"- {caveat}" for caveat in table.caveats)]
    return "\n".join(lines) + "\n"


def pivot(tasks: Mapping[str, Mapping[str, Row]], text: Text, table: PaperTable | None = None) -> list[str]:
    """A line for each task, a column for each model; for a table also the degraded images and the models' order."""
    models = list(dict.fromkeys(model for rows in tasks.values() for model in rows))
    order = ["order as in the paper"] if table and table.order_agrees else []
    body = []
    for label, rows in tasks.items():
        first = next(iter(rows.values()))
        line = [label, *([formatted(first.psnr_db_degraded, ".2f")] if table else [])]
        line += [text(rows[model]) if model in rows else "" for model in models]
        body.append([*line, *([order_text(table, first)] if table and order else [])])
    header = ["task", *(["degraded"] if table else []), *map(model_title, models), *order]
    return markdown_table(header, body, left=("task", *order))


def markdown_table(header: Sequence[str], body: Sequence[Sequence[str]], left: Sequence[str] = ()) -> list[str]:
    """Lines of a table; columns are aligned to the right, but for those named in `left`."""
    rule = ["---" if name in left else "---:" for name in header]
    return [f"| {' | '.join(line)} |" for line in (header, rule, *body)]


def psnr_text(row: Row) -> str:
    paper = "" if row.paper_psnr_db is None else f" ({row.paper_psnr_db:.2f})"
    interval = "" if row.psnr_db is None else f" [{row.psnr_db_low:.2f}, {row.psnr_db_high:.2f}]"
    return text_of(row, row.psnr_db, ".2f") + interval + paper


def text_of(row: Row, ours: float | None, pattern: str, theirs: float | None = None) -> str:
    """Our value, or why there is none, and the paper's."""
    missing = NOT_BUILT if row.error == NOT_BUILT else "failed"
    return formatted(ours, pattern, missing) + (f" ({theirs:{pattern}})" if theirs is not None else "")


def order_text(table: PaperTable, row: Row) -> str:
    """Whether the models' order on the row's task is the paper's."""
    name = f"{row.dataset} {row.task_label}"
    if name not in table.order_agrees:
        return ""
    return ("yes" if table.order_agrees[name] else "no") + ("" if table.order_certain[name] else ", ours uncertain")


def size_lines(rows: Sequence[Row]) -> list[str]:
    """Size, speed and training of each model, over the tasks."""
    header = ["model", "parameters", "training images/s", "training images", "test images"]
    body = []
    for model in dict.fromkeys(row.model for row in rows):
        done = [row for row in rows if row.model == model and row.psnr_db is not None]
        columns = ("parameters", "images_per_sec", "trained_images", "test_images")
        if done:
            body.append([model_title(model), *(span([getattr(row, name) for row in done]) for name in columns)])
    return markdown_table(header, body, left=("model",))


def span(values: Sequence[float]) -> str:
    """The number, or the smallest and the largest."""
    ends = (f"{v:,.0f}" if v >= 10 or v == int(v) else f"{v:.1f}" for v in (min(values), max(values)))
    return " to ".join(dict.fromkeys(ends))
