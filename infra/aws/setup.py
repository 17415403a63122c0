"""Bucket, roles and security group of a cluster. Idempotent: a repeated setup changes only differences."""

from __future__ import annotations

import ipaddress
import json
import logging
import re
from typing import Any

from infra.aws.cluster_file import PLACEHOLDERS, ClusterFile, fill_in
from infra.aws.policies import Policy, bucket_policy, head_policy, trust_policy, worker_policy
from infra.aws.steps import ABSENT, Account, exists, unless_absent
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


def setup(account: Account, cluster: ClusterFile, ssh_from: list[str], vpc: str | None = None) -> None:
    """Create or update bucket, roles and security group, and fill in the cluster file.

    ssh_from: CIDR ranges such as 203.0.113.7/32 that may use ssh. Raises UserError for half the internet or more.
    """
    check_ranges(ssh_from)
    make_bucket(account, cluster.bucket)
    make_profile(account, cluster.head_profile, head_policy(cluster, account.sts.get_caller_identity()["Account"]))
    make_profile(account, cluster.worker_profile, worker_policy(cluster))
    make_spot_role(account)
    group = make_group(account, cluster, ssh_from, vpc or default_vpc(account))
    values = {"bucket": cluster.bucket, "security group": group, "image": newest_image(account)}
    text = cluster.path.read_text()
    missing = {name: value for name, value in values.items() if value and PLACEHOLDERS[name] in text}
    if missing:
        shown = ", ".join(f"{name} {value}" for name, value in missing.items())
        account.step(f"write into {cluster.path}: {shown}", fill_in, path=cluster.path, values=missing)


def check_ranges(ranges: list[str]) -> None:
    """Raise UserError for text that is no CIDR range, and for ranges larger than /8."""
    problems = []
    for text in ranges:
        try:
            if ipaddress.ip_network(text).prefixlen < 8:
                problems.append(f"--ssh-from {text} lets in half the world; give your address, like 203.0.113.7/32.")
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
    s3 = account.s3.meta.client

    def get(setting: str) -> dict[str, Any]:
        return unless_absent(getattr(s3, f"get_{setting}"), Bucket=bucket) or {}

    def put(text: str, setting: str, **value: Any) -> None:
        account.step(f"{bucket}: {text}", getattr(s3, f"put_{setting}"), Bucket=bucket, **value)

    if unless_absent(s3.head_bucket, Bucket=bucket) is None:
        # us-east-1 is S3's default, and the one region that may not be named.
        elsewhere = {"CreateBucketConfiguration": {"LocationConstraint": account.region}}
        options = {} if account.region == "us-east-1" else elsewhere
        account.step(f"create the bucket {bucket}", s3.create_bucket, Bucket=bucket, **options)
    if get("public_access_block").get("PublicAccessBlockConfiguration") != _PRIVATE:
        put("block public access", "public_access_block", PublicAccessBlockConfiguration=_PRIVATE)
    if not get("bucket_encryption"):
        put("encrypt", "bucket_encryption", ServerSideEncryptionConfiguration=_ENCRYPTED)
    if not get("bucket_policy"):
        put("require encrypted connections", "bucket_policy", Policy=json.dumps(bucket_policy(bucket)))
    if get("bucket_versioning").get("Status") != "Enabled":
        put("keep old versions", "bucket_versioning", VersioningConfiguration={"Status": "Enabled"})
    rules = get("bucket_lifecycle_configuration").get("Rules", [])
    if LIFECYCLE_RULE["ID"] not in {rule.get("ID") for rule in rules}:
        text = "expire incomplete uploads after 2 days, old versions after 30"
        put(text, "bucket_lifecycle_configuration", LifecycleConfiguration={"Rules": [*rules, LIFECYCLE_RULE]})


