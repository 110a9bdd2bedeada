"""Evaluator: evaluates the new model and the one that is serving now, and applies the rules of the gate.

It has the inputs and outputs of TFX's Evaluator, with these differences: models read images through their signature
`predict_images`, as in a server, each image once for all scores and slices, in batches of similar size; the baseline
artifact may be empty; and a rule can apply to a named slice.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from absl import logging
from tfx import types
from tfx.dsl.components.base import base_beam_component, base_beam_executor, executor_spec
from tfx.dsl.io import fileio
from tfx.types import artifact_utils, standard_artifacts
from tfx.types.component_spec import ChannelParameter, ComponentSpec, ExecutionParameter
from tfx.utils import io_utils, path_utils

from components.evaluator.evaluation import evaluate
from components.evaluator.gate import parse_all
from components.evaluator.pictures import RobustnessTest
from components.evaluator.summary import BASELINE, CANDIDATE
from components.serving_folder import SERVING_VERSION
from data.dataset.tfrecords import read_split
from data.spelling import NORMAL
from trainer_module.features import DESCRIPTION, SPECIALS


class EvaluatorSpec(ComponentSpec):
    """Inputs, outputs and parameters of Evaluator."""

    PARAMETERS = {
        "gate": ExecutionParameter(type=str),
        "split": ExecutionParameter(type=str),
        "robustness": ExecutionParameter(type=int),
        "spelling": ExecutionParameter(type=str),
    }
    INPUTS = {
        "examples": ChannelParameter(type=standard_artifacts.Examples),
        "model": ChannelParameter(type=standard_artifacts.Model),
        "baseline_model": ChannelParameter(type=standard_artifacts.Model),
    }
    OUTPUTS = {
        "evaluation": ChannelParameter(type=standard_artifacts.ModelEvaluation),
        "blessing": ChannelParameter(type=standard_artifacts.ModelBlessing),
    }


class Executor(base_beam_executor.BaseBeamExecutor):
    """Evaluates the models and writes the blessing."""

    def Do(self, input_dict: dict[str, list], output_dict: dict[str, list], exec_properties: dict[str, Any]) -> None:
        """Writes `evaluation`, and `blessing` with the file and the properties that TFX's Pusher reads.

        Raises:
            UserError: there are no examples, or the new model cannot be loaded.
        """
        self._log_startup(input_dict, output_dict, exec_properties)
        model, baseline = (artifact_utils.get_single_instance(input_dict[key]) for key in ("model", "baseline_model"))
        models = {CANDIDATE: path_utils.serving_model_path(model.uri)}
        about: dict[str, dict[str, Any]] = {CANDIDATE: {}}
        if fileio.exists(path_utils.serving_model_path(baseline.uri)):
            models[BASELINE] = path_utils.serving_model_path(baseline.uri)
            about[BASELINE] = {"version": baseline.get_string_custom_property(SERVING_VERSION)}
        for name, folder in models.items():
            about[name] |= _described(folder)
        (folder,) = artifact_utils.get_split_uris(input_dict["examples"], exec_properties["split"])
        evaluation = artifact_utils.get_single_instance(output_dict["evaluation"])
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        result = evaluate(
            read_split(folder),
            models,
            parse_all(json.loads(exec_properties["gate"])),
            Path(evaluation.uri),
            robustness=RobustnessTest(exec_properties["robustness"]) if exec_properties["robustness"] else None,
            spelling=exec_properties["spelling"],
            about=about,
            pipeline=self._make_beam_pipeline,
        )
        logging.info("%s: %s", "Blessed" if result.blessed else "Not blessed", "; ".join(v.text for v in result.gate))
        fileio.makedirs(blessing.uri)
        io_utils.write_string_file(os.path.join(blessing.uri, "BLESSED" if result.blessed else "NOT_BLESSED"), "")
        blessing.set_int_custom_property("blessed", int(result.blessed))
        blessing.set_string_custom_property("current_model", model.uri)
        blessing.set_int_custom_property("current_model_id", model.id)
        if BASELINE in models:
            blessing.set_string_custom_property("baseline_model", baseline.uri)
            blessing.set_int_custom_property("baseline_model_id", baseline.id)


class Evaluator(base_beam_component.BaseBeamComponent):
    """Evaluates the new model, compares it with the baseline, and blesses it if it passes the gate."""

    SPEC_CLASS = EvaluatorSpec
    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)

    def __init__(
        self,
        examples: types.BaseChannel,
        model: types.BaseChannel,
        baseline_model: types.BaseChannel,
        gate: tuple[str, ...],
        split: str,
        robustness: int = 0,
        spelling: str = NORMAL,
    ) -> None:
        """
        Args:
            examples: ImportExampleGen's output.
            model: the new model.
            baseline_model: the model that is serving now, from Baseline; its artifact may be empty.
            gate: rules, in the syntax of `components.evaluator.gate`.
            split: split of the examples to evaluate on, which the models were not trained on.
            robustness: number of its examples to evaluate as other kinds of pictures too; 0 for none.
            spelling: spelling in which formulas are compared, as in `data.spelling.respell`.
        """
        super().__init__(
            EvaluatorSpec(
                examples=examples,
                model=model,
                baseline_model=baseline_model,
                gate=json.dumps(gate),
                split=split,
                robustness=robustness,
                spelling=spelling,
                evaluation=types.Channel(standard_artifacts.ModelEvaluation),
                blessing=types.Channel(standard_artifacts.ModelBlessing),
            )
        )


def _described(model: str) -> dict[str, Any]:
    """Returns the size and digest of the vocabulary of a SavedModel of this project; {} for other models."""
    path = os.path.join(model, DESCRIPTION)
    if not fileio.exists(path):
        return {}
    with fileio.open(path, "r") as file:
        vocabulary = json.loads(file.read())["vocabulary"]
    digest = hashlib.sha256(json.dumps(vocabulary).encode()).hexdigest()
    return {"vocabulary": len(vocabulary) - SPECIALS, "vocabulary_digest": digest}
