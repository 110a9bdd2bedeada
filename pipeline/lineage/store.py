"""Opens ML Metadata: for writing in a run, for reading in everything else.

Reading does not change the SQLite file, with one exception: it rolls back a transaction that a killed process left
unfinished, which every reader has to do.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Sequence
from typing import TypeVar

from ml_metadata import MetadataStore, errors
from ml_metadata.proto import metadata_store_pb2

from im2latex.errors import UserError
from pipeline.lineage.address import PASSWORD, parse
from pipeline.lineage.graph import PIPELINE_RUN
from pipeline.workspace import Workspace

# Time to wait for a lock. A writer locks the file for some milliseconds; a longer lock comes from another program.
LOCKED_SECONDS = 3
# Number of runs that an error message lists.
NAMED = 5
Answer = TypeVar("Answer")


def connection(address: str, workspace: Workspace) -> metadata_store_pb2.ConnectionConfig:
    """Returns the configuration that opens ML Metadata for writing; a missing file or database is created.

    Args:
        address: as in the knob metadata.connection; "" for the workspace's SQLite file.
        workspace: the workspace of that file.

    Raises:
        UserError: the address is not valid, or the server does not answer.
    """
    config = metadata_store_pb2.ConnectionConfig()
    if address:
        server = parse(address)
        server.reach()
        # In the variable of the MySQL client, so that TFX does not write the password to files or logs.
        if PASSWORD in os.environ:
            os.environ["MYSQL_PWD"] = os.environ[PASSWORD]
        config.mysql.host, config.mysql.port = server.host, server.port
        config.mysql.database, config.mysql.user = server.database, server.user
    else:
        config.sqlite.filename_uri = str(workspace.metadata)
        config.sqlite.connection_mode = metadata_store_pb2.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
    return config


def read(workspace: Workspace, ask: Callable[[MetadataStore], Answer], address: str | None = None) -> Answer:
    """Reads from ML Metadata.

    Args:
        workspace: the workspace whose store is read.
        ask: reads from the store and returns the result; it must not write.
        address: address of the database; "" for the workspace's SQLite file, None for that of the last run.

    Raises:
        UserError: there are no runs, or the store cannot be read.
    """
    return _ask(workspace, ask, address, metadata_store_pb2.SqliteMetadataSourceConfig.READONLY)


def write(workspace: Workspace, change: Callable[[MetadataStore], Answer], address: str | None = None) -> Answer:
    """Writes to an existing store of ML Metadata; arguments and errors as in `read`."""
    return _ask(workspace, change, address, metadata_store_pb2.SqliteMetadataSourceConfig.READWRITE)


def _ask(workspace: Workspace, ask: Callable[[MetadataStore], Answer], address: str | None, mode: int) -> Answer:
    address = workspace.connection if address is None else address
    config = connection(address, workspace)
    if address:
        config.mysql.skip_db_creation = True
    else:
        _check_file(workspace)
        config.sqlite.connection_mode = mode
    name = str(parse(address)) if address else str(workspace.metadata)
    try:
        return ask(MetadataStore(config))
    except (RuntimeError, errors.StatusError) as error:
        raise UserError(f"{name} {problem(str(error))}") from error


def make_ready(address: str, workspace: Workspace) -> None:
    """Rolls back an unfinished transaction in the SQLite file, and checks that the file can be written.

    Args:
        address: as in `connection`; for a database server there is nothing to do.
        workspace: the workspace of the SQLite file, which need not exist yet.

    Raises:
        UserError: the file is locked, damaged or read-only.
    """
    if address or not workspace.metadata.exists():
        return
    file = sqlite3.connect(workspace.metadata, timeout=LOCKED_SECONDS)
    try:
        file.execute("BEGIN IMMEDIATE")
        file.rollback()
    except sqlite3.Error as error:
        raise UserError(f"{workspace.metadata} {problem(str(error))}") from None
    finally:
        file.close()


def run_ids(store: MetadataStore) -> list[str]:
    """Returns the ids of all runs in the order in which they started, even if the clock was set back."""
    contexts = store.get_contexts_by_type(PIPELINE_RUN)
    return [context.name for context in sorted(contexts, key=lambda context: context.id)]


def choose_run(runs: Sequence[str], beginning: str | None, workspace: Workspace) -> str:
    """Finds a run by the beginning of its id; None for the last run.

    Raises:
        UserError: no run matches, or several do.
    """
    if not runs:
        raise no_runs(workspace)
    if beginning is None:
        return runs[-1]
    matches = [run for run in runs if run.startswith(beginning)]
    if len(matches) == 1 or beginning in matches:
        return beginning if beginning in matches else matches[0]
    last = ", ".join((matches or runs)[-NAMED:])
    raise UserError(
        f"{len(matches) or 'no'} runs in {workspace.home} begin with {beginning!r}; the last ones are {last}"
    )


def no_runs(workspace: Workspace) -> UserError:
    """Returns the error for a workspace without runs."""
    return UserError(f"there are no runs in {workspace.home}; `im2latex run` makes one, or set IM2LATEX_HOME")


def _check_file(workspace: Workspace) -> None:
    """Checks the SQLite file before ML Metadata opens it, which would wait almost a minute for a lock."""
    # The file is empty if the first run was killed before it wrote anything.
    if not workspace.metadata.is_file() or not workspace.metadata.stat().st_size:
        raise no_runs(workspace)
    file = sqlite3.connect(f"{workspace.metadata.as_uri()}?mode=ro", uri=True, timeout=LOCKED_SECONDS)
    try:
        tables = file.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()
        if tables:
            file.execute("SELECT schema_version FROM MLMDEnv").fetchone()
        # If the first run was killed before or after it created the tables, ML Metadata would write when it opens them.
        if not tables or not file.execute("SELECT 1 FROM Type LIMIT 1").fetchone():
            raise no_runs(workspace)
    except sqlite3.Error as error:
        if "readonly database" not in str(error):
            raise UserError(f"{workspace.metadata} {problem(str(error))}") from None
    else:
        return
    finally:
        file.close()
    make_ready("", workspace)  # takes back what a killed process left half done, maybe all there was
    _check_file(workspace)


def problem(error: str) -> str:
    """Describes an error of a store and what to do; the text follows the name of the store."""
    if "Unknown database" in error:
        return "does not exist; a run that names it in metadata.connection makes it"
    if "mysql_real_connect" in error or "Access denied" in error:
        return f"refuses the user; is {PASSWORD} right, and may the user use the database?"
    if "locked" in error:
        return "is locked by another process; try again when that has ended"
    if "greater than library version" in error:
        return "was written by a newer ML Metadata; use the im2latex that wrote it"
    if "older than library version" in error:
        return "was written by an older ML Metadata; use the im2latex that wrote it"
    if "readonly database" in error and "query" not in error:
        return "contains unfinished changes of a killed process, and is read-only: make it writable"
    if "no such table" in error:
        return "is no store of ML Metadata; move it away, or set IM2LATEX_HOME"
    if "not a database" in error or "malformed" in error or "subset of tables" in error or "disk I/O" in error:
        return "is damaged; put a copy in its place, or move it away and start again with `im2latex run`"
    return f"cannot be read: {error.strip().splitlines()[0] if error.strip() else 'no reason given'}"
