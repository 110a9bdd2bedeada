"""What a report is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from components.metadata import FAILED, Output, Step


class Setting(NamedTuple):
    """A knob of the configuration."""

    knob: str  # section.name
    value: Any  # as JSON has it
    help: str


@dataclass(frozen=True)
class ReportedRun:
    """All that a report is made of; what is None is not known."""

    pipeline: str
    id: str = ""
    steps: Sequence[Step] | None = None
    # By what they are: examples, transform_graph, model, model_run, baseline, evaluation, blessing, serving_check,
    # pushed_model.
    artifacts: Mapping[str, Output] = field(default_factory=dict)
    settings: Sequence[Setting] | None = None
    data: str | None = None  # folder of the TFRecords
    split: str | None = None  # of the examples, which judges the model
    serving: str | None = None  # folder of versions, from which models are served
    log: str = ""  # path of the log of a run that failed
    failure: str = ""  # why, in the log's words

    @property
    def failed(self) -> str:
        """The component that failed, or ""."""
        return next((step.component for step in self.steps or () if step.state == FAILED), "")
