"""Run every benchmark: a table of ratios, as JSON with ``--json``, as Markdown with ``--page``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import archetypes, closest, evaluation, memory, pruning, ranking, startup
from benchmarks.measure import Row

BENCHMARKS = {
    "closest": closest,
    "evaluation": evaluation,
    "startup": startup,
    "memory": memory,
    "pruning": pruning,
    "ranking": ranking,
    "archetypes": archetypes,
}


def page(rows: list[Row]) -> str:
    """Write the table of the documentation."""
    from filtersurgeon.environment import machine

    lines = ["| benchmark | ours | peer | ratio | target |", "|---|---|---|---|---|"]
    lines += [
        f"| {row.name} | {row.ours:.1f} {row.unit} | {row.peer:.1f} {row.unit} "
        f"| {row.ratio:.2f} | at most {row.target:.3g} |"
        for row in rows
    ]
    return "\n".join([f"Measured on {machine()}.", "", *lines]) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--page", type=Path, metavar="FILE")
    words = parser.parse_args()
    table = Table("benchmark", "ours", "peer", "ratio", "target")
    rows = []
    for name in words.names or BENCHMARKS:
        for row in BENCHMARKS[name].run():
            rows.append(row)
            table.add_row(
                row.name,
                f"{row.ours:.1f} {row.unit}",
                f"{row.peer:.1f} {row.unit}",
                f"{row.ratio:.2f}",
                f"{'<' if row.ratio <= row.target else 'MISSED'} {row.target:.3g}",
            )
    Console().print(table)
    if words.page:
        words.page.write_text(page(rows), "utf-8")
    if words.json:
        words.json.write_text(json.dumps([row.to_json() for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
