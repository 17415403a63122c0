"""Make what a cluster needs. Each step looks first, so that the same command again changes only what differs."""

from __future__ import annotations

import ipaddress
import json
import re
from functools import partial
from typing import Any

from infra.aws.cluster_file import PLACEHOLDERS, ClusterFile, fill_in
from infra.aws.policies import TRUST, bucket_policy, head_policy, worker_policy
from infra.aws.steps import Account, absent
from infra.storage import UserError

TAG = {"Key": "project", "Value": "irae"}
IMAGE_PARAMETER = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id"
"""Where AWS publishes the newest image with a driver for NVIDIA GPUs. The file keeps what it was at setup."""
LIFECYCLE = {
    "Rules": [
        {
            "ID": "sweep",
            "Status": "Enabled",
            "Filter": {"Prefix": ""},
            "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 2},
            "NoncurrentVersionExpiration": {"NoncurrentDays": 30},
            "Expiration": {"ExpiredObjectDeleteMarker": True},
        }
    ]
}
"""Half uploads go after 2 days, overwritten and deleted objects after 30."""
_PRIVATE = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
_ENCRYPTED = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}, "BucketKeyEnabled": True}]}


def setup(account: Account, cluster: ClusterFile, ssh_from: list[str], vpc: str | None = None) -> dict[str, str]:
    """Bucket, roles and security group, made or mended; returns the values for the file's placeholders.

    ssh_from: ranges such as 203.0.113.7/32 that may use ssh. ValueError for the whole world.
    """
    check_ranges(ssh_from)
    make_bucket(account, cluster.bucket)
    make_profile(account, cluster.head_profile, head_policy(cluster, account.number()))
    make_profile(account, cluster.worker_profile, worker_policy(cluster))
    make_spot_role(account)
    group = make_group(account, cluster, ssh_from, vpc or default_vpc(account))
    values = {"bucket": cluster.bucket}
    if group:
        values["security group"] = group
    if image := newest_image(account):
        values["image"] = image
    text = cluster.path.read_text()
    missing = {name: value for name, value in values.items() if PLACEHOLDERS[name] in text}
    if missing:
        shown = ", ".join(f"{name} {value}" for name, value in missing.items())
        account.step(f"write into {cluster.path}: {shown}", lambda: fill_in(cluster.path, missing))
    return values


def check_ranges(ranges: list[str]) -> None:
    """ValueError for what is no range of addresses, or is the whole world."""
    problems = []
    for text in ranges:
        try:
            network = ipaddress.ip_network(text)
        except ValueError:
            problems.append(f"--ssh-from {text} is no range of addresses; write it like 203.0.113.7/32.")
            continue
        if network.prefixlen < 8:
            problems.append(f"--ssh-from {text} lets in half the world; give your own address, like 203.0.113.7/32.")
    if problems:
        raise UserError("\n".join(problems))


def check_bucket(name: str) -> None:
    """ValueError for a name that S3 does not take."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", name):
        raise UserError(f"--bucket {name} is no bucket's name; use 3 to 63 small letters, digits and hyphens.")


def make_bucket(account: Account, bucket: str) -> None:
    """Private, encrypted, with versions, and swept."""
    s3 = account.s3
    exists = False
    with absent("404", "NoSuchBucket"):
        s3.head_bucket(Bucket=bucket)
        exists = True
    if not exists:
        # us-east-1 is S3's default, and the one region that may not be named.
        where = {} if account.region == "us-east-1" else {"LocationConstraint": account.region}
        options: dict[str, Any] = {"CreateBucketConfiguration": where} if where else {}
        account.step(f"make the bucket {bucket}", lambda: s3.create_bucket(Bucket=bucket, **options))
        if account.dry_run:
            return
    make_private(account, bucket)
    if s3.get_bucket_versioning(Bucket=bucket).get("Status") != "Enabled":
        versions = {"Status": "Enabled"}
        account.step(
            f"{bucket}: keep old versions for 30 days",
            lambda: s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration=versions),
        )
    rules: list[Any] = []
    with absent("NoSuchLifecycleConfiguration"):
        rules = s3.get_bucket_lifecycle_configuration(Bucket=bucket)["Rules"]
    if "sweep" not in {rule.get("ID") for rule in rules}:
        account.step(
            f"{bucket}: sweep half uploads",
            lambda: s3.put_bucket_lifecycle_configuration(
                Bucket=bucket, LifecycleConfiguration={"Rules": rules + LIFECYCLE["Rules"]}
            ),
        )


def make_private(account: Account, bucket: str) -> None:
    """No public access, encryption at rest and on the way."""
    s3 = account.s3
    blocked: Any = None
    with absent("NoSuchPublicAccessBlockConfiguration"):
        blocked = s3.get_public_access_block(Bucket=bucket)["PublicAccessBlockConfiguration"]
    if blocked != _PRIVATE:
        account.step(
            f"{bucket}: no public access",
            lambda: s3.put_public_access_block(Bucket=bucket, PublicAccessBlockConfiguration=_PRIVATE),
        )
    encrypted = False
    with absent("ServerSideEncryptionConfigurationNotFoundError"):
        encrypted = bool(s3.get_bucket_encryption(Bucket=bucket))
    if not encrypted:
        account.step(
            f"{bucket}: encrypt",
            lambda: s3.put_bucket_encryption(Bucket=bucket, ServerSideEncryptionConfiguration=_ENCRYPTED),
        )
    held = False
    with absent("NoSuchBucketPolicy"):
        held = bool(s3.get_bucket_policy(Bucket=bucket))
    if not held:  # a policy of the user's own stays
        account.step(
            f"{bucket}: only encrypted connections",
            lambda: s3.put_bucket_policy(Bucket=bucket, Policy=json.dumps(bucket_policy(bucket))),
        )


def make_profile(account: Account, name: str, policy: dict[str, Any]) -> None:
    """An instance profile with a role of the same name and this one policy."""
    iam = account.iam
    role: Any = None
    with absent("NoSuchEntity"):
        role = iam.get_role(RoleName=name)["Role"]
    if role is None:
        account.step(
            f"make the role {name}",
            lambda: iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps(TRUST), Tags=[TAG]),
        )
    held: Any = None
    with absent("NoSuchEntity"):
        held = iam.get_role_policy(RoleName=name, PolicyName=name)["PolicyDocument"]
    if held != policy:
        account.step(
            f"give the role {name} its policy",
            lambda: iam.put_role_policy(RoleName=name, PolicyName=name, PolicyDocument=json.dumps(policy)),
        )
    profile: Any = None
    with absent("NoSuchEntity"):
        profile = iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]
    if profile is None:
        account.step(
            f"make the instance profile {name}",
            lambda: iam.create_instance_profile(InstanceProfileName=name, Tags=[TAG]),
        )
    if not (profile or {}).get("Roles"):
        account.step(
            f"put the role {name} into its profile",
            lambda: iam.add_role_to_instance_profile(InstanceProfileName=name, RoleName=name),
        )


def make_spot_role(account: Account) -> None:
    """AWS's own role for spot machines; without it the first request fails. It belongs to the account and stays."""
    if account.iam.list_roles(PathPrefix="/aws-service-role/spot.amazonaws.com/")["Roles"]:
        return
    account.step(
        "make AWS's role for spot machines",
        lambda: account.iam.create_service_linked_role(AWSServiceName="spot.amazonaws.com"),
    )


