"""How many trials fit into a cluster, and whether one fits into a worker's memory."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from infra.storage import UserError
from irae.model import IRAE, on_device, parameter_count
from pipeline.config.train import TrainConfig
from pipeline.tune.resources import BASE_MB, exceeds_memory, plan_resources, predicted_mb
from tests.pipeline.tune.common import BASE, CONFIG

NODE = {"CPU": 4.0, "memory": 8e9}
POINT = {"K": 3, "L": 2, "lr": 1e-3, "lr_schedule": "constant", "width": 8, "scale_min": 0.5, "global_batch_size": 8}


def test_trials_at_once_are_those_that_the_nodes_hold() -> None:
    assert plan_resources(CONFIG, [NODE, NODE], None).concurrent == 5, "as many as there are trials"
    two_each = dataclasses.replace(CONFIG, cpus_per_trial=2, trials=99)
    assert plan_resources(two_each, [NODE, NODE], None).concurrent == 4
    assert plan_resources(two_each, [NODE], None).worker_mb == pytest.approx(0.9 * 4000)
    limited = dataclasses.replace(two_each, memory_gb=1)
    assert plan_resources(limited, [NODE], None).worker_mb == pytest.approx(0.9 * 1000)
    with_gpu = plan_resources(CONFIG, [{**NODE, "GPU": 2.0}, NODE], 80e3)
    assert (with_gpu.concurrent, with_gpu.resources["GPU"]) == (2, 1.0)
    assert with_gpu.worker_mb == pytest.approx(0.9 * 80e3)


def test_trials_of_several_workers_take_whole_nodes() -> None:
    group = dataclasses.replace(CONFIG, base=BASE.with_options(ray=True, nodes=2))
    plan = plan_resources(group, [NODE] * 5, None)
    assert (plan.concurrent, plan.resources["CPU"]) == (2, 0)


@pytest.mark.parametrize(
    ("options", "nodes"),
    [({"concurrent": 9}, 2), ({"cpus_per_trial": 5}, 1), ({"gpus_per_trial": 1}, 1), ({"nodes": 2}, 1)],
)
def test_trials_that_the_nodes_do_not_hold_are_refused(options: dict[str, int], nodes: int) -> None:
    base = BASE.with_options(ray=True, nodes=options.pop("nodes", 1))
    with pytest.raises(UserError, match="--concurrent"):
        plan_resources(dataclasses.replace(CONFIG, base=base, **options), [NODE] * nodes, None)  # type: ignore[arg-type]


def test_a_trial_that_exceeds_the_memory_has_a_reason() -> None:
    assert exceeds_memory(CONFIG, 64, 1e6, POINT) is None
    assert "needs about" in (exceeds_memory(CONFIG, 64, 100, POINT) or "")


def predict(config: TrainConfig) -> float:
    """Predicted memory of activations and weights, MB."""
    return predicted_mb(config, parameter_count(IRAE(config.model.irae)), 64) - BASE_MB


def kept_mb(config: TrainConfig, side: int) -> float:
    """Memory of the tensors that autograd keeps for the backward pass of one batch, without the weights."""
    model = on_device(IRAE(config.model.irae), torch.device("cpu"))
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    sizes: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    images = torch.rand(config.optimization.global_batch_size, side, side, 3).permute(0, 3, 1, 2)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(images).abs().mean()
    assert loss.requires_grad
    return sum(size for address, size in sizes.items() if address not in weights) / 1e6


@pytest.mark.parametrize(("K", "L", "width"), [(2, 1, 64), (3, 2, 64), (4, 2, 8)])
def test_predicted_memory_is_that_of_the_tensors_kept_for_backward(K: int, L: int, width: int) -> None:
    config = TrainConfig().with_options(K=K, L=L, width=width, global_batch_size=4)
    assert 0.8 < (predicted_mb(config, 0, 32) - BASE_MB) / kept_mb(config, 32) < 1.4


def test_predicted_memory_grows_with_depth_unless_reversible_and_shrinks_with_micro_batches() -> None:
    config = TrainConfig().with_options(K=6, L=2, width=64, global_batch_size=32)
    larger = config.with_options(K=12)
    assert predict(larger) == pytest.approx(2 * predict(config), rel=0.05)
    shallow, deep = (predict(c.with_options(reversible=True)) for c in (config, larger))
    assert deep - shallow < 20 and deep < predict(config)
    assert predict(config.with_options(micro_batch_size=8)) < predict(config)
