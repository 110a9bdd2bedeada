"""Formats lineage for the terminal. Names and paths are printed verbatim, not as markup."""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from components.formula_metrics.scores import SCORES
from components.metadata import CACHED, FAILED, RAN, RUNNING
from data.duration import duration
from pipeline.lineage.diff import Difference
from pipeline.lineage.graph import ROLLBACK, VERSION, Artifact, Execution, LineageGraph, Run
from pipeline.lineage.notes import GONE, notes, sources
from pipeline.lineage.problems import REPAIR, Finding
from pipeline.lineage.run_summary import DONE, KILLED, RunSummary, is_local
from pipeline.lineage.tree import Branch, made_from, made_of

# Lengths to which digests and run ids are shortened.
DIGITS, STAMP = 12, 19
DIGEST = re.compile("[0-9a-f]{40}|[0-9a-f]{64}")
# Packages whose versions are shown above the lineage of an artifact.
PACKAGES = ("tfx", "tensorflow", "keras", "ml-metadata")
# Number of findings of each kind that are shown.
SHOWN = 10
# Width for output to a pipe or file, so that lines are not wrapped.
ENDLESS = 10_000
STYLES = {FAILED: "red", KILLED: "red", RUNNING: "yellow", DONE: "", RAN: "", CACHED: ""}


def console() -> Console:
    """Returns a console for stdout."""
    terminal = Console(highlight=False, markup=False, emoji=False)
    return terminal if terminal.is_terminal else Console(highlight=False, markup=False, emoji=False, width=ENDLESS)


def story(
    graph: LineageGraph, artifact: Artifact, about: LineageGraph, up: bool, down: bool, paths: bool, serving: bool
) -> Iterator[Any]:
    """Formats an artifact: the run that made it, its ancestors and its descendants.

    Args:
        graph: its lineage.
        artifact: the artifact.
        about: the run that made it, see `pipeline.lineage.notes`.
        up, down: whether to show ancestors, and descendants.
        paths: whether to show the addresses of all artifacts.
        serving: whether it is the model that serves now.
    """
    maker = about.maker(artifact.id)
    if maker and maker.run in about.runs:
        yield from _heading(artifact, about.runs[maker.run], about, serving)
    if up:
        yield _grow(made_from(graph, artifact.id), artifact, _Teller(graph, about, maker.run if maker else "", paths))
    if down:
        if up:
            yield Text()
        yield _grow(made_of(graph, artifact.id), artifact, _Teller(graph, about, "", paths), "what was made from it")


def runs(summaries: Sequence[RunSummary], left_out: int) -> Iterator[Any]:
    """Formats runs as a table, in the given order."""
    if left_out:
        yield Text(f"{left_out:,} earlier runs are not shown; --last 0 shows all", "dim")
    table = Table("run", "state", "took", "ran", "cached", "BLEU", "blessed", "pushed", box=None, pad_edge=False)
    for column in (2, 3, 4, 5):
        table.columns[column].justify = "right"
    for summary in summaries:
        state = f"{summary.state}: {summary.component}" if summary.component else summary.state
        bleu = summary.scores.get("bleu")
        table.add_row(
            Text(_run(summary)),
            Text(state, STYLES[summary.state]),
            "" if summary.state == KILLED else duration(summary.seconds),
            str(summary.ran),
            str(summary.cached),
            "" if bleu is None else SCORES["bleu"].shown(bleu),
            {None: "", True: "yes", False: "no"}[summary.blessed],
            Text(summary.pushed),
        )
    yield table


def _run(summary: RunSummary) -> str:
    """Returns the beginning of a run's id, with its time if the id is not a time."""
    if is_local(summary.run):
        return summary.run[:STAMP]
    began = datetime.datetime.fromtimestamp(summary.began / 1000)
    return f"{summary.run[:8]}  {began:%Y-%m-%d %H:%M}"


def differences(first: str, second: str, changes: Iterable[Difference]) -> Iterator[Any]:
    """Formats the differences between two runs as a table."""
    table = Table("", first[:STAMP], second[:STAMP], box=None, pad_edge=False)
    section = ""
    for difference in changes:
        if difference.section != section:
            section = difference.section
            table.add_row(*[Text()] * bool(table.row_count))
            table.add_row(Text(section, "bold"))
        table.add_row(Text(f"  {difference.name}"), *(_value(value) for value in (difference.first, difference.second)))
    yield table if section else Text("nothing differs")


def findings(problems: Sequence[Finding]) -> Iterator[Any]:
    """Formats problems by kind, with how to repair them."""
    for kind, how in REPAIR.items():
        of_kind = [finding for finding in problems if finding.kind == kind]
        if of_kind:
            yield Text(f"{len(of_kind):,} {kind}", "bold red")
            yield from (Text(f"  {finding.what}") for finding in of_kind[:SHOWN])
            if len(of_kind) > SHOWN:
                yield Text(f"  and {len(of_kind) - SHOWN:,} more; --json lists all", "dim")
            yield Text(f"  repair: {how}", "green")
    if not problems:
        yield Text("no problems", "green")


