"""Resume of a data set: the reserved destination, and the finished shards that are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.storage import UserError, open_storage
from sharding.dataset import MANIFEST, Dataset
from sharding.write.degrade import encoder_settings, parse_degradations
from sharding.write.pack import RECORDS, SampleSpec, build_shard, clear_records, put_shard, record_name
from sharding.write.plan import make_plan
from sharding.write.resume import clear, find_finished_shards, reserve_destination
from tests.support.sharding import contents, make_small, pack_shard, small_plan, small_source

SPEC = SampleSpec(tuple(parse_degradations(["jpeg:10"])))
ENCODERS = encoder_settings()


# ---- the plan


def test_a_destination_holds_one_data_set(tmp_path: Path) -> None:
    store, source = open_storage(tmp_path), small_source()
    plan = small_plan(source)
    reserve_destination(store, plan, ENCODERS, overwrite=False)
    reserve_destination(store, plan, ENCODERS, overwrite=False)
    other = make_plan(source.images(), {"source": source.name, "bits": 5}, 0, 6)
    with pytest.raises(UserError, match="holds another data set .it differs in bits.; choose another --out"):
        reserve_destination(store, other, ENCODERS, overwrite=False)
    fewer = make_plan(source.images()[1:], {"source": source.name}, 0, 6)
    with pytest.raises(UserError, match="it differs in its images"):
        reserve_destination(store, fewer, ENCODERS, overwrite=False)
    reserve_destination(store, other, ENCODERS, overwrite=True)
    with pytest.raises(UserError, match="holds another data set"):
        reserve_destination(store, plan, ENCODERS, overwrite=False)


def test_encoders_are_not_mixed_and_a_finished_data_set_keeps_its_own(tmp_path: Path) -> None:
    store, source = open_storage(tmp_path), small_source()
    plan = small_plan(source)
    newer = {**ENCODERS, "libraries": {"pillow": "99"}}
    reserve_destination(store, plan, ENCODERS, overwrite=False)
    with pytest.raises(UserError, match="it differs in encoders"):
        reserve_destination(store, plan, newer, overwrite=False)
    make_small(store, SPEC, source)
    reserve_destination(store, plan, newer, overwrite=False)
    reserve_destination(store, plan, newer, overwrite=True)
    assert [entry.name for entry in store.list()] == ["plan.json"]


def test_foreign_files_stay(tmp_path: Path) -> None:
    store, plan = open_storage(tmp_path), small_plan(small_source())
    store.put("train-00000.tar", b"someone's")
    with pytest.raises(UserError, match=r"holds shards of another origin \(train-00000.tar and so on\)"):
        reserve_destination(store, plan, ENCODERS, overwrite=False)
    store.put("notes.txt", b"")
    store.put("other.tar", b"")
    clear(store)
    assert [entry.name for entry in store.list()] == ["notes.txt", "other.tar"]


# ---- finished shards


def pending(store_url: str, checksum: bool = False) -> list[str]:
    found = find_finished_shards(open_storage(store_url), small_plan(small_source()), checksum)
    return [shard.name for shard in found.pending]


def test_finished_shards_of_an_interrupted_run_are_kept(store_url: str) -> None:
    store, source = open_storage(store_url), small_source()
    plan = small_plan(source)
    names = [shard.name for shard in plan.shards]
    assert pending(store_url) == names
    for shard in plan.shards[:4]:
        pack_shard(source, shard, SPEC, store)
    assert pending(store_url) == names[4:]
    store.delete(names[0])
    store.put(names[1], store.get(names[1])[:-1] + b"!")
    store.put(record_name(names[2]), store.get(record_name(names[2]))[:-30])
    assert pending(store_url) == [*names[:3], *names[4:]] == pending(store_url, checksum=True)


def test_records_under_the_former_name_are_cleared(tmp_path: Path) -> None:
    """A data set that an earlier version left unfinished is started again, and nothing of it stays."""
    store, source = open_storage(tmp_path), small_source()
    plan = small_plan(source)
    reserve_destination(store, plan, ENCODERS, overwrite=False)
    for shard in plan.shards[:2]:
        pack_shard(source, shard, SPEC, store)
        former = record_name(shard.name).replace(RECORDS, "parts/")
        store.put(former, store.get(record_name(shard.name)))
        store.delete(record_name(shard.name))
    reserve_destination(store, plan, ENCODERS, overwrite=False)
    assert pending(str(tmp_path)) == [shard.name for shard in plan.shards]
    clear_records(store)
    assert not store.list("parts/")


def test_shards_with_unusable_images_are_made_again(tmp_path: Path) -> None:
    store, source = open_storage(tmp_path), small_source()
    plan = small_plan(source)
    tar, record = build_shard(source, plan.shards[0], SPEC)
    record.bad.append({"key": "k", "file": "f", "reason": "r"})
    put_shard(tar, record, store)
    assert pending(str(tmp_path)) == [shard.name for shard in plan.shards]


def test_damaged_shards_of_a_finished_data_set_are_pending(store_url: str) -> None:
    store, source = open_storage(store_url), small_source()
    plan = make_small(store, SPEC, source)
    info = Dataset.open(store).info
    found = find_finished_shards(store, plan)
    assert found.pending == () and found.info == info
    assert found.sha256 == {shard["name"]: shard["sha256"] for shard in info["shards"]}
    name = plan.shards[2].name
    store.put(name, store.get(name)[:700] + b"!" + store.get(name)[701:])
    store.delete(plan.shards[4].name)
    assert pending(store_url) == [name, plan.shards[4].name] == pending(store_url, checksum=True)
    store.delete(MANIFEST)
    found = find_finished_shards(store, plan)
    assert found.info is None and found.pending == plan.shards and len(found.sha256) == len(plan.shards)
    assert contents(store).keys() >= {"dataset.json"}