def make_profile(account: Account, name: str, policy: Policy) -> None:
    """An instance profile with a role of the same name and this one policy."""
    iam = account.iam
    role, rights, profile = iam.Role(name), iam.RolePolicy(name, name), iam.InstanceProfile(name)
    if not exists(role):
        options = {"RoleName": name, "AssumeRolePolicyDocument": json.dumps(trust_policy()), "Tags": [TAG]}
        account.step(f"create the role {name}", iam.create_role, **options)
    if not exists(rights) or rights.policy_document != policy:
        account.step(f"set the policy of the role {name}", rights.put, PolicyDocument=json.dumps(policy))
    has_profile = exists(profile)
    if not has_profile:
        create = iam.create_instance_profile
        account.step(f"create the instance profile {name}", create, InstanceProfileName=name, Tags=[TAG])
    if not has_profile or not profile.roles:
        account.step(f"add the role {name} to its profile", profile.add_role, RoleName=name)


def make_spot_role(account: Account) -> None:
    """AWS's own role for spot instances, without which the first request fails. It is the account's and stays."""
    if not list(account.iam.roles.filter(PathPrefix="/aws-service-role/spot.amazonaws.com/")):
        create = account.iam.meta.client.create_service_linked_role
        account.step("create AWS's role for spot instances", create, AWSServiceName="spot.amazonaws.com")


def default_vpc(account: Account) -> str:
    """The id of the account's default network. Raises UserError when there is none."""
    for vpc in account.ec2.vpcs.filter(Filters=[{"Name": "is-default", "Values": ["true"]}]):
        return str(vpc.id)
    raise UserError(f"the account has no default VPC in {account.region}; name one with --vpc vpc-...")


def make_group(account: Account, cluster: ClusterFile, ssh_from: list[str], vpc: str) -> str | None:
    """The id of the security group, open to its members and to ssh from the ranges; None in a dry run.

    Without ranges, those of an earlier setup stay.
    """
    name = cluster.group
    group = next(iter(find_groups(account, name, vpc)), None)
    if group is None:
        tags = [{"ResourceType": "security-group", "Tags": [TAG, {"Key": "Name", "Value": name}]}]
        options = {"GroupName": name, "Description": "IRAE cluster", "VpcId": vpc, "TagSpecifications": tags}
        group = account.step(f"create the security group {name} in {vpc}", account.ec2.create_security_group, **options)
        if group is None:
            return None
    allow, of_group = group.authorize_ingress, [{"Name": "group-id", "Values": [group.id]}]
    rules = account.ec2.meta.client.describe_security_group_rules(Filters=of_group)["SecurityGroupRules"]
    ssh = [rule for rule in rules if rule.get("FromPort") == 22 and not rule["IsEgress"]]
    present = {
        rule[key]: rule["SecurityGroupRuleId"] for rule in ssh for key in ("CidrIpv4", "CidrIpv6") if rule.get(key)
    }
    if not any(rule.get("ReferencedGroupInfo", {}).get("GroupId") == group.id for rule in rules):
        members = {"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group.id, "Description": "the cluster"}]}
        account.step(f"{name}: allow its members", allow, IpPermissions=[members])
    for text in sorted(set(ssh_from) - set(present)):
        ranges = {"Ipv6Ranges": [{"CidrIpv6": text}]} if ":" in text else {"IpRanges": [{"CidrIp": text}]}
        rule = {"IpProtocol": "tcp", "FromPort": 22, "ToPort": 22, **ranges}
        account.step(f"{name}: allow ssh from {text}", allow, IpPermissions=[rule])
    for text in sorted(set(present) - set(ssh_from)) if ssh_from else ():
        account.step(f"{name}: deny ssh from {text}", group.revoke_ingress, SecurityGroupRuleIds=[present[text]])
    return str(group.id)


def find_groups(account: Account, name: str, vpc: str | None = None) -> list[Any]:
    """Security groups of this name."""
    filters = {"group-name": name} | ({"vpc-id": vpc} if vpc else {})
    chosen = [{"Name": key, "Values": [value]} for key, value in filters.items()]
    return list(account.ec2.security_groups.filter(Filters=chosen))


def newest_image(account: Account) -> str | None:
    """The image's id in this region; None, with a line in the log, when AWS names none."""
    codes = f"{ABSENT}|AccessDeniedException"
    if found := unless_absent(account.ssm.get_parameter, codes, Name=IMAGE_PARAMETER):
        return str(found["Parameter"]["Value"])
    logger.info(f"AWS names no image at {IMAGE_PARAMETER}; fill in the ImageId of a Deep Learning Base image.")
    return None
