"""What can be got back of a trained network's input: by its exact inverse, and by decoders that are trained for it."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from infra.storage import UserError, open_storage
from irae.model import IRAE, parameter_count
from irae.restorer import Restorer
from irae.schedules import cosine
from pipeline.config.environment import cache_folder
from pipeline.config.task import stored_fields
from pipeline.config.train import TrainConfig
from pipeline.data.pairs import Pairs, make_pairs
from pipeline.data.pinned import pinned_array
from pipeline.reproduce.config import Budget
from pipeline.reproduce.decoder import LAYERS, WIDTH, Decoder, gain_nats, noise_nats
from pipeline.reproduce.experiments import Cell
from pipeline.reproduce.run_experiment import Result, message, run_cell
from pipeline.runs.folder import Run
from pipeline.runs.load import Trained, load_trained
from pipeline.train.budget import BudgetTimer
from sharding import Dataset, Loader, ShardReader

VERSION = 2
BATCH, LR, LR_END_SHARE = 16, 2e-3, 0.01
LEAST_VARIANCE = 1e-14
"""Below it float32 cannot tell numbers around 1 apart."""
TEST_BATCH = 32
VARIANCE_IMAGES = 200
"""Images of the validation split that the bounds' variances are taken from."""
DECODED = ("output", "narrowest")


@dataclass(frozen=True)
class Decoding:
    """How decoders are trained and tested."""

    budget: Budget
    clock: str
    test_images: int


def decode_cell(cell: Cell, decoding: Decoding, threads: int | None = None) -> Result:
    """Train the cell's network if that is still to do, then measure what it keeps; figures in `metrics["layers"]`.

    Never raises but for an interruption. Kept in the cell's folder; a decoder that was interrupted begins anew.
    """

    result = run_cell(cell, threads)
    if result.error is not None:
        return result
    run = Run(open_storage(cell.url))
    identity = [VERSION, WIDTH, LAYERS, BATCH, LR, str(decoding)]
    name = f"claim/{hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]}.json"
    found = run.read_json(name)
    if found is None:
        try:
            found = {"layers": measure_layers(cell, decoding)}
        except Exception as error:  # whatever it is, the other networks go on
            if os.environ.get("IRAE_DEBUG"):
                raise
            return Result(cell, error=message(error))
        run.write_json(name, found)
    return Result(cell, {**result.metrics, **found}, result.trained, result.psnr_db)


def measure_layers(cell: Cell, decoding: Decoding) -> list[dict[str, Any]]:
    """A dict of figures for each decoded layer, and for the exact inverse where there is one."""
    trained = load_trained(cell.url, "best")
    images = Images(cell, trained)
    torch.manual_seed(cell.config.seed)
    decoders, seen = train_decoders(trained, images, decoding)
    ways = {name: decoder for name, decoder in decoders.items()}
    found = []
    for name, decoder in ways.items():
        shape = images.code_shapes[name]
        figures = test(trained, images, decoding, lambda codes, name=name, d=decoder: d(codes[name]))
        figures |= {"layer": name, "shape": list(shape), "decoder_parameters": parameter_count(decoder)}
        found.append(figures | {"decoder_images": seen, "size": math.prod(shape) / images.numbers})
    if isinstance(trained.model, IRAE):
        model = trained.model
        for name, prepare in (("exact inverse", torch.clone), ("inverse of 8 bits", to_8_bits)):
            figures = test(trained, images, decoding, lambda codes, p=prepare: model.inverse(p(codes["output"])))
            shape = images.code_shapes["output"]
            found.append(figures | {"layer": name, "shape": list(shape), "size": math.prod(shape) / images.numbers})
    return found


def to_8_bits(images: Tensor) -> Tensor:
    """As a picture file would hold them."""
    return (images.clamp(0, 1) * 255).round() / 255


