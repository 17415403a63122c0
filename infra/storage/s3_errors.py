"""Errors of boto3 and s3fs as sentences for users, without secrets."""

from __future__ import annotations

import os
from typing import Any

from infra.storage.errors import StorageError

EXPIRED_CODES = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired")
BUSY_CODES = ("SlowDown", "ServiceUnavailable", "Throttling", "TooManyRequests", "RequestLimitExceeded")
_SENTENCES: tuple[tuple[tuple[str | int, ...], str], ...] = (
    (
        ("NoSuchBucket",),
        "there is no bucket {bucket!r} at {endpoint}: create it with `aws s3 mb s3://{bucket}`, or on the local server "
        "with `python -m infra.local_s3 start --bucket {bucket}`",
    ),
    (
        (*EXPIRED_CODES, "InvalidToken"),
        "the AWS credentials have expired ({code}): log in again for {identity}",
    ),
    (("RequestTimeTooSkewed",), "this machine's clock differs from the S3 server's: set the clock ({code})"),
    (
        ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidClientTokenId", "UnrecognizedClientException"),
        "{endpoint} does not accept the keys for bucket {bucket!r} ({code}): look at {identity}",
    ),
    (
        ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", 301),
        "bucket {bucket!r} is in another region ({code}): set AWS_REGION and AWS_DEFAULT_REGION to it",
    ),
    (
        ("QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", 507),
        "no space left on the S3 server {endpoint} ({code}): free some or use another",
    ),
    (
        (*BUSY_CODES, 503, 429),
        "the S3 server {endpoint} is too busy ({code}): use fewer workers, or try again later",
    ),
    ((409,), "other writers were at work at the same moment ({code}): try again"),
    (
        (401, 403),
        "access to bucket {bucket!r} at {endpoint} is denied ({code}): the keys of {identity} may be wrong, or lack "
        "s3:ListBucket, s3:GetObject, s3:PutObject or s3:DeleteObject",
    ),
)
"""Error codes and HTTP statuses of S3 -> the sentence after the URL; the first match counts."""


class ConflictError(StorageError):
    """Another writer of the same file was at work at the same moment (HTTP 409)."""


def code_and_status(error: Any) -> tuple[str, int]:
    """S3's error code and HTTP status in a ClientError."""
    answer = error.response
    return answer.get("Error", {}).get("Code", ""), answer.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)


def user_error(error: Exception, url: str, bucket: str, endpoint: str) -> Exception | None:
    """The user's error about `url`, None when it is not boto3's or s3fs's; `endpoint` is "" before a client exists."""
    from botocore import exceptions as boto

    if isinstance(error, OSError) and isinstance(error.__cause__, boto.ClientError):  # as s3fs raises them
        error = error.__cause__
    kind, code, at = StorageError, type(error).__name__, f" at {endpoint}" if endpoint else ""
    if isinstance(error, boto.ClientError):
        code, status = code_and_status(error)
        if code in ("NoSuchKey", "NotFound", "404"):
            return FileNotFoundError(f"{url} does not exist")
        otherwise = f"the S3 server{{at}} answered {error.operation_name} with {{code}} (HTTP {status}): see its log"
        sentence = next((text for known, text in _SENTENCES if code in known or status in known), otherwise)
        kind = ConflictError if status == 409 else StorageError
    elif isinstance(error, boto.ProfileNotFound):
        sentence = "there is no such AWS profile: correct or unset AWS_PROFILE"
    elif isinstance(error, (boto.NoCredentialsError, boto.PartialCredentialsError)):
        sentence = "no AWS credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
    elif isinstance(error, (boto.SSOError, boto.LoginError, boto.TokenRetrievalError, boto.CredentialRetrievalError)):
        sentence = "the AWS credentials could not be renewed: log in again for {identity}"
    elif isinstance(error, (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError)):
        sentence = "the S3 server{at} cannot be reached ({code}): check that it runs and that AWS_ENDPOINT_URL is right"
    elif isinstance(error, boto.BotoCoreError):
        sentence = "the S3 client{at} failed with {code}: look at the AWS_ variables"
    else:
        return None
    return kind(f"{url}: {sentence.format(bucket=bucket, endpoint=endpoint, at=at, code=code, identity=_identity())}")


def _identity() -> str:
    """The source of the credentials, as far as the environment says."""
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    profile = os.environ.get("AWS_PROFILE")
    return f"AWS_PROFILE={profile}" if profile else "AWS_PROFILE or this machine's role"
