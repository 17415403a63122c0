"""Integrity check of a data set, and its summary: counts, sizes, protocol, brightness, and a sheet of its images."""

from __future__ import annotations

import io
import logging
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table

from infra.storage import UserError
from pipeline.cli import ProgressLine
from pipeline.runs.find import find_data, open_checked
from pipeline.shard.config import InspectConfig, VerifyConfig
from sharding.dataset import Dataset
from sharding.tar import NPY_HEADER_BYTES
from sharding.verify import verify

logger = logging.getLogger(__name__)

HISTOGRAM_SHARDS = 8
"""Number of shards, spread over the data set, whose images' means are shown: 32 MiB each."""
BINS = 16
BAR_WIDTH = 40
TILE_PX = 128
GAP_PX, CAPTION_PX, LABEL_PX = 6, 22, 480


def verify_main(config: VerifyConfig) -> None:
    """Check a data set. Raises UserError with a line for each damaged shard."""
    store = open_checked(find_data(config.data))
    dataset = Dataset.open(store)
    images, size_bytes = dataset.table.num_rows, sum(shard["bytes"] for shard in dataset.shards)
    with ProgressLine("verifying", images, "images") as progress:
        report = verify(store, config.checksum, progress.update)
    for name in report.left_over:
        logger.info(f"{store.url}/{name} is left over: it belongs to no data set and may be deleted.")
    if report.problems:
        raise UserError("\n".join(report.problems))
    how = "every byte and every image" if config.checksum else "sizes and checksums"
    size = f"{len(dataset.shards)} shards, {images:,} images, {size_bytes / 1e6:,.1f} MB"
    logger.info(f"{store.url} is whole: {size} ({how} checked)")


def inspect(config: InspectConfig) -> None:
    """Print the summary and write the sheet. Raises UserError when there is no data set."""
    dataset = Dataset.open(open_checked(find_data(config.data)))
    console = Console(highlight=False)
    console.print(summary(dataset))
    means, shards = image_means(dataset)
    console.print(histogram(means, f"mean of each image, of {len(means):,} in {shards} shards"))
    config.out.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(dataset, config.images).save(config.out)
    console.print(f"{config.out}: the first {config.images} images, clean and degraded")


def summary(dataset: Dataset) -> Table:
    """Counts, sizes and everything that decided the pixels."""
    info = dataset.info
    table = Table(title=dataset.store.url, show_header=False, title_justify="left")

    def add(name: str, *values: Any) -> None:
        table.add_row(name, "\n".join(str(value) for value in values))

    add("images", *(f"{split}: {count:,}" for split, count in dataset.split_sizes.items()))
    add("unusable", info["quarantined"])
    add("pixels", f"{dataset.image_size} x {dataset.image_size}, {dataset.bits} bits")
    add("made from", *(f"{name}: {value}" for name, value in info["preprocessing"].items()))
    columns = ((name, dataset.table[f"{name}_bytes"].to_numpy()) for name in dataset.fields)
    add("fields", *(f"{name}.{dataset.fields[name]}: {sizes.mean():,.0f} bytes on average" for name, sizes in columns))
    stored_bytes = sum(shard["bytes"] for shard in dataset.shards)
    add("shards", f"{len(dataset.shards)}, {stored_bytes / 1e6:,.1f} MB, up to {info['images_per_shard']} images each")
    add("seed", info["shuffle_seed"])
    encoders = info["encoders"].items()
    add("encoders", *(f"{name}: " + ", ".join(f"{k} {v}" for k, v in values.items()) for name, values in encoders))
    add("manifest", f"SHA-256 {dataset.sha256}")
    return table


def image_means(dataset: Dataset) -> tuple[np.ndarray, int]:
    """Mean of each image of some shards, in [0, 1], and the number of these shards."""
    count = min(HISTOGRAM_SHARDS, len(dataset.shards))
    chosen = np.linspace(0, len(dataset.shards) - 1, count).astype(int)
    means = []
    for index in chosen:
        data = np.frombuffer(dataset.store.get(dataset.shards[index]["name"]), np.uint8)
        rows = dataset.table.filter(dataset.table["shard"].to_numpy() == index)
        for offset, size in zip(rows["clean_offset"].to_pylist(), rows["clean_bytes"].to_pylist(), strict=True):
            means.append(data[offset + NPY_HEADER_BYTES : offset + size].mean() / 255)
    return np.array(means), count


def histogram(means: np.ndarray, title: str) -> Table:
    """Distribution of the means as bars."""
    table = Table(title=title, show_header=False, box=None, title_justify="left")
    counts, edges = np.histogram(means, BINS, (0, 1))
    for count, low, high in zip(counts, edges, edges[1:], strict=False):
        bar = "█" * round(BAR_WIDTH * count / max(counts.max(), 1))
        table.add_row(f"{low:.2f} to {high:.2f}", bar, f"{count:,}")
    return table


def contact_sheet(dataset: Dataset, images: int) -> Image.Image:
    """A row for each of the first images of the data set, a column for each field."""
    fields, size = dataset.fields, dataset.image_size
    rows = dataset.table.slice(0, images).to_pylist()
    zoom = max(1, TILE_PX // size)
    tile = size * zoom
    width = max(LABEL_PX, GAP_PX + len(fields) * (tile + GAP_PX))
    sheet = Image.new("RGB", (width, CAPTION_PX + len(rows) * (tile + CAPTION_PX + GAP_PX)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(size=13)
    for column, name in enumerate(fields):
        left = GAP_PX + column * (tile + GAP_PX)
        draw.text((left + tile / 2, CAPTION_PX / 2), name, fill="black", font=font, anchor="mm")
    for number, row in enumerate(rows):
        top = CAPTION_PX + number * (tile + CAPTION_PX + GAP_PX)
        for column, pixels in enumerate(shown_fields(dataset, row)):
            shown = Image.fromarray(pixels).resize((tile, tile), Image.Resampling.NEAREST)
            sheet.paste(shown, (GAP_PX + column * (tile + GAP_PX), top))
        label = f"{row['split']}: {row['key']}" + ("" if row["label"] is None else f" (label {row['label']})")
        draw.text((GAP_PX, top + tile + CAPTION_PX / 2), label, fill="black", font=font, anchor="lm")
    return sheet


def shown_fields(dataset: Dataset, row: dict[str, Any]) -> list[np.ndarray]:
    """Each field of a sample as uint8 (H, W, 3); a mask as the clean image with white holes."""
    name = dataset.shards[row["shard"]]["name"]
    pixels = []
    for field, extension in dataset.fields.items():
        data = io.BytesIO(dataset.store.get(name, row[f"{field}_offset"], row[f"{field}_bytes"]))
        pixels.append(np.load(data) if extension == "npy" else np.asarray(Image.open(data).convert("RGB")))
    clean = pixels[0]
    return [np.where(p[..., None] == 1, np.uint8(255), clean) if p.ndim == 2 else p for p in pixels]
