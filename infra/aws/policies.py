"""The least rights of head and workers, as IAM policies."""

from __future__ import annotations

from typing import Any

from infra.aws.cluster_file import ClusterFile

Policy = dict[str, Any]
EC2_SERVICE = "ec2.amazonaws.com"
_OBJECT_ACTIONS = "GetObject PutObject DeleteObject AbortMultipartUpload ListMultipartUploadParts"
_DESCRIBED = "Instances InstanceStatus InstanceTypes Images KeyPairs SecurityGroups Subnets Tags"


def worker_policy(cluster: ClusterFile) -> Policy:
    """Read and write below the store's prefix."""
    bucket, prefix = f"arn:aws:s3:::{cluster.bucket}", cluster.prefix
    below_prefix = {"StringLike": {"s3:prefix": [prefix, f"{prefix}/*"]}} if prefix else {}
    return _policy(
        _allow("List", "s3:ListBucket", bucket, **below_prefix),
        _allow("Region", "s3:GetBucketLocation ListBucketMultipartUploads", bucket),
        _allow("Objects", f"s3:{_OBJECT_ACTIONS}", f"{bucket}/{prefix}/*" if prefix else f"{bucket}/*"),
    )


def head_policy(cluster: ClusterFile, account: str) -> Policy:
    """The rights of a worker; start instances of the file's types with this cluster's tag, and terminate those."""
    ec2, tag = f"arn:aws:ec2:{cluster.region}:{account}", "ray-cluster-name"
    kinds = ("key-pair", "network-interface", "security-group", "spot-instances-request", "subnet", "volume")
    started = {f"aws:RequestTag/{tag}": cluster.cluster, "ec2:InstanceType": [*cluster.instance_types]}
    needed = [*(f"{ec2}:{kind}/*" for kind in kinds), f"arn:aws:ec2:{cluster.region}::image/*"]
    at_start, ours = {"ec2:CreateAction": "RunInstances"}, {f"aws:ResourceTag/{tag}": cluster.cluster}
    instance, role = f"{ec2}:instance/*", f"arn:aws:iam::{account}:role/{cluster.worker_profile}"
    return _policy(
        *worker_policy(cluster)["Statement"],
        _allow("Describe", f"ec2:{' '.join(f'Describe{name}' for name in _DESCRIBED.split())}", "*"),
        _allow("StartOnlyOurs", "ec2:RunInstances", instance, StringEquals=started),
        _allow("StartWith", "ec2:RunInstances", needed),
        _allow("TagAtStart", "ec2:CreateTags", [instance, f"{ec2}:volume/*"], StringEquals=at_start),
        _allow("TagAndTerminateOurs", "ec2:CreateTags TerminateInstances", instance, StringEquals=ours),
        _allow("GiveWorkersTheirRole", "iam:PassRole", role, StringEquals={"iam:PassedToService": EC2_SERVICE}),
    )


def trust_policy() -> Policy:
    """Only EC2 instances may assume the role."""
    return _policy({"Effect": "Allow", "Principal": {"Service": EC2_SERVICE}, "Action": "sts:AssumeRole"})


def bucket_policy(bucket: str) -> Policy:
    """No access without TLS."""
    return _policy(
        {
            "Sid": "OnlyEncryptedConnections",
            "Effect": "Deny",
            "Principal": "*",
            "Action": "s3:*",
            "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
            "Condition": {"Bool": {"aws:SecureTransport": "false"}},
        }
    )


def _policy(*statements: Policy) -> Policy:
    return {"Version": "2012-10-17", "Statement": [*statements]}


def _allow(sid: str, actions: str, resource: str | list[str], **condition: Policy) -> Policy:
    """A statement that allows the actions, given as "service:A B C"."""
    service, _, names = actions.partition(":")
    allowed = [f"{service}:{name}" for name in names.split()]
    statement: Policy = {"Sid": sid, "Effect": "Allow", "Action": allowed, "Resource": resource}
    return statement | ({"Condition": condition} if condition else {})
