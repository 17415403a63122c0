"""The AWS account that the environment leads to: one that moto plays."""

from __future__ import annotations

from typing import Any

REGION = "us-west-2"
EMPTY: dict[str, list[str]] = {key: [] for key in ("buckets", "roles", "profiles", "groups", "keys", "machines")}


def client(name: str, **keys: str) -> Any:
    import boto3

    return boto3.client(name, region_name=REGION, **keys)


def inventory() -> dict[str, Any]:
    """What there is in the account beyond what every account has."""
    iam, ec2 = client("iam"), client("ec2")
    return {
        "buckets": [b["Name"] for b in client("s3").list_buckets()["Buckets"]],
        "roles": [r["RoleName"] for r in iam.list_roles()["Roles"] if "/aws-service-role/" not in r["Path"]],
        "profiles": [p["InstanceProfileName"] for p in iam.list_instance_profiles()["InstanceProfiles"]],
        "groups": [
            g["GroupName"] for g in ec2.describe_security_groups()["SecurityGroups"] if g["GroupName"] != "default"
        ],
        "keys": [k["KeyName"] for k in ec2.describe_key_pairs()["KeyPairs"]],
        "machines": [
            i["InstanceId"]
            for r in ec2.describe_instances()["Reservations"]
            for i in r["Instances"]
            if i["State"]["Name"] != "terminated"
        ],
    }
