"""A table as Markdown, and the sentences below it."""

from __future__ import annotations

import dataclasses

from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.task import Task
from pipeline.config.train import TrainConfig
from pipeline.reproduce import paper_numbers as paper
from pipeline.reproduce.caveats import caveats_of
from pipeline.reproduce.config import ReproduceConfig
from pipeline.reproduce.experiments import Experiment
from pipeline.reproduce.markdown import span, to_markdown
from pipeline.reproduce.run_experiment import Result
from pipeline.reproduce.table import table_of

METRICS = {"psnr_db_degraded": 27.0, "ssim_restored": 0.9, "ssim_released_restored": 0.95, "psnr_db_restored": 29.0}
METRICS |= {"parameters": 1000, "images": 3, "image_size": 64, "split": "test"}
TRAINED = {"images": 640, "train_s": 2.0, "precision": "float32", "device": "cpu"}


def result_of(model: str, label: str, seed: int, error: str | None) -> Result:
    config = dataclasses.replace(
        TrainConfig().with_options(model=model, seed=seed, out="/runs/x"), task=Task.parse(label)
    )
    experiment = Experiment("faces", "celeba", config, 32, "test", "standard", 0)
    return (
        Result(experiment, METRICS, TRAINED, [29.0, 30.0, 31.5]) if error is None else Result(experiment, error=error)
    )


@given(
    st.sets(st.sampled_from(paper.LABELS[2]), min_size=1),
    st.sets(st.sampled_from(paper.MODELS[2]), min_size=1),
    st.sampled_from([(0,), (0, 1)]),
    st.data(),
)
def test_every_line_is_full_and_every_failure_named(
    labels: set[str], models: set[str], seeds: tuple[int, ...], data: st.DataObject
) -> None:
    errors = st.sampled_from([None, "the disk is full"])
    results = [result_of(m, t, s, data.draw(errors)) for t in sorted(labels) for m in sorted(models) for s in seeds]
    config = ReproduceConfig(table=2, datasets=("faces",), seeds=seeds, budget="640images")
    table = table_of(config, results)
    text = to_markdown(table)
    blocks = [block.splitlines() for block in text.split("\n\n") if block.startswith("|")]
    assert all(len({line.count("|") for line in block}) == 1 and len(block) >= 2 for block in blocks)
    for label in labels:
        assert sum(line.startswith(f"| {label} |") for block in blocks for line in block) == 3, "PSNR, two SSIMs"
    assert ("the disk is full" in text) == any(result.error for result in results)
    assert all(caveat in text for caveat in caveats_of(config, results))
    if all(result.error is None for result in results):
        assert "failed" not in text and "| 640 | 3 |" in text and "30.17 [" in text


@given(st.lists(st.floats(0, 1e7), min_size=1))
def test_a_span_has_the_ends(values: list[float]) -> None:
    ends = [float(text.replace(",", "")) for text in span(values).split(" to ")]
    assert abs(ends[0] - min(values)) <= 0.5 and abs(ends[-1] - max(values)) <= 0.5
    assert len(ends) == 1 or ends[0] < ends[1]
