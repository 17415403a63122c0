"""Everything together: one HTML page without a server, a network or a file beside it."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.report import plots
from pipeline.report.curves import inverses, trainings
from pipeline.report.image_html import ramp_css
from pipeline.report.load import RunFacts
from pipeline.report.paper_tables import PaperTable
from pipeline.report.rerun_commands import commands
from pipeline.report.results import sections

TEMPLATES = "templates"


def render(runs: Sequence[RunFacts], tables: Sequence[PaperTable], command: str) -> str:
    """The page. `command` made it. The same runs give the same bytes. ValueError for pictures that cannot be read."""
    environment = Environment(
        loader=PackageLoader("pipeline.report", TEMPLATES),
        autoescape=True,  # names of files, runs and images come from anywhere
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["shell"] = shlex.quote
    script = own_file("page.js")
    results = sections(runs)
    return environment.get_template("page.html").render(
        title=title_of(runs, [section.title for section in results], tables),
        runs=runs,
        tables=tables,
        results=results,
        trainings=trainings(runs),
        inverses=inverses(runs),
        settings={run.url: settings(run, runs) for run in runs},
        repeat={run.url: commands(run) for run in runs},
        command=command,
        plot_size=plots,
        ramp=Markup(ramp_css()),
        style=Markup(own_file("page.css")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def own_file(name: str) -> str:
    """Text that is part of the program."""
    return files("pipeline.report").joinpath(f"{TEMPLATES}/{name}").read_text(encoding="utf-8")


def title_of(runs: Sequence[RunFacts], results: Sequence[str], tables: Sequence[PaperTable]) -> str:
    """The page's heading."""
    if len(results) == 1:
        return results[0]
    if not runs:
        return tables[0].title if len(tables) == 1 else f"{len(tables)} tables"
    return runs[0].name if len(runs) == 1 else f"{len(runs)} runs"


def settings(run: RunFacts, runs: Sequence[RunFacts]) -> list[tuple[str, str, bool]]:
    """Name and value of each setting, and whether it tells this run from the others; those come first."""
    own = flat(run.config)
    others = [flat(other.config) for other in runs]
    apart = {"data", "name", "out", "config"}
    found = [
        (name, "–" if value is None else str(value), name not in apart and any(o.get(name) != value for o in others))
        for name, value in own.items()
    ]
    return sorted(found, key=lambda one: not one[2])


def flat(config: dict[str, Any]) -> dict[str, Any]:
    """model: {K: 4} becomes K: 4."""
    model = config.get("model")
    return {**{n: v for n, v in config.items() if n != "model"}, **(model if isinstance(model, dict) else {})}
