"""python -m benchmarks.reading: samples per second of this reader, stock webdataset and litdata on the same pairs.

5,000 pairs of 64x64 px, clean and noisy, shuffled, in batches of 100, in one process. This reader and litdata store raw
pixels, webdataset stores PNG, as its users do. Epoch 1 reads from an S3 server on this machine, epoch 2 from the cache
(webdataset: from local files). Each figure is the median of three alternating rounds. litdata needs other versions of
its libraries: it is measured if LITDATA_PYTHON is the Python of an environment that has it.
"""

from __future__ import annotations

import io
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from infra.local_s3.server import LocalS3
from infra.storage import filesystem, open_storage
from sharding import Dataset, Loader, ShardReader
from sharding.dataset import publish
from sharding.sources.synthetic import Synthetic
from sharding.tar import npy_bytes
from sharding.write.degrade import KINDS, Degradation, Field, keyed_bits
from sharding.write.pack import SampleSpec, build_shard, put_shard
from sharding.write.plan import default_images_per_shard, make_plan

PAIRS, SIZE, BATCH, ROUNDS = 5000, 64, 100, 3
PNG_PAIRS_PER_SHARD = 1250
TRAIN_MINUTES = 0.5

LITDATA = """
import json, shutil, sys, time
import numpy as np
from litdata import StreamingDataset, optimize
def pair(i):
    return {"clean": clean[i], "noisy": noisy[i]}
clean, noisy = np.load(sys.argv[1] + "/clean.npy"), np.load(sys.argv[1] + "/noisy.npy")
if __name__ == "__main__":
    out = sys.argv[1] + "/litdata"
    optimize(fn=pair, inputs=list(range(len(clean))), output_dir=out, chunk_bytes="32MB", num_workers=1)
    rates = []
    for _ in range(4):
        begin, count, batch = time.perf_counter(), 0, []
        for sample in StreamingDataset(out, shuffle=True):
            batch.append(sample)
            if len(batch) == 100:
                arrays = [np.stack([s[name] for s in batch]) for name in ("clean", "noisy")]
                count += len(arrays[0])
                batch = []
        assert count == len(clean), count
        rates.append(count / (time.perf_counter() - begin))
    print(json.dumps(rates[1:]))
"""


def noisy(clean: np.ndarray, key: str, seed: int, parameters: Sequence[str]) -> Field:
    """A raw degraded field: noise of sigma 25, rounded to integers."""
    noise = np.random.Generator(keyed_bits(key)).normal(0, 25, clean.shape)
    return Field("noisy", "npy", npy_bytes(np.clip(clean + noise, 0, 255).round().astype(np.uint8)))


def make_data(url: str) -> Dataset:
    """A data set of this project: 5,000 pairs for training, 120 for validation."""
    KINDS["noisy"] = noisy
    source, store = Synthetic(count_train=PAIRS, count_val=120, count_test=0, size=SIZE), open_storage(url)
    spec = SampleSpec((Degradation("noisy", "npy", "noisy", ()),))
    plan = make_plan(source.images(), {}, 0, default_images_per_shard(SIZE, {"clean": "npy", "noisy": "png"}))
    records = [put_shard(*build_shard(source, shard, spec), store) for shard in plan.shards]
    publish(store, records, {"name": "synthetic", "bits": 8, "image_size": SIZE}, spec.fields)
    return Dataset.open(store)


def make_png_shards(dataset: Dataset, folder: Path) -> list[Path]:
    """The same pairs as PNG for webdataset, and as arrays for litdata."""
    reader = ShardReader(dataset, "train", folder / "cache-png", fields=("clean", "noisy"))
    batch = reader.read(np.arange(len(reader)))
    for name, values in batch.fields.items():
        np.save(folder / f"{name}.npy", values)
    paths: list[Path] = []
    for start in range(0, len(reader), PNG_PAIRS_PER_SHARD):
        paths.append(folder / f"png-{len(paths):05d}.tar")
        with tarfile.open(paths[-1], "w") as tar:
            for i in range(start, min(start + PNG_PAIRS_PER_SHARD, len(reader))):
                for name in ("clean", "noisy"):
                    sink = io.BytesIO()
                    Image.fromarray(batch.fields[name][i]).save(sink, "PNG")
                    member = tarfile.TarInfo(f"{batch.keys[i]}.{name}.png")
                    member.size = sink.tell()
                    tar.addfile(member, io.BytesIO(sink.getvalue()))
    return paths


def rate(batches: Iterable[Any], count_of: Callable[[Any], int]) -> float:
    """Pairs per second of one epoch, from its first request."""
    begin, count = time.perf_counter(), 0
    for batch in batches:
        count += count_of(batch)
    assert count == PAIRS, count
    return count / (time.perf_counter() - begin)


