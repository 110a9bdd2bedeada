"""The command `im2latex lineage`, which shows what is in ML Metadata."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from typer.core import TyperGroup

from im2latex.errors import UserError

if TYPE_CHECKING:
    from ml_metadata import MetadataStore

    from pipeline.workspace import Workspace

# Exit status of `check` if it finds problems; 1 is an error, as in all commands.
BROKEN = 4
STORY = "show"
Answer = TypeVar("Answer")


class StoryFirst(TyperGroup):
    """Makes `show` the default command: `lineage 12` means `lineage show 12`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Inserts the name of the default command if no command is given."""
        if not args or args[0] not in self.commands and not set(args) & set(self.get_help_option_names(ctx)):
            args = [STORY, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(cls=StoryFirst)

Connection = Annotated[
    str | None,
    typer.Option(
        help="Database, such as mysql://user@host:port/database. Default: that of the last run.",
        metavar="ADDRESS",
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON, as pipeline/lineage/schema.json describes it.")]


@app.callback()
def lineage() -> None:
    """Show lineage from ML Metadata: how models were made, what data was used for, and how runs differ."""
    # Set before ML Metadata is imported: its C++ code would log errors that are reported here in one sentence.
    os.environ.setdefault("GLOG_minloglevel", "3")


@app.command(STORY)
def show(
    what: Annotated[
        str | None,
        typer.Argument(
            help="Id, pushed version, path, name, or type (its newest). Default: the model that serves now.",
            metavar="ARTIFACT",
        ),
    ] = None,
    up: Annotated[bool, typer.Option("--up", help="Show ancestors (default).")] = False,
    down: Annotated[bool, typer.Option("--down", help="Show descendants.")] = False,
    depth: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of steps to follow.", metavar="STEPS")
    ] = None,
    paths: Annotated[bool, typer.Option("--paths", help="Show the folders of all artifacts.")] = False,
    as_json: Json = False,
    as_dot: Annotated[bool, typer.Option("--dot", help="Print DOT, for Graphviz.")] = False,
    as_mermaid: Annotated[bool, typer.Option("--mermaid", help="Print Mermaid.")] = False,
    connection: Connection = None,
) -> None:
    """Show how an artifact was made. The word `show` may be left out."""
    from pipeline.lineage import document, drawing, find, text
    from pipeline.lineage.graph import read_lineage

    if as_json + as_dot + as_mermaid > 1:
        raise UserError("--json, --dot and --mermaid: choose one of them")
    up = up or not down

    def ask(store: MetadataStore, workspace: Workspace) -> tuple[Any, ...]:
        artifact = find.serving_model(store, workspace) if what is None else find.named(store, what)
        graph = read_lineage(store, [artifact], up=up, down=down, depth=depth)
        return artifact, graph, find.whole_run(store, artifact)

    artifact, graph, about = _read(ask, connection)
    if as_json:
        _print_json(document.document(graph, artifact))
    elif as_dot or as_mermaid:
        typer.echo("\n".join(drawing.dot(graph) if as_dot else drawing.mermaid(graph)))
    else:
        _print(text.story(graph, graph.artifacts[artifact], about, up, down, paths, serving=what is None))


@app.command()
def runs(
    last: Annotated[int, typer.Option(min=0, help="Number of recent runs; 0 for all.", metavar="COUNT")] = 20,
    as_json: Json = False,
    connection: Connection = None,
) -> None:
    """List runs with their outcome, time, BLEU, blessing and pushed version."""
    from pipeline.lineage import document, text
    from pipeline.lineage.graph import read_runs, read_store
    from pipeline.lineage.run_summary import current_run, summarise
    from pipeline.lineage.store import no_runs, run_ids

    def ask(store: MetadataStore, workspace: Workspace) -> tuple[Any, ...]:
        ids = run_ids(store)
        if not ids:
            raise no_runs(workspace)
        graph = read_runs(store, ids[-last:]) if 0 < last < len(ids) else read_store(store)
        current = current_run(ids, workspace)
        return [summarise(graph, run, current, workspace) for run in ids[-last:]], len(ids)

    summaries, total = _read(ask, connection)
    if as_json:
        _print_json(document.listed("runs", [dataclasses.asdict(summary) for summary in summaries]))
    else:
        _print(text.runs(summaries, total - len(summaries)))


@app.command()
def diff(
    first: Annotated[str, typer.Argument(help="Run id, or its beginning.", metavar="RUN")],
    second: Annotated[str, typer.Argument(help="Run id, or its beginning, to compare with.", metavar="RUN")],
    as_json: Json = False,
    connection: Connection = None,
) -> None:
    """Compare two runs: outcome, metrics, hyperparameters, data, configuration, code, packages, hardware."""
    from pipeline.lineage import document, text
    from pipeline.lineage.diff import differences, facts
    from pipeline.lineage.graph import read_runs
    from pipeline.lineage.run_summary import current_run, summarise
    from pipeline.lineage.store import choose_run, run_ids

    def ask(store: MetadataStore, workspace: Workspace) -> tuple[Any, ...]:
        ids = run_ids(store)
        chosen = [choose_run(ids, beginning, workspace) for beginning in (first, second)]
        graph = read_runs(store, chosen)
        current = current_run(ids, workspace)
        sides = (facts(graph, summarise(graph, run, current, workspace)) for run in chosen)
        return *chosen, differences(*sides)

    first_run, second_run, changes = _read(ask, connection)
    if as_json:
        _print_json(
            document.listed(
                "differences", [difference._asdict() for difference in changes], runs=[first_run, second_run]
            )
        )
    else:
        _print(text.differences(first_run, second_run, changes))


@app.command()
def check(
    repair: Annotated[bool, typer.Option("--repair", help="Repair what killed runs left behind.")] = False,
    as_json: Json = False,
    connection: Connection = None,
) -> None:
    """Find problems: missing files, unfinished runs, models pushed without a blessing.

    Exit status: 0 no problems, 4 problems found, 1 failed.
    """
    from pipeline.lineage import document, problems, text
    from pipeline.lineage.graph import read_store
    from pipeline.lineage.store import write

    def ask(store: MetadataStore, workspace: Workspace) -> list[problems.Finding]:
        return problems.check(read_store(store), workspace)

    problems_found = _read(ask, connection)
    killed = [finding.execution for finding in problems_found if finding.kind == problems.KILLED]
    if repair and killed:
        from pipeline.workspace import Workspace

        workspace = Workspace.from_environment(connection)
        with workspace.lock():
            recorded = write(workspace, lambda store: problems.repair(store, killed, workspace), connection)
        problems_found = [finding for finding in problems_found if finding.kind != problems.KILLED]
        marked = f"{len(killed) - recorded:,} marked as cancelled"
        typer.echo(f"{marked}, {recorded:,} pushed and recorded" if recorded else marked, err=True)
    if as_json:
        findings = [finding._asdict() | {"repair": problems.REPAIR[finding.kind]} for finding in problems_found]
        _print_json(document.listed("findings", findings))
    else:
        _print(text.findings(problems_found))
    raise typer.Exit(BROKEN if problems_found else 0)


@app.command()
def page(
    out: Annotated[
        Path | None,
        typer.Option(help="File to write. Default: reports/lineage.html in the workspace.", metavar="FILE"),
    ] = None,
    show: Annotated[bool, typer.Option("--open", help="Open the file in the browser.")] = False,
    connection: Connection = None,
) -> None:
    """Write the lineage as one HTML file: all runs, their graphs, and comparisons of two."""
    from pipeline.lineage.page.lineage_page import write_page
    from pipeline.workspace import Workspace

    workspace = Workspace.from_environment(connection)
    file = out or workspace.home / "reports" / "lineage.html"
    write_page(workspace, file, connection)
    typer.echo(file)
    if show:
        import webbrowser

        webbrowser.open(file.absolute().as_uri())


def _read(ask: Callable[[MetadataStore, Workspace], Answer], connection: str | None) -> Answer:
    """Reads from the workspace's store, or from the one at `connection`."""
    from pipeline.lineage.store import read
    from pipeline.workspace import Workspace

    workspace = Workspace.from_environment(connection)
    return read(workspace, lambda store: ask(store, workspace), connection)


def _print(parts: Iterable[Any]) -> None:
    from pipeline.lineage import text

    console = text.console()
    for part in parts:
        console.print(part)


def _print_json(content: dict[str, Any]) -> None:
    typer.echo(json.dumps(content, indent=1, ensure_ascii=False))