class _Teller:
    """Formats the executions of a tree."""

    def __init__(self, graph: LineageGraph, about: LineageGraph, run: str, paths: bool) -> None:
        self._graph = graph
        self._about = about
        self._run = run
        self._paths = paths

    def label(self, execution: Execution) -> Group:
        """Formats an execution: its output artifacts, its state and time, and notes on the artifacts."""
        outputs = [self._graph.artifacts[i] for i in execution.output_ids() if i in self._graph.artifacts]
        title = ", ".join(f"{artifact.type} {artifact.id}" for artifact in outputs) or _deed(execution)
        lines = [Text(title, "bold"), self._went(execution)]
        for artifact in outputs:
            if self._paths:
                lines.append(Text(artifact.uri, "dim"))
            for note in notes(artifact, self._about):
                lines.append(Text(f"{artifact.type} {artifact.id}: {note}", "red") if note == GONE else Text(note))
        return Group(*lines)

    def leaves(self, execution: Execution) -> Iterator[Text]:
        """Yields the external inputs of an execution."""
        run = self._graph.runs.get(execution.run) or self._about.runs.get(execution.run)
        properties = run.properties if run else {}
        for path, exists in sources(execution):
            digest = properties.get("data_fingerprint") if properties.get("data") == path else None
            known = f"  (fingerprint {digest[:DIGITS]})" if digest else ""
            yield Text(path + known + ("" if exists else "  (gone)"), "" if exists else "red")

    def _went(self, execution: Execution) -> Text:
        when = datetime.datetime.fromtimestamp(execution.started / 1000).strftime("%Y-%m-%d %H:%M:%S")
        parts = [execution.component, when, duration(execution.seconds)]
        if execution.run != self._run and self._run:
            parts.append(f"from the cache, made by run {execution.run[:STAMP]}")
        elif execution.run != self._run:
            parts.append(f"run {execution.run[:STAMP]}")
        if execution.state not in (RAN, CACHED):
            parts.append(execution.state)
        return Text(", ".join(parts), STYLES[execution.state] or "dim")


def _grow(branches: Sequence[Branch], artifact: Artifact, teller: _Teller, title: str = "") -> Tree:
    """Builds the tree of branches; a single branch becomes the root."""

    def plant(branch: Branch, under: Tree | None) -> Tree:
        label = teller.label(branch.execution)
        tree = Tree(label, guide_style="dim") if under is None else under.add(label)
        for leaf in teller.leaves(branch.execution):
            tree.add(leaf)
        for following in branch.branches:
            plant(following, tree)
        return tree

    if len(branches) == 1 and not title:
        return plant(branches[0], None)
    tree = Tree(Text(f"{artifact.type} {artifact.id}" + (f", {title}" if title else ""), "bold"), guide_style="dim")
    for branch in branches:
        plant(branch, tree)
    return tree


def _heading(artifact: Artifact, run: Run, about: LineageGraph, serving: bool) -> Iterator[Text]:
    """Yields lines about the run that made an artifact: its configuration, code, data, packages and machine."""
    executions = about.of_run.get(run.id, ())
    cached = [execution for execution in executions if execution.state == CACHED]
    version = artifact.properties.get(VERSION)
    what = f"version {version}" if version else f"{artifact.type} {artifact.id}"
    from_cache = f", {len(cached)} of them from the cache" if cached else ""
    now = " serves now; it is" if serving else ""
    yield Text(
        f"{what}{now} of run {run.id}: {duration(about.seconds(run.id))}, {len(executions)} components{from_cache}"
    )
    yield from (Text(line, "dim") for line in _run_with(run.properties))
    yield Text()


def _run_with(properties: Mapping[str, Any]) -> Iterator[str]:
    if "config_sha256" not in properties:
        return
    commit = properties.get("code_commit", "")[:DIGITS] or "of no commit"
    changed = ", changed" if properties.get("code_changed") else ""
    yield (
        f"configuration {properties['config_sha256'][:DIGITS]}; code {commit}{changed}; "
        f"data {properties.get('data_fingerprint', 'not read yet')[:DIGITS]}"
    )
    if "packages" in properties:
        packages = json.loads(properties["packages"])
        versions = [f"{name} {packages[name]}" for name in PACKAGES if name in packages]
        yield ", ".join([f"Python {properties['python']}", *versions] if "python" in properties else versions)
    if "hardware" in properties:
        machine = json.loads(properties["hardware"])
        gpus = ", ".join(machine["gpus"]) or "no GPU"
        yield f"{machine['cores']} cores of {machine['processor']}, {machine['memory']} GiB, {gpus}"


def _deed(execution: Execution) -> str:
    """Describes an execution without output artifacts."""
    if execution.type != ROLLBACK:
        return "nothing"
    withdrawn = execution.properties["withdrawn"]
    return f"version {execution.properties['serves']} serves" + (f", {withdrawn} withdrawn" if withdrawn else "")


def _value(value: Any) -> Text:
    if value is None:
        return Text("none", "dim")
    if isinstance(value, float):
        return Text(f"{value:.4g}")
    if isinstance(value, str):
        return Text(value[:DIGITS] if DIGEST.fullmatch(value) else value)
    return Text(json.dumps(value, ensure_ascii=False))
