"""The paper's claim, measured: what is left of the input in each trained network. A table and a figure."""

from __future__ import annotations

import functools
import json
import logging
import math
from collections.abc import Sequence
from typing import Any

from infra.storage import Storage, UserError
from pipeline.reproduce.bars import Bar, draw
from pipeline.reproduce.config import Budget, ReproduceConfig
from pipeline.reproduce.decoder import LAYERS, WIDTH
from pipeline.reproduce.experiments import Cell, budget_clock
from pipeline.reproduce.markdown import NAMES, span
from pipeline.reproduce.run_experiment import Result
from pipeline.reproduce.scheduler import run_all
from pipeline.reproduce.statistics import bootstrap
from pipeline.reproduce.train_decoders import Decoding, decode_cell

logger = logging.getLogger(__name__)

Row = dict[str, Any]


def measure(config: ReproduceConfig, cells: Sequence[Cell], store: Storage) -> None:
    """Train what is left to train, decode, and keep claim.json, claim.md and claim.svg. ValueError if a cell failed."""
    decoding = Decoding(Budget.parse(config.decoder_budget), budget_clock(config), config.test_images)
    results = run_all(cells, config.ray, functools.partial(decode_cell, decoding=decoding))
    claim = claim_of(config, results)
    text = to_markdown(claim)
    store.put("claim.svg", figure(claim).encode())
    store.put("claim.md", text.encode())
    store.put("claim.json", json.dumps(claim, indent=1).encode())
    logger.info(text)
    logger.info(f"claim.svg, .md and .json are in {store.url}")
    if failed := [result for result in results if result.error is not None]:
        raise UserError(f"{len(failed)} of {len(results)} networks failed; their messages are in the table.")


def claim_of(config: ReproduceConfig, results: Sequence[Result]) -> dict[str, Any]:
    """claim.json's content."""
    cell = results[0].cell
    rows = [row_of(r, layer) for r in results if r.error is None for layer in r.metrics["layers"]]
    return {
        "title": f"What is left of the input: {cell.dataset}, {cell.label}",
        "dataset": cell.dataset,
        "task_label": cell.label,
        "protocol": config.protocol,
        "budget": config.budget,
        "decoder_budget": config.decoder_budget,
        "rows": rows,
        "failed": {r.cell.config.system: r.error for r in results if r.error is not None},
        "caveats": caveats(config, results),
    }


def row_of(result: Result, layer: dict[str, Any]) -> Row:
    """One way back from one layer. The share of the noise is of its energy, 1 for all of it."""
    variance = layer["sigma"] ** 2
    mse, nats = bootstrap(layer["mse"]), bootstrap(layer["noise_nats"])
    return {
        "system": result.cell.config.system,
        "layer": layer["layer"],
        "shape": layer["shape"],
        "size_by_input": layer["size"],
        "decoder_parameters": layer.get("decoder_parameters"),
        "decoder_images": layer.get("decoder_images"),
        "mse": mse.mean,
        "psnr_db": -10 * math.log10(mse.mean) if mse.mean > 0 else None,
        "max_error": layer["max_error"],
        "noise_lost_share": mse.mean / variance,
        "noise_lost_share_low": mse.low / variance,
        "noise_lost_share_high": mse.high / variance,
        "noise_nats": nats.mean,
        "noise_nats_low": nats.low,
        "noise_nats_high": nats.high,
        "gain_nats": layer["gain_nats"],
        "restored_psnr_db": result.metrics["psnr_db_restored"],
        "images": len(layer["mse"]),
        "run": result.cell.url,
    }


