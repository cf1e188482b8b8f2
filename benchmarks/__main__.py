"""Run every benchmark: a table of ratios, and the same as JSON with ``--json FILE``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import closest, evaluation, memory, startup

BENCHMARKS = {
    "closest": closest,
    "evaluation": evaluation,
    "startup": startup,
    "memory": memory,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--json", type=Path, metavar="FILE")
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
    if words.json:
        words.json.write_text(json.dumps([row.to_json() for row in rows], indent=1) + "\n")


if __name__ == "__main__":
    main()
