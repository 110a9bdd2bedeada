"""Reads a compiled pipeline before it is uploaded: its tasks, images and parameters."""

from __future__ import annotations

import difflib
import graphlib
import json
from collections.abc import Sequence
from typing import Any

import yaml

from im2latex.errors import UserError


class Specification:
    """A compiled pipeline."""

    def __init__(self, text: str) -> None:
        """
        Args:
            text: YAML of a PipelineSpec and, optionally, of a PlatformSpec as a second document.
        """
        self.text = text
        self._documents = list(yaml.safe_load_all(text))
        self._pipeline = self._documents[0]

    @property
    def content(self) -> Any:
        """The pipeline in the form in which the server returns it."""
        if len(self._documents) == 1:
            return self._pipeline
        return {"pipeline_spec": self._pipeline, "platform_spec": self._documents[1]}

    @property
    def tasks(self) -> list[str]:
        """Names of the tasks in topological order."""
        return task_names(self.content)

    @property
    def images(self) -> list[str]:
        """Images of the containers, without duplicates."""
        executors = self._pipeline["deploymentSpec"]["executors"].values()
        return list(dict.fromkeys(executor["container"]["image"] for executor in executors if "container" in executor))

    @property
    def parameters(self) -> dict[str, dict[str, Any]]:
        """Definitions of the parameters, by name."""
        return self._pipeline["root"].get("inputDefinitions", {}).get("parameters", {})

    def without_cache(self) -> Specification:
        """Returns a copy in which no task uses the cache."""
        documents = list(yaml.safe_load_all(self.text))
        for task in documents[0]["root"]["dag"]["tasks"].values():
            task["cachingOptions"] = {}
        return Specification(yaml.safe_dump_all(documents, sort_keys=False))

    def read_parameters(self, settings: Sequence[str]) -> dict[str, Any]:
        """Parses NAME=VALUE arguments to values of the types that the pipeline declares.

        Raises:
            UserError: a parameter is unknown or missing, or its value has the wrong type.
        """
        values: dict[str, Any] = {}
        for setting in settings:
            name, equals, text = setting.partition("=")
            if not equals:
                raise UserError(f"--param takes NAME=VALUE, not {setting!r}")
            if name not in self.parameters:
                near = difflib.get_close_matches(name, self.parameters, n=1) or sorted(self.parameters)
                hint = f"did you mean {near[0]}?" if len(near) == 1 else f"there are {', '.join(near) or 'none'}"
                raise UserError(f"--param: the pipeline has no parameter {name!r}; {hint}")
            values[name] = _parameter(name, self.parameters[name].get("parameterType", "STRING"), text)
        missing = [
            name
            for name, definition in self.parameters.items()
            if name not in values and "defaultValue" not in definition and not definition.get("isOptional")
        ]
        if missing:
            raise UserError(f"the pipeline needs a value for {', '.join(missing)}; give --param {missing[0]}=VALUE")
        return values


def task_names(content: Any) -> list[str]:
    """Returns the names of a pipeline's tasks in topological order, from the form that the server returns."""
    tasks = content.get("pipeline_spec", content)["root"]["dag"]["tasks"]
    return list(graphlib.TopologicalSorter({name: task.get("dependentTasks", []) for name, task in tasks.items()})
                .static_order())  # fmt: skip


def _parameter(name: str, kind: str, text: str) -> Any:
    try:
        match kind:
            case "NUMBER_INTEGER":
                return int(text)
            case "NUMBER_DOUBLE":
                return float(text)
            case "BOOLEAN":
                return {"true": True, "false": False}[text.lower()]
            case "LIST" | "STRUCT":
                value = json.loads(text)
                if not isinstance(value, list if kind == "LIST" else dict):
                    raise ValueError
                return value
            case _:
                return text
    except (ValueError, KeyError):
        expected = {"LIST": "a JSON list", "STRUCT": "a JSON object", "BOOLEAN": "true or false"}.get(kind, "a number")
        raise UserError(f"--param {name}={text} is not valid: it takes {expected}") from None
