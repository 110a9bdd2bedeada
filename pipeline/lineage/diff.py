"""Compares two runs: their inputs and their results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, NamedTuple

from pipeline.lineage.graph import LineageGraph
from pipeline.lineage.notes import vocabulary_size
from pipeline.lineage.run_summary import RunSummary
from trainer_module.hyperparameters import NAMES

Facts = Mapping[str, Mapping[str, Any]]  # by section and name


class Difference(NamedTuple):
    """One difference between two runs; a value is None if the run does not have it."""

    section: str
    name: str
    first: Any
    second: Any


def facts(graph: LineageGraph, summary: RunSummary) -> Facts:
    """Collects the facts that runs are compared by: outcome, metrics, hyperparameters of Tuner, data, configuration,
    code, packages, hardware.

    Old runs did not store all of them; what is missing is taken from the execution properties of their components.

    Args:
        graph: a graph that contains the run.
        summary: summary of the run.
    """
    properties = graph.runs[summary.run].properties
    by_component = {execution.component: execution.properties for execution in graph.of_run.get(summary.run, ())}
    outputs = graph.outputs(summary.run)
    transformed, tuned = outputs.get(("Transform", "transform_graph")), outputs.get(("Tuner", "best_hyperparameters"))
    vocabulary = vocabulary_size(transformed.uri) if transformed else None
    data = _some(properties, data="folder", data_fingerprint="fingerprint")
    return {
        "outcome": {
            "state": f"{summary.state} {summary.component}".strip(),
            "blessed": summary.blessed,
            "pushed": summary.pushed or None,
        },
        "metrics": summary.scores | ({} if vocabulary is None else {"vocabulary": vocabulary}),
        "hyperparameters": _some(tuned.properties if tuned else {}, **{name: name for name in NAMES}),
        "data": data
        or _some(by_component.get("ImportExampleGen", {}), input_base="folder", input_fingerprint="fingerprint"),
        "configuration": _configuration(properties, by_component.get("Reporter", {})),
        "code": _some(properties, code_commit="commit", code_changed="changed", code_sha256="files"),
        "packages": _some(properties, python="python") | _object(properties, "packages"),
        "hardware": _some(properties, host="host") | _object(properties, "hardware"),
    }


def differences(first: Facts, second: Facts) -> list[Difference]:
    """Returns the differences, section by section."""
    return [
        Difference(section, name, first[section].get(name), second[section].get(name))
        for section in first
        for name in [*first[section], *(name for name in second[section] if name not in first[section])]
        if first[section].get(name) != second[section].get(name)
    ]


def _configuration(properties: Mapping[str, Any], reporter: Mapping[str, Any]) -> dict[str, Any]:
    """Returns every knob and its value; for old runs that did not store them, from Reporter's execution properties."""
    if "config" not in properties and "settings" in reporter:
        return {knob: value for knob, value, _ in json.loads(reporter["settings"])}
    return _object(properties, "config")


def _some(properties: Mapping[str, Any], **names: str) -> dict[str, Any]:
    """Selects the properties that exist, and renames them: the keys of `names` to its values."""
    return {name: properties[key] for key, name in names.items() if key in properties}


def _object(properties: Mapping[str, Any], name: str) -> dict[str, Any]:
    return json.loads(properties.get(name, "{}"))
