"""The paper's tables and the claim, with tiny budgets on generated images."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.storage import UserError
from pipeline.config.task import Task
from pipeline.config.train import TrainConfig
from pipeline.reproduce import paper_numbers as paper
from pipeline.reproduce import run_experiment
from pipeline.reproduce.config import Budget, ReproduceConfig
from pipeline.reproduce.decoder import bound_nats
from pipeline.reproduce.experiments import Experiment, experiment_url, experiments_of, train_config_of
from pipeline.reproduce.launch import main as reproduce
from pipeline.reproduce.run_experiment import TRAINED, Result
from pipeline.reproduce.statistics import bootstrap, ranking, ranking_is_certain
from pipeline.reproduce.table import compare_rankings
from pipeline.reproduce.train_decoders import DecoderTraining
from pipeline.train.loop import train


@pytest.fixture(autouse=True)
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IRAE_STORE", str(tmp_path))
    return tmp_path


def small(data: str, out: Path, **changes: Any) -> ReproduceConfig:
    common: dict[str, Any] = {"datasets": (data,), "budget": "32images", "ray": False, "out": str(out)}
    return ReproduceConfig(**common | changes)


def read_table(out: Path) -> dict[str, Any]:
    table: dict[str, Any] = json.loads((out / "table.json").read_text())
    return table


def files(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def test_a_row_of_table_1_and_nothing_is_trained_twice(data: str, store: Path) -> None:
    out = store / "table"
    config = small(data, out, table=1, tasks=("noise25",), models=("dncnn", "ffdnet"), seeds=(0, 1))
    reproduce(config)
    table = read_table(out)
    assert [(row["model"], row["seeds"]) for row in table["rows"]] == [("dncnn", [0, 1]), ("ffdnet", [0, 1])]
    for row in table["rows"]:
        assert row["psnr_db_low"] <= row["psnr_db"] <= row["psnr_db_high"]
        assert (row["trained_images"], row["test_images"], row["error"]) == (32, 6, None)
        assert (Path(row["run"]) / "config.json").exists()
    assert [row["parameters"] for row in table["rows"]] == [1_483_136, 854_688]
    written = list(csv.DictReader(io.StringIO((out / "table.csv").read_text())))
    assert [float(row["psnr_db"]) for row in written] == [row["psnr_db"] for row in table["rows"]]
    assert pq.read_table(out / "table.parquet").to_pylist() == table["rows"]
    text = (out / "table.md").read_text()
    assert f"{table['rows'][1]['psnr_db']:.2f} [" in text
    assert "| task | degraded | DnCNN | FFDNet |" in text
    assert f"| noise25 | {table['rows'][0]['psnr_db_degraded']:.2f} |" in text
    assert all(caveat in text for caveat in table["caveats"])

    runs = store / "reproductions" / "cells"
    before = files(runs)
    reproduce(config)
    assert files(runs) == before
    assert read_table(out) == table


def test_an_experiment_that_fails_is_a_row_with_its_message(data: str, store: Path) -> None:
    out = store / "table"
    config = small(data, out, table=2, tasks=("jpeg10",), models=("arcnn", "dncnn"))
    broken = next(e for e in experiments_of(config) if e.model == "dncnn")
    foreign = Path(broken.url) / "config.json"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("{}")
    with pytest.raises(UserError, match="1 of 2 experiments failed"):
        reproduce(config)
    good, bad = read_table(out)["rows"]
    assert good["error"] is None
    assert good["psnr_db"] > 0
    assert bad["psnr_db"] is None
    assert broken.url in bad["error"]
    assert bad["error"] in (out / "table.md").read_text()

    foreign.unlink()
    reproduce(config)
    rows = read_table(out)["rows"]
    assert rows[0] == good
    assert rows[1]["error"] is None


def test_an_interrupted_table_is_resumed(data: str, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted in the second experiment, and once between the end of a training and its TRAINED file."""
    config = small(data, store / "table", table=2, tasks=("jpeg10",), models=("arcnn", "dncnn"))
    first, second = experiments_of(config)

    def stopped(trained: TrainConfig, *rest: Any, **more: Any) -> None:
        if trained.model.name == "dncnn":
            raise KeyboardInterrupt
        train(trained, *rest, **more)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run_experiment, "train", stopped)
        reproduce(config)
    assert not (store / "table" / "table.json").exists()
    weights = {path: stamp for path, stamp in files(Path(first.url)).items() if "checkpoints" in path}
    assert weights
    (Path(first.url) / TRAINED).unlink()
    reproduce(config)
    assert {path: stamp for path, stamp in files(Path(first.url)).items() if "checkpoints" in path} == weights
    assert [row["error"] for row in read_table(store / "table")["rows"]] == [None, None]
    assert (Path(second.url) / TRAINED).exists()


