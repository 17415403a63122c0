"""Options of `pipeline.reproduce`. Imports nothing heavy: `--help` prints from this class."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from infra.storage import UserError
from pipeline.config.checks import check_minimum, raise_problems
from pipeline.reproduce import paper_numbers as paper

CLAIM_MODELS = ("dncnn", "ffdnet", "unet", "irae")


@dataclass(frozen=True)
class Budget:
    """Length of a training: images, minutes, or (neither) the paper's schedule."""

    images: int | None = None
    minutes: float | None = None

    @classmethod
    def parse(cls, text: str) -> Budget:
        """`20000images`, `3min` or `full`. UserError for another text."""
        if text == "full":
            return cls()
        found = re.fullmatch(r"([0-9]+\.?[0-9]*) ?(images|min)", re.sub("(?<=.)[,_]", "", text))
        amount = float(found[1]) if found else 0.0
        if found is None or amount == 0 or (found[2] == "images" and amount != int(amount)):
            raise UserError(f"the budget {text!r} is not like 20000images, 3min or full.")
        return cls(images=int(amount)) if found[2] == "images" else cls(minutes=amount)

    @property
    def is_full(self) -> bool:
        return self == Budget()


@dataclass(frozen=True)
class ReproduceConfig:
    """Train and evaluate every model of one of the paper's tables alike, and print it next to the paper's numbers.

    --claim instead measures how much of its input each trained network still knows. The same command again resumes
    after an interruption; finished experiments are not repeated.
    """

    table: Literal[1, 2, 3] | None = None
    """1: noise. 2: JPEG. 3: inpainting."""
    claim: bool = False
    """Measure how much of its input each network still knows, on one data set."""
    datasets: tuple[str, ...] = ()
    """Names of data sets below IRAE_STORE/data, or URLs. Default: the paper's for the table; celeba for the claim."""
    budget: str = "3min"
    """Training of each model: 20000images, 3min, or full (the paper's schedule). Without a GPU, minutes are of
    processor time."""
    protocol: Literal["standard", "released"] = "standard"
    """released: the released code's (5 bits, its test split). Its figures cannot be compared with the usual ones."""
    seeds: tuple[int, ...] = (0,)
    """Each experiment is run once with each seed."""
    models: tuple[str, ...] = ()
    """Models of the table. Default: all."""
    tasks: tuple[str, ...] = ()
    """Rows of the table, such as noise25. Default: all. The claim takes one noise level; default: noise25."""
    global_batch_size: int | None = None
    """Images in a step. Default: 16; for the full budget the paper's 100 (inpainting: 18)."""
    test_images: int = 0
    """Images to evaluate, the first of the split. 0: all."""
    decoder_budget: str = "20000images"
    """--claim: training of each decoder."""
    budget_clock: Literal["auto", "wall", "processor"] = "auto"
    """Clock of minutes. auto: wall where this machine has a GPU, else processor."""
    out: str | None = None
    """URL of the folder for the table. Default: IRAE_STORE/reproductions/NAME."""
    ray: bool = True
    """--no-ray: one experiment after the other in this process."""
    dry_run: bool = False
    """List the experiments and touch nothing."""

    def __post_init__(self) -> None:
        problems: list[str] = []
        if (self.table is None) != self.claim:
            problems.append("say what to reproduce: --table 1, 2 or 3, or --claim.")
        check_minimum(problems, 0, test_images=self.test_images)
        check_minimum(problems, 1, global_batch_size=self.global_batch_size)
        for text in (self.budget, self.decoder_budget):
            try:
                Budget.parse(text)
            except UserError as error:
                problems.append(str(error))
        if self.decoder_budget == "full":
            problems.append("--decoder-budget is full, but must be like 20000images or 3min.")
        if not self.seeds or min(self.seeds) < 0 or len({*self.seeds}) < len(self.seeds):
            problems.append(f"--seeds is {self.seeds}, but must be different numbers from 0 up.")
        for given, name in ((self.seeds, "seed"), (self.datasets, "data set"), (self.tasks, "noise level")):
            if self.claim and len(given) > 1:
                problems.append(f"--claim takes one {name}.")
        for option, chosen, known in (
            ("--models", self.models, self.known_models),
            ("--tasks", self.tasks, self.known_tasks),
        ):
            problems += [
                f"{option} holds {one!r}, but must be of {', '.join(known)}." for one in chosen if one not in known
            ]
        raise_problems(problems)

    @property
    def known_models(self) -> tuple[str, ...]:
        """Models to choose from, in the table's order."""
        models = CLAIM_MODELS if self.claim else paper.MODELS[self.table or 1]
        return tuple(model for model in models if model not in paper.NOT_BUILT)

    @property
    def known_tasks(self) -> tuple[str, ...]:
        """Tasks to choose from. The claim needs a known noise level."""
        return tuple(t for t in paper.LABELS[self.table or 1] if not (self.claim and t == "noise-blind"))

    @property
    def chosen_models(self) -> tuple[str, ...]:
        return tuple(model for model in self.known_models if not self.models or model in self.models)

    @property
    def chosen_tasks(self) -> tuple[str, ...]:
        if self.claim and not self.tasks:
            return ("noise25",)
        return tuple(task for task in self.known_tasks if not self.tasks or task in self.tasks)

    @property
    def chosen_datasets(self) -> tuple[str, ...]:
        return self.datasets or (("celeba",) if self.claim else paper.DATASETS[self.table or 1])
