"""An AWS account as boto3 resources, and the steps that change it: logged, and skipped in a dry run."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from infra.storage import UserError

logger = logging.getLogger(__name__)
T = TypeVar("T")
ABSENT = r"404|NoSuch\w+|[\w.]*NotFound(Error)?"
"""Error codes of AWS for something that does not exist."""


class Account:
    """boto3 resources (for ssm and sts, clients) of one region; every change of the account is a `step`.

    dry_run: steps are only logged.
    """

    def __init__(self, region: str, dry_run: bool = False) -> None:
        import boto3

        session = boto3.session.Session(region_name=region)
        self.region, self.dry_run, self.steps = region, dry_run, 0
        self.ec2, self.iam, self.s3 = map(session.resource, ("ec2", "iam", "s3"))
        self.ssm, self.sts = map(session.client, ("ssm", "sts"))

    def step(self, text: str, action: Callable[..., Any], **options: Any) -> Any:
        """Log the step and call the action; None in a dry run."""
        self.steps += 1
        logger.info(f"would {text}" if self.dry_run else text)
        return None if self.dry_run else action(**options)


def unless_absent(request: Callable[..., T], codes: str = ABSENT, **options: Any) -> T | None:
    """AWS's answer, None for an error code that matches the pattern."""
    from botocore.exceptions import ClientError

    try:
        return request(**options)
    except ClientError as error:
        if not re.fullmatch(codes, error.response["Error"]["Code"]):
            raise
    return None


def exists(resource: Any) -> bool:
    """Whether the account has the resource; loads its attributes."""
    return unless_absent(lambda: resource.load() or True) is not None


@contextlib.contextmanager
def aws_errors() -> Iterator[None]:
    """Translate errors of boto3 (its absence, credentials, rights, the network) into UserErrors."""
    try:
        from botocore import exceptions as boto
    except ImportError as error:
        raise UserError("infra.aws needs boto3: pip install 'irae-pipeline[s3]'") from error
    try:
        yield
    except (boto.NoCredentialsError, boto.PartialCredentialsError):
        raise UserError("no AWS credentials were found; set AWS_PROFILE, or run `aws configure`.") from None
    except boto.ClientError as error:
        code, operation = error.response["Error"]["Code"], error.operation_name
        if operation == "HeadBucket":
            raise UserError(f"the bucket's name is taken by another account ({code}); choose another.") from None
        if code in ("UnauthorizedOperation", "AccessDenied", "AccessDeniedException"):
            raise UserError(
                f"AWS does not allow {operation} to these credentials; use those of an administrator for setup and "
                "teardown (the cluster itself runs with the small policies that `policy` prints)."
            ) from error
        text = error.response["Error"].get("Message", "")
        raise UserError(f"AWS answered {operation} with {code}: {text} Fix that and repeat the command.") from error
    except boto.BotoCoreError as error:
        raise UserError(f"AWS cannot be used ({error}); check the region, the network and AWS_PROFILE.") from error
