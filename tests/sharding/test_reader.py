"""The reader: batches equal the stored samples in order, with any cache content and any sharing of the cache."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.storage import Storage, UserError, open_storage
from sharding import Dataset, Loader, ShardReader
from sharding.read import cache as cache_module
from sharding.read.cache import Cache
from tests.support import ROOT
from tests.support.datasets import build, upload
from tests.support.sharding import partial_files

FIELDS = ("clean", "jpeg10", "mask_box")
SHARED_FOLDER = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PAGE = ROOT / "docs/how-to/reading.md"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return build(str(tmp_path_factory.mktemp("data")), degrade=("jpeg:10", "mask:box"))


@pytest.fixture
def remote(local: Dataset, s3_url: str) -> Dataset:
    """The same data set on S3."""
    return upload(Path(local.store.url), s3_url)


def from_tars(dataset: Dataset, split: str) -> dict[str, dict[str, np.ndarray]]:
    """key -> field -> array, by tarfile, numpy and Pillow alone."""
    from PIL import Image

    found: dict[str, dict[str, np.ndarray]] = {}
    for path in sorted(Path(dataset.store.url).glob(f"{split}-*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                key, field, extension = member.name.split(".")
                opened = tar.extractfile(member)
                assert opened
                content = io.BytesIO(opened.read())
                array = np.load(content) if extension == "npy" else np.asarray(Image.open(content))
                found.setdefault(key, {})[field] = array
    return found


def shard_bytes(dataset: Dataset) -> int:
    return max(shard["bytes"] for shard in dataset.shards)


# ---- content


def test_every_field_is_what_the_tar_holds(local: Dataset, remote: Dataset, tmp_path: Path) -> None:
    expected = from_tars(local, "train")
    for dataset in (local, remote):
        reader = ShardReader(dataset, "train", tmp_path / "cache", fields=FIELDS)
        batch = reader.read(np.random.default_rng(0).permutation(len(reader)))
        assert sorted(batch.keys) == sorted(expected) and len(reader) == 50
        for name in FIELDS:
            values = batch.fields[name]
            assert values.dtype == np.uint8 and values.flags.c_contiguous
            for key, value in zip(batch.keys, values, strict=True):
                assert np.array_equal(value, expected[key][name]), (key, name)


@SHARED_FOLDER
@given(st.data())
def test_batches_are_the_reads(local: Dataset, tmp_path: Path, data: st.DataObject) -> None:
    reader = ShardReader(local, "train", tmp_path)
    lists = data.draw(st.lists(st.lists(st.integers(0, len(reader) - 1), max_size=9), max_size=9))
    batches = list(reader.batches(lists, ahead=data.draw(st.integers(1, 4))))
    assert len(batches) == len(lists)
    for indices, batch in zip(lists, batches, strict=True):
        assert batch.keys == [reader.split.keys[i] for i in indices]
        assert np.array_equal(batch.clean, reader.read(indices).clean)


def test_a_reader_of_fields_that_are_not_there(local: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no field 'jpeg20'; it has clean, jpeg10, mask_box"):
        ShardReader(local, "train", tmp_path, fields=("jpeg20",))


def test_batches_lie_in_the_caller_s_memory(local: Dataset, tmp_path: Path) -> None:
    made: list[np.ndarray] = []

    def allocate(shape: tuple[int, ...]) -> np.ndarray:
        made.append(np.full(shape, 7, np.uint8))
        return made[-1]

    batch = ShardReader(local, "train", tmp_path, fields=FIELDS, allocate=allocate).read([3, 1])
    assert [batch.fields[name] is array for name, array in zip(FIELDS, made, strict=True)] == [True] * 3
    assert np.array_equal(batch.clean, ShardReader(local, "train", tmp_path).read([3, 1]).clean)


@pytest.mark.integration
def test_reading_needs_no_torch(local: Dataset, tmp_path: Path) -> None:
    code = "import sys; sys.modules['torch'] = None; from pathlib import Path; from infra.storage import open_storage; "
    code += "from sharding import Dataset, ShardReader; data, cache = sys.argv[1:]; "
    code += "print(ShardReader(Dataset.open(open_storage(data)), 'train', Path(cache)).read([0]).clean.shape)"
    command = [sys.executable, "-c", code, local.store.url, str(tmp_path)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "(1, 16, 16, 3)\n"


def test_stock_webdataset_reads_the_same(local: Dataset) -> None:
    wds = pytest.importorskip("webdataset")
    expected = from_tars(local, "train")
    urls = [str(path) for path in sorted(Path(local.store.url).glob("train-*.tar"))]
    found = {s["__key__"]: s for s in wds.WebDataset(urls, shardshuffle=False).decode("rgb8")}
    assert sorted(found) == sorted(expected)
    for key, sample in found.items():
        assert np.array_equal(sample["clean.npy"], expected[key]["clean"])
        assert np.array_equal(sample["jpeg10.jpg"], expected[key]["jpeg10"])


# ---- the loader and its state


def keys_of(reader: ShardReader, world_size: int, state: dict | None, steps: int, **options: Any) -> list[str]:
    """The keys that all ranks together consume in some steps."""
    loaders = [
        Loader(reader, global_batch_size=12, rank=r, world_size=world_size, **options) for r in range(world_size)
    ]
    for loader in loaders if state else []:
        loader.load_state_dict(state)
    keys = [key for _ in range(steps) for loader in loaders for key in loader.next().keys]
    for loader in loaders:
        loader.close()
    return keys


@SHARED_FOLDER
@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(0, 9),
    st.sampled_from([{}, {"drop_last": True}, {"shuffle_window_shards": 2, "num_canonical_partitions": 4}]),
)
def test_a_state_resumes_at_any_world_size(
    local: Dataset, tmp_path: Path, before: int, after: int, steps: int, options: dict[str, Any]
) -> None:
    reader = ShardReader(local, "train", tmp_path)
    whole = keys_of(reader, 1, None, 10, **options)
    assert keys_of(reader, before, None, steps, **options) == whole[: 12 * steps]
    loader = Loader(reader, global_batch_size=12, **options)
    for _ in range(steps):
        loader.next()
    state = json.loads(json.dumps(loader.state_dict()))
    loader.close()
    assert keys_of(reader, after, state, 10 - steps, **options) == whole[12 * steps :]


def test_a_for_loop_is_an_epoch(local: Dataset, tmp_path: Path) -> None:
    reader = ShardReader(local, "train", tmp_path)
    loader = Loader(reader, global_batch_size=12)
    epochs = [[batch for batch in loader] for _ in range(6)]
    assert [len(batches) for batches in epochs] == [5, 4, 4, 4, 4, 4], "300 images are 25 batches"
    assert loader.epoch == 6 and loader.state_dict()["images_seen"] == 300
    for epoch in range(6):
        keys = [k for b in itertools.chain(*epochs) for k, e in zip(b.keys, b.epoch, strict=True) if e == epoch]
        assert sorted(keys) == sorted(reader.split.keys)
    dropping = Loader(reader, global_batch_size=12, drop_last=True)
    assert [sum(len(b.keys) for b in dropping) for _ in range(3)] == [48, 48, 48]


def test_a_loop_left_early_is_continued(local: Dataset, tmp_path: Path) -> None:
    reader = ShardReader(local, "train", tmp_path)
    loader = Loader(reader, global_batch_size=12)
    keys = [next(iter(loader)).keys for _ in range(3)]
    assert sum(keys, []) == keys_of(reader, 1, None, 3)


def test_a_state_belongs_to_its_data_set_and_seed(local: Dataset, tmp_path: Path) -> None:
    state = Loader(ShardReader(local, "train", tmp_path), global_batch_size=4, seed=3).state_dict()
    shutil.copytree(local.store.url, tmp_path / "moved")
    moved = ShardReader(Dataset.open(open_storage(tmp_path / "moved")), "train", tmp_path)
    loader = Loader(moved, global_batch_size=4, seed=3)
    loader.load_state_dict(state)
    with pytest.raises(UserError, match=r"another seed \(3, here 4\)"):
        Loader(moved, global_batch_size=4, seed=4).load_state_dict(state)
    other = ShardReader(build(str(tmp_path / "other"), train=20), "train", tmp_path)
    with pytest.raises(UserError, match="another data set"):
        Loader(other, global_batch_size=4, seed=3).load_state_dict(state)
    with pytest.raises(UserError, match="lacks seed"):
        loader.load_state_dict({k: v for k, v in state.items() if k != "seed"})
    with pytest.raises(UserError, match="rank 5 of 5"):
        Loader(moved, global_batch_size=8, rank=5, world_size=5)


def test_the_code_of_the_documentation(local: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of the page, executed beside a data set of that name."""
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.chdir(tmp_path)
    shutil.copytree(local.store.url, "data/faces")
    scope: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), scope)
    assert scope["loader"].epoch == 2
    assert scope["resumed"].state_dict() == scope["loader"].state_dict()
    assert scope["windowed"].sampler.num_canonical_partitions == 4


