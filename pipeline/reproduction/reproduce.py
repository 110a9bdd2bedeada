"""`im2latex reproduce`: runs a recorded run again, elsewhere, and says whether it came to the same."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console
from rich.table import Table

from components.metadata import CACHED, RAN, SERVING
from components.serving_folder import SERVING_VERSION
from im2latex.errors import UserError
from pipeline.config import Config, config_of
from pipeline.config.sections import COMPONENTS, SYNTHETIC
from pipeline.lineage.files import local_copy, look
from pipeline.lineage.graph import Artifact, Graph, read_runs
from pipeline.lineage.store import choose_run, read, run_ids
from pipeline.reproduction.comparison import COMPARISONS, OTHER, SAME, Compared, Folders, compare
from pipeline.running.examples import prepare_examples
from pipeline.running.launch import named_component, run_pipeline
from pipeline.running.record import VARIABLES, describe, fingerprint_of, gpus
from pipeline.workspace import Workspace
from trainer_module.config.training import PRECISION

if TYPE_CHECKING:
    from ml_metadata import MetadataStore

# Exit status; 1 is an error, as everywhere.
DIFFERS = 4
DIGITS = 12


class Recorded(NamedTuple):
    """A run, as ML Metadata has it."""

    id: str
    properties: Mapping[str, Any]  # see pipeline.running.record
    components: Sequence[str]  # that did their work, in their order
    outputs: Mapping[tuple[str, str], Artifact]


class Circumstance(NamedTuple):
    """Something that a run was run with."""

    name: str
    recorded: str
    here: str

    @property
    def verdict(self) -> str:
        """SAME or OTHER."""
        return SAME if self.recorded == self.here else OTHER


def reproduce(
    beginning: str | None,
    out: Path | None = None,
    settings: Sequence[str] = (),
    last: str | None = None,
    allow_changed_data: bool = False,
    as_json: bool = False,
    connection: str | None = None,
) -> int:
    """Runs a run again and prints how it compares.

    Args:
        beginning: of the run's id; None takes the last run.
        out: folder for the workspace that it is run in, new or empty; None takes one that is removed at the end.
        settings: knobs that are to be other than they were, as `section.knob=value`.
        last: component to end with; None goes as far as the recorded run did.
        allow_changed_data: with other data too.
        as_json: print an object in place of the tables; how the run goes is then told on standard error.
        connection: as for `pipeline.lineage.store.read`.

    Returns:
        0 when it came to the same, else DIFFERS.

    Raises:
        UserError: there is no such run, it stored too little, its data is other or gone, or the run failed.
    """
    home, last = Workspace.from_environment(), named_component(last, "--to")
    recorded = read(home, lambda store: _recorded(store, choose_run(run_ids(store), beginning, home)), connection)
    config = _config(recorded, settings)
    console = Console(highlight=False, markup=False, stderr=as_json)
    with _workspace(out, home) as workspace, _as_recorded(recorded.properties):
        config = _with_data(config, recorded, workspace)
        here = describe(config, workspace)
        circumstances = list(_circumstances(recorded.properties, here))
        _refuse_other_data(recorded, here, allow_changed_data)
        console.print(f"run {recorded.id}, again in {workspace.home}\n", soft_wrap=True)
        console.print(_circumstance_table(circumstances), "")
        _let_serve(recorded, workspace, config.name)
        last = _last(recorded, last)
        run_pipeline(config, last=last, cache=False, workspace=workspace, console=console, summary=out is not None)
        again = read(workspace, lambda store: _recorded(store, run_ids(store)[-1]), "")
        compared = list(compare(_folders(recorded, last), _folders(again, last)))
    if not compared:
        raise UserError(f"run {recorded.id} made nothing that can be compared; `im2latex lineage runs` lists others")
    same = all(one.verdict == SAME for one in compared)
    if as_json:
        document = {
            "run": recorded.id,
            "workspace": str(out) if out else None,
            "same": same,
            "with": [{**one._asdict(), "verdict": one.verdict} for one in circumstances],
            "made": [one._asdict() for one in compared],
        }
        print(json.dumps(document, indent=1))
    else:
        console.print("", _compared_table(compared), "")
        console.print(_verdict(compared), soft_wrap=True)
    return 0 if same else DIFFERS


# --- What was recorded -----------------------------------------------------------------------------------------------


def _recorded(store: MetadataStore, run: str) -> Recorded:
    graph: Graph = read_runs(store, [run])
    done = {execution.component for execution in graph.of_run.get(run, ()) if execution.state in (RAN, CACHED)}
    properties = graph.runs[run].properties
    return Recorded(run, properties, [name for name in COMPONENTS if name in done], graph.outputs(run))


def _config(recorded: Recorded, settings: Sequence[str]) -> Config:
    if "config" not in recorded.properties or "data_fingerprint" not in recorded.properties:
        raise UserError(
            f"run {recorded.id} was recorded without its configuration or the fingerprint of its data, so it cannot be "
            "run again"
        )
    if not recorded.components:
        raise UserError(f"run {recorded.id} made nothing that could be compared; `im2latex lineage runs` lists runs")
    knobs = json.loads(recorded.properties["config"])
    if knobs["data.source"] != SYNTHETIC:  # which may have been given as seen from another folder, or be in a bucket
        knobs["data.source"] = str(local_copy(recorded.properties["data"]))
    if chosen := _precision(recorded, knobs):
        knobs["training.precision"] = chosen
    try:
        return config_of(knobs, settings)
    except UserError as error:
        commit = recorded.properties.get("code_commit", "")
        hint = f"; it was run with the code of commit {commit[:DIGITS]}" if commit else ""
        raise UserError(f"the configuration of run {recorded.id}: {error}{hint}") from None


def _precision(recorded: Recorded, knobs: Mapping[str, Any]) -> str:
    """What `training.precision = "auto"` chose by the clock, "" where it is not known."""
    model_run = recorded.outputs.get(("Trainer", "model_run"))
    if knobs.get("training.precision") != "auto" or model_run is None:
        return ""
    file = look(model_run.uri, PRECISION)
    return file.read_text("utf-8").strip() if file else ""


def _last(recorded: Recorded, last: str | None) -> str | None:
    reached = recorded.components[-1]
    if last is None:
        return None if reached == COMPONENTS[-1] else reached
    return last


def _folders(run: Recorded, last: str | None) -> Folders:
    wanted = COMPONENTS[: COMPONENTS.index(last) + 1] if last else COMPONENTS
    return {
        key: local_copy(artifact.uri)
        for key, artifact in run.outputs.items()
        if key in COMPARISONS and key[0] in wanted
    }


# --- The same circumstances -------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _workspace(out: Path | None, home: Workspace) -> Iterator[Workspace]:
    """The workspace to run in, never one that holds something."""
    if out is None:
        made = Workspace(Path(tempfile.mkdtemp(prefix="im2latex-")))
        stays = False
        try:
            yield made
        except UserError:
            stays = made.logs.exists()  # the sentence names the log
            raise
        finally:
            if not stays:
                shutil.rmtree(made.home)
        return
    made = Workspace(out.expanduser().absolute())
    if made.home == home.home or made.home.exists() and (not made.home.is_dir() or any(made.home.iterdir())):
        raise UserError(f"--out: {made.home} exists already and is not empty; choose another folder")
    made.home.mkdir(parents=True, exist_ok=True)
    yield made


@contextlib.contextmanager
def _as_recorded(properties: Mapping[str, Any]) -> Iterator[None]:
    """Lets this process and its children compute as the run did: on no more cores, with its variables, without a GPU if
    it had none."""
    hardware = json.loads(properties.get("hardware", "{}"))
    cores = os.sched_getaffinity(0)
    before = {name: os.environ.get(name) for name in VARIABLES}
    wanted: Mapping[str, str | None] = before
    if "environment" in properties:
        wanted = dict.fromkeys(VARIABLES) | json.loads(properties["environment"])
    if not hardware.get("gpus", True) and gpus():
        wanted = {**wanted, "CUDA_VISIBLE_DEVICES": "-1"}
    try:
        _set(wanted)
        os.sched_setaffinity(0, sorted(cores)[: hardware.get("cores", len(cores))])
        yield
    finally:
        os.sched_setaffinity(0, cores)
        _set(before)


def _set(variables: Mapping[str, str | None]) -> None:
    for name, value in variables.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _with_data(config: Config, recorded: Recorded, workspace: Workspace) -> Config:
    """The configuration with the run's data: synthetic formulas are drawn again, and taken from where they were if this
    code draws others; unless others were asked for."""
    folder = prepare_examples(config.data, workspace)
    if config.data != _config(recorded, ()).data:
        return config
    place = Path(recorded.properties["data"])
    wanted = recorded.properties["data_fingerprint"]
    if config.data.source != SYNTHETIC or fingerprint_of(folder) == wanted:
        return config
    if not place.is_dir() or fingerprint_of(place) != wanted:
        return config
    return dataclasses.replace(config, data=dataclasses.replace(config.data, source=str(place)))


def _refuse_other_data(recorded: Recorded, here: Mapping[str, Any], allow_changed_data: bool) -> None:
    digests = [str(properties["data_fingerprint"]) for properties in (recorded.properties, here)]
    if digests[0] != digests[1] and not allow_changed_data:
        raise UserError(
            f"the data of run {recorded.id} is not what it was: {here['data']} has the fingerprint "
            f"{digests[1][:DIGITS]}, the run's had {digests[0][:DIGITS]}; put it back, or compare with "
            "--allow-changed-data"
        )


def _let_serve(recorded: Recorded, workspace: Workspace, name: str) -> None:
    """Puts the model that the run was compared with where Baseline looks for it."""
    baseline = recorded.outputs.get(("Baseline", "baseline"))
    version = baseline.properties.get(SERVING_VERSION) if baseline else ""
    if baseline and version and (model := look(baseline.uri, SERVING)):
        shutil.copytree(model, workspace.serving / name / str(version))


def _circumstances(recorded: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[Circumstance]:
    """What a run was run with, and what it is run with here; what was not stored is left out."""
    yield Circumstance("data", *(str(properties["data_fingerprint"])[:DIGITS] for properties in (recorded, here)))
    if "start_fingerprint" in recorded:
        starts = (str(properties.get("start_fingerprint", "none"))[:DIGITS] for properties in (recorded, here))
        yield Circumstance("start", *starts)
    yield from _knobs(recorded, here)
    yield Circumstance("code", *(str(properties["code_sha256"])[:DIGITS] for properties in (recorded, here)))
    if "code_commit" in recorded:
        commits = (_commit(properties) for properties in (recorded, here))
        yield Circumstance("commit", *commits)
    if "python" in recorded:
        yield Circumstance("Python", recorded["python"], here["python"])
    yield from _packages(json.loads(recorded.get("packages", "{}")), json.loads(here["packages"]))
    hardware, found = json.loads(recorded.get("hardware", "{}")), json.loads(here["hardware"])
    for name in ("processor", "cores", "gpus"):
        if name in hardware:
            yield Circumstance(name, *(_words(machine[name]) for machine in (hardware, found)))
    if "environment" in recorded:
        yield Circumstance(
            "variables", *(_words(json.loads(properties["environment"])) for properties in (recorded, here))
        )


def _knobs(recorded: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[Circumstance]:
    """A line for each knob that is other, or one for all of them."""
    before, now = (json.loads(properties["config"]) for properties in (recorded, here))
    if before["data.source"] != SYNTHETIC:  # its fingerprint says more
        before["data.source"] = now["data.source"]
    other = [name for name in now if before.get(name) != now[name]]
    for name in other:
        yield Circumstance(name, json.dumps(before.get(name)), json.dumps(now[name]))
    if not other:
        yield Circumstance("configuration", *(str(of["config_sha256"])[:DIGITS] for of in (recorded, here)))


def _commit(properties: Mapping[str, Any]) -> str:
    commit = str(properties.get("code_commit", "none"))[:DIGITS]
    return f"{commit}, changed" if properties.get("code_changed") else commit


def _packages(recorded: Mapping[str, str], here: Mapping[str, str]) -> Iterator[Circumstance]:
    """A line for those that are the same, and one for each that is other; the project's own is the code above."""
    names = [name for name in {**recorded, **here} if name != "im2latex"] if recorded else []
    same = [name for name in names if recorded.get(name) == here.get(name)]
    if same:
        yield Circumstance("packages", f"{len(same)}", f"{len(same)}")
    for name in names:
        if name not in same:
            yield Circumstance(name, recorded.get(name, "none"), here.get(name, "none"))


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={of}" for name, of in sorted(value.items())) or "none"
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


# --- What is shown ---------------------------------------------------------------------------------------------------


def _circumstance_table(circumstances: Sequence[Circumstance]) -> Table:
    table = Table("", "recorded", "here", "", box=None, pad_edge=False)
    for one in circumstances:
        table.add_row(one.name, one.recorded, one.here, one.verdict, style="" if one.verdict == SAME else "yellow")
    return table


def _compared_table(compared: Sequence[Compared]) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for one in compared:
        table.add_row(one.component, one.what, one.verdict, one.detail, style="" if one.verdict == SAME else "red")
    return table


def _verdict(compared: Sequence[Compared]) -> str:
    other = [one.what for one in compared if one.verdict != SAME]
    return f"not the same: {', '.join(other)}" if other else "the same"
