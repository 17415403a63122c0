"""Weights and optimizer state as safetensors bytes: nothing is ever unpickled.

A model is two files, model.safetensors and config.json; the caller stores them.
"""

from __future__ import annotations

import dataclasses
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
FORMER_NAMES = {"start": "init", "system": "model", "architecture": "model"}
"""Keys of config.json in earlier versions -> those of today."""


def model_to_files(model: Restorer) -> dict[str, bytes]:
    """Contents of the model's two files, by file name."""
    config = json.dumps(_description(model), indent=2).encode()
    return {WEIGHTS: tensors_to_bytes(model.state_dict()), CONFIG: config}


def model_from_files(files: Mapping[str, bytes]) -> Restorer:
    """The inverse of `model_to_files`. IRAEError when the files do not describe such a model."""
    values = config_from_bytes(files[CONFIG])
    model = build(values.pop("model"), IRAEConfig(**values))
    load_weights(model, files)
    return model


def config_from_bytes(data: bytes) -> dict[str, Any]:
    """Contents of config.json: "model", its name, and IRAE's fields. IRAEError for another model or another field."""
    try:
        values = {FORMER_NAMES.get(name, name): value for name, value in json.loads(data).items()}
    except json.JSONDecodeError as error:
        raise IRAEError(f"{CONFIG} is damaged ({error}); take an earlier checkpoint.") from None
    if values.get("model") not in MODELS:
        raise IRAEError(f"{CONFIG} is of the model {values.get('model')!r}, which is none of {', '.join(MODELS)}.")
    if unknown := values.keys() - {"model", *(field.name for field in dataclasses.fields(IRAEConfig))}:
        raise IRAEError(f"{CONFIG} has fields that IRAE has not ({', '.join(sorted(unknown))}); take a newer version.")
    return values


def load_weights(model: Restorer, files: Mapping[str, bytes]) -> None:
    """Load a checkpoint's weights into `model`. IRAEError, naming the differences, when the architectures differ."""
    ours, theirs = _description(model), config_from_bytes(files[CONFIG])
    compared = {**ours, **theirs}.keys() - {"init"} if ours["model"] == theirs["model"] else {"model"}
    if names := sorted(name for name in compared if ours.get(name) != theirs.get(name)):
        differences = ", ".join(f"{name} is {theirs.get(name)} there and {ours.get(name)} here" for name in names)
        raise IRAEError(f"the checkpoint has another architecture: {differences}.")
    result = model.load_state_dict(bytes_to_tensors(files[WEIGHTS]), strict=False)
    if result.missing_keys or result.unexpected_keys:
        raise IRAEError(
            f"{WEIGHTS} does not belong to its {CONFIG}: {len(result.missing_keys)} tensors are missing, "
            f"{len(result.unexpected_keys)} are unknown; take both files from one checkpoint."
        )


def optimizer_to_bytes(optimizer: torch.optim.Optimizer, names: list[str]) -> bytes:
    """State of an optimizer with one parameter group, whose parameters have these names in order."""
    state = optimizer.state_dict()["state"]
    tensors = {
        f"{names[i]}/{key}": torch.as_tensor(value) for i, entry in state.items() for key, value in entry.items()
    }
    return tensors_to_bytes(tensors)


def load_optimizer(optimizer: torch.optim.Optimizer, names: list[str], data: bytes) -> None:
    """The inverse of `optimizer_to_bytes`; the optimizer keeps its own learning rate."""
    (group,) = optimizer.param_groups
    state: dict[int, dict[str, Tensor]] = {}
    for path, tensor in bytes_to_tensors(data).items():
        name, key = path.rsplit("/", 1)
        index = names.index(name)
        parameter = group["params"][index]
        if tensor.shape == parameter.shape:
            # Fused optimizers ignore strides: moments need the parameter's own memory layout.
            tensor = torch.empty_like(parameter).copy_(tensor)
        state.setdefault(index, {})[key] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def tensors_to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """safetensors bytes; the tensors are copied to the CPU."""
    return save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def bytes_to_tensors(data: bytes) -> dict[str, Tensor]:
    """Read safetensors bytes. IRAEError when they are damaged."""
    try:
        return load(data)
    except SafetensorError as error:
        raise IRAEError(f"a weights file is damaged ({error}); take an earlier checkpoint.") from None


def _description(model: Restorer) -> dict[str, Any]:
    return {"model": model.model_name, **(model.config.to_json() if model.config else {})}
