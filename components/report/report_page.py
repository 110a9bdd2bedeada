"""Writes the report of a run as one self-contained HTML file, which loads nothing from the network."""

from __future__ import annotations

import platform
from importlib import metadata
from pathlib import Path

import jinja2

from components.metadata import CACHED
from components.report import drift, lineage, sections, wording
from components.report.charts import HEIGHT, WIDTH
from components.report.confidence import confidence
from components.report.content_policy import content_policy
from components.report.gallery import ENLARGED, gallery
from components.report.reported_run import ReportedRun
from components.report.robustness import robustness
from components.report.sections import section, then
from components.tuner.results import read_trials
from data.files import write_atomically

FILE = "report.html"
FOLDER = Path(__file__).parent

PACKAGES = (
    "im2latex",
    "tfx",
    "tensorflow",
    "keras",
    "tensorflow-transform",
    "tensorflow-model-analysis",
    "tensorflow-data-validation",
    "ml-metadata",
    "apache-beam",
    "numpy",
    "pyarrow",
    "pillow",
)


def write_page(run: ReportedRun, file: Path) -> None:
    """Writes the report of a run atomically.

    Raises:
        UserError: the file cannot be written.
    """
    write_atomically(file, render(run))


def render(run: ReportedRun) -> str:
    """Renders the report of a run as HTML."""
    evaluation = section(sections.evaluation_of, run)
    evaluated = section(sections.evaluated_of, run)
    renderer = evaluation.content.renderer if evaluation.content else None
    tuned = run.artifacts.get("tuner_results")
    style, script = ((FOLDER / name).read_text("utf-8") for name in ("report.css", "report.js"))
    content = {
        "run": run,
        "started": min((step.started for step in run.steps or () if step.state != CACHED), default=0),
        "verdict": sections.verdict(run, evaluation.content),
        "scores": then(evaluation, sections.scores),
        "robustness": then(evaluation, robustness),
        "confidence": then(evaluated, confidence),
        "gallery": then(evaluated, gallery, run, renderer),
        "tuning": section(read_trials, tuned.uri) if tuned else None,
        "training": section(sections.training, run),
        "measured": section(sections.measured, run, evaluated.content),
        "vocabulary": then(evaluated, sections.vocabulary, run),
        "drift": section(drift.examples, run),
        "service": section(drift.service, run),
        "confused": then(evaluated, sections.confused),
        "data": sections.data(run),
        "descent": sections.descent(run),
        "versions": _versions(),
    }
    return _environment().get_template(FILE).render(
        **content,
        style=style,
        script=script,
        policy=content_policy(style, script),
        enlarged=ENLARGED,
        few=sections.FEW,
        chart_size=(WIDTH, HEIGHT),
        lineage=lineage,
    )  # fmt: skip


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(FOLDER),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    for name in ("number", "percent", "duration", "memory", "moment", "literal"):
        environment.filters[name] = getattr(wording, name)
    return environment


def _versions() -> list[tuple[str, str]]:
    """Lists the installed versions of Python and `PACKAGES`."""
    rows = [("Python", platform.python_version())]
    for name in PACKAGES:
        try:
            rows.append((name, metadata.version(name)))
        except metadata.PackageNotFoundError:
            rows.append((name, "not installed"))
    return rows
