from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from im2latex.errors import UserError
from pipeline.buckets import download
from pipeline.lineage import files
from pipeline.lineage.files import local_copy, look
from tests.kubeflow.object_store import ObjectStore

ARTIFACT = "s3://runs/im2latex/1/evaluation"


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    """A bucket `runs` with an artifact, and the environment with its credentials."""
    with ObjectStore(tmp_path / "buckets", "key-id", "secret") as running:
        folder = tmp_path / "buckets" / ARTIFACT.partition("://")[2]
        (folder / "more").mkdir(parents=True)
        (folder / "summary.json").write_text("{}", "utf-8")
        (folder / "more" / "big").write_bytes(bytes(range(256)) * 4096)
        variables = {"AWS_ACCESS_KEY_ID": "key-id", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "here"}
        variables |= {"AWS_ENDPOINT_URL": running.url, "IM2LATEX_HOME": str(tmp_path / "home")}
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setattr(files, "_closed", set())
        yield running


def test_a_file_is_copied_once_and_alone(store: ObjectStore) -> None:
    for _ in range(2):
        assert local_copy(ARTIFACT, "summary.json").read_text("utf-8") == "{}"
    assert store.read == ["im2latex/1/evaluation/summary.json"]


def test_a_folder_is_copied_whole_although_a_file_of_it_was(store: ObjectStore) -> None:
    local_copy(ARTIFACT, "summary.json")
    copy = local_copy(ARTIFACT)
    assert {str(path.relative_to(copy)) for path in copy.rglob("*") if path.is_file()} == {"summary.json", "more/big"}
    assert (copy / "more" / "big").read_bytes() == bytes(range(256)) * 4096


def test_local_artifacts_stay_where_they_are(tmp_path: Path) -> None:
    (tmp_path / "there").touch()
    assert local_copy(str(tmp_path), "there") == look(str(tmp_path), "there") == tmp_path / "there"
    assert look(str(tmp_path), "missing") is None


def test_a_missing_file_is_none_and_the_bucket_stays_open(store: ObjectStore) -> None:
    assert look(ARTIFACT, "missing.json") is None
    assert look(ARTIFACT, "summary.json")


def test_a_bucket_without_access_is_one_sentence_after_one_request(
    store: ObjectStore, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "somebody-else")
    assert look(ARTIFACT, "summary.json") is None
    assert look(ARTIFACT) is None
    (output,) = capsys.readouterr().err.splitlines()
    assert output.startswith(f"im2latex: cannot read {ARTIFACT}/summary.json: ") and "AWS_ENDPOINT_URL" in output
    with pytest.raises(UserError, match="cannot read"):
        download(ARTIFACT, tmp_path / "copy")
    assert not (tmp_path / "copy").exists()
