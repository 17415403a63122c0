"""Reading during faults of S3, the network and the processes: a short form of each campaign, and the full one."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from infra.local_s3.server import LocalS3
from infra.storage import StorageError, UserError, open_storage, retry, s3_download
from infra.storage import s3 as s3_storage
from pipeline.config.train import TrainConfig
from pipeline.train.distributed import ProcessGroup
from sharding import Dataset, Loader, ShardReader
from tests.support import ROOT
from tests.support.datasets import build, upload
from tests.support.fault_proxy import FAULTS, FaultProxy
from tests.support.reading_worker import GLOBAL_BATCH, make_loader, read_state
from tests.support.sharding import partial_files
from tests.support.training import config_for

WORKER = [sys.executable, "-m", "tests.support.reading_worker"]


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 shards of 133 kB."""
    folder = tmp_path_factory.mktemp("data")
    build(str(folder), train=200, per_shard=10, size=64)
    return folder


@pytest.fixture
def data(local: Path, s3_url: str) -> Dataset:
    """The same on S3."""
    return upload(local, s3_url)


def settled(folder: Path) -> list[str]:
    """Files of a cache other than shards, after the running downloads have ended."""
    found = ["not listed yet"]
    for _ in range(1500):
        with contextlib.suppress(FileNotFoundError):  # removed while it was listed
            found = partial_files(folder)
        if not found:
            break
        time.sleep(0.02)
    return found


def is_shard(method: str, path: str) -> bool:
    return method == "GET" and "/train-" in path


@pytest.fixture
def short_timeouts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_download, "STALL_S", 5.0)
    monkeypatch.setattr(s3_download, "ATTEMPT_S", 1.0)
    monkeypatch.setitem(s3_storage._DOWNLOAD, "read_timeout", 1)


# ---- faults of the store


@pytest.mark.parametrize("kind", [*FAULTS, "silent"])
def test_each_fault_is_overcome(
    kind: str, data: Dataset, s3_server: LocalS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, short_timeouts: None
) -> None:
    name = data.shards[0]["name"]
    expected = data.store.get(name)
    endless: dict[str, Any] = {"trickle_blocks": None} if kind == "trickle" else {}
    with FaultProxy(s3_server.endpoint, kinds=[kind], share=1.0, max_faults=2, **endless) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        data.store.get_file(name, tmp_path / "shard")
        assert proxy.injected == {kind: 2}
    assert (tmp_path / "shard").read_bytes() == expected


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("500", "last answer was HTTP 500 InternalError"),
        ("503", "too busy.*last answer was HTTP 503 SlowDown"),
        ("expired", "credentials have expired.*last answer was HTTP 403 ExpiredToken"),
        ("trickle", "last answer was bytes that came too slowly"),
        ("silent", "last answer was ReadTimeoutError"),
    ],
)
def test_a_lasting_fault_is_an_error_with_shard_byte_and_answer(
    kind: str,
    words: str,
    data: Dataset,
    s3_server: LocalS3,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    short_timeouts: None,
) -> None:
    reader = ShardReader(data, "train", tmp_path)
    with FaultProxy(s3_server.endpoint, kinds=[kind], share=1.0, trickle_blocks=None, affects=is_shard) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        with pytest.raises(StorageError, match=words) as caught:
            reader.read([0])
    assert re.search(r"/train-00000\.tar: .*\(stopped at byte \d+.* after \d+ attempts, ", str(caught.value))
    assert not settled(tmp_path)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    assert reader.read([0]).keys == [reader.split.keys[0]]


