"""python -m benchmarks.train_step --reference PATH: a training step here against the released code's, and the roofline.

Both train K=16, L=2, width 64 on one batch of 64x64 images, with alternating steps in one process. `roofline` is the
time of the couplings' convolutions alone, forward and backward, in the same precision and memory layout, over the time
of our whole step.

PATH is a folder with the code released with the paper (arXiv 2009.03173): git clone
https://github.com/Lillian1082/IRAE_pytorch. Only PATH/Model/glow.py is imported, and of that the class Glow; it needs
torch alone. Without --reference there is no ratio; everything else is measured.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from irae.config import IRAEConfig
from irae.layers import AffineCoupling
from irae.metrics import psnr_db
from irae.model import IRAE, on_device
from irae.noise import awgn, sample_seeds
from irae.schedules import cosine
from pipeline.data.pairs import Pairs
from pipeline.train.distributed import FlatGradientBucket, ProcessGroup
from pipeline.train.step import autocast, resolve_precision, train_step
from sharding.sources.synthetic import Synthetic

K, L, WIDTH, SIDE, SIGMA_255, LR, CLIP_NORM = 16, 2, 64, 64, 25.0, 1e-3, 50.0
QUALITY_BATCH = 16


def photographs(count: int, first: int = 0) -> Tensor:
    """Generated images, (B, 3, 64, 64) in [0, 1], channels last."""
    source = Synthetic(count_train=first + count, count_val=0, count_test=0, size=SIDE)
    images = source.images()[first : first + count]
    pixels = torch.stack([torch.from_numpy(source.pixels(image, source.read(image))) for image in images])
    return pixels.permute(0, 3, 1, 2).float() / 255


def noisy_of(clean: Tensor, epoch: int) -> Tensor:
    seeds = sample_seeds(0, [epoch] * len(clean), [str(i) for i in range(len(clean))], "noise").to(clean.device)
    return awgn(clean, torch.full((len(clean),), SIGMA_255, device=clean.device), seeds)


class Ours:
    """This project's step."""

    def __init__(self, clean: Tensor, precision: str, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.device, self.precision, self.clean = clean.device, resolve_precision(precision, clean.device), clean
        self.model = on_device(IRAE(IRAEConfig(K=K, L=L, width=WIDTH)), clean.device)
        self.model.initialise(noisy_of(clean, 0))
        self.gradients = FlatGradientBucket(self.model)
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=LR, fused=True)

    def step(self, noisy: Tensor, clean: Tensor | None = None) -> None:
        clean = self.clean if clean is None else clean
        count = len(clean)
        train_step(
            self.model,
            self.optimizer,
            self.gradients,
            Pairs(clean, noisy),
            ProcessGroup(0, 1, self.device),
            global_batch_size=count,
            micro_batch_size=count,
            clip_norm=CLIP_NORM,
            autocast=autocast(self.precision, self.device),
        )


class Released:
    """The released model, trained as by its script: float32, Adam, L1, clipped gradients."""

    def __init__(self, clean: Tensor, reference: Path) -> None:
        file = reference / "Model" / "glow.py"
        if not file.is_file():
            sys.exit(f"error: {file} does not exist; pass a checkout of the released code to --reference (see --help).")
        spec = importlib.util.spec_from_file_location("released_glow", file)
        assert spec and spec.loader
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        torch.manual_seed(0)
        flows = [module.Glow(WIDTH, K, L, (3, SIDE, SIDE), False) for _ in range(2)]
        self.encoder, self.decoder = (flow.to(clean.device) for flow in flows)
        self.parameters = [p for flow in flows for p in flow.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=LR)
        self.clean = clean.contiguous()

    def step(self, noisy: Tensor) -> None:
        self.optimizer.zero_grad()
        restored = self.decoder.inverse(zs=self.encoder(noisy.contiguous()), batch_size=len(noisy), z_std=1.0)
        F.l1_loss(restored, self.clean).backward()
        nn.utils.clip_grad_norm_(self.parameters, CLIP_NORM)
        self.optimizer.step()


