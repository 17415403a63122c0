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

from infra.storage import UserError, open_storage
from pipeline.cli import parse
from pipeline.config.options import defaults
from pipeline.config.presets import PRESETS
from pipeline.config.train import TrainConfig
from pipeline.evaluate.config import EvaluateConfig
from pipeline.evaluate.evaluation import main as evaluate
from pipeline.report.config import ReportConfig
from pipeline.report.curves import inverses, trainings
from pipeline.report.image_html import worst_window
from pipeline.report.load import read_run, read_runs
from pipeline.report.rerun_commands import commands, train_command
from pipeline.report.write import main as report
from pipeline.runs.evaluations import best_median_worst, read_evaluation
from pipeline.runs.paper_table import PaperTable, Row
from pipeline.train.launch import main as train
from tests.support.browser import Page, browser, needs_chromium
from tests.support.datasets import make_dataset

HOSTILE = "<img src=x onerror=alert(1)>'\"&"
SMALL = PRESETS["laptop"].with_options(
    K=1, width=8, global_batch_size=16, precision="float32", max_minutes=None, ray=False
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
            "model": "dncnn",
            "psnr_db": 29.0,
            "paper_psnr_db": 29.434,
            "psnr_db_low": 28.9,
            "psnr_db_high": 29.1,
            "parameters": 1483136,
            "trained_images": 640,
            "seeds": [0, 1],
        },
        {"dataset": "celeba", "task_label": "noise25", "model": "irae", "psnr_db": 30.5, "paper_psnr_db": 31.0795},
        {"dataset": "celeba", "task_label": "noise50", "model": "irae", "psnr_db": None, "paper_psnr_db": 28.0887},
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
            "arcnn": {"model": "arcnn"},
            "other": {"data": "other", "sigma_255": "blind"},
            "new": {"data": "other", "lr": 2e-3},
        }.items():
            train(SMALL.with_options(**{"name": name, "data": "synthetic", "max_images": 96, **changes}))
        evaluate(EvaluateConfig(run="irae", examples=2))
        seen = best_median_worst(read_run(str(folder / "runs/irae")).evaluations[0].per_image)
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


def position_of(page: Page, selector: str) -> list[float]:
    """Left, middle height and width of the first such element, which is scrolled to."""
    page.evaluate(f"document.querySelector('{selector}').scrollIntoView({{block: 'center', behavior: 'instant'}})")
    box = f"document.querySelector('{selector}').getBoundingClientRect()"
    return page.evaluate(f"(box => [box.left, box.top + box.height / 2, box.width])({box})")


def check(page: Page, url: str, width: int) -> None:
    """What holds for every page: no request but for itself, all images are there, nothing sticks out."""
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
    x, y, width = position_of(page, ".stage")
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
    assert text.count('id="results-') - text.count("-images") // 2 - text.count("-close") // 2 >= 2
    assert "new is not evaluated" in capsys.readouterr().out
    for heading in ("Images", "Close-ups", "Training", "How exactly it inverts", "Configuration", "How to repeat it"):
        assert heading in text
    for protocol in ("after clamping", "Wang 2004", "released code", "float32"):
        assert protocol in text
    make_page("irae", "arcnn", "other", "new", "irae")
    assert Path("report.html").read_text() == text, "the same runs give the same bytes"


def test_curves_and_the_inverse_of_the_runs() -> None:
    runs = read_runs(["irae", "arcnn", "new"])
    same, new = trainings(runs)
    assert [[run.name for run, _ in training.rows] for training in (same, new)] == [["irae", "arcnn"], ["new"]]
    for training in (same, new):
        assert len(training.plots) == 3
        assert "–" not in {text for _, row in training.rows for _, text in row}
    found = inverses(runs)
    assert [run.name for run, _ in found.rows] == ["irae", "new"] and len(found.plots) == 3
    assert dict(found.rows[0][1])["Round trip, evaluated images"] != "–"
    assert dict(found.rows[1][1])["Round trip, evaluated images"] == "–", "not evaluated"


def test_examples_that_only_one_run_keeps(store: Path, tmp_path: Path) -> None:
    shutil.copytree(store / "runs/arcnn", tmp_path / "arcnn")
    kept = best_median_worst(read_run("irae").evaluations[0].per_image)["worst"]
    for file in tmp_path.glob(f"arcnn/evaluations/*/examples/{kept}-restored.png"):
        file.unlink()
    make_page("irae", f"{tmp_path}/arcnn")
    assert f"--keep {kept}" in Path("report.html").read_text()


