"""The probe of a store: identity, region, clock and validity of the keys."""

from __future__ import annotations

import datetime
import getpass
import time
from pathlib import Path

import pytest

from infra.local_s3.server import REGION, LocalS3
from infra.storage import StorageError
from infra.storage.probe import MIN_VALID_S, expire_soon, probe


def test_a_folder_belongs_to_the_user(tmp_path: Path) -> None:
    found = probe(str(tmp_path))
    assert (found.identity, found.region, found.expires_soon) == (getpass.getuser(), "", False)
    assert found.ahead_s is None


def test_a_server_of_our_own_names_the_source_of_the_keys(s3_url: str) -> None:
    found = probe(s3_url)
    assert (found.identity, found.region, found.expires_soon) == ("keys from env", REGION, False)


def test_the_clock_is_compared_with_the_store_s(s3_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = probe(s3_url).ahead_s
    now = time.time
    monkeypatch.setattr("infra.storage.probe.time.time", lambda: now() + 100)
    after = probe(s3_url).ahead_s
    assert before is not None and after is not None
    assert after - before == pytest.approx(100, abs=5)


def test_the_account_is_named_on_aws(monkeypatch: pytest.MonkeyPatch) -> None:
    moto = pytest.importorskip("moto")
    boto3 = pytest.importorskip("boto3")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "anything")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    with moto.mock_aws():
        options = {"LocationConstraint": "eu-central-1"}
        boto3.client("s3").create_bucket(Bucket="a-bucket", CreateBucketConfiguration=options)
        found = probe("s3://a-bucket/folder")
    assert "123456789012" in found.identity and found.region == "eu-central-1"


def test_a_store_out_of_reach_is_an_error(s3_url: str, s3_server: LocalS3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(StorageError, match="AWS_ACCESS_KEY_ID"):
        probe(s3_url)


@pytest.mark.parametrize("method", ["sso", "login", "custom-process", "iam-role"])
@pytest.mark.parametrize("valid_s", [MIN_VALID_S / 2, MIN_VALID_S * 2])
def test_keys_that_a_login_must_renew_expire_soon(method: str, valid_s: float) -> None:
    """Read by public names of botocore."""
    credentials = pytest.importorskip("botocore.credentials")
    expiry = datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=valid_s)
    answer = {"access_key": "a", "secret_key": "b", "token": "c", "expiry_time": expiry.isoformat()}
    for held in (
        credentials.RefreshableCredentials.create_from_metadata(answer, lambda: answer, method),
        credentials.DeferredRefreshableCredentials(lambda: answer, method),
    ):
        assert expire_soon(held) == (method != "iam-role" and valid_s < MIN_VALID_S)
    assert not expire_soon(credentials.Credentials("a", "b")) and not expire_soon(None)
