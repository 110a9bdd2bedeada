"""Opens ML Metadata: to write for a run, to read for everything else. Reading changes no byte of the file,
but that it undoes what a killed process left half done, as everyone has to who wants to read on.
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

# A writer holds the file for some milliseconds; who holds it longer does something else with it.
LOCKED_SECONDS = 3
# Names of runs in the answer to one that does not exist.
NAMED = 5
Answer = TypeVar("Answer")


def connection(address: str, workspace: Workspace) -> metadata_store_pb2.ConnectionConfig:
    """What ML Metadata needs to write; it makes what is missing.

    Args:
        address: as in the knob metadata.connection; "" is the workspace's SQLite file.
        workspace: where that file is.

    Raises:
        UserError: the address is none, or nothing answers there.
    """
    config = metadata_store_pb2.ConnectionConfig()
    if address:
        place = parse(address)
        place.reach()
        # In the variable in which the database's own client looks: so it stands in nothing that TFX makes or writes.
        if PASSWORD in os.environ:
            os.environ["MYSQL_PWD"] = os.environ[PASSWORD]
        config.mysql.host, config.mysql.port = place.host, place.port
        config.mysql.database, config.mysql.user = place.database, place.user
    else:
        config.sqlite.filename_uri = str(workspace.metadata)
        config.sqlite.connection_mode = metadata_store_pb2.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
    return config


def read(workspace: Workspace, ask: Callable[[MetadataStore], Answer], address: str | None = None) -> Answer:
    """Asks ML Metadata.

    Args:
        workspace: whose runs are asked for.
        ask: reads from the store that it is given, and does nothing else.
        address: of the database; "" is the workspace's SQLite file, None what the workspace's last run used.

    Raises:
        UserError: there are no runs, or the store cannot be read.
    """
    return _ask(workspace, ask, address, metadata_store_pb2.SqliteMetadataSourceConfig.READONLY)


def write(workspace: Workspace, change: Callable[[MetadataStore], Answer], address: str | None = None) -> Answer:
    """Changes what ML Metadata knows already; as `read`."""
    return _ask(workspace, change, address, metadata_store_pb2.SqliteMetadataSourceConfig.READWRITE)


def _ask(workspace: Workspace, ask: Callable[[MetadataStore], Answer], address: str | None, mode: int) -> Answer:
    address = workspace.connection if address is None else address
    config = connection(address, workspace)
    if address:
        config.mysql.skip_db_creation = True
    else:
        _look(workspace)
        config.sqlite.connection_mode = mode
    place = str(parse(address)) if address else str(workspace.metadata)
    try:
        return ask(MetadataStore(config))
    except (RuntimeError, errors.StatusError) as error:
        raise UserError(f"{place} {problem(str(error))}") from error


def make_ready(address: str, workspace: Workspace) -> None:
    """Undoes what a killed process left half done in a SQLite file, and sees to it that it can be written.

    Args:
        address: as for `connection`; a database does so by itself.
        workspace: where the file is, if there is one yet.

    Raises:
        UserError: it is locked, damaged or read-only.
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
    """The ids of all runs, the last one last, whatever the clock said."""
    contexts = store.get_contexts_by_type(PIPELINE_RUN)
    return [context.name for context in sorted(contexts, key=lambda context: context.id)]


def choose_run(runs: Sequence[str], beginning: str | None, workspace: Workspace) -> str:
    """A run by the beginning of its id; None takes the last one.

    Raises:
        UserError: there is no such run, or more than one.
    """
    if not runs:
        raise no_runs(workspace)
    if beginning is None:
        return runs[-1]
    found = [run for run in runs if run.startswith(beginning)]
    if len(found) == 1 or beginning in found:
        return beginning if beginning in found else found[0]
    last = ", ".join((found or runs)[-NAMED:])
    raise UserError(f"{len(found) or 'no'} runs in {workspace.home} begin with {beginning!r}; the last ones are {last}")


def no_runs(workspace: Workspace) -> UserError:
    """That nothing was run yet."""
    return UserError(f"there are no runs in {workspace.home}; `im2latex run` makes one, or set IM2LATEX_HOME")


def _look(workspace: Workspace) -> None:
    """Looks at the SQLite file before ML Metadata does, which waits most of a minute for a lock."""
    # It is empty where the first run was killed before it had written anything.
    if not workspace.metadata.is_file() or not workspace.metadata.stat().st_size:
        raise no_runs(workspace)
    file = sqlite3.connect(f"{workspace.metadata.as_uri()}?mode=ro", uri=True, timeout=LOCKED_SECONDS)
    try:
        file.execute("SELECT schema_version FROM MLMDEnv").fetchone()
        started = file.execute("SELECT 1 FROM Type LIMIT 1").fetchone()
    except sqlite3.Error as error:
        if "readonly database" not in str(error):
            raise UserError(f"{workspace.metadata} {problem(str(error))}") from None
        make_ready("", workspace)
    else:
        # Killed between its tables and its own types, ML Metadata would write the types even when it is only read.
        if not started:
            raise no_runs(workspace)
    finally:
        file.close()


def problem(error: str) -> str:
    """What is wrong with a store and what to do, in the words that follow its name."""
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
        return "holds what a killed process left half done, and is read-only: make it writable"
    if "no such table" in error:
        return "is no store of ML Metadata; move it away, or set IM2LATEX_HOME"
    if "not a database" in error or "malformed" in error or "subset of tables" in error or "disk I/O" in error:
        return "is damaged; put a copy in its place, or move it away and begin anew with `im2latex run`"
    return f"cannot be read: {error.strip().splitlines()[0] if error.strip() else 'no reason given'}"
