"""The command `im2latex reproduce`: repeats a recorded run in another workspace, and compares the results."""

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
from pipeline.config.sections import SYNTHETIC, WITH_TUNER
from pipeline.lineage.files import local_copy, look
from pipeline.lineage.graph import Artifact, LineageGraph, read_runs
from pipeline.lineage.store import choose_run, read, run_ids
from pipeline.reproduction.comparison import COMPARISONS, OTHER, SAME, Compared, Folders, compare
from pipeline.running.examples import prepare_examples
from pipeline.running.launch import named_component, run_pipeline
from pipeline.running.record import VARIABLES, describe, fingerprint_of, gpus
from pipeline.workspace import Workspace
from trainer_module.config.training import PRECISION

if TYPE_CHECKING:
    from ml_metadata import MetadataStore

# Exit status if the results differ; 1 is an error, as in all commands.
DIFFERS = 4
DIGITS = 12


class Recorded(NamedTuple):
    """A run that is recorded in ML Metadata."""

    id: str
    properties: Mapping[str, Any]  # see pipeline.running.record
    components: Sequence[str]  # components that succeeded, in the order of the pipeline
    outputs: Mapping[tuple[str, str], Artifact]


class Circumstance(NamedTuple):
    """A condition of a run, such as a knob or the version of a package: its value then and now."""

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
    allow_full_disk: bool = False,
    as_json: bool = False,
    connection: str | None = None,
) -> int:
    """Repeats a run and prints the comparison.

    Args:
        beginning: id of the run, or the beginning of it; None for the last run.
        out: new or empty folder for the workspace; None for a temporary one.
        settings: knobs to change, as `section.knob=value`.
        last: last component to run; None for the last one of the recorded run.
        allow_changed_data: continue if the data has changed since.
        allow_full_disk: start even if the disk may be too small.
        as_json: print JSON instead of the tables; progress is then printed on stderr.
        connection: as in `pipeline.lineage.store.read`.

    Returns:
        The exit status: 0 if the results are the same, else DIFFERS.

    Raises:
        UserError: the run does not exist or was recorded without its configuration, its data is gone or has changed, or
            the new run failed.
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
        run_pipeline(
            config,
            last=last,
            cache=False,
            workspace=workspace,
            console=console,
            summary=out is not None,
            allow_full_disk=allow_full_disk,
        )
        again = read(workspace, lambda store: _recorded(store, run_ids(store)[-1]), "")
        compared = list(compare(_folders(recorded, last), _folders(again, last)))
    if not compared:
        raise UserError(f"run {recorded.id} has no outputs to compare; `im2latex lineage runs` lists other runs")
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
    graph: LineageGraph = read_runs(store, [run])
    done = {execution.component for execution in graph.of_run.get(run, ()) if execution.state in (RAN, CACHED)}
    properties = graph.runs[run].properties
    return Recorded(run, properties, [name for name in WITH_TUNER if name in done], graph.outputs(run))


def _config(recorded: Recorded, settings: Sequence[str]) -> Config:
    if "config" not in recorded.properties or "data_fingerprint" not in recorded.properties:
        raise UserError(
            f"run {recorded.id} was recorded without its configuration or the fingerprint of its data, so it cannot be "
            "run again; `im2latex lineage runs` lists other runs"
        )
    if not recorded.components:
        raise UserError(f"run {recorded.id} has no outputs to compare; `im2latex lineage runs` lists other runs")
    knobs = json.loads(recorded.properties["config"])
    if knobs["data.source"] != SYNTHETIC:
        # The knob may be a relative path; the recorded one is absolute or in a bucket
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
    """Returns the precision that `training.precision = "auto"` chose by timing; "" if unknown, or not "auto"."""
    model_run = recorded.outputs.get(("Trainer", "model_run"))
    if knobs.get("training.precision") != "auto" or model_run is None:
        return ""
    file = look(model_run.uri, PRECISION)
    return file.read_text("utf-8").strip() if file else ""


def _last(recorded: Recorded, last: str | None) -> str | None:
    reached = recorded.components[-1]
    if last is None:
        return None if reached == WITH_TUNER[-1] else reached
    return last


def _folders(run: Recorded, last: str | None) -> Folders:
    components = WITH_TUNER[: WITH_TUNER.index(last) + 1] if last else WITH_TUNER
    return {
        key: local_copy(artifact.uri)
        for key, artifact in run.outputs.items()
        if key in COMPARISONS and key[0] in components
    }


# --- The same conditions ----------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _workspace(out: Path | None, home: Workspace) -> Iterator[Workspace]:
    """Yields the workspace to run in, which is empty: a temporary one if `out` is None."""
    if out is None:
        workspace = Workspace(Path(tempfile.mkdtemp(prefix="im2latex-")))
        keep = False
        try:
            yield workspace
        except UserError:
            keep = workspace.logs.exists()  # the error message refers to the log
            raise
        finally:
            if not keep:
                shutil.rmtree(workspace.home)
        return
    workspace = Workspace(out.expanduser().absolute())
    if (
        workspace.home == home.home
        or workspace.home.exists()
        and (not workspace.home.is_dir() or any(workspace.home.iterdir()))
    ):
        raise UserError(f"--out: {workspace.home} exists already and is not empty; choose another folder")
    workspace.home.mkdir(parents=True, exist_ok=True)
    yield workspace


@contextlib.contextmanager
def _as_recorded(properties: Mapping[str, Any]) -> Iterator[None]:
    """Makes this process and its children compute as the recorded run did.

    They use at most as many cores, the same environment variables, and no GPU if the run had none.
    """
    hardware = json.loads(properties.get("hardware", "{}"))
    cores = os.sched_getaffinity(0)
    before = {name: os.environ.get(name) for name in VARIABLES}
    variables: Mapping[str, str | None] = before
    if "environment" in properties:
        variables = dict.fromkeys(VARIABLES) | json.loads(properties["environment"])
    if not hardware.get("gpus", True) and gpus():
        variables = {**variables, "CUDA_VISIBLE_DEVICES": "-1"}
    try:
        _set(variables)
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
    """Prepares the data, and returns the configuration that uses it.

    Synthetic formulas are drawn again. If this code draws other formulas than the recorded run, the run's own folder is
    used, if it still exists. If `--set` changed the section `data`, the changed data is used.
    """
    folder = prepare_examples(config.data, workspace)
    if config.data != _config(recorded, ()).data:
        return config
    original = Path(recorded.properties["data"])
    fingerprint = recorded.properties["data_fingerprint"]
    if config.data.source != SYNTHETIC or fingerprint_of(folder) == fingerprint:
        return config
    if not original.is_dir() or fingerprint_of(original) != fingerprint:
        return config
    return dataclasses.replace(config, data=dataclasses.replace(config.data, source=str(original)))


def _refuse_other_data(recorded: Recorded, here: Mapping[str, Any], allow_changed_data: bool) -> None:
    digests = [str(properties["data_fingerprint"]) for properties in (recorded.properties, here)]
    if digests[0] != digests[1] and not allow_changed_data:
        raise UserError(
            f"the data of run {recorded.id} has changed: {here['data']} has the fingerprint "
            f"{digests[1][:DIGITS]}, and had {digests[0][:DIGITS]}; restore it, or use --allow-changed-data"
        )


def _let_serve(recorded: Recorded, workspace: Workspace, name: str) -> None:
    """Copies the recorded run's baseline to the serving folder, where Baseline finds it."""
    baseline = recorded.outputs.get(("Baseline", "baseline"))
    version = baseline.properties.get(SERVING_VERSION) if baseline else ""
    if baseline and version and (model := look(baseline.uri, SERVING)):
        shutil.copytree(model, workspace.serving / name / str(version))