def test_the_command_trains_the_same_again(store: Path) -> None:
    configs = [
        PRESETS["best"].with_options(data="/data set", name="x", flip=False, max_minutes=None, max_images=5),
        PRESETS["paper"].with_options(data="s3://a/b", name="x", sigma_255="blind", drop_last=True),
        PRESETS["laptop"].with_options(data="d", name="x", task="jpeg", model="unet", simulate_nodes=True),
        *(run.config for run in read_runs(["irae", "arcnn", "other"])),
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
    with pytest.raises(UserError, match=r"(?s)none.json is no table.json.*it has no.*nothing is no run"):
        report(ReportConfig(runs=("irae", "./nothing"), table=(Path("none.json"),)))
    with pytest.raises(UserError, match="cannot be read"):
        report(ReportConfig(runs=("irae",), table=(Path("absent.json"),)))
    with pytest.raises(UserError, match="must end in .html"):
        ReportConfig(out="report.pdf")
    image = next((folder / "examples").glob("*-restored.png"))
    image.write_bytes(image.read_bytes()[:60])
    with pytest.raises(UserError, match="cannot be read"):
        report(ReportConfig(runs=(f"{tmp_path}/irae",)))
    metrics = json.loads((folder / "metrics.json").read_text())
    (folder / "metrics.json").write_text(json.dumps({**metrics, "psnr_db_restored": "much"}))
    with pytest.raises(UserError, match="no psnr_db_restored"):
        report(ReportConfig(runs=(f"{tmp_path}/irae",)))
    (tmp_path / "irae/metrics.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="damaged file"):
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
    keys = {name.split("/")[1].rsplit("-", 1)[0] for name in evaluation.examples}
    first = [row["key"] for row in evaluation.per_image[:2]]
    assert keys == {*first, *best_median_worst(evaluation.per_image).values()}
    assert len(evaluation.examples) == 3 * len(keys)
    with pytest.raises(UserError, match="no test image nowhere"):
        evaluate(EvaluateConfig(run="irae", keep=("nowhere",)))


@given(st.lists(st.floats(allow_nan=True), min_size=1, max_size=30))
def test_ranks_are_of_the_images(psnrs: list[float]) -> None:
    rows = [{"key": f"{i:02d}", "psnr_db_restored": psnr} for i, psnr in enumerate(psnrs)]
    found = {rank: psnrs[int(key)] for rank, key in best_median_worst(rows).items()}
    numbers = [-math.inf if math.isnan(psnr) else psnr for psnr in psnrs]
    best, median, worst = (-math.inf if math.isnan(p) else p for p in (found[r] for r in ("best", "median", "worst")))
    assert best == max(numbers) and worst == min(numbers) and worst <= median <= best
    assert best_median_worst(rows[::-1]) == best_median_worst(rows)


def test_close_up_is_where_the_error_is() -> None:
    error = np.full((60, 90), 0.01)
    error[30:50, 60:80] = 0.5
    assert worst_window(error) == (30, 60, 20)
    assert worst_window(np.zeros((9, 30))) == (0, 0, 9)


@needs_chromium
def test_table_marks_the_highest_and_shows_the_papers(page: Page) -> None:
    Path("table.json").write_text(json.dumps(TABLE))
    page.open(make_page(table=(Path("table.json"),)))
    cells = page.evaluate("[...document.querySelectorAll('.pivot tbody td')].map(td => td.innerText.trim())")
    assert cells == [
        *("29.00\n28.90 – 29.10\npaper 29.43", "30.50\npaper 31.08", "yes"),
        *("–", "paper 28.09", "–"),
    ]
    assert page.evaluate("[...document.querySelectorAll('.pivot .best')].map(e => e.innerText)") == [
        "30.50",
        "31.08",
        "28.09",
    ]
    assert page.evaluate("[...document.querySelectorAll('.pivot thead th')].map(e => e.innerText)")[1:3] == [
        "DnCNN",
        "IRAE",
    ]
    figures = (
        "[...document.querySelectorAll('details .figures tbody tr')].map(tr => tr.textContent.replace(/\\s+/g, ' '))"
    )
    dncnn, irae = page.evaluate(figures)
    assert "1,483,136" in dncnn and "640" in dncnn and "0, 1" in dncnn and "30.500" in irae


def test_a_table_of_the_first_version_is_read() -> None:
    rows = [{"system" if name == "model" else name: v for name, v in row.items()} for row in TABLE["rows"]]
    assert PaperTable.from_json({**TABLE, "rows": rows}) == PaperTable.from_json(TABLE)
    assert PaperTable.from_json(TABLE).models == ["dncnn", "irae"]
    assert PaperTable.from_json(json.loads(json.dumps(dataclasses.asdict(PaperTable.from_json(TABLE))))) == (
        PaperTable.from_json(TABLE)
    )


@given(st.sampled_from([f.name for f in dataclasses.fields(Row)]), st.sampled_from([[], {}, True, [[]]]))
def test_a_table_of_other_types_is_refused(name: str, value: Any) -> None:
    with pytest.raises((TypeError, KeyError)):
        PaperTable.from_json({**TABLE, "rows": [{**TABLE["rows"][0], name: value, "seeds": 3}]})


def test_an_evaluation_of_the_first_version_is_read(store: Path, tmp_path: Path) -> None:
    (folder,) = (store / "runs/arcnn/evaluations").iterdir()
    shutil.copytree(folder, tmp_path / "old")
    metrics = json.loads((folder / "metrics.json").read_text())
    metrics["system"] = metrics.pop("model")
    (tmp_path / "old/metrics.json").write_text(json.dumps(metrics))
    old, new = (read_evaluation(open_storage(str(path))) for path in (tmp_path / "old", folder))
    assert old and new and old.metrics["model"] == new.metrics["model"] == "arcnn"
    assert (old.group, old.per_image, old.examples) == (new.group, new.per_image, new.examples)


def test_a_run_without_a_checkpoint(store: Path, tmp_path: Path) -> None:
    (tmp_path / "started").mkdir()
    shutil.copy(store / "runs/irae/config.json", tmp_path / "started")
    make_page(f"{tmp_path}/started")
    text = Path("report.html").read_text()
    assert "no curves yet" in text and "not evaluated yet" in text and "pipeline.train --preset laptop" in text


@needs_chromium
def test_a_pointer_reads_the_curves(page: Page) -> None:
    page.open(make_page("irae"))
    x, y, width = position_of(page, ".plots svg")
    read = "document.querySelector('.plots .reading').textContent"
    assert " at " not in page.evaluate(read)
    page.call("Input.dispatchMouseEvent", type="mouseMoved", x=x + width / 2, y=y)
    assert " at 48" in page.evaluate(read), "the first of two validations is the nearest"


@needs_chromium
@pytest.mark.parametrize("width", [1300, 400])
def test_plots_follow_the_theme_and_are_legible(page: Page, width: int) -> None:
    """The curve has its run's colour, the labels the page's grey and font, in light and in dark."""
    url, seen = make_page("irae", "arcnn"), []
    style = "(e => getComputedStyle(document.querySelector(e)))"
    for scheme in ("light", "dark"):
        page.open(url, width, scheme=scheme)
        curves = page.evaluate(
            "[...new Set([...document.querySelectorAll('.plots svg')[0].querySelectorAll('path')]"
            ".map(path => getComputedStyle(path).stroke))]"
        )
        swatches = page.evaluate(
            "[...document.querySelectorAll('.plots .reading')[0].querySelectorAll('i')]"
            ".map(i => getComputedStyle(i).backgroundColor)"
        )
        assert {*swatches} <= {*curves} and len({*swatches}) == 3, "two runs and the degraded images"
        label, paper = (
            page.evaluate(f"{style}('.plots svg text').fill"),
            page.evaluate(f"{style}('body').backgroundColor"),
        )
        assert label == page.evaluate(f"{style}('.plots .reading').color")
        assert page.evaluate(f"{style}('.plots svg text').fontFamily === {style}('body').fontFamily")
        heights = "[...document.querySelectorAll('.plots svg text')].map(text => text.getBoundingClientRect().height)"
        assert min(page.evaluate(heights)) > 10
        seen.append((label, paper, tuple(swatches)))
    assert all(light != dark for light, dark in zip(*seen, strict=True))
