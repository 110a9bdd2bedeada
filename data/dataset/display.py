"""Terminal output of the `im2latex data` commands."""

from __future__ import annotations

from typing import TYPE_CHECKING

from data.dataset.record import SPLITS

if TYPE_CHECKING:
    from data.dataset.writer import DatasetSummary

# Maximum number of reject reasons to print.
REASONS = 10


def print_summary(summary: DatasetSummary, seconds: float) -> None:
    """Prints the record counts of a written data set as a table, and the reasons for its rejects."""
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
    for reason, count in list(summary.reasons.items())[:REASONS]:
        console.print(f"rejected {count:,} x {reason}", highlight=False, markup=False)
    if (others := sum(list(summary.reasons.values())[REASONS:])) > 0:
        console.print(f"rejected {others:,} for other reasons", highlight=False)
    if rejected:
        console.print(f"each with its name in {summary.path / 'rejects.jsonl'}", highlight=False, soft_wrap=True)
    total = sum(summary.counts.values())
    rate = (total + rejected) / max(seconds, 1e-9)
    console.print(
        f"{total:,} records in {summary.path} ({seconds:.1f} s, {rate:,.0f} records/s)", highlight=False, soft_wrap=True
    )
