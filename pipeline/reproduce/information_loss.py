"""The paper's claim, measured: the input's information that is left in each trained network. A table and a chart."""

from __future__ import annotations

import functools
import json
import logging
import math
from collections.abc import Sequence
from typing import Any

from infra.storage import Storage
from pipeline.reproduce.bars import noise_chart, percent
from pipeline.reproduce.caveats import claim_caveats
from pipeline.reproduce.config import Budget, ReproduceConfig
from pipeline.reproduce.experiments import Experiment, budget_clock
from pipeline.reproduce.markdown import markdown_table
from pipeline.reproduce.run_experiment import Result
from pipeline.reproduce.scheduler import run_all
from pipeline.reproduce.statistics import bootstrap
from pipeline.reproduce.train_decoders import DecoderTraining, decode_experiment
from pipeline.runs.texts import model_title

logger = logging.getLogger(__name__)

HEADER = (
    *("network", "restores to (dB)", "recovered from", "size, by the input's", "input recovered with (dB)"),
    *("largest error", "noise not recovered", "noise known, nats a number", "gain, nats a number"),
)
LAYERS = {
    "output": "output, by a decoder",
    "bottleneck": "bottleneck, by a decoder",
    "exact inverse": "output, by the exact inverse",
    "inverse of 8 bits": "output, by the exact inverse, rounded to 8 bits",
}
"""Layer: text in the table."""


def measure_claim(config: ReproduceConfig, experiments: Sequence[Experiment], store: Storage) -> list[Result]:
    """Run the experiments and their decoders; write claim.json, claim.md and claim.svg."""
    training = DecoderTraining(Budget.parse(config.decoder_budget), budget_clock(config), config.test_images)
    results = run_all(experiments, config.ray, functools.partial(decode_experiment, training=training))
    claim = claim_of(config, results)
    text = to_markdown(claim)
    store.put("claim.svg", noise_chart(claim).encode())
    store.put("claim.md", text.encode())
    store.put("claim.json", json.dumps(claim, indent=1).encode())
    logger.info(text)
    logger.info(f"claim.svg, .md and .json are in {store.url}")
    return results


def claim_of(config: ReproduceConfig, results: Sequence[Result]) -> dict[str, Any]:
    """Content of claim.json."""
    first = results[0].experiment
    return {
        "title": f"What is left of the input: {first.dataset}, {first.label}",
        "dataset": first.dataset,
        "task_label": first.label,
        "protocol": config.protocol,
        "budget": config.budget,
        "decoder_budget": config.decoder_budget,
        "rows": [claim_row(r, layer) for r in results if r.error is None for layer in r.metrics["layers"]],
        "failed": {r.experiment.model: r.error for r in results if r.error is not None},
        "caveats": claim_caveats(config, results),
    }


def claim_row(result: Result, layer: dict[str, Any]) -> dict[str, Any]:
    """Row of one layer. Shares of the noise are of its energy, 1 for all of it."""
    variance = layer["sigma"] ** 2
    mse, nats = bootstrap(layer["mse"]), bootstrap(layer["noise_nats"])
    return {
        "model": result.experiment.model,
        **{name: layer.get(name) for name in ("layer", "shape", "decoder_parameters", "decoder_images", "max_error")},
        "size_by_input": layer["size"],
        "mse": mse.mean,
        "psnr_db": -10 * math.log10(mse.mean) if mse.mean > 0 else None,
        **{f"noise_lost_share{end}": x / variance for end, x in zip(("", "_low", "_high"), mse, strict=True)},
        **{f"noise_nats{end}": x for end, x in zip(("", "_low", "_high"), nats, strict=True)},
        "gain_nats": layer["gain_nats"],
        "restored_psnr_db": result.metrics["psnr_db_restored"],
        "images": len(layer["mse"]),
        "run": result.experiment.url,
    }


def to_markdown(claim: dict[str, Any]) -> str:
    """Content of claim.md."""
    lines = [f"# {claim['title']}", "", "![noise that was not recovered](claim.svg)", ""]
    body = [row_texts(row) for row in claim["rows"]]
    lines += markdown_table(HEADER, body, left=("network", "recovered from"))
    lines += [f"\n{model_title(model)} failed: {error}" for model, error in claim["failed"].items()]
    lines += ["", "## What to keep in mind", "", *(f"- {caveat}" for caveat in claim["caveats"])]
    return "\n".join(lines) + "\n"


def row_texts(row: dict[str, Any]) -> list[str]:
    nats = f"{row['noise_nats']:.2f} [{row['noise_nats_low']:.2f}, {row['noise_nats_high']:.2f}]"
    return [
        model_title(row["model"]),
        f"{row['restored_psnr_db']:.2f}",
        LAYERS[row["layer"]],
        f"{row['size_by_input']:.2f}",
        "exactly" if row["psnr_db"] is None else f"{row['psnr_db']:.1f}",
        f"{row['max_error']:.1e}",
        percent(row["noise_lost_share"]),
        nats if row["noise_nats"] > 0 else "no bound",
        f"{row['gain_nats']:.2f}",
    ]