# ---- the cache


def cached_bytes(folder: Path) -> int:
    total = 0
    for path in folder.glob("*.tar"):
        with contextlib.suppress(FileNotFoundError):  # just evicted
            total += path.stat().st_size
    return total


def test_a_small_cache_holds_its_limit_and_reads_all(local: Dataset, remote: Dataset, tmp_path: Path) -> None:
    limit = 4 * shard_bytes(remote)
    assert limit < sum(s["bytes"] for s in remote.shards if s["split"] == "train")
    reader = ShardReader(remote, "train", tmp_path, cache_bytes=limit)
    expected = Loader(ShardReader(local, "train", tmp_path), global_batch_size=10, shuffle_window_shards=2)
    loader = Loader(reader, global_batch_size=10, shuffle_window_shards=2)
    for _ in range(20):
        batch, other = loader.next(), expected.next()
        assert batch.keys == other.keys and np.array_equal(batch.clean, other.clean)
        assert cached_bytes(tmp_path) <= limit
    loader.close()


def test_an_order_that_would_fetch_again_and_again_is_refused(remote: Dataset, tmp_path: Path) -> None:
    reader = ShardReader(remote, "train", tmp_path, cache_bytes=4 * shard_bytes(remote))
    with pytest.raises(UserError, match=r"needs [\d,]+ bytes of cache.*IRAE_CACHE_BYTES.*shuffle_window_shards"):
        Loader(reader, global_batch_size=10)
    small = ShardReader(remote, "train", tmp_path / "b", cache_bytes=1000)
    with pytest.raises(UserError, match="may hold 1,000 bytes, but one file has"):
        small.read([0])


