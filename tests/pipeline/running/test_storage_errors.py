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
    """An exception whose message does not mention its cause."""
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
def test_a_full_disk_is_recognised_in_the_errors_of_all_libraries(error: Exception) -> None:
    output = f"no space is left on the device of {HOME}: free some, and the same command continues from here"
    assert storage_error(error, HOME) == storage_error(raised_from(error), HOME) == output


def test_the_message_has_the_path_of_the_exception(tmp_path: Path) -> None:
    folder = tmp_path / "serving" / "1"
    for error in (
        OSError(errno.EROFS, "Read-only file system", str(folder)),
        tf.errors.PermissionDeniedError(None, None, f"{tmp_path}/serving; Read-only file system"),
    ):
        assert storage_error(error, HOME).startswith(f"{tmp_path}/serving")
        assert "cannot be written: make it writable" in storage_error(error, HOME)


def test_a_locked_store_has_its_own_message() -> None:
    error = errors.AbortedError("Concurrent writes aborted after max number of retries.")
    assert storage_error(error, HOME).startswith("ML Metadata is locked by another process")


def test_errors_that_are_not_about_storage_get_no_message() -> None:
    assert storage_error(raised_from(ValueError("shapes (2, 3) and (4,) do not fit")), HOME) == ""
    assert storage_error(FileNotFoundError(errno.ENOENT, "No such file or directory", "/data"), HOME) == ""