class ConvolutionsAlone:
    """The couplings' three convolutions of all steps, forward and backward."""

    def __init__(self, ours: Ours) -> None:
        dtype = torch.bfloat16 if ours.precision == "bfloat16" else torch.float32
        self.cases = []
        for name, layer in ours.model.named_modules():
            if not isinstance(layer, AffineCoupling):
                continue
            side = ours.clean.shape[-1] // (2 ** (1 + level_of(name, L)))
            for conv in (layer.conv_in, layer.conv_mid, layer.conv_out):
                shape = (len(ours.clean), side, side, conv.in_channels)
                x = torch.randn(shape, device=ours.device, dtype=dtype).permute(0, 3, 1, 2).requires_grad_()
                weight = conv.weight.detach().to(dtype, memory_format=torch.channels_last).requires_grad_()
                self.cases.append((x, weight, conv.padding))

    def step(self, noisy: Tensor) -> None:
        for x, weight, padding in self.cases:
            y = F.conv2d(x, weight, padding=padding)
            torch.autograd.grad(y, (x, weight), y.detach())


def level_of(name: str, levels: int) -> int:
    """Level of a layer, 0 next to the image: the encoder's order, the reverse of the direct decoder's."""
    part, _, index = name.split(".")[:3]
    return int(index) if part == "encoder" else levels - 1 - int(index)


def seconds_per_step(step: Callable[[Tensor], Any], noisy: Tensor) -> float:
    if noisy.device.type == "cuda":
        torch.cuda.synchronize()
    started = time.perf_counter()
    step(noisy)
    if noisy.device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - started


def psnr_after(precision: str, steps: int, device: torch.device, seed: int) -> float:
    """Validation PSNR after `steps` on generated images, with a learning rate that falls to 0 along a cosine: at a
    constant rate, PSNR differs more between steps than between precisions."""
    count = steps * QUALITY_BATCH
    train, val = photographs(count).to(device), photographs(64, first=count).to(device)
    ours = Ours(train[:QUALITY_BATCH], precision, seed)
    for i in range(steps):
        clean = train[i * QUALITY_BATCH : (i + 1) * QUALITY_BATCH]
        ours.optimizer.param_groups[0]["lr"] = LR * cosine(0.0)(i / steps)
        ours.step(noisy_of(clean, seed * steps + i), clean)
    with torch.inference_mode():
        return psnr_db(ours.model.restore(noisy_of(val, 0)), val).mean().item()


def quality(precision: str, steps: int, seeds: int, device: torch.device) -> dict[str, Any]:
    """Mean PSNR over the seeds in float32 and in the default precision, and their difference."""
    psnr_db = {p: [psnr_after(p, steps, device, seed) for seed in range(seeds)] for p in ("float32", precision)}
    means = {f"psnr_db_{name}": statistics.mean(values) for name, values in psnr_db.items()}
    lost_db = means["psnr_db_float32"] - means[f"psnr_db_{precision}"]
    return {**means, "psnr_db_lost": lost_db, "quality_steps": steps, "quality_seeds": seeds}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--reference", type=Path, metavar="PATH", help="checkout of the released code: PATH/Model/glow.py"
    )
    parser.add_argument("--batch", type=int, default=32, help="images per step")
    parser.add_argument("--repeats", type=int, default=7, help="timed steps, after 2 untimed ones")
    parser.add_argument("--quality-steps", type=int, default=200, help="steps for the comparison with float32; 0: none")
    parser.add_argument("--quality-seeds", type=int, default=3, help="trainings in each precision")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clean = photographs(options.batch).to(device)
    ours = Ours(clean, "auto")
    contenders: dict[str, Any] = {
        "ours": ours,
        "float32": Ours(clean, "float32"),
        "convolutions": ConvolutionsAlone(ours),
    }
    if options.reference:
        contenders["released"] = Released(clean, options.reference)
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(options.repeats + 2):
        noisy = noisy_of(clean, repeat)
        for name, contender in contenders.items():
            seconds[name].append(seconds_per_step(contender.step, noisy))
    median = {name: statistics.median(times[2:]) for name, times in seconds.items()}
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"cpu, {torch.get_num_threads()} threads",
        "batch": options.batch,
        "precision": ours.precision,
        "images_per_sec": {name: options.batch / s for name, s in median.items()},
        "roofline": median["convolutions"] / median["ours"],
        "ratio_float32": median["float32"] / median["ours"],
    }
    if options.reference:
        result["ratio_images_per_sec"] = median["released"] / median["ours"]
    if options.quality_steps:
        result |= quality(ours.precision, options.quality_steps, options.quality_seeds, device)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