class Images:
    """The data set of a cell, as pairs of its task."""

    def __init__(self, cell: Cell, trained: Trained) -> None:

        assert cell.config.data
        self.cell, self.trained = cell, trained
        self.dataset = Dataset.open(open_storage(cell.config.data))
        self.bits = 5 if cell.protocol == "released" else self.dataset.bits
        size = self.dataset.image_size
        self.numbers = 3 * size * size
        codes = codes_of(trained.model, torch.zeros(1, 3, size, size, device=trained.device), torch.zeros(1))
        self.code_shapes = {name: tuple(code.shape[1:]) for name, code in codes.items()}

    @property
    def sigma(self) -> float:
        """Of the noise, in [0, 1] units."""
        sigma_255 = self.cell.config.sigma_255
        assert isinstance(sigma_255, float | int), "the claim needs one noise level"
        return sigma_255 / 255

    def reader(self, split: str) -> ShardReader:
        fields = stored_fields(self.cell.config)
        return ShardReader(self.dataset, split, cache_folder(), fields=fields, allocate=pinned_array)

    def training(self) -> Iterator[Pairs]:
        """Batches of the training split without end, each epoch in another order with other noise."""
        reader = self.reader("train")
        loader = Loader(reader, global_batch_size=min(BATCH, len(reader)), seed=self.cell.config.seed)
        try:
            while True:
                batch = loader.next()
                assert batch.epoch is not None
                yield self._pairs(batch, list(batch.epoch))
        finally:
            loader.close()

    def testing(self, split: str, count: int) -> Iterator[Pairs]:
        """The first `count` images of a split, or all for 0."""
        reader = self.reader(split)
        count = min(count or len(reader), len(reader))
        for batch in reader.batches(np.arange(i, min(i + TEST_BATCH, count)) for i in range(0, count, TEST_BATCH)):
            yield self._pairs(batch, [0] * len(batch.keys))

    def _pairs(self, batch: Any, epochs: list[int]) -> Pairs:
        config: TrainConfig = self.cell.config
        return make_pairs(batch, epochs, config, bits=self.bits, seed=config.seed, device=self.trained.device)


def codes_of(model: Restorer, degraded: Tensor, sigma_255: Tensor | None) -> dict[str, Tensor]:
    """What the network gives out, unclamped, and what its narrowest layer does; by one pass where one gives both."""
    outputs: list[Tensor] = []
    hook = model.register_forward_hook(lambda module, inputs, output: outputs.append(output))
    try:
        narrowest = model.bottleneck(degraded, sigma_255)
    finally:
        hook.remove()
    # IRAE finds its narrowest layer without the pass to the output.
    output = outputs[-1] if outputs else model(degraded, sigma_255)
    return {"output": output, "narrowest": narrowest}


def train_decoders(trained: Trained, images: Images, decoding: Decoding) -> tuple[dict[str, Decoder], int]:
    """A decoder for each of the layers, all on the same batches, to the least squared error; and images seen."""
    size = images.dataset.image_size
    decoders = {name: Decoder(images.code_shapes[name], size).to(trained.device) for name in DECODED}  # type: ignore[arg-type]
    parameters = [p for decoder in decoders.values() for p in decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=LR)
    budget = decoding.budget
    clock = BudgetTimer(TrainConfig(max_minutes=budget.minutes, budget_clock=decoding.clock))  # type: ignore[arg-type]
    shape, seen = cosine(LR_END_SHARE), 0
    batches = images.training()
    while (progress := max(clock.budget_fraction, seen / budget.images if budget.images else 0.0)) < 1:
        pairs = next(batches)
        with torch.no_grad():
            codes = codes_of(trained.model, pairs.degraded, pairs.sigma_255)
        for group in optimizer.param_groups:
            group["lr"] = LR * shape(progress)
        loss = sum(((decoders[n](codes[n]) - pairs.degraded) ** 2).mean() for n in DECODED)
        assert isinstance(loss, Tensor)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        seen += len(pairs.degraded)
        clock.count(len(pairs.degraded), 0.0)
    batches.close()  # type: ignore[attr-defined]
    return decoders, seen


@torch.no_grad()
def test(trained: Trained, images: Images, decoding: Decoding, decode: Any) -> dict[str, Any]:
    """Errors of `decode(codes)` about the network's input, and the bounds that they give."""

    def errors(split: str, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, float]:
        squares, means, seconds, largest = [], [], [], 0.0
        for pairs in images.testing(split, count):
            y = pairs.degraded
            difference = decode(codes_of(trained.model, y, pairs.sigma_255)).double() - y.double()
            squares.append(difference.square().mean(dim=(1, 2, 3)))
            means.append(y.double().mean(dim=(2, 3)))
            seconds.append(y.double().square().mean(dim=(2, 3)))
            largest = max(largest, difference.abs().max().item())
        return *(torch.cat(part).cpu().numpy() for part in (squares, means, seconds)), largest  # type: ignore[return-value]

    mse_val, mean_val, second_val, _ = errors("val", VARIANCE_IMAGES)
    mse, _, _, largest = errors(images.cell.split, decoding.test_images)
    variance = max(float(mse_val.mean()), LEAST_VARIANCE)
    of_input = float((second_val.mean(axis=0) - mean_val.mean(axis=0) ** 2).mean())
    if not np.isfinite(mse).all():
        raise UserError("the network's input came back as numbers that are not finite.")
    return {
        "mse": mse.tolist(),
        "max_error": largest,
        "sigma": images.sigma,
        "noise_nats": noise_nats(torch.from_numpy(mse), variance, images.sigma).tolist(),
        "gain_nats": gain_nats(float(mse.mean()), variance, of_input).item(),
    }
