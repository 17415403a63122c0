"""The checks of this machine, and of a cluster as a whole."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Any

import pytest

from infra.storage import UserError, open_storage
from pipeline.doctor import cluster as doctor
from pipeline.doctor.cluster import main
from pipeline.doctor.config import DoctorConfig
from pipeline.doctor.machine import PEERS, VERSIONS, MachineReport, check_access, check_machine, check_peers


def local(store: str) -> DoctorConfig:
    return DoctorConfig(store=store, local=True)


def test_all_is_well_here(store_url: str, capsys: pytest.CaptureFixture[str]) -> None:
    main(local(store_url))
    shown = capsys.readouterr().out
    assert "all is well" in shown and socket.gethostname() in shown
    assert open_storage(store_url).list() == []  # it leaves nothing


def test_wrong_keys_are_named(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(UserError, match="AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY") as caught:
        main(local(s3_url))
    assert os.environ["AWS_SECRET_ACCESS_KEY"] not in str(caught.value).replace("wrong, or lack", "")


def test_another_version_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from infra import versions

    text = re.sub(r"^torch==.*$", "torch==1.0.0", versions.CONSTRAINTS.read_text(), flags=re.M)
    (tmp_path / "constraints.txt").write_text(text)
    (problem,) = versions.differing(tmp_path / "constraints.txt")
    assert problem.startswith("torch is ") and "constraints.txt says 1.0.0" in problem


def test_too_small_a_disk_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.doctor.machine.MIN_CACHE_GB", 1e9)
    report = check_machine(MachineReport("here", str(tmp_path), "absent"))
    assert any("GB are free at" in problem for problem in report.problems)
    assert {"cache", "store"} <= report.failed


def test_a_folder_that_is_not_shared_is_named(tmp_path: Path) -> None:
    report = MachineReport("there", str(tmp_path), "written/elsewhere")
    check_access(report)
    (problem,) = report.problems
    assert "is not the same store as on the machine of the command" in problem


def test_a_machine_out_of_reach_is_named() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        address = listening.getsockname()
        listening.listen()
        report = MachineReport("here", peers={"near": address})
        check_peers(report)
        assert not report.problems and report.values[PEERS].endswith("ms at most")
    report.peers = {"far": address}
    check_peers(report)
    assert report.problems[0].startswith(f"cannot reach far at 127.0.0.1:{address[1]}")


def node(address: str, alive: bool, reason: object = "2") -> dict[str, Any]:
    return {"NodeManagerAddress": address, "NodeManagerHostname": address, "Alive": alive, "DeathReason": reason}


def test_only_machines_that_went_unasked_and_stayed_away_are_lost() -> None:
    nodes = [node("a", True), node("b", False), node("b", True), node("c", False), node("d", False, "1")]
    (problem,) = doctor.lost_machines(nodes)
    assert problem.startswith("c (c) is lost")


def test_machines_that_differ_are_named() -> None:
    same = [
        MachineReport("a", values={VERSIONS: "3.12 2.13 2.60"}),
        MachineReport("b", values={VERSIONS: "3.12 2.13 2.60"}),
    ]
    assert doctor.version_differences(same) == []
    (problem,) = doctor.version_differences([*same, MachineReport("c", values={VERSIONS: "3.11 2.13 2.60"})])
    assert "3.11 2.13 2.60 on c; 3.12 2.13 2.60 on a, b" in problem
