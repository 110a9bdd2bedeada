"""`im2latex rollback`: rolls back to the previous version, and records it in ML Metadata."""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from components import serving_folder
from components.serving_folder import WITHDRAWN, activate, lock
from im2latex.errors import UserError
from im2latex.models import is_saved_model_alone
from pipeline.workspace import Workspace

if TYPE_CHECKING:
    from ml_metadata import MetadataStore

SERVES, BEFORE = "serves", "before"
Say = Callable[[str], None]
Answer = TypeVar("Answer")


class Rolled(NamedTuple):
    """The result of a rollback."""

    folder: Path
    serves: int  # version that serves now
    withdrawn: list[int]  # versions that the rollback withdrew, oldest first
    brought_back: bool  # whether the version that serves had been withdrawn

    def sentence(self) -> str:
        """Says which version serves now, and how to undo the rollback."""
        parts = [f"version {self.serves} serves now"]
        if self.brought_back:
            parts.append("it had been withdrawn")
        if self.withdrawn:
            *_, last = self.withdrawn
            parts.append(f"{', '.join(map(str, self.withdrawn))} {'were' if self.withdrawn[1:] else 'was'} withdrawn")
            parts.append(f"to undo this: `im2latex rollback --to {last}`")
        return "; ".join(parts)

    def document(self) -> dict[str, Any]:
        """Returns the result as an object for JSON."""
        return {**self._asdict(), "folder": str(self.folder)}


class Version(NamedTuple):
    """A version in the serving folder."""

    number: int
    state: str  # SERVES, BEFORE or WITHDRAWN
    run: str = ""  # run that pushed it; "" if unknown
    bleu: float | None = None  # of its model; None if unknown


def rollback(workspace: Workspace, name: str | None, to: int | None, say: Say, connection: str | None = None) -> Rolled:
    """Rolls back to an older version, or forward to a withdrawn one. Newer versions move to the folder `withdrawn`.

    Args:
        workspace: the workspace.
        name: name of the model; None for the model of the newest version.
        to: the version to serve; None for the newest one before the current version that loads.
        say: called with messages: versions that were skipped, or why the rollback is not recorded.
        connection: database to record the rollback in; None for that of the last run.

    Raises:
        UserError: there is no such version, it cannot be loaded, or the folder cannot be written.
    """
    folder = folder_of(workspace, name)
    with lock(folder):
        existing = serving_folder.versions(folder)
        if not existing and to is None:
            raise UserError(f"no version serves in {folder}; `im2latex rollback --list` lists the withdrawn versions")
        if to is None:
            to = _before(folder, existing, say)
        elif to not in existing and to not in serving_folder.versions(folder / WITHDRAWN):
            raise UserError(f"there is no version {to} in {folder}; `im2latex rollback --list` lists the versions")
        elif to == max(existing, default=0):
            raise UserError(f"version {to} is already the one that serves")
        elif problem := _load_error(folder / str(to) if to in existing else folder / WITHDRAWN / str(to)):
            raise UserError(f"{problem}; choose another version, `im2latex rollback --list` lists them")
        with _recorded(workspace, connection, folder, to, [number for number in existing if number > to], say):
            try:
                withdrawn, brought_back = activate(folder, to)
            except OSError as error:
                raise UserError(f"cannot move versions in {folder}: {error.strerror}; check write permission") from None
    return Rolled(folder, to, withdrawn, brought_back)


def versions(workspace: Workspace, name: str | None, connection: str | None = None) -> list[Version]:
    """Lists all versions of a model, also withdrawn ones, oldest first, with runs and scores from ML Metadata."""
    folder = folder_of(workspace, name)
    existing, withdrawn = serving_folder.versions(folder), serving_folder.versions(folder / WITHDRAWN)
    stored = connection or workspace.connection or workspace.metadata.exists()
    known = _pushes(workspace, connection) if stored else {}
    states = (
        dict.fromkeys(withdrawn, WITHDRAWN) | dict.fromkeys(existing, BEFORE) | dict.fromkeys(existing[-1:], SERVES)
    )
    return [Version(number, states[number], *known.get((folder.name, str(number)), ())) for number in sorted(states)]


def table(versions: Sequence[Version]) -> str:
    """Formats versions as a table."""
    lines = [f"{'version':<12}  {'state':<9}  {'BLEU':<5}  pushed by run"]
    for version in versions:
        bleu = "" if version.bleu is None else f"{version.bleu:.3f}"
        lines.append(f"{version.number:<12}  {version.state:<9}  {bleu:<5}  {version.run}".rstrip())
    return "\n".join(lines)


def folder_of(workspace: Workspace, name: str | None) -> Path:
    """Returns the folder with the versions of a model.

    Raises:
        UserError: no version of the model was pushed.
    """
    if name is None:
        return workspace.newest_model().parent
    folder = workspace.serving / name
    if not folder.is_dir():
        names = sorted(path.name for path in workspace.serving.glob("*") if path.is_dir())
        raise UserError(
            f"no model {name!r} was pushed to {workspace.serving}; pushed were {', '.join(names) or 'none'}"
        )
    return folder


