"""im2latex data: make, import and check data sets."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data.errors import UserError
from data.records import (
    DRAW_REJECTED_SHARE,
    EVAL_SHARE,
    HELD_OUT_FONT,
    MAX_REJECTED_SHARE,
    MAX_TOKENS,
    SPLITS,
    TEST_SHARE,
)
from data.spelling import NORMAL, SPELLINGS
from data.synthetic import DEFAULT_DPI, DEFAULT_LEVEL, DEFAULT_MAX_TOKENS, LEVELS

if TYPE_CHECKING:
    from data.check import Report
    from data.records import Summary

_SPLITS = "|".join(SPLITS)
# Reasons of rejects that are printed.
_REASONS = 10

app = typer.Typer(name="data", help="Make, import and check data sets of formula images.", no_args_is_help=True)


@contextlib.contextmanager
def progress_bar(what: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on standard error; the value is called with the number of further records."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total, speed="")

        def advance(count: int) -> None:
            speed = progress.tasks[0].speed
            progress.update(task, advance=count, speed=f"{speed:,.0f}/s" if speed else "")

        yield advance


def print_summary(summary: Summary, seconds: float) -> None:
    """The counts of a written data set as a table, and the reasons of its rejects."""
    from rich.console import Console
    from rich.table import Table

    console = Console()
    rejected = sum(summary.rejected.values())
    table = Table("split", "records", "rejected")
    for column in table.columns[1:]:
        column.justify = "right"
    for split in SPLITS:
        table.add_row(split, f"{summary.counts[split]:,}", f"{summary.rejected[split]:,}")
    console.print(table)
    for reason, count in list(summary.reasons.items())[:_REASONS]:
        console.print(f"rejected {count:,} x {reason}", highlight=False, markup=False)
    if (others := sum(list(summary.reasons.values())[_REASONS:])) > 0:
        console.print(f"rejected {others:,} for other reasons", highlight=False)
    if rejected:
        console.print(f"each with its name in {summary.path / 'rejects.jsonl'}", highlight=False, soft_wrap=True)
    total = sum(summary.counts.values())
    rate = (total + rejected) / max(seconds, 1e-9)
    console.print(
        f"{total:,} records in {summary.path} ({seconds:.1f} s, {rate:,.0f} records/s)", highlight=False, soft_wrap=True
    )


@app.command()
def synth(
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    examples: Annotated[int, typer.Option(help="Number of examples, all splits together.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Seed of the formulas; the same seed gives the same bytes.")] = 1,
    level: Annotated[
        str,
        typer.Option(help="; ".join(f"{name}: {what}" for name, what in LEVELS.items()), metavar="|".join(LEVELS)),
    ] = DEFAULT_LEVEL,
    dpi: Annotated[int, typer.Option(help="Resolution in dots per inch, of 10 pt text.")] = DEFAULT_DPI,
    max_tokens: Annotated[int, typer.Option(help="Longest formula, tokens.")] = DEFAULT_MAX_TOKENS,
    workers: Annotated[int | None, typer.Option(help="Processes; one for each core if not given.", min=1)] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace OUT even if it is not a data set.")] = False,
) -> None:
    """Draw a data set of formulas from a grammar."""
    import time

    from data.synthetic import synthesize

    start = time.monotonic()
    with progress_bar("drawing", examples) as progress:
        summary = synthesize(
            out,
            examples,
            seed,
            level,
            dpi,
            max_tokens=max_tokens,
            workers=workers,
            progress=progress,
            overwrite=overwrite,
        )
    print_summary(summary, time.monotonic() - start)


@app.command()
def draw(
    formulas: Annotated[
        list[Path],
        typer.Argument(
            help="Lists of formulas (a line each, or source TAB formula; .gz as well), data sets, or folders in the "
            "layout of the processed im2latex-100k; the last two keep their splits.",
            metavar="FORMULAS...",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    copies: Annotated[int, typer.Option(help="Pictures of each formula, each in a look of its own.", min=1)] = 1,
    seed: Annotated[int, typer.Option(help="Seed of the looks; the same seed gives the same pictures.")] = 1,
    looks: Annotated[
        Path | None, typer.Option(help="TOML file of how often each look is drawn.", metavar="FILE")
    ] = None,
    katex_share: Annotated[
        float | None,
        typer.Option(help="Share drawn by KaTeX in Chromium; as LOOKS says, or 0.2, if not given.", min=0, max=1),
    ] = None,
    held_out_font: Annotated[
        bool, typer.Option("--held-out-font", help=f"Draw in {HELD_OUT_FONT} alone, which no training set has.")
    ] = False,
    split: Annotated[
        str | None,
        typer.Option(help="Where all formulas of lists go; spread over the splits if not given.", metavar=_SPLITS),
    ] = None,
    eval_share: Annotated[
        float, typer.Option(help="Share of the formulas of lists that goes to eval or test.", min=0, max=1)
    ] = EVAL_SHARE,
    test_share: Annotated[float, typer.Option(help="Share of these that goes to test.", min=0, max=1)] = TEST_SHARE,
    max_tokens: Annotated[int, typer.Option(help="Leave out longer formulas.", min=1)] = MAX_TOKENS,
    allow_rejects: Annotated[
        float, typer.Option(help="Share of pictures that may be left out.", min=0, max=1)
    ] = DRAW_REJECTED_SHARE,
    workers: Annotated[int | None, typer.Option(help="Processes; one for each core if not given.", min=1)] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace OUT even if it is not a data set.")] = False,
) -> None:
    """Draw formulas by LaTeX and KaTeX in many fonts, sizes, resolutions and colours.

    The same command goes on where an interrupted one stopped.
    """
    import time

    from rich.console import Console

    from data.drawing import draw_dataset, make_plan
    from data.formulas import read_formulas
    from data.looks import read_looks, with_installed_fonts

    if split is not None and split not in SPLITS:
        raise UserError(f"there is no split {split}; the splits are {', '.join(SPLITS)}")
    start = time.monotonic()
    wanted = read_looks(looks)
    if katex_share is not None:
        wanted = wanted.model_copy(update={"katex": katex_share})
    if held_out_font:
        wanted = wanted.model_copy(update={"fonts": {HELD_OUT_FONT: 1.0}, "katex": 0.0})
    chosen = with_installed_fonts(wanted)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    if missing := sorted(wanted.fonts.keys() - chosen.fonts.keys()):
        console.print(f"fonts that are not installed and not drawn: {', '.join(missing)}")
    with progress_bar("reading", None) as progress:
        plan = make_plan(
            read_formulas(formulas, max_tokens, workers, progress), chosen, seed, copies, split, eval_share, test_share
        )
    details = {"seed": seed, "copies": copies, "max_tokens": max_tokens, "looks": chosen.model_dump()}
    with progress_bar("drawing", len(plan.pictures)) as progress:
        summary = draw_dataset(out, formulas, plan, details, allow_rejects, workers, progress, overwrite)
    if plan.duplicates:
        console.print(f"{plan.duplicates:,} formulas came more than once and were taken once")
    print_summary(summary, time.monotonic() - start)


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="Folder or .tar.gz of the data.", metavar="SOURCE")],
    out: Annotated[Path, typer.Option(help="Folder to make.")],
    layout: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="processed|raw|tfrecords|records",
            help="Layout of SOURCE: the processed im2latex-100k, the raw one with full pages, the TFRecords of "
            "Image2Latex-TF2, or records in train, eval and test; detected if not given.",
        ),
    ] = None,
    vocabulary: Annotated[
        Path | None, typer.Option(help="Tokens of the TFRecords' ids; SOURCE/latex_vocab.txt if not given.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Reject longer formulas.", min=1)] = MAX_TOKENS,
    eval_share: Annotated[
        float, typer.Option(help="Share of train for eval, if SOURCE has no validation list.", min=0, max=1)
    ] = EVAL_SHARE,
    test_share: Annotated[
        float, typer.Option(help="Share of eval for test, if SOURCE has no test list.", min=0, max=1)
    ] = TEST_SHARE,
    allow_rejects: Annotated[
        float, typer.Option(help="Share of records that may be rejected.", min=0, max=1)
    ] = MAX_REJECTED_SHARE,
    workers: Annotated[int | None, typer.Option(help="Processes; one for each core if not given.", min=1)] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace OUT even if it is not a data set.")] = False,
    spelling: Annotated[
        str,
        typer.Option(
            help="Of the formulas: normal, one spelling for all that look the same; im2markup, as SOURCE has them.",
            metavar="|".join(SPELLINGS),
        ),
    ] = NORMAL,
) -> None:
    """Import im2latex-100k, processed or raw, the TFRecords of Image2Latex-TF2, or records, without the bad ones."""
    import json
    import time

    from rich.console import Console

    from data.im2latex import import_dataset

    start = time.monotonic()
    with progress_bar("importing", None) as progress:
        summary = import_dataset(
            source,
            out,
            layout,
            vocabulary,
            max_tokens,
            eval_share,
            test_share,
            allow_rejects,
            workers,
            progress,
            overwrite,
            spelling,
        )
    print_summary(summary, time.monotonic() - start)
    held_out = json.loads((summary.path / "dataset.json").read_text("utf-8"))["held_out"]
    for split, share in held_out.items():
        Console().print(f"{source} has no list for {split}: {share} were taken for it", highlight=False, soft_wrap=True)


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="Folder of a data set.", metavar="DIR")],
    sheet: Annotated[Path | None, typer.Option(help="Contact sheet to draw; DIR-samples.png if not given.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Count, measure and look over a data set; exit status 1 when something is wrong."""
    import dataclasses
    import json

    from data.check import check_dataset, contact_sheet

    with progress_bar("reading", None) as progress:
        report, samples = check_dataset(path, progress)
    sheet = sheet or path.absolute().with_name(f"{path.absolute().name}-samples.png")
    contact_sheet(samples, sheet)
    if as_json:
        typer.echo(json.dumps(dataclasses.asdict(report) | {"sheet": str(sheet)}, indent=2, ensure_ascii=False))
    else:
        print_report(report, sheet)
    if report.problems:
        raise typer.Exit(1)


