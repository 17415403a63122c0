"""The page: one HTML file that needs no server, no network and no other file."""

from __future__ import annotations

import base64
import hashlib
import shlex
from collections.abc import Sequence
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.report import svg_plot
from pipeline.report.curves import inverses, trainings
from pipeline.report.image_html import RAMP, colored_error, cut, data_uri
from pipeline.report.load import RunFacts
from pipeline.report.rerun_commands import commands
from pipeline.report.results import sections
from pipeline.runs.paper_table import PaperTable
from pipeline.runs.texts import formatted, model_title, task_title


def render(runs: Sequence[RunFacts], tables: Sequence[PaperTable], command: str) -> str:
    """The page, made by `command`. The same runs give the same bytes. UserError for images that cannot be read."""
    environment = Environment(
        loader=PackageLoader("pipeline.report"),
        autoescape=True,  # names of files, runs and images come from anywhere
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "shell": shlex.quote,
        "data_uri": data_uri,
        "cut": cut,
        "colored_error": colored_error,
        "number": formatted,
        "model_title": model_title,
        "task_title": task_title,
    }
    folder = files("pipeline.report").joinpath("templates")
    script, style = (folder.joinpath(name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    return environment.get_template("page.html").render(
        runs=runs,
        tables=tables,
        results=sections(runs),
        trainings=trainings(runs),
        inverses=inverses(runs),
        settings={run.url: settings(run, runs) for run in runs},
        repeat={run.url: commands(run) for run in runs},
        command=command,
        plot_size=svg_plot,
        ramp=RAMP,
        style=Markup(style),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def settings(run: RunFacts, runs: Sequence[RunFacts]) -> list[tuple[str, str, bool]]:
    """Option, value, and whether the value distinguishes the run from others; those come first."""
    ignored = {"data", "name", "out", "config"}
    found = [
        (name, "–" if value is None else str(value), differs)
        for name, value in run.options.items()
        for differs in [name not in ignored and any(other.options.get(name) != value for other in runs)]
    ]
    return sorted(found, key=lambda setting: not setting[2])
