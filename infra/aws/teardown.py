"""Remove what setup made, and what `ray up` made and `ray down` leaves."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from infra.aws.cluster_file import ClusterFile
from infra.aws.setup import find_groups
from infra.aws.steps import Account, absent
from infra.storage import UserError

RAYS_OWN_ROLE = "ray-autoscaler-v1"
"""The role with full rights that Ray makes when a file names no instance profile."""
ALIVE = ("pending", "running", "stopping", "stopped", "shutting-down")


def teardown(account: Account, cluster: ClusterFile, delete_bucket: str | None = None) -> None:
    """Machines, security groups, key pair, profiles and roles; the bucket only when it is named.

    ValueError when `delete_bucket` is not the bucket's name.
    """
    if delete_bucket not in (None, cluster.bucket):
        raise UserError(f"--delete-bucket {delete_bucket}: {cluster.path} uses {cluster.bucket!r}; repeat that name.")
    end_machines(account, cluster.cluster)
    for name in (cluster.group, f"ray-autoscaler-{cluster.cluster}"):
        for group in find_groups(account, name):
            remove = partial(account.ec2.delete_security_group, GroupId=group["GroupId"])
            account.step(f"remove the security group {name}", remove)
    remove_key(account, cluster.key_name)
    for profile in (cluster.head_profile, cluster.worker_profile):
        remove_profile(account, profile)
    in_use = {i.get("IamInstanceProfile", {}).get("Arn", "").rpartition("/")[2] for i in machines(account, [])}
    if RAYS_OWN_ROLE not in in_use:
        remove_profile(account, RAYS_OWN_ROLE)
    if delete_bucket:
        remove_bucket(account, delete_bucket)
    else:
        account.note(f"the bucket {cluster.bucket} stays with its data (--delete-bucket {cluster.bucket} removes both)")


def machines(account: Account, filters: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Instances that exist, in any state but terminated."""
    chosen = [*filters, {"Name": "instance-state-name", "Values": list(ALIVE)}]
    pages = account.ec2.get_paginator("describe_instances").paginate(Filters=chosen)
    return [i for page in pages for group in page["Reservations"] for i in group["Instances"]]


def end_machines(account: Account, cluster: str) -> None:
    """Terminate every machine with the cluster's tag, and wait for it: a security group in use cannot go."""
    found = machines(account, [{"Name": "tag:ray-cluster-name", "Values": [cluster]}])
    if not found:
        return
    names = [str(i["InstanceId"]) for i in found]
    if account.step(f"end the machines {', '.join(names)}", lambda: _terminate(account, names)):
        account.ec2.get_waiter("instance_terminated").wait(InstanceIds=names)


def remove_key(account: Account, name: str) -> None:
    """The key pair, here and in the account."""
    found: list[Any] = []
    with absent("InvalidKeyPair.NotFound"):
        found = account.ec2.describe_key_pairs(KeyNames=[name])["KeyPairs"]
    if found:
        account.step(f"remove the key pair {name}", lambda: account.ec2.delete_key_pair(KeyName=name))
    file = Path.home() / ".ssh" / f"{name}.pem"
    if file.exists():
        account.step(f"remove {file}", file.unlink)


def remove_profile(account: Account, name: str) -> None:
    """An instance profile with its role and the role's policies."""
    iam = account.iam
    with absent("NoSuchEntity"):
        profile = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
        account.step(f"remove the instance profile {name}", lambda: _delete_profile(iam, profile))
    with absent("NoSuchEntity"):
        iam.get_role(RoleName=name)
        account.step(f"remove the role {name}", lambda: _delete_role(iam, name))


def remove_bucket(account: Account, bucket: str) -> None:
    """The bucket with every object and every version."""
    with absent("404", "NoSuchBucket"):
        account.s3.head_bucket(Bucket=bucket)
        account.step(f"remove the bucket {bucket} with all that is in it", lambda: _delete_bucket(account.s3, bucket))


def _terminate(account: Account, names: list[str]) -> bool:
    account.ec2.terminate_instances(InstanceIds=names)
    return True


def _delete_profile(iam: Any, profile: dict[str, Any]) -> None:
    name = profile["InstanceProfileName"]
    for role in profile["Roles"]:
        iam.remove_role_from_instance_profile(InstanceProfileName=name, RoleName=role["RoleName"])
    iam.delete_instance_profile(InstanceProfileName=name)


def _delete_role(iam: Any, name: str) -> None:
    for policy in iam.list_attached_role_policies(RoleName=name)["AttachedPolicies"]:
        iam.detach_role_policy(RoleName=name, PolicyArn=policy["PolicyArn"])
    for policy in iam.list_role_policies(RoleName=name)["PolicyNames"]:
        iam.delete_role_policy(RoleName=name, PolicyName=policy)
    iam.delete_role(RoleName=name)


def _delete_bucket(s3: Any, bucket: str) -> None:
    for page in s3.get_paginator("list_object_versions").paginate(Bucket=bucket):
        found = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
        if found:
            keys = [{"Key": item["Key"], "VersionId": item["VersionId"]} for item in found]
            s3.delete_objects(Bucket=bucket, Delete={"Objects": keys, "Quiet": True})
    s3.delete_bucket(Bucket=bucket)
