"""One of the paper's tables, reproduced: written by `reproduce` as table.json, shown by `report`."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

from pipeline.runs.texts import is_number

NOT_BUILT = "not here"
"""`error` of a model that is not implemented here: its row has the paper's values alone."""


@dataclass(frozen=True)
class Row:
    """Results of one model on one task of one data set, over the seeds, beside the paper's; None: no value."""

    dataset: str
    task_label: str
    model: str
    psnr_db: float | None = None
    psnr_db_low: float | None = None
    psnr_db_high: float | None = None
    ssim: float | None = None
    ssim_released: float | None = None
    psnr_db_degraded: float | None = None
    psnr_db_hole: float | None = None
    parameters: int | None = None
    images_per_sec: float | None = None
    trained_images: int | None = None
    test_images: int | None = None
    seeds: tuple[int, ...] = ()
    paper_psnr_db: float | None = None
    paper_ssim: float | None = None
    run: str | None = None
    """URL of the first seed's run."""
    error: str | None = None


@dataclass(frozen=True)
class PaperTable:
    """A row for each data set, task and model."""

    table: int
    title: str
    protocol: str
    budget: str
    caveats: list[str]
    rows: list[Row]
    order_agrees: dict[str, bool]
    """"celeba noise25": whether the models' order by PSNR is the paper's."""
    order_certain: dict[str, bool]
    """The same keys: whether our order is certain at 95 %."""

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> PaperTable:
        """From a table.json, of the first version too. KeyError, TypeError or ValueError when it is none."""
        known = {"protocol": "", "budget": "", "caveats": [], "order_agrees": {}, "order_certain": {}, **values}
        table = cls(**{f.name: known[f.name] for f in fields(cls)})
        return replace(table, rows=[_row(dict(row)) for row in values["rows"]], caveats=[*map(str, table.caveats)])

    @property
    def models(self) -> list[str]:
        """Columns, in the order of the rows."""
        return list(dict.fromkeys(row.model for row in self.rows))

    def datasets(self) -> dict[str, dict[str, dict[str, Row]]]:
        """The table in two dimensions: data set -> task label -> model -> row."""
        found: dict[str, dict[str, dict[str, Row]]] = {}
        for row in self.rows:
            found.setdefault(row.dataset, {}).setdefault(row.task_label, {})[row.model] = row
        return found


def _row(values: dict[str, Any]) -> Row:
    values["model"] = str(values.pop("system", values.get("model")))  # the first version's name
    row = Row(**{**values, "seeds": tuple(values.get("seeds", ()))})
    for f in fields(Row):
        value, is_numeric = getattr(row, f.name), f.type in ("float | None", "int | None")
        if value is not None and (not is_number(value) if is_numeric else not isinstance(value, str | tuple)):
            raise TypeError(f"{f.name} of a row is {value!r}")
    return row
