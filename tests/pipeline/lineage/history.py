"""A store with the runs of several years, written through ML Metadata's API with thousands of items per call."""

from __future__ import annotations

import functools
import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2 as mlmd

from pipeline.config import flatten, load_config

PIPELINE = "im2latex"
STATES = {
    "ran": mlmd.Execution.COMPLETE,
    "cached": mlmd.Execution.CACHED,
    "failed": mlmd.Execution.FAILED,
    "running": mlmd.Execution.RUNNING,
}
# Numbers of runs after which the data changes, a configuration is repeated, training fails, evaluation is killed.
NEW_DATA, AGAIN, FAILS, KILLED = 20, 5, 37, 101


class Component(NamedTuple):
    """A component of the pipeline."""

    type: str
    inputs: Mapping[str, tuple[str, str]]  # component and output, by name
    outputs: Mapping[str, str]  # type, by name


EXAMPLES, SCHEMA = ("ImportExampleGen", "examples"), ("ImportSchemaGen", "schema")
GRAPH, MODEL = ("Transform", "transform_graph"), ("Trainer", "model")
COMPONENTS = {
    "ImportExampleGen": Component(
        "tfx.components.example_gen.import_example_gen.component.ImportExampleGen", {}, {"examples": "Examples"}
    ),
    "ImportSchemaGen": Component(
        "tfx.components.schema_gen.import_schema_gen.component.ImportSchemaGen", {}, {"schema": "Schema"}
    ),
    "StatisticsGen": Component(
        "tfx.components.statistics_gen.component.StatisticsGen",
        {"examples": EXAMPLES, "schema": SCHEMA},
        {"statistics": "ExampleStatistics"},
    ),
    "ExampleValidator": Component(
        "components.example_validator.component.ExampleValidator",
        {"statistics": ("StatisticsGen", "statistics"), "schema": SCHEMA, "examples": EXAMPLES},
        {"anomalies": "ExampleAnomalies"},
    ),
    "Transform": Component(
        "tfx.components.transform.component.Transform",
        {"examples": EXAMPLES, "schema": SCHEMA},
        {"transform_graph": "TransformGraph", "transformed_examples": "Examples"},
    ),
    "Trainer": Component(
        "tfx.components.trainer.component.Trainer",
        {"examples": ("Transform", "transformed_examples"), "schema": SCHEMA, "transform_graph": GRAPH},
        {"model": "Model", "model_run": "ModelRun"},
    ),
    "Baseline": Component("components.baseline.component.Baseline", {"model": MODEL}, {"baseline": "Model"}),
    "Evaluator": Component(
        "components.evaluator.component.Evaluator",
        {"examples": EXAMPLES, "model": MODEL, "baseline_model": ("Baseline", "baseline")},
        {"blessing": "ModelBlessing", "evaluation": "ModelEvaluation"},
    ),
    "ServingCheck": Component(
        "components.serving_check.component.ServingCheck",
        {"model": MODEL, "examples": EXAMPLES},
        {"blessing": "InfraBlessing"},
    ),
    "Pusher": Component(
        "components.pusher.component.Pusher",
        {
            "model": MODEL,
            "model_blessing": ("Evaluator", "blessing"),
            "infra_blessing": ("ServingCheck", "blessing"),
        },
        {"pushed_model": "PushedModel"},
    ),
    "Reporter": Component(
        "components.report.component.Reporter",
        {
            "examples": EXAMPLES,
            "anomalies": ("ExampleValidator", "anomalies"),
            "transform_graph": GRAPH,
            "model": MODEL,
            "model_run": ("Trainer", "model_run"),
            "baseline": ("Baseline", "baseline"),
            "evaluation": ("Evaluator", "evaluation"),
            "blessing": ("Evaluator", "blessing"),
            "serving_check": ("ServingCheck", "blessing"),
            "pushed_model": ("Pusher", "pushed_model"),
        },
        {"report": "Report"},
    ),
}


class Pushed(NamedTuple):
    """A version in the serving folder."""

    version: int
    model: int
    artifact: int


