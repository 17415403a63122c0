"""The command, its workers or the S3 server killed at random: the same command again gives the same bytes."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from infra.local_s3.server import LocalS3
from infra.storage import open_storage
from sharding.verify import verify
from tests.support.sharding import contents, shard, start

ARGUMENTS = ["--train-images", "700", "--val-images", "40", "--test-images", "40", "--size", "32"]
ARGUMENTS += ["--degrade", "jpeg:10,40", "mask:brush", "--images-per-shard", "25"]
KINDS = ("command", "worker", "server")


@pytest.mark.slow
def test_3_kills(own_s3_server: LocalS3, tmp_path: Path) -> None:
    campaign(own_s3_server, tmp_path, 3)


@pytest.mark.chaos
def test_20_kills(own_s3_server: LocalS3, tmp_path: Path) -> None:
    campaign(own_s3_server, tmp_path, 20)


def campaign(server: LocalS3, tmp_path: Path, kills: int) -> None:
    """Kills, each in a run of its own, followed by the same command."""
    code, _, err = shard(*ARGUMENTS, "--out", str(tmp_path / "undisturbed"), "--no-ray")
    assert code == 0, err
    undisturbed = contents(open_storage(tmp_path / "undisturbed"))
    for number in range(kills):
        kind, chance = KINDS[number % len(KINDS)], random.Random(number)
        url = f"s3://irae/kill{number}" if kind == "server" or number % 2 else str(tmp_path / f"kill{number}")
        on_ray = kind == "worker" or (number // 3) % 2 == 1
        command = [*ARGUMENTS, "--out", url, *(["--workers", "2"] if on_ray else ["--no-ray"])]
        description = disturbed(command, kind, server, url, chance)
        code, out, err = shard(*command)
        assert code == 0, (number, kind, description, out, err)
        assert contents(open_storage(url)) == undisturbed, (number, kind, description)
        assert verify(open_storage(url), checksum=True).problems == []
        print(f"kill {number} of the {kind} {description}: same bytes")


def disturbed(command: list[str], kind: str, server: LocalS3, url: str, chance: random.Random) -> str:
    """Start the command, kill while it works, wait until it has stopped; returns a description."""
    run = start(*command)
    try:
        wait_for_work(run, url)
        shards_before = chance.randrange(28)
        while run.poll() is None and shards_there(url) < shards_before:
            time.sleep(0.01)
        time.sleep(chance.random() * 0.2)
        if kind == "server":
            server.kill()
            time.sleep(chance.random())
            server.start()
        else:
            victims = ray_workers(run.pid) if kind == "worker" else [run.pid]
            for pid in chance.sample(victims, min(1, len(victims))):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        _, err = run.communicate(timeout=200)
    finally:
        run.kill()
    assert run.returncode in (0, 2, -signal.SIGKILL), err
    return f"after {shards_before} shards, exit code {run.returncode}"


def wait_for_work(run: subprocess.Popen[str], url: str) -> None:
    deadline_s = time.monotonic() + 100
    while run.poll() is None and open_storage(url).size("plan.json") is None:
        assert time.monotonic() < deadline_s
        time.sleep(0.05)


def shards_there(url: str) -> int:
    return len(open_storage(url).list("train-"))


def ray_workers(pid: int) -> list[int]:
    """Descendants of this process that make shards for Ray."""
    parents, found = {}, []
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            if (path / "cmdline").read_bytes().startswith((b"ray::make_shard", b"ray::IDLE")):
                found.append(int(path.name))

    def is_below(one: int) -> bool:
        while one in parents and one != pid:
            one = parents[one]
        return one == pid

    return [one for one in found if is_below(one)]