def test_the_limit_of_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert 0 < Cache(tmp_path).limit_bytes < shutil.disk_usage(tmp_path).total
    monkeypatch.setenv("IRAE_CACHE_BYTES", "12345")
    assert Cache(tmp_path).limit_bytes == 12345
    monkeypatch.setenv("IRAE_CACHE_BYTES", "1 GB")
    with pytest.raises(UserError, match="'1 GB'"):
        Cache(tmp_path)


def test_of_many_threads_and_caches_one_fetches(tmp_path: Path) -> None:
    """Eight caches on one folder, as in eight processes: the locks belong to open files."""
    fetched: list[int] = []

    def fetch(path: Path) -> None:
        fetched.append(1)
        time.sleep(0.2)
        path.write_bytes(b"x" * 100)

    found: list[int] = []
    caches = [Cache(tmp_path, 1000) for _ in range(8)]
    threads = [threading.Thread(target=lambda c=c: found.append(int(c.map("a.tar", 100, fetch).sum()))) for c in caches]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [100 * ord("x")] * 8 and len(fetched) == 1
    assert not partial_files(tmp_path)


def test_after_a_failure_the_next_waiting_process_fetches(tmp_path: Path) -> None:
    start, attempts, outcomes = threading.Barrier(3), itertools.count(), []

    def fetch(path: Path) -> None:
        if next(attempts) == 0:
            raise UserError("the store is gone")
        path.write_bytes(b"abc")

    def work() -> None:
        cache = Cache(tmp_path, 1000)
        start.wait()
        try:
            outcomes.append(str(cache.map("a.tar", 3, fetch).sum()))
        except UserError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["294", "294", "the store is gone"] and next(attempts) == 2
    assert not partial_files(tmp_path)


def test_a_process_that_receives_nothing_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_module, "STALL_S", 0.3)
    fetching, stop = threading.Event(), threading.Event()

    def hang(path: Path) -> None:
        path.write_bytes(b"a")
        fetching.set()
        stop.wait()
        path.write_bytes(b"abc")

    holder = threading.Thread(target=lambda: Cache(tmp_path, 1000).map("a.tar", 3, hang))
    holder.start()
    fetching.wait()
    with pytest.raises(UserError, match=r"fetches .*a\.tar and received nothing for .* \(stopped at byte 1\)"):
        Cache(tmp_path, 1000).map("a.tar", 3, hang)
    stop.set()
    holder.join()
    assert Cache(tmp_path, 1000).map("a.tar", 3, hang).sum() == 294


