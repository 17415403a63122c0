"""The cluster's yaml: each mistake that users make is found without network, with a sentence that says what to do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import ROOT

pytest.importorskip("ray")
pytest.importorskip("boto3")

from infra.aws.cluster_file import PLACEHOLDERS, fill_in  # noqa: E402
from infra.aws.prices import USD_PER_HOUR, estimate  # noqa: E402
from infra.storage import UserError  # noqa: E402
from pipeline.doctor.cluster import main
from pipeline.doctor.cluster_file import check_cluster_file, ray_validation_error
from pipeline.doctor.config import DoctorConfig

FILLED = {"bucket": "a-bucket", "image": "ami-0123456789abcdef0", "security group": "sg-0123456789abcdef0"}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with what `ray up` needs; the project's folder is the current one."""
    for name in (".ray/auth_token", ".aws/credentials", ".ssh/id_ed25519"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("secret")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(ROOT)
    return tmp_path


@pytest.fixture
def filled(home: Path) -> Path:
    """The shipped file as infra.aws setup leaves it."""
    path = home / "ray_cluster.yaml"
    path.write_text((ROOT / "ray_cluster.yaml").read_text())
    fill_in(path, FILLED)
    return path


def changed(path: Path, change: Callable[[Any], None]) -> list[str]:
    """The problems of the file after a change."""
    config = copy.deepcopy(yaml.safe_load(path.read_text()))
    change(config)
    path.write_text(yaml.safe_dump(config))
    return check_cluster_file(path)


def test_the_shipped_file_lacks_only_what_setup_fills_in(home: Path, filled: Path) -> None:
    problems = check_cluster_file(ROOT / "ray_cluster.yaml")
    assert [p.split(" still stands in line")[0] for p in problems] == list(PLACEHOLDERS.values())
    assert check_cluster_file(filled) == []


def test_the_on_prem_file_lacks_only_addresses_and_store(home: Path) -> None:
    path = home / "onprem.yaml"
    path.write_text((ROOT / "infra/onprem.yaml").read_text())
    assert len(check_cluster_file(path)) == 2
    path.write_text(path.read_text().replace("192.0.2.", "10.0.0.").replace("YOUR-BUCKET", "a-bucket"))
    assert check_cluster_file(path) == []


def node(config: Any, name: str = "gpu_worker") -> Any:
    return config["available_node_types"][name]["node_config"]


MISTAKES: dict[str, tuple[Callable[[Any], Any], str]] = {
    "a placeholder": (lambda c: node(c).update(ImageId="ami-00000000000000000"), "ami-00000000000000000 still stands"),
    "an unknown key": (lambda c: c.update(max_worker=4), "Ray refuses it: Additional properties"),
    "a wrong type": (lambda c: c.update(max_workers="four"), "'four' is not of type 'integer'"),
    "no head": (lambda c: c.update(head_node_type="haed"), "must be one of `available_node_types`"),
    "too few workers": (
        lambda c: c["available_node_types"]["gpu_worker"].update(min_workers=8, max_workers=8),
        "global `max_workers` is smaller than the sum of `min_workers`",
    ),
    "ssh for the world": (
        lambda c: c["provider"].update(
            security_group={
                "IpPermissions": [{"FromPort": 22, "ToPort": 22, "IpRanges": [{"CidrIp": "0.0.0.0/0"}]}]
            }
        ),
        "opens port 22 to the world (0.0.0.0/0)",
    ),
    "no security group": (lambda c: node(c, "head").pop("SecurityGroupIds"), "head: without SecurityGroupIds Ray"),
    "an open dashboard": (
        lambda c: c["head_start_ray_commands"].__setitem__(
            1, c["head_start_ray_commands"][1].replace("127.0.0.1", "0.0.0.0")
        ),
        "write --dashboard-host=127.0.0.1",
    ),
    "no common store": (lambda c: c["setup_commands"].pop(0), "no setup command sets IRAE_STORE"),
    "a store on a disk": (
        lambda c: c["setup_commands"].__setitem__(0, "IRAE_STORE=/data bash x"),
        "IRAE_STORE is no s3:// URL",
    ),
    "idle for hours": (lambda c: c.update(idle_timeout_minutes=600), "idle_timeout_minutes is 600"),
    "no time to live": (lambda c: c["setup_commands"].pop(), "no time to live"),
    "stopped, not terminated": (
        lambda c: node(c).pop("InstanceInitiatedShutdownBehavior"),
        "gpu_worker: InstanceInitiatedShutdownBehavior is not terminate",
    ),
    "kept disks": (lambda c: c["provider"].pop("cache_stopped_nodes"), "cache_stopped_nodes is on"),
}  # fmt: skip


def test_ray_validates_by_names_that_it_still_has(filled: Path) -> None:
    """`prepare_config` and `validate_config` are private: this fails when they change."""
    config = yaml.safe_load(filled.read_text())
    before = copy.deepcopy(config)
    assert ray_validation_error(config) is None and config == before
    assert "provider" in str(ray_validation_error({"cluster_name": "irae"}))
    config["available_node_types"]["head"]["resources"] = {"CPU": "many"}
    error = ray_validation_error(config)
    assert error == "'many' is not of type 'integer' (at available_node_types.head.resources.CPU)"


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_found_with_a_sentence(filled: Path, mistake: str) -> None:
    change, sentence = MISTAKES[mistake]
    problems = changed(filled, change)
    assert any(sentence in problem for problem in problems), problems
    assert len(problems) <= 2  # one mistake makes no more problems
    assert all(problem[-1] in ".?" and "\n" not in problem for problem in problems)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [("a: [1", "is no yaml"), ("", "holds no settings"), ("just words", "holds no settings")],
)
def test_what_is_no_cluster_file_is_refused(home: Path, text: str, sentence: str) -> None:
    path = home / "x.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=sentence):
        check_cluster_file(path)


def test_the_doctor_prints_problems_and_the_cost(filled: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(DoctorConfig(cluster=filled))
    assert "all is well" in capsys.readouterr().out
    filled.write_text(filled.read_text().replace("g6.2xlarge", "g6.3xlarge").replace("cache_stopped", "keep_stopped"))
    with pytest.raises(UserError, match="cache_stopped_nodes is on"):
        main(DoctorConfig(cluster=filled))
    assert "cost: not known for g6.3xlarge" in capsys.readouterr().out


def test_the_estimate_is_the_sum_of_the_machines(filled: Path) -> None:
    text = estimate(yaml.safe_load(filled.read_text()))
    head, worker = USD_PER_HOUR["m6i.xlarge"], USD_PER_HOUR["g6.2xlarge"]
    assert f"{head:.2f} USD an hour for the head alone, at most {head + 4 * worker:.2f} with 4 workers" in text


def test_the_price_table_names_real_types() -> None:
    session = pytest.importorskip("botocore.session").Session()
    assert set(USD_PER_HOUR) <= set(session.get_service_model("ec2").shape_for("InstanceType").enum)
