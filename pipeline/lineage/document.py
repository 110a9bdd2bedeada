"""Converts a graph to JSON, as `schema.json` in this folder describes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.lineage.graph import LineageGraph

FORMAT = "im2latex-lineage/1"
SCHEMA = Path(__file__).with_name("schema.json")


def document(graph: LineageGraph, artifact: int) -> dict[str, Any]:
    """Converts the lineage of an artifact to an object for `json.dumps`."""
    return {
        "format": FORMAT,
        "artifact": artifact,
        "runs": [dict(vars(run)) for run in graph.runs.values()],
        "executions": [dict(vars(execution)) for execution in graph.executions.values()],
        "artifacts": [dict(vars(artifact)) for artifact in graph.artifacts.values()],
    }


def listed(name: str, items: Sequence[Mapping[str, Any]], **more: Any) -> dict[str, Any]:
    """Converts a list of runs, differences or findings to an object for `json.dumps`."""
    return {"format": FORMAT, **more, name: list(items)}
