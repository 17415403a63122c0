"""A step in the account: said, and done unless this is a dry run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from infra.storage import UserError


class Account:
    """Clients of one region, and the one way in which anything is changed.

    dry_run: steps are only said. Nothing is changed without a step.
    """

    def __init__(self, region: str, dry_run: bool = False, say: Callable[[str], None] = print) -> None:
        try:
            import boto3
        except ImportError as error:
            raise UserError("infra.aws needs boto3: pip install 'irae-pipeline[s3]'") from error
        session = boto3.session.Session(region_name=region)
        self.region, self.dry_run, self._say = region, dry_run, say
        self.ec2, self.iam, self.s3, self.ssm = (session.client(name) for name in ("ec2", "iam", "s3", "ssm"))
        self._sts = session.client("sts")
        self.steps = 0

    def number(self) -> str:
        """The account's number."""
        return str(self._sts.get_caller_identity()["Account"])

    def step(self, text: str, action: Callable[[], Any]) -> Any:
        """Say what changes and do it; None in a dry run."""
        self.steps += 1
        self._say(f"would {text}" if self.dry_run else text)
        return None if self.dry_run else action()

    def note(self, text: str) -> None:
        """Say something that changes nothing."""
        self._say(text)


@contextlib.contextmanager
def absent(*codes: str) -> Iterator[None]:
    """Pass over AWS's answer that something does not exist; other answers go through."""
    from botocore.exceptions import ClientError

    try:
        yield
    except ClientError as error:
        if error.response["Error"]["Code"] not in codes:
            raise


@contextlib.contextmanager
def aws_errors() -> Iterator[None]:
    """What the user can mend about the account, as one sentence."""
    from botocore import exceptions as boto

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
        raise UserError(f"AWS answered {operation} with {code}: {text} Mend that and repeat the command.") from error
    except boto.BotoCoreError as error:
        raise UserError(f"AWS cannot be used ({error}); look at the region, the network and AWS_PROFILE.") from error