def test_a_body_resumes_at_the_last_byte(
    data: Dataset, s3_server: LocalS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = data.shards[0]["name"]
    starts: list[int] = []
    ask = s3_download.Download._attempt
    monkeypatch.setattr(s3_download.Download, "_attempt", lambda self: starts.append(self.position) or ask(self))
    with FaultProxy(s3_server.endpoint, kinds=["reset"], share=1.0, max_faults=3) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        data.store.get_file(name, tmp_path / "shard")
    assert len(starts) == 4 and starts == sorted(starts) and starts[-1] > 0


def in_the_first_pause(monkeypatch: pytest.MonkeyPatch, action: Callable[[], object]) -> None:
    """Do something between the first attempt of a download and the second."""
    actions = [action]

    def act(pause_s: float) -> None:
        if actions:
            actions.pop()()

    monkeypatch.setattr(retry, "time", SimpleNamespace(monotonic=time.monotonic, sleep=act))


def test_two_versions_of_a_file_are_not_mixed(
    s3_url: str, s3_server: LocalS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_storage(s3_url)
    store.put("file", b"a" * 300_000)
    in_the_first_pause(monkeypatch, lambda: store.put("file", b"b" * 300_000))
    with FaultProxy(s3_server.endpoint, kinds=["reset"], share=1.0, max_faults=1) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        with pytest.raises(StorageError, match="PreconditionFailed"):
            store.get_file("file", tmp_path / "file")
    assert not (tmp_path / "file").exists()


def test_renewed_credentials_are_found(
    s3_url: str, s3_server: LocalS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an expired token, a new login suffices: the run need not be started again."""
    open_storage(s3_url).put("file", b"content")
    keys = s3_server.env()
    profile = "[default]\naws_access_key_id = {AWS_ACCESS_KEY_ID}\naws_secret_access_key = {AWS_SECRET_ACCESS_KEY}\n"
    file = tmp_path / "credentials"
    file.write_text(profile.format(AWS_ACCESS_KEY_ID="old", AWS_SECRET_ACCESS_KEY="old"))
    in_the_first_pause(monkeypatch, lambda: file.write_text(profile.format(**keys)))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    with FaultProxy(s3_server.endpoint, kinds=["expired"], share=1.0, max_faults=1) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        assert open_storage(s3_url).get("file") == b"content"


def read_under_faults(data: Dataset, s3_server: LocalS3, folder: Path, faults: int, set_env: Any) -> int:
    """Read epochs until `faults` were injected; returns the number of compared batches."""
    reader = ShardReader(data, "train", folder / "all")
    whole = reader.read(np.arange(len(reader)))
    limit = 12 * max(shard["bytes"] for shard in data.shards)
    with FaultProxy(s3_server.endpoint, seed=faults, affects=is_shard) as proxy:
        set_env("AWS_ENDPOINT_URL", proxy.endpoint)
        loader = Loader(
            ShardReader(data, "train", folder / "few", cache_bytes=limit), global_batch_size=20, shuffle_window_shards=2
        )
        compared = 0
        while proxy.injected.total() < faults:
            batch = loader.next()
            expected = loader.sampler.global_batch_at(20 * compared).sample
            assert batch.keys == [whole.keys[i] for i in expected]
            assert np.array_equal(batch.clean, whole.clean[expected])
            compared += 1
        loader.close()
        assert set(proxy.injected) == set(FAULTS)
        print(f"{proxy.injected.total()} faults {dict(proxy.injected)}, {compared} batches equal")
    assert not settled(folder / "few")
    return compared


def test_faults_lose_nothing(data: Dataset, s3_server: LocalS3, tmp_path: Path, monkeypatch: Any) -> None:
    assert read_under_faults(data, s3_server, tmp_path, 60, monkeypatch.setenv) > 20


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_a_thousand_faults_lose_nothing(data: Dataset, s3_server: LocalS3, tmp_path: Path, monkeypatch: Any) -> None:
    assert read_under_faults(data, s3_server, tmp_path, 1000, monkeypatch.setenv) > 200


# ---- killed and restarted


def start_ranks(data: Dataset, folder: Path, generation: int, world_size: int, steps: int) -> list[subprocess.Popen]:
    (folder / str(generation)).mkdir(parents=True)
    (folder / "consumed").mkdir(exist_ok=True)
    arguments = [data.store.url, str(folder / "cache"), str(folder), str(generation)]
    return [
        subprocess.Popen([*WORKER, *arguments, str(rank), str(world_size), str(steps)], cwd=ROOT)
        for rank in range(world_size)
    ]


def images_seen(folder: Path) -> int:
    state = read_state(folder)
    return state["images_seen"] if state else 0


def kill_at_random(ranks: list[subprocess.Popen], folder: Path, chance: random.Random) -> None:
    """Kill the ranks one after the other, at the start or while they read."""
    before = images_seen(folder)
    if chance.random() < 0.75:
        while images_seen(folder) == before:
            assert all(rank.poll() in (None, 0) for rank in ranks)
            if all(rank.poll() == 0 for rank in ranks):
                return
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.25))
    else:
        time.sleep(chance.uniform(0, 1.5))
    for rank in chance.sample(ranks, len(ranks)):
        rank.kill()
        time.sleep(chance.choice([0, 0.01, 0.05]))
    for rank in ranks:
        rank.wait()


def check_kills(data: Dataset, folder: Path, worlds: list[int], steps: int, seed: int) -> None:
    """All but the last group of ranks are killed; together they consume the undisturbed order."""
    chance = random.Random(seed)
    stops = []
    for generation, world_size in enumerate(worlds):
        ranks = start_ranks(data, folder, generation, world_size, steps)
        if generation < len(worlds) - 1:
            kill_at_random(ranks, folder, chance)
            stops.append(images_seen(folder))
        else:
            assert [rank.wait(240) for rank in ranks] == [0] * world_size
    print(f"killed after {stops} of {steps * GLOBAL_BATCH} images")
    consumed = [key for step in range(steps) for key in (folder / "consumed" / str(step)).read_text().split("\n")]
    undisturbed = make_loader(data.store.url, folder / "other", 0, 1, None)
    assert consumed == [key for _ in range(steps) for key in undisturbed.next().keys]
    assert not [name for name in partial_files(folder / "cache") if ".part" in name]


def test_killed_ranks_resume_at_other_world_sizes(data: Dataset, tmp_path: Path) -> None:
    check_kills(data, tmp_path, [4, 2, 3], 60, seed=0)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_killed_twenty_times(data: Dataset, tmp_path: Path) -> None:
    check_kills(data, tmp_path, [4, 2, 3, 1, 6, 4, 2, 3, 1, 5] * 2 + [3], 400, seed=1)


# ---- one rank whose store is silent


def train_rank(rank: int, config: TrainConfig, folder: Path, environment: dict[str, str]) -> None:
    import torch

    from pipeline.train.loop import train

    retry.RETRY_DEADLINE_S = 2.0
    os.environ |= environment | {"IRAE_CACHE": str(folder / f"cache{rank}")}
    s3_download.STALL_S, s3_download.ATTEMPT_S, s3_storage._DOWNLOAD["read_timeout"] = 3.0, 0.5, 1
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/group", rank=rank, world_size=2)
    result = "no error"
    try:
        train(config, ProcessGroup.current(torch.device("cpu")), lambda row: None)
    except UserError as error:
        result = f"{type(error).__name__}: {error}"
    (folder / f"{rank}.json").write_text(json.dumps(result))


def train_two(config: TrainConfig, folder: Path, endpoint_of_1: str) -> list[str]:
    context = multiprocessing.get_context("spawn")
    environments = [dict(os.environ), dict(os.environ) | {"AWS_ENDPOINT_URL": endpoint_of_1}]
    ranks = [context.Process(target=train_rank, args=(r, config, folder, environments[r])) for r in range(2)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
        assert rank.exitcode == 0, "a rank hangs"
    return [json.loads((folder / f"{r}.json").read_text()) for r in range(2)]


@pytest.mark.parametrize(
    ("passed", "part"), [pytest.param(0, "train", marks=pytest.mark.chaos), (10, "train"), (0, "val")]
)
def test_a_silent_store_of_one_rank_stops_all_ranks(
    passed: int, part: str, s3_url: str, s3_server: LocalS3, tmp_path: Path
) -> None:
    """Before the first step, between steps, and in validation."""
    build(s3_url, train=64, per_shard=4)
    config = config_for(s3_url, tmp_path / "run", K=1, max_images=400)
    requests = itertools.count()
    affects: Callable[[str, str], bool] = lambda m, path: f"/{part}-" in path and next(requests) >= passed  # noqa: E731
    with FaultProxy(s3_server.endpoint, kinds=["silent"], share=1.0, affects=affects) as proxy:
        peer, failed = train_two(config, tmp_path, proxy.endpoint)
    assert re.search(rf"rank 1 of 2: .*{part}-000\d\d\.tar.*stopped at byte 0 .*last answer was ReadTimeout", failed)
    assert peer.startswith("PeerFailedError")


# ---- leaks


def check_soak(data: Dataset, folder: Path, epochs: int) -> None:
    """Epochs with a cache of less than half the data set: memory, files and handles stay constant."""
    limit = 8 * max(shard["bytes"] for shard in data.shards)
    reader = ShardReader(data, "train", folder, cache_bytes=limit)
    loader = Loader(reader, global_batch_size=20, shuffle_window_shards=2)
    kilobytes, handles = [], []
    for _ in range(epochs):
        for batch in loader:
            assert len(batch.keys) == 20
        status = Path("/proc/self/status").read_text()
        kilobytes.append(int(re.search(r"RssAnon:\s+(\d+)", status)[1]))  # type: ignore[index]
        handles.append(len(os.listdir("/proc/self/fd")))
        mapped = {line.split()[5] for line in Path("/proc/self/maps").read_text().splitlines() if str(folder) in line}
        assert len(mapped) <= 12
    loader.close()
    steady = kilobytes[epochs // 4 :]
    slope = np.polyfit(range(len(steady)), steady, 1)[0]
    print(f"memory {kilobytes} kB after each epoch, slope {slope:.1f} kB an epoch; handles {handles}")
    assert slope < 200 and max(handles) <= handles[0] + 12
    assert not settled(folder)
    assert sum(path.stat().st_size for path in folder.glob("*.tar")) <= limit


needs_proc = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")


@needs_proc
def test_memory_and_files_stay(data: Dataset, tmp_path: Path) -> None:
    check_soak(data, tmp_path, 8)


@needs_proc
@pytest.mark.chaos
def test_memory_and_files_stay_for_twenty_epochs(s3_url: str, tmp_path: Path) -> None:
    check_soak(build(s3_url, train=1000, per_shard=50, size=64), tmp_path, 20)


def test_windows_fetch_a_machine_its_share(data: Dataset, tmp_path: Path) -> None:
    """Two machines with half of the partitions each download hardly more than half of the data set."""
    downloaded = []
    for rank in range(2):
        loader = make_loader(data.store.url, tmp_path / str(rank), rank, 2, None)
        fetched: list[str] = []
        loader.reader.dataset.store.get_file = _counting(loader.reader.dataset.store.get_file, fetched)  # type: ignore[method-assign]
        for _ in range(200 // GLOBAL_BATCH):
            loader.next()
        loader.close()
        downloaded.append(len(set(fetched)))
    assert max(downloaded) <= 15, "of 20: its 10, one across the cut, and those of the next epoch"


def _counting(get_file: Callable[[str, Path], None], names: list[str]) -> Callable[[str, Path], None]:
    def counting(name: str, path: Path) -> None:
        names.append(name)
        get_file(name, path)

    return counting


def test_a_permanent_error_is_not_retried(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_download, "STALL_S", 1e9)
    with pytest.raises(FileNotFoundError):
        open_storage(s3_url).get("nothing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match="AWS_ACCESS_KEY_ID"):
        open_storage(s3_url).get("nothing")
