"""Every file of infra/ that is no Python: parsed against the schema of the program that reads it."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipeline.doctor.cluster_file import ray_validation_error
from tests.support import ROOT

INFRA = ROOT / "infra"
CLUSTERS = [ROOT / "ray_cluster.yaml", INFRA / "onprem.yaml"]
KUBERAY = sorted((INFRA / "kuberay").glob("*.yaml"))
KUBERNETES = "1.34"

# The fields of KubeRay's resources that may be used, by hand: no package holds their schema.
CLUSTER_FIELDS = {
    "rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "authOptions", "headGroupSpec", "workerGroupSpecs",
}  # fmt: skip
JOB_FIELDS = {
    "entrypoint", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "activeDeadlineSeconds", "backoffLimit",
    "rayClusterSpec",
}  # fmt: skip
HEAD_FIELDS = {"rayStartParams", "template"}
WORKER_FIELDS = HEAD_FIELDS | {"groupName", "replicas", "minReplicas", "maxReplicas"}


def test_no_file_is_forgotten() -> None:
    known = {*CLUSTERS, *KUBERAY, INFRA / "node_setup.sh", INFRA / "node_env.sh"}
    known |= {INFRA / "docker/Dockerfile", INFRA / "docker/Dockerfile.dockerignore"}
    files = {path for path in INFRA.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert files <= known and len(KUBERAY) == 2


@pytest.mark.parametrize("path", CLUSTERS, ids=lambda p: p.name)
def test_ray_takes_the_cluster_file(path: Path) -> None:
    pytest.importorskip("ray")
    assert ray_validation_error(yaml.safe_load(path.read_text())) is None


@pytest.mark.parametrize("path", [p for p in CLUSTERS if p.name == "ray_cluster.yaml"], ids=lambda p: p.name)
def test_ec2_takes_each_machine(path: Path) -> None:
    """What Ray's schema passes over: node_config, against the EC2 client's own model of run_instances."""
    session = pytest.importorskip("botocore.session").Session()
    from botocore.validate import ParamValidator

    shape = session.get_service_model("ec2").operation_model("RunInstances").input_shape
    for node in yaml.safe_load(path.read_text())["available_node_types"].values():
        machine = dict(node["node_config"], MinCount=1, MaxCount=1)
        machine.pop("SubnetIds", None)
        report = ParamValidator().validate(machine, shape)
        assert not report.has_errors(), report.generate_report()


@pytest.mark.parametrize("path", KUBERAY, ids=lambda p: p.name)
def test_kubernetes_takes_the_pods(path: Path) -> None:
    """The pods in it against Kubernetes' schema; KubeRay's own fields against the lists above."""
    validator = pytest.importorskip("kubernetes_validate")
    document = yaml.safe_load(path.read_text())
    assert document["apiVersion"] == "ray.io/v1" and document["kind"] in ("RayCluster", "RayJob")
    spec = document["spec"]
    if document["kind"] == "RayJob":
        assert set(spec) <= JOB_FIELDS
        assert spec["shutdownAfterJobFinishes"] is True and spec["activeDeadlineSeconds"] > 0  # nothing runs for ever
        spec = spec["rayClusterSpec"]
    assert set(spec) <= CLUSTER_FIELDS
    assert set(spec["headGroupSpec"]) <= HEAD_FIELDS
    assert spec["authOptions"] == {"mode": "token"}
    for group in [spec["headGroupSpec"], *spec["workerGroupSpecs"]]:
        assert group is spec["headGroupSpec"] or set(group) <= WORKER_FIELDS
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, **group["template"]}
        validator.validate(copy.deepcopy(pod), KUBERNETES, strict=True)


def test_a_wrong_pod_is_found() -> None:
    """The check above can fail."""
    validator = pytest.importorskip("kubernetes_validate")
    pod: dict[str, Any] = {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [{"name": "a", "imagee": "b"}]}}
    with pytest.raises(validator.ValidationError):
        validator.validate(pod, KUBERNETES, strict=True)


def test_one_version_of_ray_everywhere() -> None:
    (wanted,) = re.findall(r"^ray==(\S+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    for path in KUBERAY:
        assert re.findall(r"rayVersion: (\S+)", path.read_text()) == [wanted]


def test_the_health_checks_are_the_same_everywhere() -> None:
    in_shell = dict(re.findall(r"^export (RAY_(?:health|grpc)\w+)=(\d+)", (INFRA / "node_env.sh").read_text(), re.M))
    assert len(in_shell) == 6
    for path in KUBERAY:
        in_pods = dict(re.findall(r'name: (RAY_(?:health|grpc)\w+), value: "(\d+)"', path.read_text()))
        assert in_pods == in_shell


def test_the_docker_file_is_sound() -> None:
    hadolint = shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    subprocess.run([hadolint, "--no-color", INFRA / "docker/Dockerfile"], check=True)


def test_the_docker_file_copies_what_exists_and_all_that_is_needed() -> None:
    text = (INFRA / "docker/Dockerfile").read_text()
    copied = [name for line in re.findall(r"^COPY (.+) \S+$", text, re.M) for name in line.split()]
    assert all((ROOT / name).exists() for name in copied)
    assert {"irae", "sharding", "infra", "pipeline", "constraints.txt", "pyproject.toml"} <= set(copied)
    ignored = (INFRA / "docker/Dockerfile.dockerignore").read_text().split()
    assert {f"!{name}" for name in copied} <= set(ignored)


@pytest.mark.parametrize("name", ["node_setup.sh", "node_env.sh"])
def test_bash_takes_the_script(name: str) -> None:
    subprocess.run(["bash", "-n", INFRA / name], check=True)
