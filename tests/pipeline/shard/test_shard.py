"""`python -m pipeline.shard` from end to end."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from infra.local_s3.server import LocalS3
from infra.storage import UserError, open_storage
from pipeline.shard.config import ShardConfig
from pipeline.shard.make import main
from pipeline.shard.tasks import RAY_FROM_SHARDS, choose_workers
from sharding import Dataset
from sharding.verify import verify
from tests.support.fault_proxy import FaultProxy
from tests.support.sharding import SMALL, contents, shard, start


def config(out: object, **options: Any) -> ShardConfig:
    """The same data set as `SMALL`."""
    small: dict[str, Any] = {"train_images": 60, "val_images": 6, "test_images": 6, "size": 16, "images_per_shard": 6}
    return ShardConfig(out=str(out), degrade=("jpeg:10,40", "mask:box"), **{**small, **options})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of the small data set."""
    folder = tmp_path_factory.mktemp("undisturbed")
    main(config(folder))
    return contents(open_storage(folder))


def test_the_data_set_records_how_it_was_made(undisturbed: dict[str, bytes], tmp_path: Path) -> None:
    info = json.loads(undisturbed["dataset.json"])
    assert sorted(undisturbed) == sorted(
        ["dataset.json", "manifest.parquet", "plan.json", *(entry["name"] for entry in info["shards"])]
    )
    assert info["degradations"] == ["jpeg:10", "jpeg:40", "mask:box"]
    assert info["fields"] == {"clean": "npy", "jpeg10": "jpg", "jpeg40": "jpg", "mask_box": "npy"}
    assert info["encoders"]["jpeg"]["subsampling"] == "4:2:0" and info["encoders"]["libraries"]["pillow"]
    assert (info["splits"], info["quarantined"]) == ({"train": 60, "val": 6, "test": 6}, 0)
    assert info["manifest"]["sha256"] == hashlib.sha256(undisturbed["manifest.parquet"]).hexdigest()
    for entry in info["shards"]:
        data = undisturbed[entry["name"]]
        assert (entry["bytes"], entry["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())


@pytest.mark.slow
@pytest.mark.integration
def test_the_bytes_are_the_same_on_ray_in_this_process_and_on_s3(
    undisturbed: dict[str, bytes], store_url: str, tmp_path: Path
) -> None:
    code, out, err = shard(*SMALL, "--out", store_url, "--workers", "2")
    assert code == 0 and "12 of 12 shards to make, on Ray with 2 workers" in out, err
    assert contents(open_storage(store_url)) == undisturbed


def test_the_default_number_of_workers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert choose_workers(config(tmp_path), RAY_FROM_SHARDS - 1) is None
    assert choose_workers(config(tmp_path, workers=1), 99) is None
    assert choose_workers(config(tmp_path, workers=3), 2) == 3
    assert choose_workers(config(tmp_path, ray=False), 99) is None
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    assert choose_workers(config(tmp_path), 1) == 0
    assert choose_workers(config(tmp_path, workers=1), 99) == 1
    assert choose_workers(config(tmp_path, ray=False), 99) is None
    assert choose_workers(config(tmp_path), 0) is None


# ---- running again


def test_a_second_run_writes_nothing(undisturbed: dict[str, bytes], tmp_path: Path, capsys: Any) -> None:
    main(config(tmp_path))
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    main(config(tmp_path))
    assert "is whole already (12 shards checked); nothing to do" in capsys.readouterr().out
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}


def test_damaged_and_missing_shards_are_made_again(undisturbed: dict[str, bytes], store_url: str, capsys: Any) -> None:
    store = open_storage(store_url)
    main(config(store_url))
    for damaged in (["train-00001.tar", "val-00000.tar"], ["manifest.parquet"], ["dataset.json"], ["plan.json"]):
        for name in damaged:
            if name.endswith(".tar"):
                store.put(name, undisturbed[name][:-1] + b"!")
            else:
                store.delete(name)
        if len(damaged) == 2:
            store.delete(damaged[1])
        main(config(store_url))
        assert contents(store) == undisturbed, damaged
    out = capsys.readouterr().out
    assert "2 of 12 shards to make" in out and out.count("12 of 12 shards to make") == 3


def test_damage_that_the_store_s_checksum_hides_is_made_again_with_checksum(tmp_path: Path, capsys: Any) -> None:
    main(config(tmp_path))
    main(config(tmp_path, checksum=True))
    assert "nothing to do" in capsys.readouterr().out
    path = tmp_path / "train-00001.tar"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"!")
    main(config(tmp_path, checksum=True))
    assert path.read_bytes() == whole


