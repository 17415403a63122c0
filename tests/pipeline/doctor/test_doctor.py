"""The doctor on this machine, and what it says of several."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from infra.storage import open_storage
from pipeline.doctor import cluster as doctor
from pipeline.doctor.cluster import main
from pipeline.doctor.config import DoctorConfig
from pipeline.doctor.machine import Findings, check_peers, examine, use_store


def local(store: str) -> DoctorConfig:
    return DoctorConfig(store=store, local=True)


def test_all_is_well_here(store_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(local(store_url))
    shown = capsys.readouterr().out
    assert "all is well" in shown and socket.gethostname() in shown
    assert open_storage(store_url).list() == []  # it leaves nothing


def test_wrong_keys_are_named(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(ValueError, match="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") as caught:
        main(local(s3_url))
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(caught.value).replace("wrong, or lack", "")


def test_another_version_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from infra import versions

    text = re.sub(r"^torch==.*$", "torch==1.0.0", versions.CONSTRAINTS.read_text(), flags=re.M)
    (tmp_path / "constraints.txt").write_text(text)
    (problem,) = versions.differing(tmp_path / "constraints.txt")
    assert problem.startswith("torch is ") and "constraints.txt says 1.0.0" in problem


def test_too_small_a_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.doctor.machine.LEAST_CACHE_GB", 1e9)
    findings = examine("here", str(tmp_path), "absent", {})
    assert any("GB are free at" in problem for problem in findings.problems)
    assert {"cache", "store"} <= findings.wrong


def test_a_folder_that_is_not_shared_is_named(tmp_path: Path) -> None:
    findings = Findings("there")
    use_store(findings, str(tmp_path), "written/elsewhere")
    (problem,) = findings.problems
    assert "is another place here than on the machine that asks" in problem


def test_a_machine_out_of_reach_is_named() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = listening.getsockname()
        listening.listen()
        findings = Findings("here")
        check_peers(findings, {"near": address})
        assert not findings.problems and findings.values["others"].endswith("ms at most")
    check_peers(findings, {"far": address})
    assert findings.problems[0].startswith(f"cannot reach far at 127.0.0.1:{address[1]}")


def node(address: str, alive: bool, reason: object = "2") -> dict[str, Any]:
    return {"NodeManagerAddress": address, "NodeManagerHostname": address, "Alive": alive, "DeathReason": reason}


def test_only_machines_that_went_unasked_and_stayed_away_are_lost() -> None:
    nodes = [node("a", True), node("b", False), node("b", True), node("c", False), node("d", False, "1")]
    assert [n["NodeManagerAddress"] for n in doctor.lost(nodes)] == ["c"]
    assert doctor.lost_sentence(node("c", False)).startswith("c (c) is lost")


def test_machines_that_differ_are_named() -> None:
    same = [Findings("a", {"versions": "3.12 2.13 2.60"}), Findings("b", {"versions": "3.12 2.13 2.60"})]
    assert doctor.different_versions(same) == []
    (problem,) = doctor.different_versions([*same, Findings("c", {"versions": "3.11 2.13 2.60"})])
    assert "3.11 2.13 2.60 on c; 3.12 2.13 2.60 on a, b" in problem