@app.command()
def degradations(
    out: Annotated[Path, typer.Option(help="PNG file to write.", metavar="FILE")],
    image: Annotated[
        Path | None,
        typer.Option(help="Picture to change, dark on light; a drawn formula if not given.", metavar="FILE"),
    ] = None,
    kind: Annotated[list[str] | None, typer.Option(help="Draw this kind alone; repeatable.", metavar="KIND")] = None,
    seed: Annotated[int, typer.Option(help="Seed of directions, colours and patterns.", min=0)] = 0,
    em: Annotated[float, typer.Option(help="Font size of the picture, pixels.", min=1)] = 16.0,
) -> None:
    """Draw every kind of degradation that training and evaluation use, a little of it to all of it."""
    from data.degradation import KINDS
    from data.degradation_sheet import degradation_sheet, read_picture

    degradation_sheet(read_picture(image, em), out, kind or tuple(KINDS), seed, em)
    for name in kind or KINDS:
        typer.echo(f"{name:13} {KINDS[name].help}")


def print_report(report: Report, sheet: Path) -> None:
    """The report of a check as tables."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False, soft_wrap=True)
    title = Text(f"{report.path} ({report.source})", "table.title")
    table = Table(title=title, caption="median / 90th percentile / maximum")
    for heading in (
        "split",
        "records",
        "KB",
        "width",
        "height",
        "tokens",
        "formulas twice",
        "also in train",
        "new tokens",
    ):
        table.add_column(heading, justify="left" if heading == "split" else "right")
    for name, split in report.splits.items():
        table.add_row(
            name,
            f"{split.records:,}",
            f"{split.bytes / 1000:,.0f}",
            *(" / ".join(str(value) for value in spread) for spread in (split.width, split.height, split.tokens)),
            f"{report.duplicates[name]:,}",
            f"{report.shared[name]:,}" if name in report.shared else "",
            f"{report.unseen[name]:,}" if name in report.unseen else "",
        )
    console.print(table)
    console.print(f"vocabulary: {report.vocabulary:,} tokens, {report.seen_once:,} seen once; commonest:", markup=False)
    console.print("  " + "  ".join(f"{token} {count:,}" for token, count in report.most_common), markup=False)
    console.print(f"rejected when it was made: {report.rejected:,}")
    console.print(f"samples: {sheet}", markup=False)
    for problem in report.problems:
        console.print(f"wrong: {problem}", style="red", markup=False)
    if not report.problems:
        console.print("nothing wrong found", style="green")