def default_vpc(account: Account) -> str:
    """The account's default network. ValueError when it has none."""
    found = account.ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    if not found:
        raise UserError(f"the account has no default VPC in {account.region}; name one with --vpc vpc-...")
    return str(found[0]["VpcId"])


def make_group(account: Account, cluster: ClusterFile, ssh_from: list[str], vpc: str) -> str | None:
    """The security group: its members among themselves, and ssh from the ranges. Returns its id, None in a dry run."""
    found = find_groups(account, cluster.group, vpc)
    if found:
        group = found[0]
    else:
        tags = [{"ResourceType": "security-group", "Tags": [TAG, {"Key": "Name", "Value": cluster.group}]}]
        made = account.step(
            f"make the security group {cluster.group} in {vpc}",
            lambda: account.ec2.create_security_group(
                GroupName=cluster.group, Description="IRAE cluster", VpcId=vpc, TagSpecifications=tags
            ),
        )
        if made is None:
            return None
        group = {"GroupId": made["GroupId"], "IpPermissions": []}
    identity = str(group["GroupId"])
    _let_in_members(account, cluster.group, identity, group["IpPermissions"])
    _let_in_ssh(account, cluster.group, identity, group["IpPermissions"], set(ssh_from))
    return identity


def find_groups(account: Account, name: str, vpc: str | None = None) -> list[dict[str, Any]]:
    """Security groups of this name."""
    filters = [{"Name": "group-name", "Values": [name]}]
    if vpc:
        filters.append({"Name": "vpc-id", "Values": [vpc]})
    return list(account.ec2.describe_security_groups(Filters=filters)["SecurityGroups"])


def _let_in_members(account: Account, name: str, group: str, held: list[dict[str, Any]]) -> None:
    if any(pair["GroupId"] == group for rule in held for pair in rule.get("UserIdGroupPairs", ())):
        return
    rule = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group, "Description": "the cluster's machines"}]}
    account.step(
        f"{name}: let in its own machines",
        lambda: account.ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule]),
    )


def _let_in_ssh(account: Account, name: str, group: str, held: list[dict[str, Any]], wanted: set[str]) -> None:
    """The ranges that may use ssh are those of the last command; without any, they stay."""
    present = {
        (spec, text[key])
        for rule in held
        if rule.get("FromPort") == 22
        for spec, key in (("IpRanges", "CidrIp"), ("Ipv6Ranges", "CidrIpv6"))
        for text in rule.get(spec, ())
    }
    named = {("Ipv6Ranges" if ":" in text else "IpRanges", text) for text in wanted}
    for spec, text in sorted(named - present):
        account.step(
            f"{name}: let in ssh from {text}",
            partial(account.ec2.authorize_security_group_ingress, GroupId=group, IpPermissions=[_ssh_rule(spec, text)]),
        )
    for spec, text in sorted(present - named) if wanted else ():
        account.step(
            f"{name}: no more ssh from {text}",
            partial(account.ec2.revoke_security_group_ingress, GroupId=group, IpPermissions=[_ssh_rule(spec, text)]),
        )


def _ssh_rule(spec: str, text: str) -> dict[str, Any]:
    key = "CidrIpv6" if spec == "Ipv6Ranges" else "CidrIp"
    return {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, spec: [{key: text}]}


def newest_image(account: Account) -> str | None:
    """The image's id in this region; None, with a word on it, when AWS does not say."""
    with absent("ParameterNotFound", "AccessDeniedException"):
        return str(account.ssm.get_parameter(Name=IMAGE_PARAMETER)["Parameter"]["Value"])
    account.note(f"AWS does not name an image at {IMAGE_PARAMETER}; put the ImageId of a Deep Learning Base image in.")
    return None
