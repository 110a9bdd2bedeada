from __future__ import annotations

from pathlib import Path

import pytest

from kubeflow.addresses import LAUNCHER_ROOT, bucket, local_path, names_folder, with_addresses
from pipeline.buckets import is_address


@pytest.mark.parametrize(
    ("address", "path"),
    [
        ("gs://bucket/a/b", "gcs/bucket/a/b"),
        ("s3://bucket/a", "s3/bucket/a"),
        ("minio://bucket/a", "minio/bucket/a"),
    ],
)
def test_an_address_has_a_local_path_of_the_launcher(
    address: str, path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert is_address(address)
    assert local_path(address) == f"/{path}"
    assert with_addresses(f"/{path}") == address
    monkeypatch.setenv(LAUNCHER_ROOT, str(tmp_path))
    assert local_path(address) == str(tmp_path / path)
    assert with_addresses(f"{tmp_path / path}, record 3: damaged") == f"{address}, record 3: damaged"


@pytest.mark.parametrize("text", ["/mnt/data", "https://elsewhere/gs://a", "/mnt/s3/bucket", "a/s3/b", "/s3", "/s3/"])
def test_other_texts_are_not_changed(text: str) -> None:
    assert not is_address(text) and local_path(text) == with_addresses(text) == text


@pytest.mark.parametrize(
    ("address", "bucket_address", "goes_on"),
    [("s3://b", "s3://b", False), ("s3://b/", "s3://b", False), ("gs://b/c/d", "gs://b", True)],
)
def test_an_address_is_split_into_bucket_and_folder(address: str, bucket_address: str, goes_on: bool) -> None:
    assert bucket(address) == bucket_address
    assert names_folder(address) == goes_on