def _circumstances(recorded: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[Circumstance]:
    """Yields the conditions of the recorded run and of the new one; conditions that were not recorded are left out."""
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
    hardware, current = json.loads(recorded.get("hardware", "{}")), json.loads(here["hardware"])
    for name in ("processor", "cores", "gpus"):
        if name in hardware:
            yield Circumstance(name, *(_words(machine[name]) for machine in (hardware, current)))
    if "environment" in recorded:
        yield Circumstance(
            "variables", *(_words(json.loads(properties["environment"])) for properties in (recorded, here))
        )


def _knobs(recorded: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[Circumstance]:
    """Yields a line for each knob that differs, or one for the whole configuration if none does."""
    before, now = (json.loads(properties["config"]) for properties in (recorded, here))
    if before["data.source"] != SYNTHETIC:  # the fingerprint is compared instead
        before["data.source"] = now["data.source"]
    other = [name for name in now if before.get(name) != now[name]]
    for name in other:
        yield Circumstance(name, json.dumps(before.get(name)), json.dumps(now[name]))
    if not other:
        digest = str(recorded["config_sha256"])[:DIGITS]  # another address of the data changes that of `here`
        yield Circumstance("configuration", digest, digest)


def _commit(properties: Mapping[str, Any]) -> str:
    commit = str(properties.get("code_commit", "none"))[:DIGITS]
    return f"{commit}, changed" if properties.get("code_changed") else commit


def _packages(recorded: Mapping[str, str], here: Mapping[str, str]) -> Iterator[Circumstance]:
    """Yields one line for all packages with the same version, and one for each other package."""
    names = [name for name in {**recorded, **here} if name != "im2latex"] if recorded else []
    same = [name for name in names if recorded.get(name) == here.get(name)]
    if same:
        yield Circumstance("packages", f"{len(same)}", f"{len(same)}")
    for name in names:
        if name not in same:
            yield Circumstance(name, recorded.get(name, "none"), here.get(name, "none"))


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}={text}" for name, text in sorted(value.items())) or "none"
    return ", ".join(map(str, value)) or "none" if isinstance(value, list) else str(value)


# --- Output ----------------------------------------------------------------------------------------------------------


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
