"""The paper's tables and the claim, with tiny budgets on generated images."""

from __future__ import annotations

import csv
import io
import json
import math
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.train import TrainConfig
from pipeline.reproduce import paper_numbers as paper
from pipeline.reproduce.config import Budget, ReproduceConfig
from pipeline.reproduce.decoder import noise_nats
from pipeline.reproduce.experiments import cells_of
from pipeline.reproduce.launch import main as reproduce
from pipeline.reproduce.run_experiment import TRAINED, Result
from pipeline.reproduce.statistics import bootstrap, order, order_is_certain
from pipeline.reproduce.table import orders
from pipeline.train import loop
from pipeline.train.loop import train
from tests.support.datasets import make_dataset


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    url = str(tmp_path_factory.mktemp("reproduce") / "data")
    return make_dataset(url, train=32, val=6, test=6)


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
    config = small(data, out, table=1, tasks=("noise25",), systems=("dncnn", "ffdnet"), seeds=(0, 1))
    reproduce(config)
    table = read_table(out)
    assert [(row["system"], row["seeds"]) for row in table["rows"]] == [("dncnn", [0, 1]), ("ffdnet", [0, 1])]
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

    cells = store / "reproductions" / "cells"
    before = files(cells)
    reproduce(config)
    assert files(cells) == before
    assert read_table(out) == table


def test_a_cell_that_fails_is_a_row_with_its_message(data: str, store: Path) -> None:
    out = store / "table"
    config = small(data, out, table=2, tasks=("jpeg10",), systems=("arcnn", "dncnn"))
    broken = next(cell for cell in cells_of(config) if cell.config.system == "dncnn")
    foreign = Path(broken.url) / "config.json"
    foreign.parent.mkdir(parents=True)
    foreign.write_text("{}")
    with pytest.raises(ValueError, match="1 of 2 cells failed"):
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


def test_what_was_interrupted_goes_on_where_it_was(data: str, store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ended in the second cell, and once between the end of training and its note."""
    config = small(data, store / "table", table=2, tasks=("jpeg10",), systems=("arcnn", "dncnn"))
    first, second = cells_of(config)

    def stopped(trained: TrainConfig, *rest: Any, **more: Any) -> None:
        if trained.system == "dncnn":
            raise KeyboardInterrupt
        train(trained, *rest, **more)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop, "train", stopped)
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
    reproduce(small(data, store / "table", table=2, tasks=("jpeg10",), systems=("arcnn",), test_images=4))
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


def test_what_a_table_needs_is_said_before_anything_is_trained(data: str, store: Path) -> None:
    with pytest.raises(ValueError, match="has no jpeg20, jpeg30, jpeg40; make it") as caught:
        reproduce(small(data, store / "table", table=2))
    assert "--degrade jpeg:10,20,30,40" in str(caught.value)
    assert not (store / "table").exists()


def test_the_claim_on_tiny_networks(data: str, store: Path) -> None:
    out = store / "claim"
    config = small(data, out, claim=True, systems=("ffdnet", "irae"), decoder_budget="64images")
    reproduce(config)
    claim = json.loads((out / "claim.json").read_text())
    rows = {(row["system"], row["layer"]): row for row in claim["rows"]}
    assert set(rows) == {
        *((system, layer) for system in ("ffdnet", "irae") for layer in ("output", "narrowest")),
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
    assert svg.tag.endswith("svg")
    assert "IRAE, exact inverse" in [text.text for text in svg.iter("{http://www.w3.org/2000/svg}text")]

    before = files(store / "reproductions")
    reproduce(config)
    assert files(store / "reproductions") == before


@given(st.floats(1e-6, 10), st.floats(0.01, 0.3))
def test_the_bound_on_the_noise_is_largest_for_the_true_variance(share: float, sigma: float) -> None:
    mse = share * sigma**2
    best = noise_nats(mse, mse, sigma).item()
    assert best == pytest.approx(-0.5 * math.log(share), abs=1e-9)  # half a log of the ratio of energies
    assert all(noise_nats(mse, mse * factor, sigma).item() < best for factor in (0.5, 2.0))


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
    with pytest.raises(ValueError, match="of 2 are 1 finite"):
        bootstrap(np.array([1.0, math.inf]))


@given(st.permutations(paper.MODELS[1]))
def test_orders_agree_only_if_they_are_equal(ranked: list[str]) -> None:
    ours = {system: 40.0 - place for place, system in enumerate(ranked)}
    assert order(ours) == list(ranked)


def test_a_line_s_order_against_the_paper_s(data: str) -> None:
    cells = {cell.config.system: cell for cell in cells_of(small(data, Path("x"), table=2, tasks=("jpeg10",)))}
    hard = np.array([0.0, 4.0, 8.0, 12.0])  # the same images are hard for all

    def compare(**psnr_db: float) -> tuple[bool, bool]:
        groups = [[Result(cells[system], psnr_db=list(hard + value))] for system, value in psnr_db.items()]
        agrees, certain = orders(2, groups)
        ((name, raise_if_any_rank_failed),) = agrees.items()
        assert name == f"{data} jpeg10"
        return raise_if_any_rank_failed, certain[name]

    assert compare(dncnn=20, arcnn=21, unet=22, irae=23) == (True, True)
    assert compare(dncnn=21, arcnn=20, unet=22, irae=23) == (False, True)
    assert compare(arcnn=20, irae=20.5) == (True, True)
    assert orders(2, [[Result(cells["irae"], psnr_db=[1.0])]]) == ({}, {})
    assert not order_is_certain({"a": hard, "b": hard[::-1] + 0.1})


@pytest.mark.parametrize("text", ["3", "0min", "1.5images", "min", "-2min", "1..2min"])
def test_a_budget_that_is_none_is_a_sentence(text: str) -> None:
    with pytest.raises(ValueError, match="is not like 20000images, 3min or full"):
        Budget.parse(text)


def test_a_budget_reads_what_it_writes() -> None:
    for text in ("20000images", "3min", "0.5min", "full"):
        assert str(Budget.parse(text)) == text
