"""The report page: made of real runs, opened in a real browser."""

from __future__ import annotations

import dataclasses
import json
import math
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.storage import open_storage
from irae.config import IRAEConfig
from pipeline.cli import parse
from pipeline.config.options import defaults
from pipeline.config.presets import PRESETS
from pipeline.config.train import TrainConfig
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.evaluation import main as evaluate
from pipeline.report.config import ReportConfig
from pipeline.report.curves import inverses, trainings
from pipeline.report.image_html import worst_place
from pipeline.report.load import read_run, read_runs
from pipeline.report.paper_tables import make_table
from pipeline.report.plots import HEIGHT, WIDTH, Line, draw, number
from pipeline.report.rerun_commands import commands, train_command
from pipeline.report.write import main as report
from pipeline.runs.evaluations import best_median_worst
from pipeline.train.launch import main as train
from tests.support.browser import Page, browser, needs_chromium
from tests.support.datasets import make_dataset

HOSTILE = "<img src=x onerror=alert(1)>'\"&"
SMALL = dataclasses.replace(
    PRESETS["laptop"],
    model=IRAEConfig(K=1, width=8),
    global_batch_size=16,
    precision="float32",
    max_minutes=None,
    ray=False,
)
TABLE: dict[str, Any] = {
    "table": 1,
    "title": f"Table 1 {HOSTILE}",
    "protocol": "standard",
    "budget": "3min",
    "caveats": [f"short {HOSTILE}"],
    "order_agrees": {"celeba noise25": True},
    "rows": [
        {
            "dataset": "celeba",
            "task_label": "noise25",
            "system": "dncnn",
            "psnr_db": 29.0,
            "paper_psnr_db": 29.434,
            "psnr_db_low": 28.9,
            "psnr_db_high": 29.1,
            "parameters": 1483136,
            "trained_images": 640,
            "seeds": [0, 1],
        },
        {"dataset": "celeba", "task_label": "noise25", "system": "irae", "psnr_db": 30.5, "paper_psnr_db": 31.0795},
        {"dataset": "celeba", "task_label": "noise50", "system": "irae", "psnr_db": None, "paper_psnr_db": 28.0887},
    ],
}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs: irae and arcnn, evaluated on the same images; other, on other ones; new, not evaluated."""
    folder = tmp_path_factory.mktemp("report")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("IRAE_STORE", str(folder))
        patch.setenv("IRAE_CACHE", str(folder / "cache"))
        make_dataset(str(folder / "data/synthetic"), test=50, size=32)
        make_dataset(str(folder / "data/other"), test=5)
        for name, changes in {
            "irae": {},
            "arcnn": {"system": "arcnn"},
            "other": {"data": "other", "sigma_255": "blind"},
            "new": {"data": "other", "lr": 2e-3},
        }.items():
            config = {"name": name, "data": "synthetic", "max_images": 96, **changes}
            train(dataclasses.replace(SMALL, **config))  # type: ignore[arg-type]
        evaluate(EvaluateConfig(run="irae", examples=2))
        seen = best_median_worst(read_run(str(folder / "runs/irae")).evaluations[0].images)
        evaluate(EvaluateConfig(run="arcnn", examples=2, keep=tuple(seen.values())))
        evaluate(EvaluateConfig(run="other"))
    return folder


@pytest.fixture(autouse=True)
def here(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IRAE_STORE", str(store))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def page():  # type: ignore[no-untyped-def]
    with browser() as page:
        yield page


def make_page(*runs: str, **options: Any) -> str:
    report(ReportConfig(runs=runs, **options))
    return Path(options.get("out", "report.html")).absolute().as_uri()


def place_of(page: Page, selector: str) -> list[float]:
    """Left, middle height and width of the first such element, which is scrolled to."""
    page.evaluate(f"document.querySelector('{selector}').scrollIntoView({{block: 'center', behavior: 'instant'}})")
    box = f"document.querySelector('{selector}').getBoundingClientRect()"
    return page.evaluate(f"(box => [box.left, box.top + box.height / 2, box.width])({box})")


def check(page: Page, url: str, width: int) -> None:
    """What holds for every page: nothing is asked for but itself, all pictures are there, nothing sticks out."""
    page.open(url, width)
    assert page.errors() == []
    assert page.requests() == [url]
    broken = "[...document.images].filter(i => !(i.complete && i.naturalWidth > 0)).map(i => i.alt)"
    assert page.evaluate(broken) == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    unnamed = "[...document.images].filter(i => !i.alt).length + [...document.querySelectorAll('input, select')]"
    assert page.evaluate(f"{unnamed}.filter(i => !i.labels.length).length") == 0


@needs_chromium
@pytest.mark.parametrize("width", [1280, 380])
def test_pages_are_whole_and_ask_for_nothing(page: Page, width: int) -> None:
    Path("table.json").write_text(json.dumps(TABLE))
    check(page, make_page("irae", "arcnn", "other", "new", table=(Path("table.json"),)), width)
    assert page.evaluate("document.images.length") >= 2 * 4 * 2 + 3 * 2 * 4
    check(page, make_page("new"), width)
    text = page.evaluate("document.body.innerText")
    assert "not evaluated" in text and "python -m pipeline.evaluate --run" in text
    check(page, make_page(table=(Path("table.json"),)), width)


@needs_chromium
def test_slider_moves_and_versions_are_chosen(page: Page) -> None:
    page.open(make_page("irae", "arcnn"))
    assert page.evaluate("document.querySelectorAll('.stage').length") >= 5, "two first, best, median, worst"
    clip = "getComputedStyle(document.querySelector('.stage img.left')).clipPath"
    assert page.evaluate("document.querySelectorAll('.stage img:not([hidden])').length") == 2 * page.evaluate(
        "document.querySelectorAll('.stage').length"
    )
    page.evaluate("document.querySelectorAll('.bar select')[1].focus()")
    page.press("Tab")
    assert page.evaluate("document.activeElement.type") == "range", "the keyboard reaches it"
    assert page.evaluate("getComputedStyle(document.querySelector('.ring')).outlineStyle") == "solid"
    before = page.evaluate(clip)
    page.press("ArrowRight", times=10)
    assert page.evaluate("document.activeElement.value") == "60"
    assert page.evaluate(clip) != before
    assert "60 % degraded" in page.evaluate("document.activeElement.getAttribute('aria-valuetext')")
    x, y, width = place_of(page, ".stage")
    page.click(x + width / 4, y)
    assert abs(int(page.evaluate("document.querySelector('.stage input').value")) - 25) <= 1, "where it was pressed"
    choose = "(s => { s.value = '%s'; s.dispatchEvent(new Event('change')); })(document.querySelectorAll('select')[%d])"
    page.evaluate(choose % ("clean", 0))
    page.evaluate(choose % ("restored-1", 1))
    shown = "[...document.querySelector('.stage').querySelectorAll('img:not([hidden])')].map(i => i.dataset.label)"
    assert page.evaluate(shown) == ["clean", "AR-CNN"]
    assert page.evaluate("document.querySelector('.tag-left').textContent") == "clean"
    assert page.errors() == []


@needs_chromium
def test_names_are_only_text(page: Page, store: Path, tmp_path: Path) -> None:
    for name in ("irae", "new"):
        shutil.copytree(store / "runs" / name, tmp_path / "runs" / name)
        config = tmp_path / "runs" / name / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "name": HOSTILE + name, "data": HOSTILE}))
    for file in tmp_path.glob("runs/irae/evaluations/*/metrics.json"):
        file.write_text(json.dumps({**json.loads(file.read_text()), "data": HOSTILE, "label": HOSTILE}))
    Path("table.json").write_text(json.dumps(TABLE))
    check(page, make_page(f"{tmp_path}/runs/irae", f"{tmp_path}/runs/new", table=(Path("table.json"),)), 1280)
    assert page.evaluate("document.body.innerText").count(HOSTILE) >= 6
    assert page.evaluate("document.querySelectorAll('[onerror]').length") == 0


def test_runs_of_the_same_images_are_compared_and_others_stand_apart(capsys: pytest.CaptureFixture[str]) -> None:
    make_page("irae", "arcnn", "other", "new", "irae")
    text = Path("report.html").read_text()
    assert text.count('id="results-') - text.count("-pictures") // 2 - text.count("-close") // 2 >= 2
    assert "new is not evaluated" in capsys.readouterr().out
    for heading in ("Pictures", "Close-ups", "Training", "How exactly it inverts", "Configuration", "How to repeat it"):
        assert heading in text
    for protocol in ("after clamping", "Wang 2004", "released code", "float32"):
        assert protocol in text
    make_page("irae", "arcnn", "other", "new", "irae")
    assert Path("report.html").read_text() == text, "the same runs give the same bytes"


def test_curves_and_the_inverse_of_the_runs() -> None:
    runs = read_runs(["irae", "arcnn", "new"])
    same, new = trainings(runs)
    assert [run.name for run in same.runs] == ["irae", "arcnn"] and [run.name for run in new.runs] == ["new"]
    for training in (same, new):
        assert len(training.plots) == 3
        assert "–" not in {text for _, row in training.rows for _, text in row}
    found = inverses(runs)
    assert [run.name for run in found.without] == ["arcnn"] and len(found.plots) == 3
    assert dict(found.rows[0][1])["Round trip, evaluated images"] != "–"
    assert dict(found.rows[1][1])["Round trip, evaluated images"] == "–", "not evaluated"


def test_pictures_that_only_one_run_keeps(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store / "runs/arcnn", tmp_path / "arcnn")
    kept = best_median_worst(read_run("irae").evaluations[0].images)["worst"]
    for file in tmp_path.glob(f"arcnn/evaluations/*/examples/{kept}-restored.png"):
        file.unlink()
    make_page("irae", f"{tmp_path}/arcnn")
    assert f"--keep {kept}" in Path("report.html").read_text()


def test_the_command_trains_the_same_again(store: Path) -> None:
    configs = [
        dataclasses.replace(PRESETS["best"], data="/data set", name="x", flip=False, max_minutes=None, max_images=5),
        dataclasses.replace(PRESETS["paper"], data="s3://a/b", name="x", sigma_255="blind", drop_last=True),
        dataclasses.replace(PRESETS["laptop"], data="d", name="x", task="jpeg", system="unet", simulate_nodes=True),
        *(run.parsed for run in read_runs(["irae", "arcnn", "other"])),
    ]
    for config in configs:
        assert config
        words = shlex.split(train_command(config, "again"))
        assert words[:3] == ["python", "-m", "pipeline.train"]
        again = parse(TrainConfig, words[3:], default=defaults(words[3:]))
        assert again == dataclasses.replace(config, name="again", out=None, config=None)
    found = commands(read_run("irae"))
    assert len(found) == 2 and "--run irae-again" in found[1]


def test_errors_are_sentences(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store / "runs/irae", tmp_path / "irae")
    (folder,) = (tmp_path / "irae/evaluations").iterdir()
    Path("none.json").write_text("{}")
    with pytest.raises(ValueError, match=r"(?s)none.json is no table.json.*rows.*nothing is no run"):
        report(ReportConfig(runs=("irae", "./nothing"), table=(Path("none.json"),)))
    with pytest.raises(ValueError, match="cannot be read"):
        report(ReportConfig(runs=("irae",), table=(Path("absent.json"),)))
    with pytest.raises(ValueError, match="must end in .html"):
        ReportConfig(out="report.pdf")
    picture = next((folder / "examples").glob("*-restored.png"))
    picture.write_bytes(picture.read_bytes()[:60])
    with pytest.raises(ValueError, match="cannot be read"):
        report(ReportConfig(runs=(f"{tmp_path}/irae",)))
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps({**metrics, "psnr_db_restored": "much"}))
    with pytest.raises(ValueError, match="no psnr_db_restored"):
        report(ReportConfig(runs=(f"{tmp_path}/irae",)))
    (tmp_path / "irae/metrics.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="damaged file"):
        report(ReportConfig(runs=(f"{tmp_path}/irae",)))


def test_a_run_on_s3_gives_the_same_page(store: Path, s3_url: str) -> None:
    remote = open_storage(s3_url)
    for file in (store / "runs/irae").rglob("*"):
        if file.is_file() and "checkpoints" not in file.parts:
            remote.put(file.relative_to(store / "runs/irae").as_posix(), file.read_bytes())
    report(ReportConfig(runs=(s3_url,), out=f"{s3_url}/report.html"))
    make_page("irae")
    pages = remote.get("report.html").decode(), Path("report.html").read_text()
    assert pages[0].count("data:image/webp") == pages[1].count("data:image/webp") > 10


def test_evaluation_keeps_the_best_the_median_and_the_worst() -> None:
    evaluation = read_run("irae").evaluations[0]
    keys = {name.split("/")[1].rsplit("-", 1)[0] for name in evaluation.pictures}
    first = [row["key"] for row in evaluation.images[:2]]
    assert keys == {*first, *best_median_worst(evaluation.images).values()}
    assert len(evaluation.pictures) == 3 * len(keys)
    with pytest.raises(ValueError, match="no test image nowhere"):
        evaluate(EvaluateConfig(run="irae", keep=("nowhere",)))


@given(st.lists(st.floats(allow_nan=True), min_size=1, max_size=30))
def test_ranks_are_of_the_images(psnrs: list[float]) -> None:
    rows = [{"key": f"{i:02d}", "psnr_db_restored": psnr} for i, psnr in enumerate(psnrs)]
    found = {rank: psnrs[int(key)] for rank, key in best_median_worst(rows).items()}
    numbers = [-math.inf if math.isnan(psnr) else psnr for psnr in psnrs]
    best, median, worst = (-math.inf if math.isnan(p) else p for p in (found[r] for r in ("best", "median", "worst")))
    assert best == max(numbers) and worst == min(numbers) and worst <= median <= best
    assert best_median_worst(rows[::-1]) == best_median_worst(rows)


EXTREMES = [math.nan, math.inf, -math.inf, 0.0, 5e-324, 1e-308, 1e308, -1e308, 1e300]
VALUES = st.floats(-1e9, 1e9) | st.sampled_from(EXTREMES) | st.floats()


@given(st.lists(st.tuples(st.integers(0, 10**9), VALUES), max_size=400), st.booleans(), st.booleans())
def test_plots_stay_in_their_frame(points: list[tuple[float, float]], log: bool, goes_on: bool) -> None:
    points = sorted(points, key=lambda point: point[0])
    plot = draw("x", [Line("a", points, 0)], log=log, goes_on=goes_on)
    if plot is None:
        return
    assert 2 <= len(plot.y_ticks) <= 12
    places = [place[:2] for place in plot.readings[0]["points"]] + [(50, tick.at) for tick in plot.y_ticks]
    places += [(tick.at, 50) for tick in plot.x_ticks]
    for x, y in places:
        assert 0 <= x <= WIDTH and 0 <= y <= HEIGHT
    heights = [tick.at for tick in plot.y_ticks]
    assert heights == sorted(heights, reverse=True) and len(set(heights)) == len(heights)


def test_curves_keep_their_last_point_and_leave_gaps() -> None:
    plot = draw("x", [Line("a", [(x, 1.0 + x % 7) for x in range(5000)], 0)])
    assert plot and len(plot.readings[0]["points"]) <= 300
    assert plot.readings[0]["points"][-1][2:] == ["4.999k", number(1.0 + 4999 % 7)]
    plot = draw("x", [Line("a", [(0, 1.0), (1, 2.0), (2, math.nan), (3, 2.0), (4, 1.0)], 0)])
    assert plot and plot.paths[0].d.count("M") == 2
    assert draw("x", [Line("a", [(0, math.nan)], 0)]) is None
    assert draw("x", [Line("a", [(0, -1.0)], 0)], log=True) is None


def test_close_up_is_where_the_error_is() -> None:
    error = np.full((60, 90), 0.01)
    error[30:50, 60:80] = 0.5
    assert worst_place(error) == (30, 60, 20)
    assert worst_place(np.zeros((9, 30))) == (0, 0, 9)


def test_table_marks_the_highest_and_shows_the_papers() -> None:
    table = make_table(TABLE)
    assert table.systems == ["DnCNN", "IRAE"]
    ((dataset, rows),) = table.groups
    assert dataset == "celeba" and [row.order_agrees for row in rows] == [True, None]
    dncnn, irae = rows[0].cells
    assert (irae.psnr_db, irae.paper, irae.best, irae.paper_best) == ("30.50", "31.08", True, True)
    assert (dncnn.psnr_db, dncnn.paper, dncnn.best, dncnn.paper_best) == ("29.00", "29.43", False, False)
    assert dncnn.low_high == "28.90 – 29.10" and irae.low_high == ""
    assert len(table.measured) == 2, "what was not measured is not among the figures"
    for heading, text in {"Parameters": "1,483,136", "Images trained on": "640", "Seeds": "0, 1"}.items():
        assert dict(table.measured[0])[heading] == text
    assert [cell.paper for cell in rows[1].cells] == ["", "28.09"] and rows[1].cells[1].psnr_db == ""


def test_a_run_that_has_only_begun(store: Path, tmp_path: Path) -> None:
    (tmp_path / "begun").mkdir()
    shutil.copy(store / "runs/irae/config.json", tmp_path / "begun")
    make_page(f"{tmp_path}/begun")
    text = Path("report.html").read_text()
    assert "no curves yet" in text and "not evaluated yet" in text and "pipeline.train --preset laptop" in text


@needs_chromium
def test_a_pointer_reads_the_curves(page: Page) -> None:
    page.open(make_page("irae"))
    x, y, width = place_of(page, ".plots svg")
    read = "document.querySelector('.plots .reading').textContent"
    assert " at " not in page.evaluate(read)
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + width / 2, y=y)
    assert " at 48" in page.evaluate(read), "the first of two validations is the nearest"
