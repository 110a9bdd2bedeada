from __future__ import annotations

import json
from pathlib import Path

import pytest
from tfx.dsl.components.base.base_beam_executor import BaseBeamExecutor
from tfx.types import standard_artifacts

from components.evaluator.component import Executor
from components.evaluator.summary import BASELINE, CANDIDATE, read_evaluation
from tests.components.artifacts import artifact, trained
from tests.components.evaluator.test_evaluation import RECORDS, save
from tests.components.serving_check.test_component import write_examples


@pytest.mark.parametrize(("rule", "blessed"), [("edit_similarity >= 0", 1), ("exact_match >= 0.9", 0)])
def test_the_configured_number_of_examples_is_evaluated_as_other_pictures(
    tmp_path: Path, rule: str, blessed: int
) -> None:
    save(tmp_path / "model" / "Format-Serving", 0)
    outputs = {
        "evaluation": artifact(standard_artifacts.ModelEvaluation, tmp_path / "evaluation"),
        "blessing": artifact(standard_artifacts.ModelBlessing, tmp_path / "blessing"),
    }
    executor = Executor(
        BaseBeamExecutor.Context(beam_pipeline_args=["--runner=FnApiRunner"], tmp_dir=str(tmp_path), unique_id="1")
    )
    executor.Do(
        {
            "examples": [write_examples(tmp_path / "examples", [[record.image for record in RECORDS]])],
            "model": [trained(tmp_path / "model")],
            "baseline_model": [trained(tmp_path / "nothing")],
        },
        {name: [output] for name, output in outputs.items()},
        {"gate": json.dumps([f"{rule} where picture=photo"]), "split": "test", "robustness": 2, "spelling": "normal"},
    )
    evaluation = read_evaluation(tmp_path / "evaluation")
    assert evaluation.robustness == {"examples": 2, "seed": 0}
    assert evaluation.pictures["photo"]["examples"] == 2 and BASELINE not in evaluation.pictures["photo"]
    assert list(evaluation.models) == [CANDIDATE]
    assert outputs["blessing"].get_int_custom_property("blessed") == blessed
