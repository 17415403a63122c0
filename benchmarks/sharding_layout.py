"""python -m benchmarks.sharding_layout: raw uint8 members against PNG members; prints one JSON object last.

The same images in two sets of plain tars, clean field only. Bytes, and samples per second in one process: by stock
webdataset, which decodes both, and mapped at the manifest's offset, which only raw members allow. The tars are on the
local disk and were read before; each figure is the best of several alternating rounds.
"""

from __future__ import annotations

import argparse
import io
import json
import tempfile
from pathlib import Path

import numpy as np
import webdataset
from PIL import Image

from benchmarks.sharding import seconds
from infra.storage import open_storage
from sharding import Dataset, ShardReader
from sharding.dataset import publish
from sharding.sources import Source, open_source
from sharding.tar import Tar
from sharding.write.degrade import Field
from sharding.write.pack import SampleSpec, add_sample, build_shard, put_shard
from sharding.write.plan import default_images_per_shard, make_plan


def main() -> None:
    """Write both, read both, print."""
    options = _parser().parse_args()
    if options.root:
        source = open_source(options.source, options.root)
    else:
        source = open_source("synthetic", count_train=options.images, count_val=0, count_test=0)
    with tempfile.TemporaryDirectory(dir=options.tmp) as folder:
        raw, png = Path(folder) / "raw", Path(folder) / "png"
        images = write_both(source, options.images, raw, png)
        figures = {
            "images": images,
            "raw_bytes_per_image": _bytes(raw) / images,
            "png_bytes_per_image": _bytes(png) / images,
            **speeds(raw, png, images, options.rounds),
        }
    print(json.dumps({**figures, "source": source.settings()}, indent=1))


def write_both(source: Source, count: int, raw: Path, png: Path) -> int:
    """Write the first images of the train split as a data set and as tars of PNG; returns their number."""
    images = [image for image in source.images() if image.split == "train"][:count]
    plan = make_plan(images, {}, 0, default_images_per_shard(source.size, {"clean": "npy"}))
    store, records = open_storage(raw), []
    png.mkdir(parents=True)
    for shard in plan.shards:
        tar, record = build_shard(source, shard, SampleSpec())
        records.append(put_shard(tar, record, store))
        pngs = Tar()
        for image in shard.images:
            encoded = io.BytesIO()
            Image.fromarray(source.pixels(image, source.read(image))).save(encoded, "PNG")
            add_sample(pngs, shard, image, "", [Field("clean", "png", encoded.getvalue())])
        (png / shard.name).write_bytes(pngs.finish())
    publish(store, records, {"name": "layout", "image_size": source.size, "bits": 8}, {"clean": "npy"})
    return len(images)


def speeds(raw: Path, png: Path, images: int, rounds: int) -> dict[str, float]:
    """Samples per second of each way of reading."""
    reader = ShardReader(Dataset.open(open_storage(raw)), "train", raw / "cache")
    order = np.random.default_rng(0).permutation(images)
    reader.read(order[:64])  # verifies the first shards

    def mapped() -> None:
        for start in range(0, images, 64):
            reader.read(order[start : start + 64])

    ways = {
        "webdataset_png": lambda: _read_stock(png, images),
        "webdataset_raw": lambda: _read_stock(raw, images),
        "mapped_raw_random": mapped,
    }
    mapped()
    best_s = {name: min(seconds(way)[0] for _ in range(rounds)) for name, way in ways.items()}
    return {f"{name}_samples_per_sec": images / took_s for name, took_s in best_s.items()}


def _read_stock(folder: Path, images: int) -> None:
    urls = sorted(str(path) for path in folder.glob("*.tar"))
    samples = webdataset.WebDataset(urls, shardshuffle=False).decode("rgb8")
    assert sum(sample[next(k for k in sample if k.startswith("clean."))].shape[2] == 3 for sample in samples) == images


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.tar"))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sharding_layout", description=__doc__)
    parser.add_argument("--root", type=Path, help="photographs (default: synthetic images)")
    parser.add_argument("--source", default="celeba", help="their layout (default: %(default)s)")
    parser.add_argument("--images", type=int, default=5000, help="how many (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="measurements (default: %(default)s)")
    parser.add_argument("--tmp", help="folder for temporary files")
    return parser


if __name__ == "__main__":
    main()