def _before(folder: Path, existing: list[int], say: Say) -> int:
    """Returns the newest version before the current one that can be loaded."""
    for number in reversed(existing[:-1]):
        problem = _load_error(folder / str(number))
        if not problem:
            return number
        say(f"version {number} is skipped: {problem}")
    raise UserError(
        f"there is no older version {'that loads ' if existing[1:] else ''}in {folder}; "
        f"version {existing[-1]} keeps serving"
    )


def _load_error(folder: Path) -> str:
    """Loads a version as the server does; returns why this fails, or "" if it loads."""
    try:
        if is_saved_model_alone(folder):  # only TensorFlow Serving can serve it
            from pipeline.serving.saved_model import SavedModelReader

            SavedModelReader(folder, searches=False)
        else:
            from im2latex.serving.models import load

            load(folder)
    except UserError as error:
        return str(error)
    return ""


@contextlib.contextmanager
def _recorded(
    workspace: Workspace, connection: str | None, folder: Path, to: int, withdrawn: list[int], say: Say
) -> Iterator[None]:
    """Records a rollback in ML Metadata as an execution, from its start to its end, so that killed ones are seen too.

    If the database cannot be written, the rollback continues without a record.
    """
    from ml_metadata.proto import metadata_store_pb2 as mlmd

    from pipeline.lineage.graph import NODE, ROLLBACK
    from pipeline.lineage.store import write

    properties = {"model": folder.name, "serves": str(to), "withdrawn": ", ".join(map(str, withdrawn))}
    properties |= {"by": f"{_user()} on {socket.gethostname()}"}

    def begin(store: MetadataStore) -> mlmd.Execution:
        kind = store.put_execution_type(mlmd.ExecutionType(name=ROLLBACK))
        execution = mlmd.Execution(type_id=kind, last_known_state=mlmd.Execution.RUNNING)
        for name, value in properties.items():
            execution.custom_properties[name].string_value = value
        node = store.get_context_by_type_and_name(NODE, f"{folder.name}.{ROLLBACK}") or mlmd.Context(
            type_id=store.put_context_type(mlmd.ContextType(name=NODE)), name=f"{folder.name}.{ROLLBACK}"
        )
        execution.id, _, _ = store.put_execution(execution, [], [node])
        store.put_events(_events(store, execution.id, folder, to, withdrawn))
        return execution

    def record(change: Callable[[MetadataStore], Answer]) -> Answer | None:
        try:
            return write(workspace, change, connection)
        except UserError as error:
            say(f"the rollback is not recorded: {error}")
            return None

    execution = record(begin)
    state = mlmd.Execution.FAILED
    try:
        yield
        state = mlmd.Execution.COMPLETE
    finally:
        if execution:
            execution.last_known_state = state
            record(lambda store: store.put_executions([execution]))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may have no name for its user
        return f"user {os.getuid()}"


def _events(store: MetadataStore, execution: int, folder: Path, to: int, withdrawn: list[int]) -> list:
    """Returns the events of a rollback, which link it to the pushed models that ML Metadata has."""
    from ml_metadata.proto import metadata_store_pb2 as mlmd

    from pipeline.lineage.find import pushed_to
    from pipeline.lineage.graph import PUSHED_MODEL

    pushed = store.get_artifacts_by_type(PUSHED_MODEL)
    events = []
    for key, numbers_of in (("serves", [to]), ("withdrawn", withdrawn)):
        for index, number in enumerate(numbers_of):
            if artifact := pushed_to(pushed, folder / str(number)):
                event = mlmd.Event(artifact_id=artifact, execution_id=execution, type=mlmd.Event.INPUT)
                event.path.steps.add().key = key
                event.path.steps.add().index = index
                events.append(event)
    return events


def _pushes(workspace: Workspace, connection: str | None) -> dict[tuple[str, str], tuple[str, float | None]]:
    """Returns the run that pushed each version, and the BLEU of its model, by the model's name and the version."""
    from pipeline.lineage.graph import DESTINATION, read_store
    from pipeline.lineage.run_summary import read_scores
    from pipeline.lineage.store import read

    graph = read(workspace, read_store, connection)
    pushes: dict[tuple[str, str], tuple[str, float | None]] = {}
    for artifact in graph.artifacts.values():
        maker = graph.maker(artifact.id)
        if artifact.pushed and maker:
            *_, name, version = Path(str(artifact.properties[DESTINATION])).parts
            scores = read_scores(graph.outputs(maker.run).get(("Evaluator", "evaluation")))
            # The first push of a version; later runs with the same model did not push it again.
            pushes.setdefault((name, version), (maker.run, scores.get("bleu")))
    return pushes
