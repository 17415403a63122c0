"""Bucket, roles and security group of a cluster. Idempotent: a repeated setup changes only differences."""

from __future__ import annotations

import ipaddress
import json
import logging
import re
from typing import Any

from infra.aws.cluster_file import PLACEHOLDERS, ClusterFile, fill_in
from infra.aws.policies import Policy, bucket_policy, head_policy, trust_policy, worker_policy
from infra.aws.steps import Account, unless_absent
from infra.storage import UserError

logger = logging.getLogger(__name__)

TAG = {"Key": "project", "Value": "irae"}
IMAGE_PARAMETER = "/aws/service/deeplearning/ami/x86_64/base-oss-nvidia-driver-gpu-ubuntu-22.04/latest/ami-id"
"""AWS's parameter with the newest image that has an NVIDIA driver. The file keeps the value of the first setup."""
LIFECYCLE_RULE: dict[str, Any] = {
    "ID": "sweep",
    "Status": "Enabled",
    "Filter": {"Prefix": ""},
    "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 2},
    "NoncurrentVersionExpiration": {"NoncurrentDays": 30},
    "Expiration": {"ExpiredObjectDeleteMarker": True},
}
"""Expiry of incomplete uploads after 2 days, of overwritten and deleted objects after 30."""
_PRIVATE = dict.fromkeys(("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets"), True)
_ENCRYPTED = {"Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}, "BucketKeyEnabled": True}]}
_ABSENT_ENTITY = ("NoSuchEntity",)


def setup(account: Account, cluster: ClusterFile, ssh_from: list[str], vpc: str | None = None) -> None:
    """Create or update bucket, roles and security group, and fill in the cluster file.

    ssh_from: CIDR ranges such as 203.0.113.7/32 that may use ssh. Raises UserError for half the internet or more.
    """
    check_ranges(ssh_from)
    make_bucket(account, cluster.bucket)
    make_profile(account, cluster.head_profile, head_policy(cluster, account.number()))
    make_profile(account, cluster.worker_profile, worker_policy(cluster))
    make_spot_role(account)
    group = make_group(account, cluster, ssh_from, vpc or default_vpc(account))
    values = {"bucket": cluster.bucket, "security group": group, "image": newest_image(account)}
    text = cluster.path.read_text()
    missing = {name: value for name, value in values.items() if value and PLACEHOLDERS[name] in text}
    if missing:
        shown = ", ".join(f"{name} {value}" for name, value in missing.items())
        account.step(f"write into {cluster.path}: {shown}", fill_in, cluster.path, missing)


def check_ranges(ranges: list[str]) -> None:
    """Raise UserError for text that is no CIDR range, and for ranges larger than /8."""
    problems = []
    for text in ranges:
        try:
            if ipaddress.ip_network(text).prefixlen < 8:
                problems.append(
                    f"--ssh-from {text} lets in half the world; give your own address, like 203.0.113.7/32."
                )
        except ValueError:
            problems.append(f"--ssh-from {text} is no range of addresses; write it like 203.0.113.7/32.")
    if problems:
        raise UserError("\n".join(problems))


def check_bucket(name: str) -> None:
    """Raise UserError for a name that S3 does not accept."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", name):
        raise UserError(f"--bucket {name} is no bucket's name; use 3 to 63 small letters, digits and hyphens.")


def make_bucket(account: Account, bucket: str) -> None:
    """A bucket that is private, encrypted and versioned, with expiry; a policy of the user's own is kept."""
    s3, this = account.s3, {"Bucket": bucket}
    if unless_absent(("404", "NoSuchBucket"), s3.head_bucket, **this) is None:
        # us-east-1 is S3's default, and the one region that may not be named.
        elsewhere = {"CreateBucketConfiguration": {"LocationConstraint": account.region}}
        options = {} if account.region == "us-east-1" else elsewhere
        account.step(f"create the bucket {bucket}", s3.create_bucket, **this, **options)
        if account.dry_run:
            return
    blocked = unless_absent(("NoSuchPublicAccessBlockConfiguration",), s3.get_public_access_block, **this)
    if blocked is None or blocked["PublicAccessBlockConfiguration"] != _PRIVATE:
        block = s3.put_public_access_block
        account.step(f"{bucket}: block public access", block, **this, PublicAccessBlockConfiguration=_PRIVATE)
    if not unless_absent(("ServerSideEncryptionConfigurationNotFoundError",), s3.get_bucket_encryption, **this):
        encrypt = s3.put_bucket_encryption
        account.step(f"{bucket}: encrypt", encrypt, **this, ServerSideEncryptionConfiguration=_ENCRYPTED)
    if not unless_absent(("NoSuchBucketPolicy",), s3.get_bucket_policy, **this):
        policy = json.dumps(bucket_policy(bucket))
        account.step(f"{bucket}: require encrypted connections", s3.put_bucket_policy, **this, Policy=policy)
    if s3.get_bucket_versioning(**this).get("Status") != "Enabled":
        keep = s3.put_bucket_versioning
        account.step(f"{bucket}: keep old versions", keep, **this, VersioningConfiguration={"Status": "Enabled"})
    found = unless_absent(("NoSuchLifecycleConfiguration",), s3.get_bucket_lifecycle_configuration, **this)
    rules = found["Rules"] if found else []
    if LIFECYCLE_RULE["ID"] not in {rule.get("ID") for rule in rules}:
        expire, configuration = s3.put_bucket_lifecycle_configuration, {"Rules": [*rules, LIFECYCLE_RULE]}
        account.step(
            f"{bucket}: expire incomplete uploads after 2 days, old versions after 30",
            expire,
            **this,
            LifecycleConfiguration=configuration,
        )


def make_profile(account: Account, name: str, policy: Policy) -> None:
    """An instance profile with a role of the same name and this one policy."""
    iam = account.iam
    if unless_absent(_ABSENT_ENTITY, iam.get_role, RoleName=name) is None:
        trust = json.dumps(trust_policy())
        account.step(
            f"create the role {name}", iam.create_role, RoleName=name, AssumeRolePolicyDocument=trust, Tags=[TAG]
        )
    held = unless_absent(_ABSENT_ENTITY, iam.get_role_policy, RoleName=name, PolicyName=name)
    if held is None or held["PolicyDocument"] != policy:
        document = json.dumps(policy)
        put = iam.put_role_policy
        account.step(f"set the policy of the role {name}", put, RoleName=name, PolicyName=name, PolicyDocument=document)
    profile = unless_absent(_ABSENT_ENTITY, iam.get_instance_profile, InstanceProfileName=name)
    if profile is None:
        create = iam.create_instance_profile
        account.step(f"create the instance profile {name}", create, InstanceProfileName=name, Tags=[TAG])
    if profile is None or not profile["InstanceProfile"]["Roles"]:
        add = iam.add_role_to_instance_profile
        account.step(f"add the role {name} to its profile", add, InstanceProfileName=name, RoleName=name)


def make_spot_role(account: Account) -> None:
    """AWS's own role for spot instances, without which the first request fails. It is the account's and stays."""
    if not account.iam.list_roles(PathPrefix="/aws-service-role/spot.amazonaws.com/")["Roles"]:
        create = account.iam.create_service_linked_role
        account.step("create AWS's role for spot instances", create, AWSServiceName="spot.amazonaws.com")


def default_vpc(account: Account) -> str:
    """The id of the account's default network. Raises UserError when there is none."""
    found = account.ec2.describe_vpcs(Filters=[{"Name": "is-default", "Values": ["true"]}])["Vpcs"]
    if not found:
        raise UserError(f"the account has no default VPC in {account.region}; name one with --vpc vpc-...")
    return str(found[0]["VpcId"])


def make_group(account: Account, cluster: ClusterFile, ssh_from: list[str], vpc: str) -> str | None:
    """The id of the security group, open to its members and to ssh from the ranges; None in a dry run.

    Without ranges, those of an earlier setup stay.
    """
    found = find_groups(account, cluster.group, vpc)
    if not found:
        tags = [{"ResourceType": "security-group", "Tags": [TAG, {"Key": "Name", "Value": cluster.group}]}]
        names = {"GroupName": cluster.group, "Description": "IRAE cluster", "VpcId": vpc, "TagSpecifications": tags}
        account.step(f"create the security group {cluster.group} in {vpc}", account.ec2.create_security_group, **names)
        if account.dry_run:
            return None
        found = find_groups(account, cluster.group, vpc)
    identity, rules = str(found[0]["GroupId"]), found[0]["IpPermissions"]
    allow, revoke = account.ec2.authorize_security_group_ingress, account.ec2.revoke_security_group_ingress
    if not any(pair["GroupId"] == identity for rule in rules for pair in rule.get("UserIdGroupPairs", ())):
        members = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": identity, "Description": "the cluster"}]}
        account.step(f"{cluster.group}: allow its members", allow, GroupId=identity, IpPermissions=[members])
    present, wanted = _ssh_ranges(rules), set(ssh_from)
    for text in sorted(wanted - present):
        rule = _ssh_rule(text)
        account.step(f"{cluster.group}: allow ssh from {text}", allow, GroupId=identity, IpPermissions=[rule])
    for text in sorted(present - wanted) if wanted else ():
        rule = _ssh_rule(text)
        account.step(f"{cluster.group}: deny ssh from {text}", revoke, GroupId=identity, IpPermissions=[rule])
    return identity


def find_groups(account: Account, name: str, vpc: str | None = None) -> list[dict[str, Any]]:
    """Security groups of this name."""
    filters = [{"Name": "group-name", "Values": [name]}]
    if vpc:
        filters.append({"Name": "vpc-id", "Values": [vpc]})
    return list(account.ec2.describe_security_groups(Filters=filters)["SecurityGroups"])


def _ssh_ranges(rules: list[dict[str, Any]]) -> set[str]:
    ssh = [rule for rule in rules if rule.get("FromPort") == 22]
    found = {item["CidrIp"] for rule in ssh for item in rule.get("IpRanges", ())}
    return found | {item["CidrIpv6"] for rule in ssh for item in rule.get("Ipv6Ranges", ())}


def _ssh_rule(text: str) -> dict[str, Any]:
    ranges = {"Ipv6Ranges": [{"CidrIpv6": text}]} if ":" in text else {"IpRanges": [{"CidrIp": text}]}
    return {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, **ranges}


def newest_image(account: Account) -> str | None:
    """The image's id in this region; None, with a line in the log, when AWS names none."""
    denied = ("ParameterNotFound", "AccessDeniedException")
    if found := unless_absent(denied, account.ssm.get_parameter, Name=IMAGE_PARAMETER):
        return str(found["Parameter"]["Value"])
    logger.info(f"AWS names no image at {IMAGE_PARAMETER}; fill in the ImageId of a Deep Learning Base image.")
    return None
