"""What a user can do about an error of boto3: one sentence for each, and never a secret in it."""

from __future__ import annotations

import os

from infra.storage.errors import StorageError

_EXPIRED = ("ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired", "RequestExpired", "InvalidToken")
_WRONG_KEYS = ("InvalidAccessKeyId", "SignatureDoesNotMatch", "InvalidClientTokenId", "UnrecognizedClientException")
_WRONG_REGION = ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301")
_NO_SPACE = ("QuotaExceeded", "InsufficientStorage", "XMinioStorageFull", "507")
_BUSY = ("SlowDown", "ServiceUnavailable", "TooManyRequests", "Throttling", "RequestLimitExceeded", "503", "429")


def user_error(error: Exception, place: str, bucket: str, endpoint: str) -> Exception | None:
    """StorageError or FileNotFoundError in the words of a user, None when the error does not come from boto3.

    `place` is the URL that was asked for, `endpoint` the server's, or "" when there was no client yet.
    """
    from boto3.exceptions import Boto3Error
    from botocore import exceptions as boto
    from s3transfer.exceptions import RetriesExceededError

    if isinstance(error, RetriesExceededError):
        error = error.last_exception
    if isinstance(error, boto.ClientError):
        return _answer_error(error, place, bucket, endpoint)
    if not isinstance(error, (boto.BotoCoreError, Boto3Error)):
        return None
    at = f"at {endpoint} " if endpoint else ""
    if isinstance(error, boto.ProfileNotFound):
        return StorageError(f"{place}: there is no such AWS profile: correct or unset AWS_PROFILE")
    if isinstance(error, (boto.NoCredentialsError, boto.PartialCredentialsError)):
        return StorageError(
            f"{place}: no AWS credentials were found: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"
        )
    if isinstance(error, (boto.SSOError, boto.LoginError, boto.TokenRetrievalError, boto.CredentialRetrievalError)):
        return StorageError(f"{place}: the AWS credentials could not be renewed: log in again for {_identity()}")
    if isinstance(error, (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError)):
        return StorageError(
            f"{place}: the S3 server {at}cannot be reached ({type(error).__name__}): look whether it runs and whether "
            "AWS_ENDPOINT_URL is right"
        )
    return StorageError(f"{place}: the S3 client {at}failed with {type(error).__name__}: look at the AWS_ variables")


def _answer_error(error, place: str, bucket: str, endpoint: str) -> Exception:  # type: ignore[no-untyped-def]
    code: str = error.response.get("Error", {}).get("Code", "")
    status: int = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code == "NoSuchBucket":
        return StorageError(
            f"{place}: there is no bucket {bucket!r} at {endpoint}: create it with `aws s3 mb s3://{bucket}`, or on "
            f"the local server with `python -m infra.local_s3 start --bucket {bucket}`"
        )
    if code in ("NoSuchKey", "NotFound", "404"):
        return FileNotFoundError(f"{place} does not exist")
    if code in _EXPIRED:
        return StorageError(f"{place}: the AWS credentials have expired ({code}): log in again for {_identity()}")
    if code == "RequestTimeTooSkewed":
        return StorageError(f"{place}: this machine's clock differs from the S3 server's: set the clock ({code})")
    if code in _WRONG_KEYS:
        return StorageError(
            f"{place}: {endpoint} does not accept the keys for bucket {bucket!r} ({code}): look at {_identity()}"
        )
    if code in _WRONG_REGION:
        return StorageError(
            f"{place}: bucket {bucket!r} is in another region ({code}): set AWS_REGION and AWS_DEFAULT_REGION to it"
        )
    if code in _NO_SPACE or status == 507:
        return StorageError(f"{place}: no space left on the S3 server {endpoint} ({code}): free some or use another")
    if code in _BUSY or status in (429, 503):
        return StorageError(f"{place}: the S3 server {endpoint} is too busy ({code}): ask less of it, or later")
    if status in (401, 403):
        return StorageError(
            f"{place}: access to bucket {bucket!r} at {endpoint} is denied ({code}): the keys of {_identity()} may be "
            "wrong, or lack s3:ListBucket, s3:GetObject, s3:PutObject or s3:DeleteObject"
        )
    return StorageError(
        f"{place}: the S3 server {endpoint} answered {error.operation_name} with {code} (HTTP {status}): see its log"
    )


def _identity() -> str:
    """Where boto3 has the credentials from, as far as the environment says."""
    if os.environ.get("AWS_ACCESS_KEY_ID"):
        return "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    if os.environ.get("AWS_PROFILE"):
        return f"AWS_PROFILE={os.environ['AWS_PROFILE']}"
    return "AWS_PROFILE or this machine's role"
