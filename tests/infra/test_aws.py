"""infra.aws against moto: a server that behaves like an AWS account."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import ROOT
from tests.support.aws import EMPTY, REGION, client, inventory

pytest.importorskip("boto3")
moto_server = pytest.importorskip("moto.server")

from botocore.exceptions import ClientError  # noqa: E402

from infra.aws.__main__ import main  # noqa: E402
from infra.aws.cluster_file import read_cluster_file  # noqa: E402
from infra.aws.policies import head_policy, worker_policy  # noqa: E402

ACCOUNT = "123456789012"
SETUP = ["setup", "--bucket", "a-bucket", "--ssh-from", "203.0.113.7/32"]


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def account(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """An empty account; the environment leads to it."""
    post(server, "reset", "")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "anything")
    monkeypatch.setenv("AWS_ENDPOINT_URL", server)
    monkeypatch.setenv("AWS_REGION", REGION)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    return server


@pytest.fixture
def cluster(tmp_path: Path, account: str) -> Path:
    """The shipped file, in a folder of its own."""
    path = tmp_path / "ray_cluster.yaml"
    shutil.copy(ROOT / "ray_cluster.yaml", path)
    return path


def post(server: str, what: str, body: str) -> None:
    import urllib.request

    request = urllib.request.Request(
        f"{server}/moto-api/{what}", data=body.encode(), headers={"Content-Type": "text/plain"}
    )
    urllib.request.urlopen(request).close()


def run(cluster: Path, *arguments: str) -> int:
    return main([*arguments, "--cluster", str(cluster)])


def test_setup_makes_everything_once_and_fills_in_the_file(cluster: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(cluster, *SETUP) == 0
    found = inventory()
    assert found["buckets"] == ["a-bucket"]
    assert sorted(found["roles"]) == sorted(found["profiles"]) == ["irae-cluster-head", "irae-cluster-worker"]
    assert found["groups"] == ["irae-cluster"]
    text = cluster.read_text()
    assert "s3://a-bucket/irae" in text and "YOUR-BUCKET" not in text
    group = client("ec2").describe_security_groups(Filters=[{"Name": "group-name", "Values": ["irae-cluster"]}])
    assert f"[{group['SecurityGroups'][0]['GroupId']}]" in text
    assert text.count("\n") == (ROOT / "ray_cluster.yaml").read_text().count("\n")  # comments and all are still there
    capsys.readouterr()
    assert run(cluster, *SETUP) == 0
    assert "nothing was changed" in capsys.readouterr().out
    assert inventory() == found


def test_the_bucket_is_private_encrypted_versioned_and_swept(cluster: Path) -> None:
    run(cluster, *SETUP)
    s3, bucket = client("s3"), {"Bucket": "a-bucket"}
    assert all(s3.get_public_access_block(**bucket)["PublicAccessBlockConfiguration"].values())
    assert s3.get_bucket_encryption(**bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert s3.get_bucket_versioning(**bucket)["Status"] == "Enabled"
    (rule,) = s3.get_bucket_lifecycle_configuration(**bucket)["Rules"]
    assert rule["AbortIncompleteMultipartUpload"] == {"DaysAfterInitiation": 2}
    assert "aws:SecureTransport" in s3.get_bucket_policy(**bucket)["Policy"]
    assert s3.get_bucket_location(**bucket)["LocationConstraint"] == REGION


def test_a_bucket_of_the_users_own_keeps_its_policy_rules_and_objects(cluster: Path) -> None:
    s3, bucket = client("s3"), {"Bucket": "a-bucket"}
    statement = {"Effect": "Deny", "Principal": "*", "Action": "s3:PutBucketAcl", "Resource": "arn:aws:s3:::a-bucket"}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    rule = {"ID": "own", "Status": "Enabled", "Filter": {"Prefix": "logs/"}, "Expiration": {"Days": 7}}
    s3.create_bucket(**bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
    s3.put_object(**bucket, Key="own", Body=b"1")
    s3.put_bucket_policy(**bucket, Policy=policy)
    s3.put_bucket_lifecycle_configuration(**bucket, LifecycleConfiguration={"Rules": [rule]})
    assert run(cluster, *SETUP) == 0
    assert s3.get_bucket_policy(**bucket)["Policy"] == policy
    assert [r["ID"] for r in s3.get_bucket_lifecycle_configuration(**bucket)["Rules"]] == ["own", "sweep"]
    assert all(s3.get_public_access_block(**bucket)["PublicAccessBlockConfiguration"].values())
    assert run(cluster, "teardown") == 0
    assert s3.get_object(**bucket, Key="own")["Body"].read() == b"1"


def test_setup_restores_what_was_changed(cluster: Path) -> None:
    run(cluster, *SETUP)
    iam, name = client("iam"), "irae-cluster-worker"
    rights = iam.get_role_policy(RoleName=name, PolicyName=name)["PolicyDocument"]
    iam.put_role_policy(RoleName=name, PolicyName=name, PolicyDocument=json.dumps(anything_goes()))
    iam.remove_role_from_instance_profile(InstanceProfileName=name, RoleName=name)
    assert run(cluster, "setup") == 0
    assert iam.get_role_policy(RoleName=name, PolicyName=name)["PolicyDocument"] == rights
    assert iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Roles"]


def test_ssh_is_open_to_the_given_ranges_alone(cluster: Path) -> None:
    def ssh_ranges() -> set[str]:
        groups = client("ec2").describe_security_groups(Filters=[{"Name": "group-name", "Values": ["irae-cluster"]}])
        (group,) = groups["SecurityGroups"]
        rules = group["IpPermissions"]
        assert all(r.get("FromPort") == 22 or r["UserIdGroupPairs"][0]["GroupId"] == group["GroupId"] for r in rules)
        found = {r["CidrIp"] for rule in rules for r in rule["IpRanges"]}
        return found | {r["CidrIpv6"] for rule in rules for r in rule.get("Ipv6Ranges", ())}

    run(cluster, *SETUP)
    assert ssh_ranges() == {"203.0.113.7/32"}
    run(cluster, "setup", "--ssh-from", "198.51.100.0/24", "2001:db8::/32")
    assert ssh_ranges() == {"198.51.100.0/24", "2001:db8::/32"}
    run(cluster, "setup")
    assert ssh_ranges() == {"198.51.100.0/24", "2001:db8::/32"}


@pytest.mark.parametrize("text", ["0.0.0.0/0", "::/0", "203.0.113.7/33", "home"])
def test_a_range_that_lets_in_the_world_is_refused(cluster: Path, text: str, capsys: Any) -> None:
    assert run(cluster, "setup", "--bucket", "a-bucket", "--ssh-from", text) == 2
    assert f"--ssh-from {text}" in capsys.readouterr().err
    assert inventory() == EMPTY


def test_a_dry_run_says_it_all_and_changes_nothing(cluster: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = cluster.read_bytes()
    assert run(cluster, *SETUP, "--dry-run") == 0
    said = capsys.readouterr().out
    for what in (
        "bucket a-bucket",
        "block public access",
        "role irae-cluster-head",
        "role irae-cluster-worker",
        "security group",
        "write into",
    ):
        assert f"{what}" in said
    assert inventory() == EMPTY and cluster.read_bytes() == before
    run(cluster, *SETUP)
    found = inventory()
    assert run(cluster, "teardown", "--dry-run", "--delete-bucket", "a-bucket") == 0
    assert inventory() == found


def test_teardown_removes_everything_also_what_ray_leaves(cluster: Path, tmp_path: Path) -> None:
    run(cluster, *SETUP)
    leave_what_ray_leaves(cluster)
    client("s3").delete_bucket_policy(Bucket="a-bucket")  # moto is reached without encryption
    client("s3").put_object(Bucket="a-bucket", Key="irae/x", Body=b"1")
    client("s3").put_object(Bucket="a-bucket", Key="irae/x", Body=b"2")
    client("s3").delete_object(Bucket="a-bucket", Key="irae/x")
    assert run(cluster, "teardown") == 0
    assert inventory() == EMPTY | {"buckets": ["a-bucket"]}
    assert not (tmp_path / "home" / ".ssh" / "irae-cluster.pem").exists()
    assert run(cluster, "teardown", "--delete-bucket", "b-bucket") == 2
    assert run(cluster, "teardown", "--delete-bucket", "a-bucket") == 0
    assert inventory() == EMPTY
    assert run(cluster, "teardown", "--delete-bucket", "a-bucket") == 0  # nothing left to do is no error


def leave_what_ray_leaves(cluster: Path) -> None:
    """A running machine, the key pair, and the role that Ray makes where a file names none."""
    ec2, iam = client("ec2"), client("iam")
    (vpc,) = ec2.describe_vpcs()["Vpcs"]
    ec2.create_security_group(GroupName="ray-autoscaler-irae", Description="x", VpcId=vpc["VpcId"])
    pem = Path.home() / ".ssh" / "irae-cluster.pem"
    pem.parent.mkdir(parents=True)
    pem.write_text(ec2.create_key_pair(KeyName="irae-cluster")["KeyMaterial"])
    iam.create_role(RoleName="ray-autoscaler-v1", AssumeRolePolicyDocument="{}")
    iam.put_role_policy(RoleName="ray-autoscaler-v1", PolicyName="p", PolicyDocument=json.dumps(anything_goes()))
    iam.create_instance_profile(InstanceProfileName="ray-autoscaler-v1")
    iam.add_role_to_instance_profile(InstanceProfileName="ray-autoscaler-v1", RoleName="ray-autoscaler-v1")
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "ray-cluster-name", "Value": "irae"}]}]
    ec2.run_instances(ImageId="ami-12c6146b", MinCount=1, MaxCount=2, TagSpecifications=tags)


def anything_goes() -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}


def test_teardown_leaves_the_machines_of_others(cluster: Path) -> None:
    run(cluster, *SETUP)
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "ray-cluster-name", "Value": "other"}]}]
    client("ec2").run_instances(ImageId="ami-12c6146b", MinCount=1, MaxCount=1, TagSpecifications=tags)
    run(cluster, "teardown")
    assert len(inventory()["machines"]) == 1


def test_rays_own_role_stays_while_an_instance_uses_it(cluster: Path) -> None:
    run(cluster, *SETUP)
    leave_what_ray_leaves(cluster)
    tags = [{"ResourceType": "instance", "Tags": [{"Key": "ray-cluster-name", "Value": "other"}]}]
    profile = {"Name": "ray-autoscaler-v1"}
    client("ec2").run_instances(
        ImageId="ami-12c6146b", MinCount=1, MaxCount=1, TagSpecifications=tags, IamInstanceProfile=profile
    )
    run(cluster, "teardown")
    assert inventory()["roles"] == inventory()["profiles"] == ["ray-autoscaler-v1"]


def test_the_policies_allow_the_store_and_nothing_beside_it(cluster: Path, server: str) -> None:
    """Simulated with the rights of an assumed role. moto knows no conditions: they are looked at below."""
    run(cluster, *SETUP)
    file = read_cluster_file(cluster)
    client("s3").create_bucket(Bucket="other", CreateBucketConfiguration={"LocationConstraint": REGION})
    client("s3").delete_bucket_policy(Bucket="a-bucket")
    for role, policy in (("head", head_policy(file, ACCOUNT)), ("worker", worker_policy(file))):
        keys = keys_of_role(f"irae-cluster-{role}", policy)
        post(server, "reset-auth", "0")
        try:
            s3, ec2, iam = (client(name, **keys) for name in ("s3", "ec2", "iam"))
            s3.put_object(Bucket="a-bucket", Key="irae/x", Body=b"1")
            assert s3.get_object(Bucket="a-bucket", Key="irae/x")["Body"].read() == b"1"
            s3.list_objects_v2(Bucket="a-bucket", Prefix="irae/")
            s3.delete_object(Bucket="a-bucket", Key="irae/x")
            denied(lambda s3=s3: s3.put_object(Bucket="a-bucket", Key="elsewhere/x", Body=b"1"))
            denied(lambda s3=s3: s3.get_object(Bucket="other", Key="irae/x"))
            denied(lambda s3=s3: s3.delete_bucket(Bucket="a-bucket"))
            denied(lambda iam=iam: iam.create_user(UserName="mallory"))
            denied(lambda ec2=ec2: ec2.create_security_group(GroupName="x", Description="x"))
            if role == "head":
                ec2.describe_instances()
            else:
                denied(lambda ec2=ec2: ec2.describe_instances())
        finally:
            post(server, "reset-auth", "inf")


def keys_of_role(role: str, policy: dict[str, Any]) -> dict[str, str]:
    for statement in policy["Statement"]:
        statement.pop("Condition", None)
    client("iam").put_role_policy(RoleName=role, PolicyName=role, PolicyDocument=json.dumps(policy))
    arn = client("iam").get_role(RoleName=role)["Role"]["Arn"]
    keys = client("sts").assume_role(RoleArn=arn, RoleSessionName="test")["Credentials"]
    return {
        "aws_access_key_id": keys["AccessKeyId"],
        "aws_secret_access_key": keys["SecretAccessKey"],
        "aws_session_token": keys["SessionToken"],
    }


def denied(action: Any) -> None:
    with pytest.raises(ClientError) as caught:
        action()
    assert caught.value.response["Error"]["Code"] in ("AccessDenied", "UnauthorizedOperation")


def test_no_statement_is_wider_than_it_must_be() -> None:
    file = read_cluster_file(ROOT / "ray_cluster.yaml")
    for statement in head_policy(file, ACCOUNT)["Statement"] + worker_policy(file)["Statement"]:
        actions = [statement["Action"]] if isinstance(statement["Action"], str) else statement["Action"]
        assert not any("*" in action for action in actions)
        if statement["Resource"] == "*":
            assert all(action.startswith("ec2:Describe") for action in actions)
        if {"ec2:TerminateInstances", "ec2:CreateTags"} & set(actions) or "instance/*" in str(statement["Resource"]):
            assert "Condition" in statement
    (passing,) = [s for s in head_policy(file, ACCOUNT)["Statement"] if s["Action"] == ["iam:PassRole"]]
    assert passing["Resource"] == f"arn:aws:iam::{ACCOUNT}:role/irae-cluster-worker"


def test_errors_are_sentences(cluster: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any) -> None:
    assert run(cluster, "setup") == 2
    assert "run setup with --bucket NAME" in capsys.readouterr().err
    assert run(cluster, "setup", "--bucket", "No_Bucket") == 2
    assert "is no bucket's name" in capsys.readouterr().err
    assert run(cluster.parent / "absent.yaml", "teardown") == 2
    assert "there is no" in capsys.readouterr().err
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert run(cluster, *SETUP) == 2
    assert "no AWS credentials were found" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "botocore", None)  # as if it were not installed
    assert run(cluster, *SETUP) == 2
    assert "infra.aws needs boto3" in capsys.readouterr().err


def test_policy_prints_json(cluster: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(cluster, *SETUP)
    capsys.readouterr()
    for who in ("head", "worker"):
        assert run(cluster, "policy", who) == 0
        assert json.loads(capsys.readouterr().out)["Version"] == "2012-10-17"
