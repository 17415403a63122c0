"""Weights and optimizer state as safetensors bytes: nothing is ever unpickled.

A model is two files, model.safetensors and config.json; where they lie is the caller's business.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from irae.config import IRAEConfig
from irae.errors import IRAEError
from irae.registry import MODELS, build
from irae.restorer import Restorer

WEIGHTS, CONFIG = "model.safetensors", "config.json"


def model_to_files(model: Restorer) -> dict[str, bytes]:
    """The model's two files by name."""
    config = {"system": model.system, **(model.config.to_json() if model.config else {})}
    return {WEIGHTS: tensors_to_bytes(model.state_dict()), CONFIG: json.dumps(config, indent=2).encode()}


def model_from_files(files: Mapping[str, bytes]) -> Restorer:
    """The model that `model_to_files` wrote. ValueError when the files are not those of such a model."""
    config = config_from_bytes(files[CONFIG])
    model = build(config.pop("system"), IRAEConfig(**config))
    load_weights(model, files)
    return model


def config_from_bytes(data: bytes) -> dict[str, Any]:
    """Read config.json: the system's name, and what was chosen of it. ValueError when there is no such system."""
    values = json.loads(data)
    system = values.pop("system", None) or values.pop("architecture", None)
    if system not in MODELS:
        raise IRAEError(f"config.json describes the system {system!r}, which is none of {', '.join(MODELS)}.")
    return {"system": system, **values}


def load_weights(model: Restorer, files: Mapping[str, bytes]) -> None:
    """Load a checkpoint's weights into `model`. ValueError, naming what differs, when it is of another architecture."""
    ours = {"system": model.system, **(model.config.to_json() if model.config else {})}
    theirs = config_from_bytes(files[CONFIG])
    names = [name for name in {**ours, **theirs} if name != "start" and ours.get(name) != theirs.get(name)]
    if "system" in names:
        names = ["system"]
    if names:
        differing = ", ".join(f"{name} is {theirs.get(name)} there and {ours.get(name)} here" for name in names)
        raise IRAEError(f"the checkpoint is of another architecture: {differing}.")
    result = model.load_state_dict(bytes_to_tensors(files[WEIGHTS]), strict=False)
    if result.missing_keys or result.unexpected_keys:
        raise IRAEError(
            f"{WEIGHTS} does not belong to its {CONFIG}: {len(result.missing_keys)} tensors are missing, "
            f"{len(result.unexpected_keys)} are unknown; take both files from one checkpoint."
        )


def optimizer_to_bytes(optimizer: torch.optim.Optimizer, names: list[str]) -> bytes:
    """State of an optimizer with one parameter group, its parameters called `names` in order."""
    state = optimizer.state_dict()["state"]
    tensors = {
        f"{names[i]}/{key}": torch.as_tensor(value) for i, entry in state.items() for key, value in entry.items()
    }
    return tensors_to_bytes(tensors)


def load_optimizer(optimizer: torch.optim.Optimizer, names: list[str], data: bytes) -> None:
    """The inverse of `optimizer_to_bytes`; the learning rate stays the optimizer's own."""
    (group,) = optimizer.param_groups
    state: dict[int, dict[str, Tensor]] = {}
    for path, tensor in bytes_to_tensors(data).items():
        name, key = path.rsplit("/", 1)
        index = names.index(name)
        parameter = group["params"][index]
        if tensor.shape == parameter.shape:
            # Fused optimizers walk through memory as it lies: moments need the parameter's own layout.
            tensor = torch.empty_like(parameter).copy_(tensor)
        state.setdefault(index, {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def tensors_to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """safetensors bytes; the tensors are copied to the CPU."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def bytes_to_tensors(data: bytes) -> dict[str, Tensor]:
    """Read safetensors bytes. ValueError when they are damaged."""
    try:
        return load(data)
    except SafetensorError as error:
        raise IRAEError(f"a weights file is damaged ({error}); take an earlier checkpoint.") from None
