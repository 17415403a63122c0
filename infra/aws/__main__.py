"""Bucket, roles and security group of a cluster in an AWS account."""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from infra.aws.cluster_file import PLACEHOLDERS, ClusterFile, read_cluster_file
from infra.aws.policies import head_policy, worker_policy
from infra.aws.setup import check_bucket, setup
from infra.aws.steps import Account, aws_errors
from infra.aws.teardown import teardown
from infra.logs import log_to_stdout
from infra.storage import UserError

logger = logging.getLogger("infra.aws")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line; returns the exit code."""
    log_to_stdout()
    options = _parser().parse_args(arguments)
    try:
        with aws_errors():
            options.run(options, _cluster(options))
    except UserError as error:
        for line in str(error).splitlines():
            print(f"error: {line}", file=sys.stderr)
        return 2
    return 0


def _cluster(options: argparse.Namespace) -> ClusterFile:
    cluster = read_cluster_file(options.cluster)
    named = getattr(options, "bucket", None)
    if named:
        check_bucket(named)
    if cluster.bucket == PLACEHOLDERS["bucket"]:
        if not named:
            raise UserError(f"{options.cluster} names no bucket yet; run setup with --bucket NAME first.")
        return dataclasses.replace(cluster, bucket=named)
    if named and named != cluster.bucket:
        raise UserError(f"--bucket {named}: {options.cluster} uses {cluster.bucket!r}; change it there.")
    return cluster


def _setup(options: argparse.Namespace, cluster: ClusterFile) -> None:
    account = Account(cluster.region, options.dry_run)
    setup(account, cluster, options.ssh_from, options.vpc)
    if not account.steps:
        logger.info("everything exists already; nothing was changed")
    elif not options.dry_run:
        logger.info("next: ray get-auth-token --generate; ray up ray_cluster.yaml")


def _teardown(options: argparse.Namespace, cluster: ClusterFile) -> None:
    teardown(Account(cluster.region, options.dry_run), cluster, options.delete_bucket)
    logger.info("nothing was changed" if options.dry_run else "nothing of this cluster is left in the account")


def _policy(options: argparse.Namespace, cluster: ClusterFile) -> None:
    policy = head_policy(cluster, options.account) if options.who == "head" else worker_policy(cluster)
    print(json.dumps(policy, indent=2))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m infra.aws", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="command")
    for name, run, text in (
        ("setup", _setup, "create bucket, roles and security group, and fill in the cluster file"),
        ("teardown", _teardown, "terminate all machines and remove everything except the bucket"),
        ("policy", _policy, "print the policy of the head or the workers"),
    ):
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        option = command.add_argument
        option("--cluster", type=Path, default=Path("ray_cluster.yaml"), help="default: %(default)s")
        if name == "policy":
            option("who", choices=["head", "worker"])
            option("--account", default="*", help="number of the account (default: any)")
        else:
            option("--dry-run", action="store_true", help="show the steps, change nothing")
        if name == "setup":
            option("--bucket", help="its name; needed once, then it is in the file")
            option("--ssh-from", nargs="+", default=[], metavar="RANGE", help="CIDR ranges that may use ssh")
            option("--vpc", help="the network (default: the account's default one)")
        if name == "teardown":
            option("--delete-bucket", metavar="NAME", help="remove the bucket and all its data too")
    return parser


if __name__ == "__main__":
    sys.exit(main())