def test_table_2_has_both_ssims_and_the_paper_s(data: str, store: Path) -> None:
    reproduce(small(data, store / "table", table=2, tasks=("jpeg10",), models=("arcnn",), test_images=4))
    table = read_table(store / "table")
    (row,) = table["rows"]
    assert row["test_images"] == 4
    assert row["ssim"] != row["ssim_released"]
    assert (row["paper_psnr_db"], row["paper_ssim"]) == (27.8221, 0.9368)
    text = (store / "table" / "table.md").read_text()
    assert f"| {row['ssim']:.4f} |" in text
    assert f"| {row['ssim_released']:.4f} (0.9368) |" in text


def test_table_3_measures_the_hole_and_names_what_is_not_here(data: str, store: Path) -> None:
    reproduce(small(data, store / "table", table=3))
    table = read_table(store / "table")
    ours, *others = table["rows"]
    assert ours["psnr_db_hole"] < ours["psnr_db"]  # outside the hole nothing is wrong
    assert [row["error"] for row in others] == ["not here"] * 3
    assert "Shift-Net" in (store / "table" / "table.md").read_text()


def test_missing_fields_are_reported_before_any_training(data: str, store: Path) -> None:
    with pytest.raises(UserError, match="has no jpeg20, jpeg30, jpeg40; make it") as caught:
        reproduce(small(data, store / "table", table=2))
    assert "--degrade jpeg:10,20,30,40" in str(caught.value)
    assert not (store / "table").exists()


