"""The `im2latex data` commands: make, import and check data sets."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import data.formula_commands
from data.dataset.display import print_summary
from data.defaults import EVAL_SHARE, MAX_REJECTED_SHARE, MAX_TOKENS, TEST_SHARE
from data.importers.formats import FORMATS
from data.pictures.synthetic import DEFAULT_DPI, DEFAULT_LEVEL, DEFAULT_MAX_TOKENS, LEVELS
from data.progress import progress
from data.spelling import NORMAL, SPELLINGS

if TYPE_CHECKING:
    from data.dataset.check import DatasetReport

app = typer.Typer(name="data", help="Make, import and check data sets of formula images.", no_args_is_help=True)
app.add_typer(data.formula_commands.app)


@app.command()
def synth(
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    examples: Annotated[int, typer.Option(help="Number of examples in all splits together.")] = 10_000,
    seed: Annotated[int, typer.Option(help="Random seed; the same seed gives the same bytes.")] = 1,
    level: Annotated[
        str,
        typer.Option(help="; ".join(f"{name}: {what}" for name, what in LEVELS.items()), metavar="|".join(LEVELS)),
    ] = DEFAULT_LEVEL,
    dpi: Annotated[int, typer.Option(help="Resolution in dots per inch, of 10 pt text.")] = DEFAULT_DPI,
    max_tokens: Annotated[int, typer.Option(help="Maximum number of tokens in a formula.")] = DEFAULT_MAX_TOKENS,
    workers: Annotated[int | None, typer.Option(help="Number of processes. Default: one per core.", min=1)] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace OUT even if it is not a data set.")] = False,
) -> None:
    """Draw a data set of formulas from a grammar."""
    import time

    from data.pictures.synthetic import synthesize

    start = time.monotonic()
    with progress() as advance:
        summary = synthesize(
            out,
            examples,
            seed,
            level,
            dpi,
            max_tokens=max_tokens,
            workers=workers,
            progress=lambda done: advance("drawing", done, examples),
            overwrite=overwrite,
        )
    print_summary(summary, time.monotonic() - start)


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="Folder or .tar.gz with the data.", metavar="SOURCE")],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    layout: Annotated[
        str | None,
        typer.Option(
            "--format",
            metavar="|".join(FORMATS),
            help="; ".join(f"{form.name}: {form.help}" for form in FORMATS.values()) + ". Default: detected.",
        ),
    ] = None,
    vocabulary: Annotated[
        Path | None, typer.Option(help="Vocabulary of the TFRecords. Default: SOURCE/latex_vocab.txt.")
    ] = None,
    max_tokens: Annotated[int, typer.Option(help="Reject longer formulas.", min=1)] = MAX_TOKENS,
    eval_share: Annotated[
        float, typer.Option(help="Share of train to use for eval if SOURCE has no validation list.", min=0, max=1)
    ] = EVAL_SHARE,
    test_share: Annotated[
        float, typer.Option(help="Share of eval to use for test if SOURCE has no test list.", min=0, max=1)
    ] = TEST_SHARE,
    allow_rejects: Annotated[
        float, typer.Option(help="Maximum share of rejected records.", min=0, max=1)
    ] = MAX_REJECTED_SHARE,
    workers: Annotated[int | None, typer.Option(help="Number of processes. Default: one per core.", min=1)] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace OUT even if it is not a data set.")] = False,
    spelling: Annotated[
        str,
        typer.Option(
            help="Spelling of the formulas: normal (one for all that look the same) or im2markup (as in SOURCE).",
            metavar="|".join(SPELLINGS),
        ),
    ] = NORMAL,
    repeat: Annotated[int, typer.Option(help="Number of times to write each training record of SOURCE.", min=1)] = 1,
    add: Annotated[Path | None, typer.Option(help="Also write the records of this data set.", metavar="DIR")] = None,
    add_share: Annotated[float, typer.Option(help="Share of its training records to write.", min=0, max=1)] = 1.0,
) -> None:
    """Import im2latex-100k, TFRecords of Image2Latex-TF2, pictures with LaTeX, or records; bad ones are left out."""
    import json
    import time

    from rich.console import Console

    from data.importers.importing import import_dataset

    start = time.monotonic()
    with progress() as advance:
        summary = import_dataset(
            source,
            out,
            layout=layout,
            vocabulary=vocabulary,
            max_tokens=max_tokens,
            eval_share=eval_share,
            test_share=test_share,
            allow_rejects=allow_rejects,
            workers=workers,
            progress=lambda done: advance("importing", done),
            overwrite=overwrite,
            spelling=spelling,
            repeat=repeat,
            added=add,
            added_share=add_share,
        )
    print_summary(summary, time.monotonic() - start)
    held_out = json.loads((summary.path / "dataset.json").read_text("utf-8"))["held_out"]
    for split, share in held_out.items():
        Console().print(f"{source} has no list for {split}: {share} were used for it", highlight=False, soft_wrap=True)


@app.command()
def check(
    path: Annotated[Path, typer.Argument(help="Folder of a data set.", metavar="DIR")],
    sheet: Annotated[Path | None, typer.Option(help="File of the contact sheet. Default: DIR-samples.png.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Check a data set and print its statistics. Exit status 1 if there are problems."""
    import dataclasses
    import json

    from data.dataset.check import check_dataset, contact_sheet

    with progress() as advance:
        report, samples = check_dataset(path, lambda done: advance("reading", done))
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
        typer.Option(help="Image to change, dark on light. Default: a drawn formula.", metavar="FILE"),
    ] = None,
    kind: Annotated[list[str] | None, typer.Option(help="Draw only this kind; repeatable.", metavar="KIND")] = None,
    seed: Annotated[int, typer.Option(help="Random seed of directions, colours and patterns.", min=0)] = 0,
    em: Annotated[float, typer.Option(help="Font size of the image, in pixels.", min=1)] = 16.0,
) -> None:
    """Draw each kind of degradation that training and evaluation use, from weak to strong."""
    from data.pictures.degradation import KINDS
    from data.pictures.degradation_sheet import degradation_sheet, read_picture

    degradation_sheet(read_picture(image, em), out, kind or tuple(KINDS), seed, em)
    for name in kind or KINDS:
        typer.echo(f"{name:13} {KINDS[name].help}")


