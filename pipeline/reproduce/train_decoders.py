"""Recovery of a trained network's input: by its exact inverse, and by decoders that are trained for it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Sequence
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
from pipeline.config.train import BudgetConfig
from pipeline.data.pairs import Pairs, make_pairs
from pipeline.data.pixels import pinned_array
from pipeline.reproduce.config import Budget
from pipeline.reproduce.decoder import LAYERS, WIDTH, Decoder, bound_nats
from pipeline.reproduce.experiments import Experiment
from pipeline.reproduce.run_experiment import Result, failed, run_experiment
from pipeline.runs.checkpoints import read_json, write_json
from pipeline.runs.load import Trained, load_trained
from pipeline.train.budget import BudgetTimer
from sharding import Batch, Dataset, Loader, ShardReader

VERSION = 2
BATCH, LR, LR_END_SHARE = 16, 2e-3, 0.01
MIN_VARIANCE = 1e-14
"""Smallest variance of the bounds: float32 has no smaller differences of numbers around 1."""
TEST_BATCH = 32
VARIANCE_IMAGES = 200
"""Validation images that the bounds' variances are estimated from."""
DECODED = ("output", "bottleneck")
"""Layers that decoders are trained for."""
FORMER_LAYERS = {"narrowest": "bottleneck"}
"""Names of layers in files of the first version."""
Features = dict[str, Tensor]
"""Layer: its activations, (B, c, h, w)."""


@dataclass(frozen=True)
class DecoderTraining:
    """Training and test of decoders."""

    budget: Budget
    clock: Any
    """Clock of the budget's minutes: wall or processor."""
    test_images: int

    @property
    def identity(self) -> str:
        """Hash of everything that decides the figures, of the same text as in the first version."""
        text = f"Decoding(budget={self.budget!r}, clock={self.clock!r}, test_images={self.test_images!r})"
        return hashlib.sha256(json.dumps([VERSION, WIDTH, LAYERS, BATCH, LR, text]).encode()).hexdigest()[:16]


def decode_experiment(experiment: Experiment, training: DecoderTraining, threads: int | None = None) -> Result:
    """Train the experiment's network, then measure each layer, unless that was done before: `metrics["layers"]`.

    Raises nothing but interruptions. The figures are kept in the experiment's folder; an interrupted decoder restarts.
    """
    result = run_experiment(experiment, threads)
    if result.error is not None:
        return result
    store, name = open_storage(experiment.url), f"claim/{training.identity}.json"
    found = read_json(store, name)
    if found is None:
        try:
            found = {"layers": measure_layers(experiment, training)}
        except Exception as error:
            return failed(experiment, error)
        write_json(store, name, found)
    layers = [{**layer, "layer": FORMER_LAYERS.get(layer["layer"], layer["layer"])} for layer in found["layers"]]
    return Result(experiment, {**result.metrics, "layers": layers}, result.trained, result.psnr_db)


def measure_layers(experiment: Experiment, training: DecoderTraining) -> list[dict[str, Any]]:
    """Figures of each decoded layer, and of the exact inverse where there is one."""
    trained = load_trained(experiment.url, "best")
    batches = PairedBatches(experiment, trained)
    torch.manual_seed(experiment.config.seed)
    decoders, images_seen = train_decoders(trained, batches, training)
    found = []

    def measure(name: str, layer: str, decode: Callable[[Tensor], Tensor], **more: Any) -> None:
        figures = evaluate_decoder(trained, batches, training, lambda features: decode(features[layer]))
        shape = batches.feature_shapes[layer]
        size = math.prod(shape) / (3 * batches.dataset.image_size**2)
        found.append({**figures, "layer": name, "shape": list(shape), **more, "size": size})

    for layer, decoder in decoders.items():
        measure(layer, layer, decoder, decoder_parameters=parameter_count(decoder), decoder_images=images_seen)
    if isinstance(trained.model, IRAE):
        inverse = trained.model.inverse
        measure("exact inverse", "output", lambda output: inverse(output.clone()))
        measure("inverse of 8 bits", "output", lambda output: inverse((output.clamp(0, 1) * 255).round() / 255))
    return found


