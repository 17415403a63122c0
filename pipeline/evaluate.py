"""python -m pipeline.evaluate: how well a trained run restores a data set, image by image."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pipeline.cli import ProgressLine, run_command
from pipeline.config import EvaluateConfig, Sigma

if TYPE_CHECKING:
    import numpy as np

    from infra.storage import Storage
    from pipeline.trained import Trained
    from sharding import Dataset

MEASURES = ("psnr_db_noisy", "psnr_db_restored", "ssim_noisy", "ssim_restored", "round_trip_max_error")


@dataclass(frozen=True)
class Triple:
    """One image: pixels as they would be shown, uint8 (H, W, 3)."""

    key: str
    clean: np.ndarray
    noisy: np.ndarray
    restored: np.ndarray


def main(config: EvaluateConfig) -> None:
    """Measure every image of the split, print the means, keep the figures and some examples."""
    from infra.storage import open_storage
    from pipeline.places import find_data, open_checked
    from pipeline.trained import load_trained
    from sharding.manifest import Dataset

    trained = load_trained(config.run, config.checkpoint)
    dataset = Dataset.open(open_checked(find_data(config.data or trained.config.data)))
    sigma = trained.config.sigma_255 if config.sigma_255 is None else config.sigma_255
    noise = "blind" if sigma == "blind" else f"{sigma:g}"
    out = open_storage(config.out) if config.out else trained.run.store.at("evaluations")
    out = out.at(f"{dataset.name}-{config.split}-noise{noise}")
    count = len(dataset.split(config.split))
    print(f"evaluating {trained.url} at {int(trained.checkpoint):,} images on {count:,} images of {dataset.store.url}")
    if config.dry_run:
        print(f"results would go to {out.url}")
        return
    rows: list[dict[str, Any]] = []
    with ProgressLine("evaluating", count, "images") as line:
        for measured, triples in evaluate_batches(trained, dataset, sigma, config):
            for triple in triples[: max(0, config.examples - len(rows))]:
                save_example(out, triple)
            rows.extend(measured)
            line.update(len(rows))
    metrics = {**means(rows), **protocol(trained, dataset, sigma, config)}
    out.put("per_image.parquet", table_bytes(rows))
    out.put("metrics.json", json.dumps(metrics, indent=1).encode())
    print_table(metrics)
    print(f"figures and examples are in {out.url}")


def evaluate_batches(
    trained: Trained, dataset: Dataset, sigma: Sigma, config: EvaluateConfig
) -> Iterator[tuple[list[dict[str, Any]], list[Triple]]]:
    """For each batch of the split: a row of measures for each image, and the pictures themselves."""
    import numpy as np
    import torch

    from irae.metrics import psnr_db, ssim
    from pipeline.config import cache_folder
    from pipeline.pairs import make_pairs
    from sharding import ShardReader

    reader = ShardReader(dataset, config.split, cache_folder())
    indices = np.arange(len(reader))
    lists = [indices[i : i + config.batch] for i in range(0, len(indices), config.batch)]
    for batch in reader.batches(lists):
        with torch.inference_mode():
            clean, noisy = make_pairs(
                batch.clean,
                batch.keys,
                [0] * len(batch.keys),
                bits=dataset.bits,
                sigma_255=sigma,
                seed=config.seed,
                device=trained.device,
            )
            restored = trained.model.restore(noisy)
            back = trained.model.inverse(trained.model(noisy))
            measures = {
                "psnr_db_noisy": psnr_db(noisy, clean),
                "psnr_db_restored": psnr_db(restored, clean),
                "ssim_noisy": ssim(noisy, clean),
                "ssim_restored": ssim(restored, clean),
                "round_trip_max_error": (back - noisy).abs().amax(dim=(1, 2, 3)),
            }
        columns = {name: values.tolist() for name, values in measures.items()}
        rows = [{"key": key, **{n: v[i] for n, v in columns.items()}} for i, key in enumerate(batch.keys)]
        shown = zip(batch.keys, *(to_pixels(images) for images in (clean, noisy, restored)), strict=True)
        yield rows, [Triple(*parts) for parts in shown]


def to_pixels(images: Any) -> np.ndarray:
    """(B, C, H, W) in [0, 1] to uint8 (B, H, W, C), rounded and clipped."""
    import torch

    return (images.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()


def means(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Mean of each measure over the images; of the round-trip error the largest."""
    result = {name: sum(row[name] for row in rows) / len(rows) for name in MEASURES}
    result["round_trip_max_error"] = max(row["round_trip_max_error"] for row in rows)
    return result


def protocol(trained: Trained, dataset: Dataset, sigma: Sigma, config: EvaluateConfig) -> dict[str, Any]:
    """What the figures belong to."""
    return {
        "images": dataset.split_sizes[config.split],
        "data": dataset.store.url,
        "dataset_sha256": dataset.sha256,
        "split": config.split,
        "image_size": dataset.image_size,
        "bits": dataset.bits,
        "sigma_255": sigma,
        "noise_seed": config.seed,
        "psnr": "per image, on [0, 1] after clamping the restored one, mean over images",
        "ssim": "Wang 2004: 11x11 Gaussian, sigma 1.5, data range 1",
        "precision": "float32",
        "run": trained.url,
        "trained_images": int(trained.checkpoint),
    }


def table_bytes(rows: list[dict[str, Any]]) -> bytes:
    """The rows as Parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def save_example(out: Storage, triple: Triple) -> None:
    """The three pictures as PNG files."""
    from PIL import Image

    for name in ("clean", "noisy", "restored"):
        sink = io.BytesIO()
        Image.fromarray(getattr(triple, name)).save(sink, "PNG")
        out.put(f"examples/{triple.key.replace('/', '_')}-{name}.png", sink.getvalue())


def print_table(metrics: dict[str, Any]) -> None:
    """Means of the degraded and the restored images."""
    from rich.console import Console
    from rich.table import Table

    bits = f"{metrics['bits']} bits"
    title = f"{metrics['images']:,} images, {metrics['split']} split, sigma {metrics['sigma_255']}, {bits}"
    table = Table(title=title, min_width=len(title))
    for column in ("", "PSNR (dB)", "SSIM"):
        table.add_column(column, justify="left" if not column else "right")
    for name in ("noisy", "restored"):
        table.add_row(name, f"{metrics[f'psnr_db_{name}']:.2f}", f"{metrics[f'ssim_{name}']:.4f}")
    Console(width=100).print(table)
    print(f"exact inverse: the noisy image comes back with an error of at most {metrics['round_trip_max_error']:.1e}")


if __name__ == "__main__":
    run_command(EvaluateConfig, main)