def write_photographs(root: Path, count: int = 12, first: int = 0) -> None:
    root.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(first)
    for number in range(first, first + count):
        Image.fromarray(rng.integers(0, 256, (30, 30, 3), dtype=np.uint8)).save(root / f"p{number:02d}.png")


def folder_config(root: Path, out: Path, **options: Any) -> ShardConfig:
    return ShardConfig(source="folder", root=root, out=str(out), size=16, images_per_shard=5, split="train", **options)


def test_a_changed_photograph_is_not_mixed_into_a_finished_data_set(tmp_path: Path) -> None:
    write_photographs(tmp_path / "in")
    main(folder_config(tmp_path / "in", tmp_path / "out"))
    store = open_storage(tmp_path / "out")
    write_photographs(tmp_path / "in", 12, 0)
    Image.new("RGB", (30, 30), "red").save(tmp_path / "in" / "p03.png")
    main(folder_config(tmp_path / "in", tmp_path / "out"))
    for entry in Dataset.open(store).shards:
        store.put(entry["name"], b"damaged")
    before = contents(store)
    with pytest.raises(
        ValueError, match="is damaged and cannot be made again: the images or the encoders have changed"
    ):
        main(folder_config(tmp_path / "in", tmp_path / "out"))
    after = contents(store)
    changed = {name for name in after if before.get(name) != after[name]}
    assert all(name.endswith(".tar") or name.startswith("records/") for name in changed) and verify(store).problems
    main(folder_config(tmp_path / "in", tmp_path / "out", overwrite=True))
    assert verify(store, checksum=True).problems == []
    with pytest.raises(UserError, match="it differs in its images"):
        write_photographs(tmp_path / "in", 3, 12)
        main(folder_config(tmp_path / "in", tmp_path / "out"))


def test_unusable_images_are_all_named_and_left_out_only_when_allowed(tmp_path: Path, capsys: Any) -> None:
    write_photographs(tmp_path / "in")
    (tmp_path / "in" / "p02.png").write_bytes(b"<html>not found</html>")
    (tmp_path / "in" / "p07.png").write_bytes((tmp_path / "in" / "p07.png").read_bytes()[:90])
    store = open_storage(tmp_path / "out")
    with pytest.raises(UserError, match="2 images are unusable and --max-bad is 0"):
        main(folder_config(tmp_path / "in", tmp_path / "out"))
    out = capsys.readouterr().out
    assert "unusable: p02.png: an HTML page, not an image" in out and "unusable: p07.png: damaged" in out
    with pytest.raises(UserError, match="there is no finished data set"):
        Dataset.open(store)
    main(folder_config(tmp_path / "in", tmp_path / "out", max_bad=2))
    dataset = Dataset.open(store)
    assert (dataset.info["quarantined"], dataset.split_sizes["train"]) == (2, 10)
    assert [entry["file"] for entry in json.loads(store.get("quarantine.json"))] == ["p02.png", "p07.png"]
    assert verify(store, checksum=True).problems == []
    main(folder_config(tmp_path / "in", tmp_path / "out", max_bad=2))
    assert "nothing to do" in capsys.readouterr().out


def test_fixed_images_finish_a_refused_run(tmp_path: Path) -> None:
    write_photographs(tmp_path / "in")
    write_photographs(tmp_path / "whole")
    (tmp_path / "in" / "p02.png").write_bytes(b"")
    with pytest.raises(UserError, match="1 images are unusable"):
        main(folder_config(tmp_path / "in", tmp_path / "out"))
    (tmp_path / "in" / "p02.png").write_bytes((tmp_path / "whole" / "p02.png").read_bytes())
    main(folder_config(tmp_path / "in", tmp_path / "out"))
    main(folder_config(tmp_path / "whole", tmp_path / "expected"))
    assert contents(open_storage(tmp_path / "out")) == contents(open_storage(tmp_path / "expected"))


def test_a_dry_run_writes_nothing(tmp_path: Path, capsys: Any) -> None:
    main(config(tmp_path / "out", dry_run=True))
    assert '"jpeg:40"' in capsys.readouterr().out and not (tmp_path / "out").exists()


