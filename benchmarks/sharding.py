"""python -m benchmarks.sharding: the rate of sharding over that of its codecs alone; prints one JSON object last.

codec_images_per_sec is a bare loop in one process of the same decode, crop, resize and encode calls on files in memory.
images_per_sec is all of sharding in one process: files read, hashed, packed, written to a local folder. Both alternate,
and the best of each is printed, since other work on the machine can only slow them down.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from infra.cluster import ray_session
from infra.storage import open_storage
from infra.storage.lease import hold_lease
from pipeline.shard.config import ShardConfig
from pipeline.shard.make import plan_for
from pipeline.shard.tasks import Job, make_shards, spread
from pipeline.train.budget import peak_memory_mb
from sharding.sources import Source, SourceImage, open_source
from sharding.write.degrade import parse_degradations
from sharding.write.pack import SampleSpec

DISTINCT = 200
"""Number of different photographs; further files are copies of them."""
WIDTH_PX, HEIGHT_PX = 178, 218


def main() -> None:
    """Measure and print."""
    options = _parser().parse_args()
    with tempfile.TemporaryDirectory(dir=options.tmp) as folder:
        root = options.root or write_photographs(Path(folder) / "photographs", options.images)
        source = open_source(options.source if options.root else "celeba", root, options.size)
        spec = SampleSpec(tuple(parse_degradations(options.degrade)))
        images = source.images()[: options.images]
        figures = measure(source, spec, images, f"{folder}/out", options.rounds)
    print(json.dumps({**figures, "degrade": options.degrade, "source": source.settings()}, indent=1))


def measure(source: Source, spec: SampleSpec, images: Sequence[SourceImage], out: str, rounds: int) -> dict[str, Any]:
    """All figures, from one run."""
    memory_before_mb = peak_memory_mb()
    pack(source, spec, images, out, None)
    figures: dict[str, Any] = {"images": len(images), "peak_memory_mb": peak_memory_mb()}
    files = [source.read(image) for image in images]
    codec, whole = [], []
    for _ in range(rounds):
        codec.append(seconds(lambda: encode(source, spec, images, files)))
        whole.append(seconds(lambda: pack(source, spec, images, out, None)))
    codec_s, codec_cpu_s = map(min, zip(*codec, strict=True))
    whole_s, whole_cpu_s = map(min, zip(*whole, strict=True))
    figures |= {
        "memory_before_mb": memory_before_mb,
        "images_per_sec": len(images) / whole_s,
        "codec_images_per_sec": len(images) / codec_s,
        "ratio": codec_s / whole_s,
        "ratio_cpu_time": codec_cpu_s / whole_cpu_s,
    }
    with ray_session(1):
        figures |= measure_two_workers(source, spec, images, out, rounds)
    return figures | {"processors": os.cpu_count(), "load_average": os.getloadavg()[0]}


def measure_two_workers(
    source: Source, spec: SampleSpec, images: Sequence[SourceImage], out: str, rounds: int
) -> dict[str, float]:
    """Speedup of two Ray workers, and of two processes on the codec calls alone: the machine's own limit."""
    import ray

    codec = ray.remote(_encode_read)
    half = len(images) // 2

    def codec_s(parts: list[Sequence[SourceImage]]) -> float:
        return seconds(lambda: ray.get([codec.remote(source, spec, part) for part in parts]))[0]

    def pack_s(workers: int) -> float:
        return seconds(lambda: pack(source, spec, images, out, workers))[0]

    pack_s(2)  # starts the workers
    took_s = [(pack_s(1), pack_s(2), codec_s([images]), codec_s([images[:half], images[half:]])) for _ in range(rounds)]
    one, two, one_codec, two_codecs = map(min, zip(*took_s, strict=True))
    return {"speedup_2_workers": one / two, "speedup_2_codec_loops": one_codec / two_codecs}


def encode(source: Source, spec: SampleSpec, images: Sequence[SourceImage], files: Sequence[bytes]) -> None:
    """Decode, crop, resize, encode; keep nothing."""
    for image, data in zip(images, files, strict=False):
        clean = source.pixels(image, data)
        for degradation in spec.degradations:
            degradation.apply(clean, image.key, spec.seed)


def _encode_read(source: Source, spec: SampleSpec, images: Sequence[SourceImage]) -> None:
    encode(source, spec, images, [source.read(image) for image in images])


def pack(source: Source, spec: SampleSpec, images: Sequence[SourceImage], out: str, workers: int | None) -> None:
    """Make all shards of these images at `out`: of the default size in this process, or twenty on Ray."""
    config = ShardConfig(images_per_shard=-(-len(images) // 20) if workers else None)
    plan = plan_for(_Chosen(source, images), spec, config)  # type: ignore[arg-type]
    store = open_storage(out)
    with hold_lease(store) as lease:
        job = Job(source, spec, store, lease, {})
        made: Iterator[Any] = spread(job, plan.shards, workers) if workers else make_shards(job, plan.shards, None)
        assert sum(shard.images for shard in made) == len(images)


class _Chosen:
    """A source restricted to some of its images."""

    def __init__(self, source: Source, images: Sequence[SourceImage]) -> None:
        self.name, self.size, self.settings = source.name, source.size, source.settings
        self.images = lambda: list(images)


def seconds(action: Callable[[], Any]) -> tuple[float, float]:
    """Wall-clock time and processor time (of this process and its threads), s."""
    begin, cpu_begin = time.perf_counter(), time.process_time()
    action()
    return time.perf_counter() - begin, time.process_time() - cpu_begin


def write_photographs(root: Path, count: int) -> Path:
    """Synthetic photographs as JPEG files of CelebA's size and layout."""
    faces = root / "img_align_celeba"
    faces.mkdir(parents=True)
    drawn = open_source("synthetic", size=HEIGHT_PX, count_train=min(DISTINCT, count), count_val=0, count_test=0)
    originals = drawn.images()
    for number in range(count):
        path = faces / f"{number + 1:06d}.jpg"
        if number < len(originals):
            pixels = drawn.pixels(originals[number], drawn.read(originals[number]))
            Image.fromarray(pixels[:, :WIDTH_PX]).save(path, quality=92)
        else:
            path.write_bytes((faces / f"{number % len(originals) + 1:06d}.jpg").read_bytes())
    lines = "".join(f"{number + 1:06d}.jpg 0\n" for number in range(count))
    (root / "list_eval_partition.txt").write_text(lines)
    return root


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.sharding", description=__doc__)
    parser.add_argument("--root", type=Path, help="photographs (default: synthetic ones, 178x218, are written)")
    parser.add_argument("--source", default="celeba", help="their layout (default: %(default)s)")
    parser.add_argument("--size", type=int, help="px (default: the source's)")
    parser.add_argument("--images", type=int, default=4800, help="how many (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=6, help="measurements, alternating (default: %(default)s)")
    parser.add_argument("--degrade", nargs="*", default=["jpeg:10,20,30,40", "mask:box"])
    parser.add_argument("--tmp", help="folder for temporary files")
    return parser


if __name__ == "__main__":
    main()
