"""Identity, region, credentials and clock of this machine as a store sees them, for `python -m pipeline.doctor`."""

from __future__ import annotations

import contextlib
import email.utils
import getpass
import time
from dataclasses import dataclass
from typing import Any

from infra.storage.open import open_storage
from infra.storage.s3 import S3Storage, s3_client

MIN_VALID_S = 3600.0
"""Validity below which credentials expire soon."""
_RENEWED_METHODS = ("iam-role", "container-role", "assume-role")
"""botocore's names of credentials that renew themselves without a login."""


@dataclass(frozen=True)
class StoreProbe:
    """The answer of a store; without secrets."""

    identity: str
    """The account or role on AWS; the source of the keys on other S3; the user for a folder."""
    region: str
    """Region of the S3 client; "" for a folder."""
    expires_soon: bool
    """Whether someone must log in again within `MIN_VALID_S`."""
    ahead_s: float | None
    """This machine's clock less the store's; None for a folder."""


def probe(url: str) -> StoreProbe:
    """Probe the store at the URL. Raises StorageError when it cannot be reached or denies access."""
    store = open_storage(url)
    if not isinstance(store, S3Storage):
        store.check()
        return StoreProbe(getpass.getuser(), "", False, None)
    bucket, _, prefix = store.url.removeprefix("s3://").partition("/")
    with store.errors():
        client, before = s3_client(quick=True), time.time()
        answer = client.list_objects_v2(Bucket=bucket, Prefix=prefix, MaxKeys=1)
        middle = (before + time.time()) / 2
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    # The header counts whole seconds, and has counted half a one more on average.
    ahead_s = middle - email.utils.parsedate_to_datetime(date).timestamp() - 0.5 if date else None
    session = boto3.session.Session()
    credentials = session.get_credentials()
    identity = f"keys from {credentials.method if credentials else 'none'}"
    if "amazonaws.com" in client.meta.endpoint_url:
        with contextlib.suppress(BotoCoreError, ClientError):  # STS may be out of reach where S3 is not
            quick = Config(connect_timeout=2, read_timeout=3, retries={"total_max_attempts": 2})
            sts = session.client("sts", region_name=session.region_name or "us-east-1", config=quick)
            identity = sts.get_caller_identity()["Arn"].split(":", 4)[-1]
    return StoreProbe(identity, client.meta.region_name or "", expire_soon(credentials), ahead_s)


def expire_soon(credentials: Any) -> bool:
    """Whether botocore's credentials expire within `MIN_VALID_S` and do not renew themselves."""
    if credentials is None or credentials.method in _RENEWED_METHODS or not hasattr(credentials, "refresh_needed"):
        return False
    credentials.get_frozen_credentials()  # those of a login load themselves on first use
    return bool(credentials.refresh_needed(MIN_VALID_S))