def test_an_evicted_file_stays_readable(tmp_path: Path) -> None:
    cache = Cache(tmp_path, 250)
    maps = [cache.map(f"{i}.tar", 100, lambda path, i=i: path.write_bytes(bytes([i]) * 100) and None) for i in range(9)]
    assert [int(m.sum()) for m in maps] == [100 * i for i in range(9)]
    assert sorted(path.name for path in tmp_path.glob("*.tar")) == ["7.tar", "8.tar"]
    cache.map("7.tar", 100, lambda path: None)
    cache.map("9.tar", 100, lambda path: path.write_bytes(bytes(100)) and None)
    assert sorted(path.name for path in tmp_path.glob("*.tar")) == ["7.tar", "9.tar"], "8 was used least recently"


FETCH_SLOWLY = """
import sys, time
from pathlib import Path
from sharding.read.cache import Cache
def fetch(path):
    with path.open("wb") as file:
        for _ in range(100):
            file.write(b"y" * 1000); file.flush(); time.sleep(0.003)
print("started", flush=True)
Cache(Path(sys.argv[1]), 10**6).map("a.tar", 100_000, fetch)
"""


@pytest.mark.integration
def test_killed_while_fetching(tmp_path: Path) -> None:
    """No partial file is ever visible, and the next process takes over or sweeps."""
    chance = random.Random(0)
    for _ in range(5):
        process = subprocess.Popen([sys.executable, "-c", FETCH_SLOWLY, str(tmp_path)], stdout=subprocess.PIPE)
        assert process.stdout and process.stdout.readline() == b"started\n"
        time.sleep(chance.uniform(0, 0.25))
        process.kill()
        process.communicate()
        assert not (tmp_path / "a.tar").exists() or (tmp_path / "a.tar").stat().st_size == 100_000
    (tmp_path / "left.tar.77.part").mkdir()
    (tmp_path / "left.tar.77.part" / ".tmp-x").write_bytes(b"half")
    cache = Cache(tmp_path, 10**6)
    assert not partial_files(tmp_path) and not list(tmp_path.glob("*.part"))
    assert cache.map("a.tar", 100_000, lambda path: path.write_bytes(b"y" * 100_000) and None).sum() == 12_100_000


# ---- damage


class Damaging:
    """A store whose first `times` downloads of shards arrive with a bit flipped."""

    def __init__(self, store: Storage, times: int) -> None:
        self.store, self.times, self.downloads = store, times, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.store, name)

    def get_file(self, name: str, path: Path) -> None:
        self.store.get_file(name, path)
        self.downloads += 1
        if self.downloads <= self.times:
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(content)


def test_a_shard_that_arrives_damaged_is_fetched_once_more(remote: Dataset, tmp_path: Path) -> None:
    for times, fails in ((1, False), (2, True)):
        store = Damaging(open_storage(remote.store.url), times)
        reader = ShardReader(Dataset(store, remote.info, remote.table), "train", tmp_path / str(times))
        if not fails:
            assert len(reader.read([0]).keys) == 1
        else:
            first = [reader.split.keys[i] for i in range(3)]
            with pytest.raises(UserError, match=rf"train-00000\.tar is .*damaged.* 7 samples: {', '.join(first)}"):
                reader.read([0])
            assert len(reader.read([0]).keys) == 1, "a failure is not remembered"
        assert store.downloads == times + 1
        assert not partial_files(tmp_path / str(times))


def test_damage_on_a_local_store(local: Dataset, tmp_path: Path) -> None:
    shutil.copytree(local.store.url, tmp_path / "data")
    dataset = Dataset.open(open_storage(tmp_path / "data"))
    chance = random.Random(0)
    for shard in [s for s in dataset.shards if s["split"] == "train"]:
        path = tmp_path / "data" / shard["name"]
        content = bytearray(path.read_bytes())
        damage = chance.choice(["flip", "cut", "missing", "empty"])
        if damage == "flip":
            content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
        path.write_bytes(content[: {"cut": chance.randrange(len(content)), "empty": 0}.get(damage, len(content))])
        if damage == "missing":
            path.unlink()
    reader = ShardReader(dataset, "train", tmp_path)
    for shard in np.unique(reader.split.shard):
        index = int(np.flatnonzero(reader.split.shard == shard)[0])
        with pytest.raises(UserError, match=f"{dataset.shards[shard]['name']} is missing or damaged"):
            reader.read([index])


# ---- no leak


def test_batches_left_early_end_their_thread(remote: Dataset, tmp_path: Path) -> None:
    reader = ShardReader(remote, "train", tmp_path)
    before = threading.active_count()
    for _ in range(30):
        for _batch in reader.batches([[0, 1, 2]] * 50):
            break
    assert threading.active_count() <= before
    assert len(os.listdir("/proc/self/fd")) < 200 if Path("/proc/self/fd").exists() else True
