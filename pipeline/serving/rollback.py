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
    """What a rollback came to."""

    folder: Path
    serves: int
    withdrawn: list[int]  # by it, the oldest first
    brought_back: bool  # the version that serves had been withdrawn

    def sentence(self) -> str:
        """What serves now, and how to undo it."""
        parts = [f"version {self.serves} serves now"]
        if self.brought_back:
            parts.append("it had been withdrawn")
        if self.withdrawn:
            *_, last = self.withdrawn
            parts.append(f"{', '.join(map(str, self.withdrawn))} {'were' if self.withdrawn[1:] else 'was'} withdrawn")
            parts.append(f"`im2latex rollback --to {last}` lets {last} serve again")
        return "; ".join(parts)

    def document(self) -> dict[str, Any]:
        """The same as an object that `json.dumps` takes."""
        return {**self._asdict(), "folder": str(self.folder)}


class Version(NamedTuple):
    """A version that there is."""

    number: int
    state: str  # SERVES, BEFORE or WITHDRAWN
    run: str = ""  # that pushed it; "" where that is not known
    bleu: float | None = None


def rollback(workspace: Workspace, name: str | None, to: int | None, say: Say, connection: str | None = None) -> Rolled:
    """Lets an older version serve, or one that was withdrawn: newer ones go into the folder `withdrawn` beside them.

    Args:
        workspace: whose versions.
        name: of the model; None takes that of the version that serves.
        to: the version; None takes the newest that works before the one that serves.
        say: takes a sentence on what was passed over, or could not be done beside it.
        connection: database that records it; None takes that of the last run.

    Raises:
        UserError: there is no such version or none before, it does not work, or the folder cannot be written.
    """
    folder = folder_of(workspace, name)
    with lock(folder):
        there = serving_folder.versions(folder)
        if not there and to is None:
            raise UserError(f"nothing serves in {folder}; `im2latex rollback --list` lists what was withdrawn")
        if to is None:
            to = _before(folder, there, say)
        elif to not in there and to not in serving_folder.versions(folder / WITHDRAWN):
            raise UserError(f"there is no version {to} in {folder}; `im2latex rollback --list` lists those there are")
        elif to == max(there, default=0):
            raise UserError(f"version {to} serves already")
        elif problem := _load_error(folder / str(to) if to in there else folder / WITHDRAWN / str(to)):
            raise UserError(f"{problem}; choose another version, `im2latex rollback --list` lists them")
        with _recorded(workspace, connection, folder, to, [number for number in there if number > to], say):
            try:
                withdrawn, brought_back = activate(folder, to)
            except OSError as error:
                raise UserError(f"cannot move versions in {folder}: {error.strerror}; check write permission") from None
    return Rolled(folder, to, withdrawn, brought_back)


def versions(workspace: Workspace, name: str | None, connection: str | None = None) -> list[Version]:
    """All versions of a model, withdrawn ones too, the oldest first; with what ML Metadata knows of them."""
    folder = folder_of(workspace, name)
    there, withdrawn = serving_folder.versions(folder), serving_folder.versions(folder / WITHDRAWN)
    stored = connection or workspace.connection or workspace.metadata.exists()
    known = _pushes(workspace, connection) if stored else {}
    states = dict.fromkeys(withdrawn, WITHDRAWN) | dict.fromkeys(there, BEFORE) | dict.fromkeys(there[-1:], SERVES)
    return [Version(number, states[number], *known.get((folder.name, str(number)), ())) for number in sorted(states)]


def table(found: Sequence[Version]) -> str:
    """Versions for people, a line each."""
    lines = [f"{'version':<12}  {'state':<9}  {'BLEU':<5}  pushed by run"]
    for version in found:
        bleu = "" if version.bleu is None else f"{version.bleu:.3f}"
        lines.append(f"{version.number:<12}  {version.state:<9}  {bleu:<5}  {version.run}".rstrip())
    return "\n".join(lines)


def folder_of(workspace: Workspace, name: str | None) -> Path:
    """The folder of a model's versions.

    Raises:
        UserError: there is none.
    """
    if name is None:
        return workspace.newest_model().parent
    folder = workspace.serving / name
    if not folder.is_dir():
        names = sorted(path.name for path in workspace.serving.glob("*") if path.is_dir())
        raise UserError(f"no model {name!r} was pushed to {workspace.serving}; there are {', '.join(names) or 'none'}")
    return folder


def _before(folder: Path, there: list[int], say: Say) -> int:
    """The newest version that works before the one that serves."""
    for number in reversed(there[:-1]):
        problem = _load_error(folder / str(number))
        if not problem:
            return number
        say(f"version {number} is passed over: {problem}")
    raise UserError(
        f"there is no version {'that loads ' if there[1:] else ''}before {there[-1]} in {folder}; it keeps serving"
    )


def _load_error(folder: Path) -> str:
    """Why a version does not work, or ""; it is loaded as a server would."""
    try:
        if is_saved_model_alone(folder):  # TensorFlow Serving takes it
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
    """Keeps an execution in ML Metadata: begun before, ended after, so that a rollback that was killed shows there.

    What serves matters more than what is known of it: without a store that can be written, the rollback goes on.
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

    def kept(change: Callable[[MetadataStore], Answer]) -> Answer | None:
        try:
            return write(workspace, change, connection)
        except UserError as error:
            say(f"this is not recorded: {error}")
            return None

    execution = kept(begin)
    state = mlmd.Execution.FAILED
    try:
        yield
        state = mlmd.Execution.COMPLETE
    finally:
        if execution:
            execution.last_known_state = state
            kept(lambda store: store.put_executions([execution]))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container may have no name for its user
        return f"user {os.getuid()}"


def _events(store: MetadataStore, execution: int, folder: Path, to: int, withdrawn: list[int]) -> list:
    """What a rollback is about: pushed models, as far as ML Metadata knows them."""
    from ml_metadata.proto import metadata_store_pb2 as mlmd

    from pipeline.lineage.find import pushed_to
    from pipeline.lineage.graph import PUSHED_MODEL

    pushed = store.get_artifacts_by_type(PUSHED_MODEL)
    events = []
    for key, numbers_of in (("serves", [to]), ("withdrawn", withdrawn)):
        for place, number in enumerate(numbers_of):
            if artifact := pushed_to(pushed, folder / str(number)):
                event = mlmd.Event(artifact_id=artifact, execution_id=execution, type=mlmd.Event.INPUT)
                event.path.steps.add().key = key
                event.path.steps.add().index = place
                events.append(event)
    return events


def _pushes(workspace: Workspace, connection: str | None) -> dict[tuple[str, str], tuple[str, float | None]]:
    """The run that pushed a version and the BLEU of its model, by the model's name and the version."""
    from pipeline.lineage.graph import DESTINATION, read_store
    from pipeline.lineage.run_summary import read_scores
    from pipeline.lineage.store import read

    graph = read(workspace, read_store, connection)
    found: dict[tuple[str, str], tuple[str, float | None]] = {}
    for artifact in graph.artifacts.values():
        maker = graph.maker(artifact.id)
        if artifact.pushed and maker:
            *_, name, version = Path(str(artifact.properties[DESTINATION])).parts
            scores = read_scores(graph.outputs(maker.run).get(("Evaluator", "evaluation")))
            # The first push of a version: later ones found it there.
            found.setdefault((name, version), (maker.run, scores.get("bleu")))
    return found
