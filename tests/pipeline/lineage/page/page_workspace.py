"""A workspace with a few runs that share cached artifacts, and one with hostile names."""

from __future__ import annotations

import json
from pathlib import Path

from ml_metadata import MetadataStore
from ml_metadata.proto import metadata_store_pb2 as mlmd

from components.evaluator.summary import CANDIDATE, SUMMARY
from pipeline.workspace import Workspace
from tests.components.report.history import FAILED, History
from tests.pipeline.lineage.history import PIPELINE, Years, build

HOSTILE = "</script><img src=x onerror=\"document.title='broken'\"> ' \u2028 \U0001d53d <!--"
HOSTILE_RUN = f"2035-01-01 {HOSTILE}"


def open_store(file: Path) -> MetadataStore:
    """Creates a SQLite store for writing."""
    config = mlmd.ConnectionConfig()
    config.sqlite.filename_uri = str(file)
    config.sqlite.connection_mode = mlmd.SqliteMetadataSourceConfig.READWRITE_OPENCREATE
    return MetadataStore(config)


def fill(home: Path, runs: int, hostile: bool = True, cached: bool = True) -> Years:
    """Creates a workspace: its store, its evaluations, and the version pushed last in its serving folder."""
    home.mkdir(parents=True)
    workspace = Workspace(home)
    years = build(open_store(workspace.metadata), home, runs, cached)
    for number, (kind, uri, _) in enumerate(years.artifacts):
        if kind == "ModelEvaluation":
            Path(uri).mkdir(parents=True)
            scores = {"bleu": 0.5 + number / len(years.artifacts) / 3, "exact_match": 0.25}
            Path(uri, SUMMARY).write_text(json.dumps({"slices": {"": {CANDIDATE: scores}}}), "utf-8")
    (workspace.serving / PIPELINE / str(years.pushed[-1].version)).mkdir(parents=True)
    if hostile:
        history = History(workspace.metadata, PIPELINE)
        examples = history.artifact("Examples", "javascript:document.title='broken'", note=HOSTILE)
        history.execution(HOSTILE_RUN, "ImportExampleGen", outputs={HOSTILE: examples}, input_base=HOSTILE)
        history.execution(HOSTILE_RUN, "Trainer", FAILED, inputs=[examples], **{HOSTILE: HOSTILE})
    return years