def to_markdown(claim: dict[str, Any]) -> str:
    """claim.md's content."""
    lines = [
        f"# {claim['title']}",
        "",
        "![what each way back leaves](claim.svg)",
        "",
        "| network | restores to (dB) | way back from | size, by the input's | input comes back with (dB) "
        "| largest error | noise not got back | noise known, nats a number | gain, nats a number |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in claim["rows"]:
        psnr = "exactly" if row["psnr_db"] is None else f"{row['psnr_db']:.1f}"
        low, high = row["noise_nats_low"], row["noise_nats_high"]
        cells = (
            NAMES[row["system"]],
            f"{row['restored_psnr_db']:.2f}",
            way(row),
            f"{row['size_by_input']:.2f}",
            psnr,
            f"{row['max_error']:.1e}",
            percent(row["noise_lost_share"]),
            f"{row['noise_nats']:.2f} [{low:.2f}, {high:.2f}]" if row["noise_nats"] > 0 else "no bound",
            f"{row['gain_nats']:.2f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    lines += [f"\n{NAMES[system]} failed: {error}" for system, error in claim["failed"].items()]
    lines += ["", "## What to keep in mind", "", *(f"- {caveat}" for caveat in claim["caveats"])]
    return "\n".join(lines) + "\n"


def way(row: Row) -> str:
    """In words."""
    if "inverse" in row["layer"]:
        return "output, by the exact inverse" + (", rounded to 8 bits" if "8 bits" in row["layer"] else "")
    return ("output" if row["layer"] == "output" else "narrowest layer") + ", by a decoder"


def percent(share: float) -> str:
    """Small shares keep their size."""
    return f"{share:.1%}" if share >= 1e-3 else f"{100 * share:.0e}".replace("e-0", "e-") + "%" if share else "0%"


def figure(claim: dict[str, Any]) -> str:
    """claim.svg: the noise that no way back recovered, in shares of its energy."""
    kinds = {"output": "output", "narrowest": "narrowest"}
    labels = {"output": "from the output", "narrowest": "from the narrowest layer", "exact inverse": "exact inverse"}
    labels["inverse of 8 bits"] = "inverse, 8 bits"
    bars = [
        Bar(
            NAMES[row["system"]],
            labels[row["layer"]],
            kinds.get(row["layer"], "inverse"),
            row["noise_lost_share"],
            percent(row["noise_lost_share"]),
        )
        for row in claim["rows"]
    ]
    return draw(
        "Noise that was not got back",
        f"share of its energy; {claim['dataset']}, {claim['task_label']}, {claim['budget']} of training",
        bars,
        1.0,
        "100 %: only the clean image came back",
    )


def caveats(config: ReproduceConfig, results: Sequence[Result]) -> list[str]:
    """What must be known to read the figures."""
    done = [result for result in results if result.error is None]
    if not done:
        return ["Every cell failed."]
    cell, layers = done[0].cell, done[0].metrics["layers"]
    seen = [row["decoder_images"] for result in done for row in result.metrics["layers"] if "decoder_images" in row]
    trained = [result.trained["images"] for result in done]
    sizes = [row["decoder_parameters"] for r in done for row in r.metrics["layers"] if "decoder_parameters" in row]
    return [
        "A decoder's error is an upper bound on what was lost: a larger decoder, or a longer training, may get more "
        "back. IRAE shows how loose it is: what seems lost by the decoder is there by its exact inverse. "
        "More than 100 % of the noise: the decoder is still worse than one that gives the clean image.",
        f"Each decoder: {LAYERS} convolutions of 3x3, {WIDTH} channels, and a linear path, {span(sizes)} "
        f"parameters (the first layer fits the code), trained on {span(seen)} images.",
        "The narrowest layer is not all that a network passes on: DnCNN adds its input to its output, a U-Net leads "
        "bridges around. A size of 1 or more means that the layer has room for all of the input.",
        "Noise known: a lower bound (Barber & Agakov 2003) on the information about the noise, I(input; code | clean "
        "image), by a normal distribution about the decoder's result, in nats for each number of the image. It is a "
        "bound because the entropy of the noise is known; that of photographs is not. Gain: the same against a "
        "predictor that knows nothing; no bound. For an exact inverse both are limited by float32 alone.",
        "Most of the input's information is noise, which a restoration is there to remove: a perfect one that gives "
        "the clean image leaves 100 % of the noise's energy and 0 nats. That a network lost it is no fault by itself, "
        "and that IRAE keeps it, hidden in small differences of its output, is no proof that it restores better.",
        "The outputs are taken as the networks give them, float32 and not clamped. Rounded to the 8 bits of a picture "
        "file, what was hidden there may be gone: the row on 8 bits.",
        f"One data set ({cell.dataset}), one noise level, one seed; {len(layers[0]['mse']):,} test images, over which "
        f"the intervals are; budget {config.budget}, {span(trained)} images a network.",
    ]
