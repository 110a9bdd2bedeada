"""The data that a report is made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from components.metadata import FAILED, Output, Step
from im2latex.monitor import Monitored


class Setting(NamedTuple):
    """A knob of the configuration."""

    knob: str  # section.name
    value: Any  # as JSON has it
    help: str


@dataclass(frozen=True)
class ReportedRun:
    """A run, with everything that its report shows; None means unknown."""

    pipeline: str
    id: str = ""
    steps: Sequence[Step] | None = None
    # Keys: examples, anomalies, transform_graph, tuner_results, model, model_run, baseline, evaluation, blessing,
    # serving_check, pushed_model.
    artifacts: Mapping[str, Output] = field(default_factory=dict)
    settings: Sequence[Setting] | None = None
    data: str | None = None  # folder of the TFRecords
    split: str | None = None  # split of the examples that the model is evaluated on
    serving: str | None = None  # the serving folder
    service: Monitored | None = None  # the pictures of a service, compared with its model's training data
    log: str = ""  # path of the log, if the run failed
    failure: str = ""  # the error in the log, if the run failed

    @property
    def failed(self) -> str:
        """The component that failed; "" if none did."""
        return next((step.component for step in self.steps or () if step.state == FAILED), "")
