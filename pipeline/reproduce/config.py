"""What `pipeline.reproduce` can be told. No heavy import here: `--help` prints from these classes."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Literal

from infra.storage import UserError
from pipeline.config.checks import check_minimum, raise_problems
from pipeline.reproduce import paper_numbers as paper

CLAIM_SYSTEMS = ("dncnn", "ffdnet", "unet", "irae")


@dataclass(frozen=True)
class Budget:
    """How long a cell trains: images, minutes, or (neither) the paper's schedule."""

    images: int | None = None
    minutes: float | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """`20000images`, `3min` or `full`. ValueError for another text."""
        if text == "full":
            return cls()
        found = re.fullmatch(r"([0-9][0-9_.,]*) ?(images|min)", text)
        try:
            amount = float(found[1].replace(",", "").replace("_", "")) if found else math.nan
        except ValueError:
            amount = math.nan
        if found is None or not amount > 0 or (found[2] == "images" and amount != int(amount)):
            raise UserError(f"the budget {text!r} is not like 20000images, 3min or full.")
        return cls(images=int(amount)) if found[2] == "images" else cls(minutes=amount)

    @property
    def is_full(self) -> bool:
        return self == Budget()

    def __str__(self) -> str:
        return f"{self.images}images" if self.images else f"{self.minutes:g}min" if self.minutes else "full"


@dataclass(frozen=True)
class ReproduceConfig:
    """Train and evaluate every system of one of the paper's tables alike, and print it next to the paper's numbers.

    --claim instead measures how much of its input each trained network still knows. The same command again goes on
    where it was interrupted; what was trained before is not trained again.
    """

    table: Literal[1, 2, 3] | None = None
    """1: noise. 2: JPEG. 3: inpainting."""
    claim: bool = False
    """What do networks lose of their input? On one data set."""
    datasets: tuple[str, ...] = ()
    """Names of data sets below IRAE_STORE/data, or URLs. Default: the paper's for the table; celeba for the claim."""
    budget: str = "3min"
    """Training of each system: 20000images, 3min, or full (the paper's schedule). Without a GPU, minutes are of
    processor time."""
    protocol: Literal["standard", "released"] = "standard"
    """released: the released code's (5 bits, its test split). Its figures cannot be compared with the usual ones."""
    seeds: tuple[int, ...] = (0,)
    """Each cell is trained once with each."""
    systems: tuple[str, ...] = ()
    """Of those that the table compares. Default: all."""
    tasks: tuple[str, ...] = ()
    """Rows of the table, such as noise25. Default: all. The claim takes one noise level, noise25 unless told."""
    global_batch_size: int | None = None
    """Images in a step. Default: 16; for the full budget the paper's 100 (inpainting: 18)."""
    test_images: int = 0
    """Evaluate on the first so many images of the split. 0: all."""
    decoder_budget: str = "20000images"
    """--claim: training of each decoder."""
    budget_clock: Literal["auto", "wall", "processor"] = "auto"
    """What minutes are measured with. auto: wall where this machine has a GPU, else processor."""
    out: str | None = None
    """URL of the folder for the table. Default: IRAE_STORE/reproductions/NAME."""
    ray: bool = True
    """--no-ray: one cell after the other in this process."""
    dry_run: bool = False
    """List the cells and touch nothing."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        if (self.table is None) != self.claim:
            problems.append("say what to reproduce: --table 1, 2 or 3, or --claim.")
        check_minimum(problems, 0, test_images=self.test_images)
        check_minimum(problems, 1, global_batch_size=self.global_batch_size)
        for text in (self.budget, self.decoder_budget):
            try:
                Budget.parse(text)
            except ValueError as error:
                problems.append(str(error))
        if self.decoder_budget == "full":
            problems.append("--decoder-budget is full, but must be like 20000images or 3min.")
        if not self.seeds or min(self.seeds) < 0 or len({*self.seeds}) < len(self.seeds):
            problems.append(f"--seeds is {self.seeds}, but must be different numbers from 0 up.")
        if self.claim and len(self.seeds) > 1:
            problems.append("--claim takes one seed.")
        if self.claim and len(self.datasets) > 1:
            problems.append("--claim takes one data set.")
        problems += _not_among("--systems", self.systems, self.systems_known)
        problems += _not_among("--tasks", self.tasks, self.tasks_known)
        if self.claim and len(self.tasks) > 1:
            problems.append("--claim takes one noise level.")
        raise_problems(problems)

    @property
    def systems_known(self) -> tuple[str, ...]:
        """Systems that can be asked for, in the table's order."""
        known = CLAIM_SYSTEMS if self.claim else paper.MODELS[self.table or 1]
        return tuple(system for system in known if system not in NOT_HERE)

    @property
    def tasks_known(self) -> tuple[str, ...]:
        """Rows that can be asked for. The claim needs to know how much noise there is."""
        return tuple(t for t in paper.LABELS[self.table or 1] if not (self.claim and t == "noise-blind"))

    @property
    def chosen_systems(self) -> tuple[str, ...]:
        return tuple(s for s in self.systems_known if not self.systems or s in self.systems)

    @property
    def chosen_tasks(self) -> tuple[str, ...]:
        if self.claim and not self.tasks:
            return ("noise25",)
        return tuple(t for t in self.tasks_known if not self.tasks or t in self.tasks)

    @property
    def chosen_datasets(self) -> tuple[str, ...]:
        return self.datasets or (("celeba",) if self.claim else paper.DATASETS[self.table or 1])


NOT_HERE = ("contextual-attention", "shift-net", "coherent-semantic-attention")
"""Systems of table 3 that are not built here; the paper's numbers are shown for them."""


def _not_among(option: str, given: tuple[str, ...], known: tuple[str, ...]) -> list[str]:
    return [f"{option} holds {one!r}, but must be of {', '.join(known)}." for one in given if one not in known]
