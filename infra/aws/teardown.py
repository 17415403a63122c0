"""Removal of everything that setup and `ray up` created in the account."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from infra.aws.cluster_file import ClusterFile
from infra.aws.setup import find_groups
from infra.aws.steps import Account, unless_absent
from infra.storage import UserError

logger = logging.getLogger(__name__)

RAYS_OWN_ROLE = "ray-autoscaler-v1"
"""The role with full rights that Ray creates when a file names no instance profile."""
NOT_TERMINATED = ["pending", "running", "stopping", "stopped", "shutting-down"]


def teardown(account: Account, cluster: ClusterFile, delete_bucket: str | None = None) -> None:
    """Remove instances, security groups, key pair, profiles and roles; the bucket only when it is named.

    Raises UserError when `delete_bucket` is not the bucket's name.
    """
    if delete_bucket not in (None, cluster.bucket):
        raise UserError(f"--delete-bucket {delete_bucket}: {cluster.path} uses {cluster.bucket!r}; repeat that name.")
    terminate_instances(account, cluster.cluster)
    for name in (cluster.group, f"ray-autoscaler-{cluster.cluster}"):
        for group in find_groups(account, name):
            remove = account.ec2.delete_security_group
            account.step(f"remove the security group {name}", remove, GroupId=group["GroupId"])
    remove_key(account, cluster.key_name)
    for profile in (cluster.head_profile, cluster.worker_profile):
        remove_profile(account, profile)
    in_use = {i.get("IamInstanceProfile", {}).get("Arn", "").rpartition("/")[2] for i in instances(account, [])}
    if RAYS_OWN_ROLE not in in_use:
        remove_profile(account, RAYS_OWN_ROLE)
    if not delete_bucket:
        logger.info(f"the bucket {cluster.bucket} stays with its data (--delete-bucket {cluster.bucket} removes both)")
    elif unless_absent(("404", "NoSuchBucket"), account.s3.head_bucket, Bucket=delete_bucket):
        account.step(f"remove the bucket {delete_bucket} and all its data", _delete_bucket, account.s3, delete_bucket)


def instances(account: Account, filters: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Instances in any state but terminated."""
    chosen = [*filters, {"Name": "instance-state-name", "Values": NOT_TERMINATED}]
    pages = account.ec2.get_paginator("describe_instances").paginate(Filters=chosen)
    return [i for page in pages for group in page["Reservations"] for i in group["Instances"]]


def terminate_instances(account: Account, cluster: str) -> None:
    """Terminate every instance with the cluster's tag, and wait: a security group in use cannot be removed."""
    found = instances(account, [{"Name": "tag:ray-cluster-name", "Values": [cluster]}])
    ids = [str(i["InstanceId"]) for i in found]
    if ids and account.step(f"terminate {', '.join(ids)}", account.ec2.terminate_instances, InstanceIds=ids):
        account.ec2.get_waiter("instance_terminated").wait(InstanceIds=ids)


def remove_key(account: Account, name: str) -> None:
    """Remove the key pair, here and in the account."""
    if unless_absent(("InvalidKeyPair.NotFound",), account.ec2.describe_key_pairs, KeyNames=[name]):
        account.step(f"remove the key pair {name}", account.ec2.delete_key_pair, KeyName=name)
    file = Path.home() / ".ssh" / f"{name}.pem"
    if file.exists():
        account.step(f"remove {file}", file.unlink)


def remove_profile(account: Account, name: str) -> None:
    """Remove an instance profile, its role and the role's policies."""
    iam, absent = account.iam, ("NoSuchEntity",)
    if found := unless_absent(absent, iam.get_instance_profile, InstanceProfileName=name):
        account.step(f"remove the instance profile {name}", _delete_profile, iam, found["InstanceProfile"])
    if unless_absent(absent, iam.get_role, RoleName=name):
        account.step(f"remove the role {name}", _delete_role, iam, name)


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