def test_options_that_make_no_sense(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        ShardConfig(ray=False, workers=2, crop=9, size=3)
    assert len(str(caught.value).splitlines()) == 3 and "--no-ray makes one shard after the other" in str(caught.value)
    with pytest.raises(UserError, match="'blob' is not one of box, center, brush.*jpeg10 is requested twice"):
        main(ShardConfig(degrade=("mask:blob", "jpeg:10,10"), out=str(tmp_path)))
    assert list(tmp_path.iterdir()) == []


# ---- two at once, and faults


@pytest.mark.integration
def test_of_two_runs_at_once_exactly_one_continues(store_url: str) -> None:
    arguments = ["--train-images", "2000", "--out", store_url, "--images-per-shard", "200"]
    runs = [start(*arguments) for _ in range(2)]
    results = [(*run.communicate(timeout=200), run.returncode) for run in runs]
    (_, err, lost), (_, _, won) = sorted(results, key=lambda end: -end[2])
    assert (won, lost) == (0, 2), results
    assert re.search(rf"error: another run is at work on {re.escape(store_url)} \(process \d+ on ", err)
    assert verify(open_storage(store_url)).problems == []


def every_request(method: str, path: str) -> bool:
    return True


@pytest.mark.parametrize("kinds", [("500", "503"), ("cut_request", "reset")])
def test_faults_of_s3_change_no_byte(
    s3_server: LocalS3, s3_url: str, kinds: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with FaultProxy(
        s3_server.endpoint, kinds=kinds, share=0.2, seed=3, max_consecutive=3, affects=every_request
    ) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        main(config(s3_url, images_per_shard=12))
        assert proxy.injected.total() > 5
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.endpoint)
    main(config(tmp_path, images_per_shard=12))
    assert contents(open_storage(s3_url)) == contents(open_storage(tmp_path))


def test_unreachable_s3_is_one_sentence_and_the_same_command_resumes(
    undisturbed: dict[str, bytes], s3_server: LocalS3, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with FaultProxy(s3_server.endpoint, kinds=["503"], share=0.0, affects=every_request) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        main(config(s3_url))
        open_storage(s3_url).delete("dataset.json")
        proxy.share = 1.0
        with pytest.raises(UserError, match="is too busy .SlowDown.: use fewer workers"):
            main(config(s3_url))
        proxy.share = 0.0
        main(config(s3_url))
        assert contents(open_storage(s3_url)) == undisturbed


@pytest.mark.integration
def test_a_full_disk_is_one_sentence_and_the_same_command_resumes(
    undisturbed: dict[str, bytes], tmp_path: Path
) -> None:
    (tmp_path / "disk").mkdir()
    command = f"{sys.executable} -m pipeline.shard {' '.join(SMALL)} --out {tmp_path}/disk/set"
    script = f"""
        mount -t tmpfs -o size=200k none {tmp_path}/disk || exit 99
        {command}; echo "exit code $?"; find {tmp_path}/disk -type f
        mount -o remount,size=50m {tmp_path}/disk && {command} && cp -r {tmp_path}/disk/set {tmp_path}/copy
    """
    try:
        ended = subprocess.run(
            ["unshare", "--map-root-user", "--mount", "sh", "-c", script], capture_output=True, text=True
        )
    except FileNotFoundError:
        pytest.skip("needs the program unshare")
    if ended.returncode == 99 or "unshare:" in ended.stderr:
        pytest.skip("needs the right to mount a small disk")
    assert "exit code 2" in ended.stdout and "dataset.json\n" not in ended.stdout.split("data set ")[1]
    assert re.search(r"^error: no space left for \S+: free some, or choose another disk$", ended.stderr, re.MULTILINE)
    assert ".tmp-" not in ended.stdout
    assert contents(open_storage(tmp_path / "copy")) == undisturbed, ended.stderr


@pytest.mark.integration
def test_control_c_says_how_to_resume(tmp_path: Path) -> None:
    run = start("--train-images", "5000", "--images-per-shard", "100", "--out", str(tmp_path))
    while not list(tmp_path.glob("train-*.tar")) and run.poll() is None:
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    _, err = run.communicate(timeout=100)
    assert run.returncode == 130 and "the same command resumes from here" in err
    assert not (tmp_path / "lock").exists() and not (tmp_path / "dataset.json").exists()
    assert os.listdir(tmp_path / "records")