@dataclass
class Years:
    """Successive runs that share cached outputs as in the pipeline. Ids are those in an empty SQLite store."""

    home: Path
    cached: bool = True
    artifacts: list[tuple[str, str, dict[str, Any]]] = field(default_factory=list)  # type, address, properties
    executions: list[tuple[str, str, str, dict[str, Any]]] = field(default_factory=list)  # run, component, state, ...
    events: list[tuple[int, int, int, str]] = field(default_factory=list)  # execution, artifact, type, name
    runs: dict[str, dict[str, Any]] = field(default_factory=dict)
    pushed: list[Pushed] = field(default_factory=list)
    cache: dict[Any, dict[str, int]] = field(default_factory=dict)

    def run(self, number: int) -> None:
        """Adds one run."""
        name = f"20{20 + number // 350:02}-{1 + number // 28 % 12:02}-{1 + number % 28:02}T04:00:00.{number:06}"
        settings = {knob: value for knob, value, _ in _knobs()}
        settings["training.seed"] = number - (number % AGAIN == AGAIN - 1)
        text = json.dumps(settings)
        self.runs[name] = {
            "config": text,
            "config_sha256": hashlib.sha256(text.encode()).hexdigest(),
            "code_commit": hashlib.sha1(str(number // 9).encode()).hexdigest(),
            "code_changed": int(number % 9 == 1),
            "packages": json.dumps({"tfx": "1.16.0", "keras": f"3.{number // 200}.0"}),
            "data_fingerprint": hashlib.sha256(str(number // NEW_DATA).encode()).hexdigest(),
        }
        outcome: dict[tuple[str, str], int] = {}
        for component, kind in COMPONENTS.items():
            inputs = {key: outcome[of] for key, of in kind.inputs.items()}
            properties = self._told(component, number, settings, inputs)
            key = component, tuple(inputs.items()), json.dumps(properties, default=str)
            if (
                component == "Trainer"
                and number % FAILS == FAILS - 1
                or component == "Evaluator"
                and number % KILLED == 9
            ):
                self._execute(
                    name, component, "failed" if component == "Trainer" else "running", properties, inputs, {}
                )
                return
            known = self.cache.get(key) if self.cached else None
            outputs = known or self._make(component, number, inputs, properties)
            self.cache[key] = outputs
            self._execute(name, component, "cached" if known else "ran", properties, inputs, outputs)
            outcome |= {(component, output): artifact for output, artifact in outputs.items()}

    def _told(
        self, component: str, number: int, settings: Mapping[str, Any], inputs: Mapping[str, int]
    ) -> dict[str, Any]:
        """Returns the execution properties of a component, which are part of its cache key."""
        code = {"code": hashlib.sha256(f"{component} {number // 90}".encode()).hexdigest()}
        serving = str(self.home / "serving" / PIPELINE)
        match component:
            case "ImportExampleGen":
                return {"input_base": str(self.home / "data" / f"formulas{number // NEW_DATA}"), "span": 0}
            case "ImportSchemaGen":
                return {"schema_file": str(self.home / "schema.pbtxt")}
            case "Trainer":
                return {"custom_config": json.dumps({"config": dict(settings)}), **code}
            case "Baseline":
                before = [pushed for pushed in self.pushed if pushed.model != inputs["model"]]
                properties = {"serving_version": str(before[-1].version) if before else "", "serving": serving}
                return {**properties, **code, **({"pushed_model": before[-1].artifact} if before else {})}
            case "Reporter":
                settings_with_help = [[knob, settings[knob], text] for knob, _, text in _knobs()]
                return {"settings": json.dumps(settings_with_help), "serving": serving, **code}
            case _:
                return code

    def _make(
        self, component: str, number: int, inputs: Mapping[str, int], reported: Mapping[str, Any]
    ) -> dict[str, int]:
        chance = random.Random(f"{component} {number}")
        outputs = {}
        for key, kind in COMPONENTS[component].outputs.items():
            properties: dict[str, Any] = {"tfx_version": "1.16.0", "is_external": 0}
            match kind:
                case "Examples":
                    properties["split_names"] = '["train", "eval", "test"]'
                case "ModelBlessing":
                    properties |= {"blessed": int(chance.random() < 0.6), "current_model_id": inputs["model"]}
                case "InfraBlessing":
                    properties |= {"blessed": 1, "seconds_per_image": chance.uniform(0.005, 0.02)}
                case "PushedModel":
                    blessed = self.artifacts[inputs["model_blessing"] - 1][2]["blessed"]
                    properties["pushed"] = blessed
                    if blessed:
                        version = 1_700_000_000 + number
                        folder = self.home / "serving" / PIPELINE / str(version)
                        properties |= {"pushed_version": str(version), "pushed_destination": str(folder)}
                        self.pushed.append(Pushed(version, inputs["model"], len(self.artifacts) + 1))
            if component == "Baseline":
                properties |= {name: reported[name] for name in ("serving_version", "pushed_model") if name in reported}
            uri = self.home / "pipeline_root" / component / key / str(len(self.executions) + 1)
            self.artifacts.append((kind, str(uri), properties))
            outputs[key] = len(self.artifacts)
        return outputs

    def _execute(
        self,
        run: str,
        component: str,
        state: str,
        reported: dict[str, Any],
        inputs: Mapping[str, int],
        outputs: Mapping[str, int],
    ) -> None:
        self.executions.append((run, component, state, reported))
        number = len(self.executions)
        self.events += [(number, artifact, mlmd.Event.INPUT, key) for key, artifact in inputs.items()]
        self.events += [(number, artifact, mlmd.Event.OUTPUT, key) for key, artifact in outputs.items()]


@functools.cache
def _knobs() -> list[tuple[str, Any, str]]:
    """Returns the settings of the quickstart: knob, value and help."""
    return list(flatten(load_config("quickstart")))


def _end(component: str, number: int) -> str:
    """Returns the state of a component that did not succeed, else ""."""
    if component == "Trainer" and number % FAILS == FAILS - 1:
        return "failed"
    return "running" if component == "Evaluator" and number % KILLED == KILLED // 2 else ""


def build(store: MetadataStore, home: Path, runs: int = 1000, cached: bool = True) -> Years:
    """Fills an empty SQLite store with runs.

    Args:
        store: ML Metadata.
        home: the workspace in the addresses of artifacts; the files are not created.
        runs: number of runs.
        cached: whether runs share cached outputs; else each has its own 11 executions and 14 artifacts.
    """
    years = Years(home, cached)
    for number in range(runs):
        years.run(number)
    contexts = _contexts(store, years)
    kinds = {name: store.put_artifact_type(mlmd.ArtifactType(name=name)) for name in {a[0] for a in years.artifacts}}
    artifacts = [
        mlmd.Artifact(type_id=kinds[kind], uri=uri, state=mlmd.Artifact.LIVE) for kind, uri, _ in years.artifacts
    ]
    _describe(artifacts, [properties for _, _, properties in years.artifacts])
    assert list(store.put_artifacts(artifacts)) == list(range(1, len(artifacts) + 1))
    types = {name: store.put_execution_type(mlmd.ExecutionType(name=kind.type)) for name, kind in COMPONENTS.items()}
    executions = [
        mlmd.Execution(type_id=types[component], last_known_state=STATES[state])
        for _, component, state, _ in years.executions
    ]
    _describe(executions, [reported for _, _, _, reported in years.executions])
    assert list(store.put_executions(executions)) == list(range(1, len(executions) + 1))
    store.put_events([_event(*event) for event in years.events])
    associations = [
        mlmd.Association(execution_id=number, context_id=contexts[name])
        for number, (run, component, _, _) in enumerate(years.executions, 1)
        for name in (("pipeline", PIPELINE), ("pipeline_run", run), ("node", f"{PIPELINE}.{component}"))
    ]
    store.put_attributions_and_associations([], associations)
    return years


def _contexts(store: MetadataStore, years: Years) -> dict[tuple[str, str], int]:
    names = [("pipeline", PIPELINE), *(("node", f"{PIPELINE}.{component}") for component in COMPONENTS)]
    names += [("pipeline_run", run) for run in years.runs]
    kinds = {kind: store.put_context_type(mlmd.ContextType(name=kind)) for kind in ("pipeline", "pipeline_run", "node")}
    contexts = [mlmd.Context(type_id=kinds[kind], name=name) for kind, name in names]
    _describe(contexts, [years.runs[name] if kind == "pipeline_run" else {} for kind, name in names])
    return dict(zip(names, store.put_contexts(contexts), strict=True))


def _event(execution: int, artifact: int, kind: int, key: str) -> mlmd.Event:
    event = mlmd.Event(execution_id=execution, artifact_id=artifact, type=kind)
    event.path.steps.add().key = key
    event.path.steps.add().index = 0
    return event


def _describe(messages: Sequence[Any], described: Sequence[Mapping[str, Any]]) -> None:
    fields = {str: "string_value", float: "double_value", int: "int_value"}
    for one, properties in zip(messages, described, strict=True):
        for name, value in properties.items():
            setattr(one.custom_properties[name], fields[type(value)], value)
