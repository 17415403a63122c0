"""The least that the head and the workers must be allowed, as IAM policies."""

from __future__ import annotations

from typing import Any

from infra.aws.cluster_file import ClusterFile

Policy = dict[str, Any]

TRUST: Policy = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}
"""Only an EC2 instance can take the role."""


def worker_policy(cluster: ClusterFile) -> Policy:
    """Read and write below the store's prefix; nothing else."""
    return {"Version": "2012-10-17", "Statement": _store_statements(cluster)}


def head_policy(cluster: ClusterFile, account: str) -> Policy:
    """What a worker may, and: start machines of the listed types with this cluster's name, and end those."""
    return {"Version": "2012-10-17", "Statement": [*_store_statements(cluster), *_machine_statements(cluster, account)]}


def bucket_policy(bucket: str) -> Policy:
    """Nobody talks to the bucket without encryption."""
    return {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Sid": "OnlyEncryptedConnections",
                "Effect": "Deny",
                "Principal": "*",
                "Action": "s3:*",
                "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"],
                "Condition": {"Bool": {"aws:SecureTransport": "false"}},
            }
        ],
    }


def _store_statements(cluster: ClusterFile) -> list[Policy]:
    bucket, prefix = f"arn:aws:s3:::{cluster.bucket}", cluster.prefix
    listing: Policy = {"Sid": "List", "Effect": "Allow", "Action": "s3:ListBucket", "Resource": bucket}
    if prefix:
        listing["Condition"] = {"StringLike": {"s3:prefix": [prefix, f"{prefix}/*"]}}
    return [
        listing,
        {
            "Sid": "Region",
            "Effect": "Allow",
            "Action": ["s3:GetBucketLocation", "s3:ListBucketMultipartUploads"],
            "Resource": bucket,
        },
        {
            "Sid": "Objects",
            "Effect": "Allow",
            "Action": [
                "s3:GetObject",
                "s3:PutObject",
                "s3:DeleteObject",
                "s3:AbortMultipartUpload",
                "s3:ListMultipartUploadParts",
            ],
            "Resource": f"{bucket}/{prefix}/*" if prefix else f"{bucket}/*",
        },
    ]


def _machine_statements(cluster: ClusterFile, account: str) -> list[Policy]:
    ec2 = f"arn:aws:ec2:{cluster.region}:{account}"
    ours = {"StringEquals": {"aws:ResourceTag/ray-cluster-name": cluster.cluster}}
    return [
        {
            "Sid": "Look",
            "Effect": "Allow",
            "Action": [
                "ec2:DescribeInstances",
                "ec2:DescribeInstanceStatus",
                "ec2:DescribeInstanceTypes",
                "ec2:DescribeImages",
                "ec2:DescribeKeyPairs",
                "ec2:DescribeSecurityGroups",
                "ec2:DescribeSubnets",
                "ec2:DescribeTags",
            ],
            "Resource": "*",
        },
        {
            "Sid": "StartOnlyOurs",
            "Effect": "Allow",
            "Action": "ec2:RunInstances",
            "Resource": f"{ec2}:instance/*",
            "Condition": {
                "StringEquals": {
                    "aws:RequestTag/ray-cluster-name": cluster.cluster,
                    "ec2:InstanceType": list(cluster.instance_types),
                }
            },
        },
        {
            "Sid": "StartWith",
            "Effect": "Allow",
            "Action": "ec2:RunInstances",
            "Resource": [
                f"{ec2}:{kind}/*"
                for kind in (
                    "key-pair",
                    "network-interface",
                    "security-group",
                    "spot-instances-request",
                    "subnet",
                    "volume",
                )
            ]
            + [f"arn:aws:ec2:{cluster.region}::image/*"],
        },
        {
            "Sid": "TagWhatIsStarted",
            "Effect": "Allow",
            "Action": "ec2:CreateTags",
            "Resource": [f"{ec2}:instance/*", f"{ec2}:volume/*"],
            "Condition": {"StringEquals": {"ec2:CreateAction": "RunInstances"}},
        },
        {
            "Sid": "TagAndEndOurs",
            "Effect": "Allow",
            "Action": ["ec2:CreateTags", "ec2:TerminateInstances"],
            "Resource": f"{ec2}:instance/*",
            "Condition": ours,
        },
        {
            "Sid": "GiveWorkersTheirRole",
            "Effect": "Allow",
            "Action": "iam:PassRole",
            "Resource": f"arn:aws:iam::{account}:role/{cluster.worker_profile}",
            "Condition": {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
        },
    ]