def our_epochs(dataset: Dataset, cache: Path) -> tuple[float, float]:
    """Epoch 1 with an empty cache, and epoch 2."""
    loader = Loader(ShardReader(dataset, "train", cache, fields=("clean", "noisy")), global_batch_size=BATCH)
    rates = [rate(loader, lambda batch: len(batch.fields["noisy"])) for _ in range(2)]
    loader.close()
    return rates[0], rates[1]


def webdataset_epoch(urls: list[str]) -> float:
    """Stock webdataset: shards and samples shuffled, PNG decoded, arrays stacked."""
    import webdataset as wds

    pipeline = wds.WebDataset(urls, shardshuffle=len(urls)).shuffle(1000).decode("rgb8")
    return rate(pipeline.to_tuple("clean.png", "noisy.png").batched(BATCH), lambda batch: len(batch[1]))


def read_s3_with_webdataset() -> None:
    """Give webdataset an opener for s3:// URLs; it has none of its own."""
    from webdataset.gopen import gopen_schemes

    gopen_schemes["s3"] = lambda url, *_: filesystem(url)[0].open(url)


def litdata_rates(folder: Path) -> list[float] | str:
    """litdata's pairs per second from local chunks of raw pixels, or why they were not measured."""
    python = os.environ.get("LITDATA_PYTHON")
    if not python:
        return "not measured: LITDATA_PYTHON is not set to a Python that has litdata"
    program = folder / "measure_litdata.py"
    program.write_text(LITDATA)
    result = subprocess.run([python, str(program), str(folder)], capture_output=True, text=True, timeout=600)
    if result.returncode:
        return f"failed: {result.stderr.strip().splitlines()[-1]}"
    return json.loads(result.stdout.strip().splitlines()[-1])


def wait_share(url: str, folder: Path) -> float:
    """Share of a real training's time, its start included, that it waited for data."""
    command = [sys.executable, "-m", "pipeline.train", "--no-ray", "--preset", "laptop", "--data", url]
    command += ["--out", str(folder / "run"), "--max-minutes", str(TRAIN_MINUTES)]
    environment = os.environ | {"IRAE_CACHE": str(folder / "cache-train")}
    subprocess.run(command, check=True, stdout=sys.stderr, env=environment)
    rows = pq.read_table(folder / "run" / "metrics.parquet").to_pylist()
    ends = [row["train_s"] for row in rows]
    spans = [end - begin for begin, end in zip([0.0, *ends], ends, strict=False)]
    return sum(row["data_wait_share"] * s for row, s in zip(rows, spans, strict=True)) / sum(spans)


@contextmanager
def local_s3(folder: Path) -> Iterator[str]:
    """An S3 server and its environment variables; yields a URL on it."""
    server = LocalS3(folder)
    server.start()
    try:
        os.environ.update(server.env())
        yield "s3://irae/reading"
    finally:
        server.kill()


def measure(folder: Path, url: str) -> dict[str, Any]:
    """All figures."""
    print("making the data ...", file=sys.stderr)
    dataset = make_data(url)
    pngs = make_png_shards(dataset, folder)
    store = open_storage(f"{url}-png")
    for path in pngs:
        store.put(path.name, path.read_bytes())
    read_s3_with_webdataset()
    remote, local = [f"{url}-png/{path.name}" for path in pngs], [str(path) for path in pngs]
    print("reading ...", file=sys.stderr)
    rounds = []
    for number in range(ROUNDS):
        ours = our_epochs(dataset, folder / f"cache{number}")
        rounds.append((*ours, webdataset_epoch(remote), webdataset_epoch(local)))
    ours_1, ours_2, webdataset_1, webdataset_2 = (statistics.median(column) for column in zip(*rounds, strict=True))
    rates: dict[str, dict[str, int]] = {
        "epoch1": {"this": round(ours_1), "webdataset": round(webdataset_1)},
        "epoch2": {"this": round(ours_2), "webdataset": round(webdataset_2)},
    }
    result: dict[str, Any] = {
        "samples_per_sec": rates,
        "ratio_webdataset": round(ours_2 / webdataset_2, 2),
        "ratio_webdataset_epoch1": round(ours_1 / webdataset_1, 2),
    }
    from_litdata = litdata_rates(folder)
    if isinstance(from_litdata, str):
        result["litdata"] = from_litdata
    else:
        rates["epoch2"]["litdata"] = round(statistics.median(from_litdata))
        result["ratio_litdata"] = round(ours_2 / statistics.median(from_litdata), 2)
    result["wait_share"] = round(wait_share(url, folder), 5)
    result["protocol"] = f"{PAIRS} pairs of {SIZE}x{SIZE}, clean and noisy, batches of {BATCH}, median of {ROUNDS}"
    return result


def main() -> None:
    with tempfile.TemporaryDirectory() as name, local_s3(Path(name) / "s3") as url:
        print(json.dumps(measure(Path(name), url), indent=1))


if __name__ == "__main__":
    main()