def print_report(report: DatasetReport, sheet: Path) -> None:
    """Prints the report of a check as tables, each at most 80 columns wide."""
    from rich.columns import Columns
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    console.print(f"{report.path} ({report.source})", style="table.title", markup=False, soft_wrap=True)
    table = Table("", *report.splits, box=None, pad_edge=False)
    for column in table.columns[1:]:
        column.justify = "right"
    splits = report.splits.values()
    table.add_row("records", *(f"{split.records:,}" for split in splits))
    table.add_row("images, KB", *(f"{split.bytes / 1000:,.0f}" for split in splits))
    for name, spreads in (
        ("width, pixels", [split.width for split in splits]),
        ("height, pixels", [split.height for split in splits]),
        ("tokens", [split.tokens for split in splits]),
    ):
        table.add_row(name, *("  ".join(map(str, spread)) for spread in spreads))
    for name, counts in (
        ("formulas twice", report.duplicates),
        ("formulas also in train", report.shared),
        ("tokens not in train", report.unseen),
    ):
        table.add_row(name, *(f"{counts[split]:,}" if split in counts else "" for split in report.splits))
    console.print(table)
    console.print("three numbers: median, 90th percentile, maximum\n")
    console.print(f"vocabulary: {report.vocabulary:,} tokens, {report.seen_once:,} seen once; most common:")
    commonest = [Text(f"{token} {count:,}") for token, count in report.most_common]
    console.print(Columns(commonest, padding=(0, 3), column_first=True), end="\n\n")
    console.print(f"rejected records: {report.rejected:,}")
    console.print(f"samples: {sheet}", markup=False, soft_wrap=True)
    for problem in report.problems:
        console.print(f"problem: {problem}", style="red", markup=False, soft_wrap=True)
    if not report.problems:
        console.print("no problems found", style="green")