class PairedBatches:
    """Clean and degraded images of an experiment's data set, in batches."""

    def __init__(self, experiment: Experiment, trained: Trained) -> None:
        assert experiment.config.data.url
        self.experiment, self.device = experiment, trained.device
        self.dataset = Dataset.open(open_storage(experiment.config.data.url))
        self.bits = 5 if experiment.protocol == "released" else self.dataset.bits
        size = self.dataset.image_size
        features = features_of(trained.model, torch.zeros(1, 3, size, size, device=self.device), torch.zeros(1))
        self.feature_shapes = {layer: tuple(x.shape[1:]) for layer, x in features.items()}

    def reader(self, split: str) -> ShardReader:
        fields = self.experiment.config.task.fields
        return ShardReader(self.dataset, split, cache_folder(), fields=fields, allocate=pinned_array)

    def training(self) -> Iterator[Pairs]:
        """Batches of the training split without end, each epoch in another order with other noise."""
        reader = self.reader("train")
        loader = Loader(reader, global_batch_size=min(BATCH, len(reader)), seed=self.experiment.config.seed)
        with contextlib.closing(loader):
            while (batch := loader.next()).epoch is not None:
                yield self._pairs(batch, list(batch.epoch))

    def testing(self, split: str, count: int) -> Iterator[Pairs]:
        """The first `count` images of a split; 0: all."""
        reader = self.reader(split)
        count = min(count or len(reader), len(reader))
        for batch in reader.batches(np.arange(i, min(i + TEST_BATCH, count)) for i in range(0, count, TEST_BATCH)):
            yield self._pairs(batch, [0] * len(batch.keys))

    def _pairs(self, batch: Batch, epochs: Sequence[int]) -> Pairs:
        config = self.experiment.config
        return make_pairs(batch, epochs, config.task, bits=self.bits, seed=config.seed, device=self.device)


def features_of(model: Restorer, degraded: Tensor, sigma_255: Tensor | None) -> Features:
    """Unclamped output and bottleneck of the network, by one forward pass where it gives both."""
    outputs: list[Tensor] = []
    with model.register_forward_hook(lambda module, inputs, output: outputs.append(output)):
        bottleneck = model.bottleneck(degraded, sigma_255)
    # IRAE's bottleneck comes before its output.
    return {"output": outputs[-1] if outputs else model(degraded, sigma_255), "bottleneck": bottleneck}


def train_decoders(
    trained: Trained, batches: PairedBatches, training: DecoderTraining
) -> tuple[dict[str, Decoder], int]:
    """A decoder for each of the layers, all trained on the same batches for least squares; and images seen."""
    size, budget = batches.dataset.image_size, training.budget
    shapes: dict[str, Any] = batches.feature_shapes
    decoders = {layer: Decoder(shapes[layer], size).to(trained.device) for layer in DECODED}
    parameters = [p for decoder in decoders.values() for p in decoder.parameters()]
    optimizer = torch.optim.Adam(parameters, lr=LR)
    timer = BudgetTimer(BudgetConfig(max_minutes=budget.minutes, budget_clock=training.clock))
    shape, images_seen = cosine(LR_END_SHARE), 0
    pairs_of_training = batches.training()
    while (progress := max(timer.budget_fraction, images_seen / budget.images if budget.images else 0.0)) < 1:
        pairs = next(pairs_of_training)
        with torch.no_grad():
            features = features_of(trained.model, pairs.degraded, pairs.sigma_255)
        for group in optimizer.param_groups:
            group["lr"] = LR * shape(progress)
        errors = [((decoders[layer](features[layer]) - pairs.degraded) ** 2).mean() for layer in DECODED]
        optimizer.zero_grad()
        torch.stack(errors).sum().backward()
        optimizer.step()
        images_seen += len(pairs.degraded)
        timer.count(len(pairs.degraded), 0.0)
    pairs_of_training.close()  # type: ignore[attr-defined]
    return decoders, images_seen


@torch.no_grad()
def evaluate_decoder(
    trained: Trained, batches: PairedBatches, training: DecoderTraining, decode: Callable[[Features], Tensor]
) -> dict[str, Any]:
    """Errors of `decode` about the network's input, and the bounds that follow. UserError for errors not finite."""

    def errors(split: str, count: int) -> np.ndarray:
        """(images, 8): mean square and largest error, mean and mean square of each channel of the input."""
        found = []
        for pairs in batches.testing(split, count):
            y = pairs.degraded.double()
            error = decode(features_of(trained.model, pairs.degraded, pairs.sigma_255)).double() - y
            measures = (error.square().mean(dim=(1, 2, 3))[:, None], error.abs().amax(dim=(1, 2, 3))[:, None])
            found.append(torch.cat([*measures, y.mean(dim=(2, 3)), y.square().mean(dim=(2, 3))], dim=1))
        return torch.cat(found).cpu().numpy()

    validation = errors("val", VARIANCE_IMAGES)
    mse, largest = errors(batches.experiment.split, training.test_images).T[:2]
    if not np.isfinite(mse).all():
        raise UserError("the network's input was recovered as numbers that are not finite.")
    sigma_255 = batches.experiment.config.task.known_sigma_255
    assert sigma_255 is not None, "the claim needs one noise level"
    val_mse, _, *means = validation.mean(axis=0).tolist()
    variance, sigma = max(val_mse, MIN_VARIANCE), sigma_255 / 255
    input_variance = float(np.mean([square - mean**2 for mean, square in zip(means[:3], means[3:], strict=True)]))
    return {
        "mse": mse.tolist(),
        "max_error": float(largest.max()),
        "sigma": sigma,
        "noise_nats": bound_nats(mse, variance, sigma**2).tolist(),
        "gain_nats": bound_nats(float(mse.mean()), variance, input_variance).item(),
    }
