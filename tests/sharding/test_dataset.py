"""dataset.json and the manifest: content, determinism, refusals."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from infra.storage import UserError, open_storage
from sharding.dataset import DATASET, MANIFEST, Dataset, publish
from sharding.write.degrade import parse_degradations
from sharding.write.pack import SampleSpec
from tests.support.sharding import contents, make_small, pack_shard, small_plan, small_source

SPEC = SampleSpec(tuple(parse_degradations(["jpeg:10", "mask:box"])))


def test_a_data_set_knows_its_splits_fields_and_labels(tmp_path: Path) -> None:
    store = open_storage(tmp_path)
    make_small(store, SPEC)
    dataset = Dataset.open(store)
    assert dataset.split_sizes == {"train": 20, "val": 4, "test": 4}
    assert dataset.fields == {"clean": "npy", "jpeg10": "jpg", "mask_box": "npy"}
    train = dataset.split("train")
    assert len(train) == 20 and sorted(set(train.shard)) == [0, 1, 2, 3] and train.labels == [None] * 20
    assert set(train.sizes["clean"]) == {128 + 16 * 16 * 3}
    assert sum(shard["samples"] for shard in dataset.shards) == 28


def test_an_empty_split_is_named_with_the_full_ones(tmp_path: Path) -> None:
    store = open_storage(tmp_path)
    make_small(store, SampleSpec(), small_source(count_val=0))
    with pytest.raises(UserError, match=re.escape("has no 'val' split; it has train (20), test (4)")):
        Dataset.open(store).split("val")


def test_the_bytes_are_determined_whatever_the_order_of_making(tmp_path: Path) -> None:
    stores = [open_storage(tmp_path / name) for name in "ab"]
    make_small(stores[0], SPEC)
    source = small_source()
    plan = small_plan(source)
    records = {shard.name: pack_shard(source, shard, SPEC, stores[1]) for shard in reversed(plan.shards)}
    details = {"name": "small", "image_size": source.size, "bits": 8, "plan_sha256": plan.sha256}
    publish(stores[1], [records[shard.name] for shard in plan.shards], details, SPEC.fields)
    for name in (DATASET, MANIFEST):
        assert stores[0].get(name) == stores[1].get(name)


def test_nothing_is_published_while_a_shard_is_not_there(tmp_path: Path) -> None:
    store, source = open_storage(tmp_path), small_source()
    records = [pack_shard(source, shard, SPEC, store) for shard in small_plan(source).shards]
    store.delete(records[1].name)
    store.put(records[2].name, b"shorter")
    with pytest.raises(UserError, match=f"2 shards are not at .*, the first being {records[1].name}"):
        publish(store, records, {}, SPEC.fields)
    assert not {DATASET, MANIFEST} & contents(store).keys()


def test_what_cannot_be_opened_is_refused_with_the_reason(tmp_path: Path) -> None:
    store = open_storage(tmp_path)

    def problem() -> str:
        with pytest.raises(UserError) as caught:
            Dataset.open(store)
        assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)
        return str(caught.value)

    assert "there is no finished data set" in problem()
    make_small(store, SPEC)
    whole = contents(store)
    store.put(MANIFEST, whole[MANIFEST][:-1])
    assert "is missing or is not the one" in problem()
    store.delete(MANIFEST)
    assert "is missing or is not the one" in problem()
    store.put(DATASET, whole[DATASET][:-10])
    assert "it is no JSON" in problem()
    store.put(DATASET, json.dumps({**json.loads(whole[DATASET]), "format": 99}).encode())
    assert "has format 99, but this version reads 1" in problem()


@pytest.mark.integration
def test_a_command_that_ends_right_after_opening_a_data_set_ends_well(tmp_path: Path) -> None:
    """Arrow reading from a Python file aborted one in seven of them, as its threads outlived the interpreter."""
    make_small(open_storage(tmp_path), SampleSpec())
    code = "import sys; from infra.storage import open_storage; from sharding.dataset import Dataset; "
    code += "Dataset.open(open_storage(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(tmp_path)]
    processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(16)]
    assert [(process.communicate()[1], process.returncode) for process in processes] == [("", 0)] * 16
