"""Removal of everything that setup and `ray up` created in the account."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from infra.aws.cluster_file import ClusterFile
from infra.aws.setup import find_groups
from infra.aws.steps import Account, exists, unless_absent
from infra.storage import UserError

logger = logging.getLogger(__name__)

RAYS_OWN_ROLE = "ray-autoscaler-v1"
"""The role with full rights that Ray creates when a file names no instance profile."""
NOT_TERMINATED = {
    "Name": "instance-state-name",
    "Values": ["pending", "running", "stopping", "stopped", "shutting-down"],
}


def teardown(account: Account, cluster: ClusterFile, delete_bucket: str | None = None) -> None:
    """Remove instances, security groups, key pair, profiles and roles; the bucket only when it is named.

    Raises UserError when `delete_bucket` is not the bucket's name.
    """
    if delete_bucket not in (None, cluster.bucket):
        raise UserError(f"--delete-bucket {delete_bucket}: {cluster.path} uses {cluster.bucket!r}; repeat that name.")
    terminate_instances(account, cluster.cluster)
    for name in (cluster.group, f"ray-autoscaler-{cluster.cluster}"):
        for group in find_groups(account, name):
            account.step(f"remove the security group {name}", group.delete)
    remove_key(account, cluster.key_name)
    used = [(i.iam_instance_profile or {}).get("Arn", "") for i in instances(account)]
    rays_own = [] if any(arn.endswith(f"/{RAYS_OWN_ROLE}") for arn in used) else [RAYS_OWN_ROLE]
    for profile in (cluster.head_profile, cluster.worker_profile, *rays_own):
        remove_profile(account, profile)
    if not delete_bucket:
        logger.info(f"the bucket {cluster.bucket} stays with its data (--delete-bucket {cluster.bucket} removes both)")
    elif unless_absent(account.s3.meta.client.head_bucket, Bucket=delete_bucket):
        bucket = account.s3.Bucket(delete_bucket)
        account.step(f"remove all data in the bucket {delete_bucket}", bucket.object_versions.delete)
        account.step(f"remove the bucket {delete_bucket}", bucket.delete)


def instances(account: Account, *filters: dict[str, Any]) -> list[Any]:
    """Instances in any state but terminated."""
    return list(account.ec2.instances.filter(Filters=[*filters, NOT_TERMINATED]))


def terminate_instances(account: Account, cluster: str) -> None:
    """Terminate every instance with the cluster's tag, and wait: a security group in use cannot be removed."""
    ids = [i.id for i in instances(account, {"Name": "tag:ray-cluster-name", "Values": [cluster]})]
    client = account.ec2.meta.client
    if ids and account.step(f"terminate {', '.join(ids)}", client.terminate_instances, InstanceIds=ids):
        client.get_waiter("instance_terminated").wait(InstanceIds=ids)


def remove_key(account: Account, name: str) -> None:
    """Remove the key pair, here and in the account."""
    if exists(key := account.ec2.KeyPair(name)):
        account.step(f"remove the key pair {name}", key.delete)
    if (file := Path.home() / ".ssh" / f"{name}.pem").exists():
        account.step(f"remove {file}", file.unlink)


def remove_profile(account: Account, name: str) -> None:
    """Remove an instance profile, its role and the role's policies."""
    profile, role = account.iam.InstanceProfile(name), account.iam.Role(name)
    if exists(profile):
        for member in profile.roles:
            account.step(f"remove the role {member.name} from its profile", profile.remove_role, RoleName=member.name)
        account.step(f"remove the instance profile {name}", profile.delete)
    if exists(role):
        for attached in role.attached_policies.all():
            account.step(f"detach the policy {attached.arn}", role.detach_policy, PolicyArn=attached.arn)
        for policy in role.policies.all():
            account.step(f"remove the policy of the role {name}", policy.delete)
        account.step(f"remove the role {name}", role.delete)