def test_the_claim_on_tiny_networks(data: str, store: Path) -> None:
    out = store / "claim"
    config = small(data, out, claim=True, models=("ffdnet", "irae"), decoder_budget="64images")
    reproduce(config)
    claim = json.loads((out / "claim.json").read_text())
    rows = {(row["model"], row["layer"]): row for row in claim["rows"]}
    assert set(rows) == {
        *((model, layer) for model in ("ffdnet", "irae") for layer in ("output", "bottleneck")),
        ("irae", "exact inverse"),
        ("irae", "inverse of 8 bits"),
    }
    inverse = rows["irae", "exact inverse"]
    assert inverse["max_error"] < 1e-3
    assert inverse["noise_lost_share"] < 1e-6
    assert inverse["noise_nats"] > rows["irae", "output"]["noise_nats"]
    assert inverse["mse"] < rows["irae", "inverse of 8 bits"]["mse"]
    assert all(row["decoder_images"] == 64 for row in claim["rows"] if "inverse" not in row["layer"])
    assert claim["failed"] == {}
    assert "exact inverse" in (out / "claim.md").read_text()
    svg = ElementTree.fromstring((out / "claim.svg").read_text())
    texts = [text.text for text in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert svg.tag.endswith("svg") and len([text for text in texts if text and text.startswith("IRAE, ")]) == 4

    before = files(store / "reproductions")
    reproduce(config)
    assert files(store / "reproductions") == before


@given(st.floats(1e-6, 10), st.floats(0.01, 0.3))
def test_the_bound_on_the_noise_is_largest_for_the_true_variance(share: float, sigma: float) -> None:
    mse = share * sigma**2
    best = bound_nats(mse, mse, sigma**2).item()
    assert best == pytest.approx(-0.5 * math.log(share), abs=1e-9)  # half a log of the ratio of energies
    assert all(bound_nats(mse, mse * factor, sigma**2).item() < best for factor in (0.5, 2.0))


@settings(max_examples=20, deadline=None)
@given(st.lists(st.floats(10, 50), min_size=2, max_size=30), st.integers(0, 5))
def test_the_interval_holds_the_mean_and_shifts_with_the_values(values: list[float], seed: int) -> None:
    table = np.array(values)
    found, shifted = bootstrap(table, draws=200, seed=seed), bootstrap(table + 5, draws=200, seed=seed)
    assert min(values) - 1e-9 <= found.low <= found.high <= max(values) + 1e-9
    assert found.mean == pytest.approx(np.mean(values))
    assert shifted == pytest.approx([x + 5 for x in found])


def test_the_interval_covers_the_truth_and_narrows() -> None:
    rng = np.random.default_rng(0)
    covered, widths = 0, []
    for _ in range(100):
        found = bootstrap(rng.normal(30, 2, 50), draws=300)
        covered += found.low <= 30 <= found.high
        widths.append(found.high - found.low)
    assert 85 <= covered <= 100
    assert np.mean(widths) == pytest.approx(2 * 1.96 * 2 / math.sqrt(50), rel=0.15)
    with pytest.raises(UserError, match="of 2 are 1 finite"):
        bootstrap(np.array([1.0, math.inf]))


@given(st.permutations(paper.MODELS[2]), st.permutations(paper.MODELS[2]), st.sampled_from(paper.LABELS[2]))
def test_rankings_agree_only_if_they_are_equal(ours: list[str], others: list[str], label: str) -> None:
    """Against the paper's ranking: any models in any order, each with a PSNR by its rank."""
    theirs = sorted(paper.MODELS[2], key=lambda model: -paper.figure(2, "", label, model).psnr_db)  # type: ignore[union-attr]
    psnr_db = {model: 40.0 - rank for rank, model in enumerate(ours)}
    assert ranking(psnr_db) == list(ours)
    groups = [[result_of(model, label, [psnr_db[model]] * 3)] for model in others]
    agrees, certain = compare_rankings(2, groups)
    assert agrees == {f"data {label}": list(ours) == theirs}
    assert certain == {f"data {label}": True}, "the same difference in every image"


def result_of(model: str, label: str, psnr_db: list[float]) -> Result:
    config = dataclasses.replace(TrainConfig().with_options(model=model), task=Task.parse(label))
    return Result(Experiment("data", "celeba", config, 32, "test", "standard", 0), psnr_db=psnr_db)


def test_a_ranking_is_certain_by_its_differences_image_by_image() -> None:
    hard = np.array([0.0, 4.0, 8.0, 12.0])  # the same images are hard for all

    def compare(**psnr_db: float) -> tuple[bool, bool]:
        groups = [[result_of(model, "jpeg10", list(hard + value))] for model, value in psnr_db.items()]
        agrees, certain = compare_rankings(2, groups)
        return agrees["data jpeg10"], certain["data jpeg10"]

    assert compare(dncnn=20, arcnn=21, unet=22, irae=23) == (True, True)
    assert compare(dncnn=21, arcnn=20, unet=22, irae=23) == (False, True)
    assert compare(arcnn=20, irae=20.5) == (True, True)
    assert compare_rankings(2, [[result_of("irae", "jpeg10", [1.0])]]) == ({}, {})
    assert not ranking_is_certain({"a": hard, "b": hard[::-1] + 0.1})


@pytest.mark.parametrize(
    ("options", "label", "model", "folder"),
    [
        ({"table": 1, "budget": "3min", "budget_clock": "processor"}, "noise-blind", "irae", "effd5ec38c0df9f5"),
        ({"table": 1, "budget": "full"}, "noise25", "dncnn", "fab10ab5e8e6055a"),
        ({"table": 2, "budget": "20000images", "global_batch_size": 8}, "jpeg10", "arcnn", "39c7a5f0cee4d9a6"),
        ({"table": 3, "budget": "20000images"}, "inpaint-box", "irae", "cce23a16481e14bd"),
    ],
)
def test_folders_are_those_of_the_first_version(options: dict[str, Any], label: str, model: str, folder: str) -> None:
    """So that a reproduction that it began is resumed; the folders' names were printed by its code."""
    shape = {"image_size": 64, "split_sizes": {"train": 1000}}
    dataset: Any = SimpleNamespace(sha256="0" * 64, bits=8, store=SimpleNamespace(url="/data"), **shape)
    config = train_config_of(ReproduceConfig(**options), dataset, label, model, seed=1)
    assert experiment_url(config, dataset).endswith(f"/reproductions/cells/{folder}")


def test_decoders_of_the_first_version_are_not_trained_again(data: str, store: Path) -> None:
    assert DecoderTraining(Budget.parse("20000images"), "processor", 0).identity == "530c5ae708d0154b"
    config = small(data, store / "claim", claim=True, models=("ffdnet",), decoder_budget="32images")
    reproduce(config)
    (file,) = (store / "reproductions/cells").glob("*/claim/*.json")
    file.write_text(file.read_text().replace("bottleneck", "narrowest"))
    before, claim = files(store / "reproductions"), json.loads((store / "claim" / "claim.json").read_text())
    reproduce(config)
    assert files(store / "reproductions") == before
    assert json.loads((store / "claim" / "claim.json").read_text()) == claim


@pytest.mark.parametrize("text", ["3", "0min", "1.5images", "min", "-2min", "1..2min"])
def test_a_budget_that_is_none_is_a_sentence(text: str) -> None:
    with pytest.raises(UserError, match="is not like 20000images, 3min or full"):
        Budget.parse(text)


def test_budgets_are_images_minutes_or_the_papers_schedule() -> None:
    found = [Budget.parse(text) for text in ("20,000images", "20_000 images", "3min", "0.5min", "full")]
    assert found == [Budget(images=20_000), Budget(images=20_000), Budget(minutes=3), Budget(minutes=0.5), Budget()]
    assert [budget.is_full for budget in found] == [False] * 4 + [True]
