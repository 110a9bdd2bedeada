from __future__ import annotations

import errno
import os
import sqlite3
from pathlib import Path

import pytest
import tensorflow as tf
from ml_metadata import errors

from pipeline.running.storage_errors import storage_error

HOME = Path("/home/me/workspace")


def raised_from(cause: BaseException) -> RuntimeError:
    """An exception that says nothing of the one behind it."""
    try:
        raise RuntimeError("Execution 3 failed") from cause
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        sqlite3.OperationalError("database or disk is full"),
        tf.errors.ResourceExhaustedError(None, None, "; No space left on device"),
        RuntimeError("OSError: [Errno 28] No space left on device [while running 'Write/FinalizeWrite']"),
        errors.InternalError("Error when executing query: database or disk is full query: COMMIT;"),
    ],
)
def test_a_full_disk_is_recognised_in_the_words_of_everyone_who_meets_it(error: Exception) -> None:
    said = f"no space is left on the device of {HOME}: free some, and the same command continues from here"
    assert storage_error(error, HOME) == storage_error(raised_from(error), HOME) == said


def test_the_place_that_an_exception_names_is_told(tmp_path: Path) -> None:
    place = tmp_path / "serving" / "1"
    for error in (
        OSError(errno.EROFS, "Read-only file system", str(place)),
        tf.errors.PermissionDeniedError(None, None, f"{tmp_path}/serving; Read-only file system"),
    ):
        assert storage_error(error, HOME).startswith(f"{tmp_path}/serving")
        assert "cannot be written: make it writable" in storage_error(error, HOME)


def test_a_locked_store_is_no_matter_of_the_disk() -> None:
    error = errors.AbortedError("Concurrent writes aborted after max number of retries.")
    assert storage_error(error, HOME).startswith("ML Metadata is locked by another process")


def test_what_has_nothing_to_do_with_storage_is_left_to_speak_for_itself() -> None:
    assert storage_error(raised_from(ValueError("shapes (2, 3) and (4,) do not fit")), HOME) == ""
    assert storage_error(FileNotFoundError(errno.ENOENT, "No such file or directory", "/data"), HOME) == ""
