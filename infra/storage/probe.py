"""Who is asking a store, where it is, and whether it knows the same time: for `python -m pipeline.doctor`."""

from __future__ import annotations

import email.utils
import getpass
import time
from dataclasses import dataclass

from infra.storage.open import open_storage
from infra.storage.s3 import s3_client


@dataclass(frozen=True)
class StoreProbe:
    """What a machine is towards a store; no secret in it."""

    identity: str
    """The account or role on AWS; where the keys come from on other S3; the user for a folder."""
    region: str
    """Of the S3 client; "" for a folder."""
    expires_in_s: float | None
    """Until the keys must be renewed; None when they stay valid, or renew themselves."""
    ahead_s: float | None
    """How far this machine's clock is ahead of the store's; None for a folder."""


def probe(url: str) -> StoreProbe:
    """Ask the store at the URL. Raises StorageError when it cannot be reached or does not let us in."""
    store = open_storage(url)
    store.check()
    if not store.url.startswith("s3://"):
        return StoreProbe(getpass.getuser(), "", None, None)

    bucket = store.url.removeprefix("s3://").split("/")[0]
    client = s3_client(quick=True)
    before = time.time()
    answer = client.list_objects_v2(
        Bucket=bucket, Prefix=store.url.removeprefix(f"s3://{bucket}").strip("/"), MaxKeys=1
    )
    middle = (before + time.time()) / 2
    date = answer["ResponseMetadata"]["HTTPHeaders"].get("date")
    # The header counts whole seconds, and has counted half a one more on average.
    ahead_s = middle - email.utils.parsedate_to_datetime(date).timestamp() - 0.5 if date else None
    return StoreProbe(_identity(client.meta.endpoint_url), client.meta.region_name or "", _expires_in_s(), ahead_s)


def _identity(endpoint: str) -> str:
    import boto3

    session = boto3.session.Session()
    credentials = session.get_credentials()
    source = credentials.method if credentials else "none"
    if "amazonaws.com" not in endpoint:
        return f"keys from {source}"
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        quick = Config(connect_timeout=2, read_timeout=3, retries={"total_max_attempts": 2})
        arn = session.client("sts", region_name=session.region_name or "us-east-1", config=quick).get_caller_identity()
        return str(arn["Arn"]).split(":", 4)[-1]
    except (BotoCoreError, ClientError):  # STS may be out of reach where S3 is not
        return f"keys from {source}"


def _expires_in_s() -> float | None:
    import boto3

    credentials = boto3.session.Session().get_credentials()
    expiry = getattr(credentials, "_expiry_time", None)
    renews_itself = credentials is not None and credentials.method in ("iam-role", "container-role", "assume-role")
    return None if expiry is None or renews_itself else expiry.timestamp() - time.time()
