"""The commands `im2latex data draw`, `mine` and `recombine`: lists of formulas, and data sets drawn from them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from data.dataset.display import REASONS, print_summary
from data.dataset.record import SPLITS
from data.defaults import DRAW_REJECTED_SHARE, EVAL_SHARE, HELD_OUT_FONT, MAX_TOKENS, TEST_SHARE
from data.progress import progress
from im2latex.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from data.pictures.looks import Looks

app = typer.Typer()
_SPLITS = "|".join(SPLITS)


@app.command()
def draw(
    formulas: Annotated[
        list[Path],
        typer.Argument(
            help="Lists of formulas (one per line, or source TAB formula; also .gz), data sets, or folders in the "
            "layout of the processed im2latex-100k; the last two keep their splits.",
            metavar="FORMULAS",
        ),
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    copies: Annotated[int, typer.Option(help="Number of images per formula, each in its own look.", min=1)] = 1,
    seed: Annotated[int, typer.Option(help="Random seed of the looks; the same seed gives the same images.")] = 1,
    looks: Annotated[
        Path | None, typer.Option(help="TOML file that says how often each look is drawn.", metavar="FILE")
    ] = None,
    katex_share: Annotated[
        float | None,
        typer.Option(help="Share drawn by KaTeX in Chromium. Default: as --looks says, else 0.2.", min=0, max=1),
    ] = None,
    degraded: Annotated[
        float | None,
        typer.Option(
            help="Share that is degraded in one or two ways. Default: as --looks says, else 0.4.", min=0, max=1
        ),
    ] = None,
    held_out_font: Annotated[
        bool, typer.Option("--held-out-font", help=f"Draw only in {HELD_OUT_FONT}, a font that no training set has.")
    ] = False,
    split: Annotated[
        str | None,
        typer.Option(help="Split for all formulas of lists. Default: spread over the splits.", metavar=_SPLITS),
    ] = None,
    eval_share: Annotated[
        float, typer.Option(help="Share of the formulas of lists for eval and test.", min=0, max=1)
    ] = EVAL_SHARE,
    test_share: Annotated[float, typer.Option(help="Share of these for test.", min=0, max=1)] = TEST_SHARE,
    max_tokens: Annotated[int, typer.Option(help="Leave out longer formulas.", min=1)] = MAX_TOKENS,
    allow_rejects: Annotated[
        float, typer.Option(help="Maximum share of rejected images.", min=0, max=1)
    ] = DRAW_REJECTED_SHARE,
    workers: Annotated[int | None, typer.Option(help="Number of processes. Default: one per core.", min=1)] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace OUT even if it is not a data set.")] = False,
) -> None:
    """Draw formulas with LaTeX and KaTeX in many fonts, sizes, resolutions and colours.

    The same command continues an interrupted one.
    """
    import time

    from rich.console import Console

    from data.formulas.lists import read_formulas
    from data.pictures.drawing import draw_dataset, make_plan

    if split is not None and split not in SPLITS:
        raise UserError(f"there is no split {split}; the splits are {', '.join(SPLITS)}")
    start = time.monotonic()
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    installed = _installed_looks(looks, katex_share, degraded, held_out_font, console)
    details = {"seed": seed, "copies": copies, "max_tokens": max_tokens, "looks": installed.model_dump()}
    with progress() as advance:
        read = read_formulas(formulas, max_tokens, workers, lambda done: advance("reading", done))
        plan = make_plan(
            read, looks=installed, seed=seed, copies=copies, split=split, eval_share=eval_share, test_share=test_share
        )
        total = len(plan.pictures)
        summary = draw_dataset(
            out,
            formulas,
            plan=plan,
            details=details,
            allow_rejects=allow_rejects,
            workers=workers,
            progress=lambda done: advance("drawing", done, total),
            overwrite=overwrite,
        )
    if plan.duplicates:
        console.print(f"{plan.duplicates:,} duplicates left out")
    print_summary(summary, time.monotonic() - start)


def _installed_looks(
    file: Path | None, katex: float | None, degraded: float | None, held_out_font: bool, console: Console
) -> Looks:
    """Returns the looks for the options, restricted to installed fonts; prints the fonts that are missing."""
    from data.pictures.looks import read_looks, with_installed_fonts

    shares = {name: share for name, share in (("katex", katex), ("degraded", degraded)) if share is not None}
    looks = read_looks(file).model_copy(update=shares)
    if held_out_font:
        looks = looks.model_copy(update={"fonts": {HELD_OUT_FONT: 1.0}, "katex": 0.0})
    installed = with_installed_fonts(looks)
    if missing := sorted(looks.fonts.keys() - installed.fonts.keys()):
        console.print(f"fonts that are not installed, and so not used: {', '.join(missing)}")
    return installed


@app.command()
def mine(
    sources: Annotated[
        list[Path],
        typer.Argument(
            help="LaTeX files, .tar.gz as from arXiv, or folders of these.",
            metavar="SOURCE",
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="List of formulas to write; gzipped if the name ends in .gz.", metavar="FORMULAS")
    ],
    max_tokens: Annotated[int, typer.Option(help="Leave out longer formulas.", min=1)] = MAX_TOKENS,
    exclude: Annotated[
        list[Path] | None,
        typer.Option(
            help="List or data set whose formulas are left out, in any spelling; repeatable.",
            metavar="FILE|DATASET",
        ),
    ] = None,
    label: Annotated[
        str | None, typer.Option(help="Source to write for each formula. Default: the name of SOURCE.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Number of processes. Default: one per core.", min=1)] = None,
) -> None:
    """Collect the formulas of LaTeX sources into a list for `im2latex data draw`."""
    from rich.console import Console

    from data.formulas.mining import mine as mine_formulas

    with progress() as advance:
        mined = mine_formulas(
            sources,
            out=out,
            max_tokens=max_tokens,
            exclude=exclude or (),
            label=label,
            workers=workers,
            progress=lambda done: advance("reading", done),
        )
    console = Console(highlight=False, soft_wrap=True, markup=False)
    reasons = mined.rejected.most_common()
    for reason, count in reasons[:REASONS]:
        console.print(f"left out {count:,} x {reason}")
    if others := sum(count for _, count in reasons[REASONS:]):
        console.print(f"left out {others:,} for other reasons")
    for path in mined.unreadable:
        console.print(f"unreadable archive: {path}")
    console.print(f"left out {mined.duplicates:,} duplicates, {mined.excluded:,} excluded formulas")
    console.print(f"{mined.written:,} formulas of {mined.documents:,} documents in {out}")


@app.command()
def recombine(
    formulas: Annotated[
        list[Path],
        typer.Argument(
            help="Lists of formulas, data sets, or folders, as for `im2latex data draw`.", metavar="FORMULAS"
        ),
    ],
    out: Annotated[
        Path, typer.Option(help="List of formulas to write; gzipped if the name ends in .gz.", metavar="FORMULAS")
    ],
    count: Annotated[int, typer.Option(help="Number of formulas to make.", min=1)],
    seed: Annotated[int, typer.Option(help="Random seed; the same seed gives the same formulas.")] = 1,
    max_tokens: Annotated[int, typer.Option(help="Maximum number of tokens in a formula.", min=1)] = MAX_TOKENS,
    exclude: Annotated[
        list[Path] | None,
        typer.Option(
            help="List or data set whose formulas are not written, in any spelling; repeatable.",
            metavar="FILE|DATASET",
        ),
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Number of processes. Default: one per core.", min=1)] = None,
) -> None:
    """Make new formulas from parts of known ones: numerators, scripts, cells, sides of relations.

    Formulas of the splits eval and test are neither used nor written.
    """
    from rich.console import Console

    from data.formulas.lists import Problem, read_formulas, read_keys, write_list
    from data.formulas.recombination import SOURCE
    from data.formulas.recombination import recombine as recombine_formulas

    with progress() as advance:
        held_out = read_keys(exclude or (), workers)
        known = []
        for formula in read_formulas(formulas, max_tokens, workers, lambda done: advance("reading", done)):
            if isinstance(formula, Problem):
                continue
            if formula.split in ("eval", "test"):
                held_out.add(formula.key)
            else:
                known.append(formula)
        new_formulas = recombine_formulas(
            known, count, seed, max_tokens, held_out, lambda done: advance("recombining", done, count)
        )
        write_list(out, ((SOURCE, tokens) for tokens in new_formulas))
    Console().print(f"{count:,} formulas in {out}", highlight=False, soft_wrap=True)
