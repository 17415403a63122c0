"""The least rights of head and workers, as IAM policies."""

from __future__ import annotations

from typing import Any

from infra.aws.cluster_file import ClusterFile

Policy = dict[str, Any]


def worker_policy(cluster: ClusterFile) -> Policy:
    """Read and write below the store's prefix."""
    return _policy(_store_statements(cluster))


def head_policy(cluster: ClusterFile, account: str) -> Policy:
    """The rights of a worker; start instances of the file's types with this cluster's tag, and terminate those."""
    return _policy([*_store_statements(cluster), *_instance_statements(cluster, account)])


def trust_policy() -> Policy:
    """Only EC2 instances may assume the role."""
    return _policy(
        [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
    )


def bucket_policy(bucket: str) -> Policy:
    """No access without TLS."""
    statement = {
        "Sid": "OnlyEncryptedConnections",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "s3:*",
        "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    return _policy([statement])


def _policy(statements: list[Policy]) -> Policy:
    return {"Version": "2012-10-17", "Statement": statements}


def _allow(sid: str, actions: str, resource: str | list[str], **condition: Policy) -> Policy:
    """A statement that allows the actions, given as "service:A B C"."""
    service, _, names = actions.partition(":")
    allowed = [f"{service}:{name}" for name in names.split()]
    statement: Policy = {"Sid": sid, "Effect": "Allow", "Action": allowed, "Resource": resource}
    return statement | ({"Condition": condition} if condition else {})


def _store_statements(cluster: ClusterFile) -> list[Policy]:
    bucket, prefix = f"arn:aws:s3:::{cluster.bucket}", cluster.prefix
    below_prefix = {"StringLike": {"s3:prefix": [prefix, f"{prefix}/*"]}} if prefix else {}
    objects = "s3:GetObject PutObject DeleteObject AbortMultipartUpload ListMultipartUploadParts"
    return [
        _allow("List", "s3:ListBucket", bucket, **below_prefix),
        _allow("Region", "s3:GetBucketLocation ListBucketMultipartUploads", bucket),
        _allow("Objects", objects, f"{bucket}/{prefix}/*" if prefix else f"{bucket}/*"),
    ]


def _instance_statements(cluster: ClusterFile, account: str) -> list[Policy]:
    ec2 = f"arn:aws:ec2:{cluster.region}:{account}"
    kinds = ("key-pair", "network-interface", "security-group", "spot-instances-request", "subnet", "volume")
    described = (
        "Instances",
        "InstanceStatus",
        "InstanceTypes",
        "Images",
        "KeyPairs",
        "SecurityGroups",
        "Subnets",
        "Tags",
    )
    with_our_tag = {"aws:RequestTag/ray-cluster-name": cluster.cluster, "ec2:InstanceType": [*cluster.instance_types]}
    return [
        _allow("Describe", f"ec2:{' '.join(f'Describe{name}' for name in described)}", "*"),
        _allow("StartOnlyOurs", "ec2:RunInstances", f"{ec2}:instance/*", StringEquals=with_our_tag),
        _allow(
            "StartWith",
            "ec2:RunInstances",
            [*(f"{ec2}:{kind}/*" for kind in kinds), f"arn:aws:ec2:{cluster.region}::image/*"],
        ),
        _allow(
            "TagAtStart",
            "ec2:CreateTags",
            [f"{ec2}:instance/*", f"{ec2}:volume/*"],
            StringEquals={"ec2:CreateAction": "RunInstances"},
        ),
        _allow(
            "TagAndTerminateOurs",
            "ec2:CreateTags TerminateInstances",
            f"{ec2}:instance/*",
            StringEquals={"aws:ResourceTag/ray-cluster-name": cluster.cluster},
        ),
        _allow(
            "GiveWorkersTheirRole",
            "iam:PassRole",
            f"arn:aws:iam::{account}:role/{cluster.worker_profile}",
            StringEquals={"iam:PassedToService": "ec2.amazonaws.com"},
        ),
    ]
