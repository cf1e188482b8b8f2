"""Run every benchmark: a table of ratios, as JSON with ``--json``, as Markdown with ``--page``.

``--gpu`` runs those that make sense on one.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks import (
    archetypes,
    closest,
    evaluation,
    memory,
    predefined,
    pruning,
    ranking,
    startup,
    walk,
)
from benchmarks.measure import Row

BENCHMARKS = {
    "closest": closest,
    "evaluation": evaluation,
    "startup": startup,
    "memory": memory,
    "pruning": pruning,
    "walk": walk,
    "ranking": ranking,
    "predefined": predefined,
    "archetypes": archetypes,
}
ON_GPU = {"predefined": predefined, "archetypes": archetypes}


def page(rows: list[Row]) -> str:
    """Write the table of the documentation."""
    from filtersurgeon.doctor import machine

    lines = ["| benchmark | ours | peer | ratio | target |", "|---|---|---|---|---|"]
    lines += [
        f"| {row.name} | {row.ours:.1f} {row.unit} | {row.peer:.1f} {row.unit} "
        f"| {row.ratio:.2f} | at most {row.target:.3g} |"
        for row in rows
    ]
    return "\n".join([f"Measured on {machine()}.", "", *lines]) + "\n"


def _on_gpu(parser: argparse.ArgumentParser) -> dict[str, Callable[[], Iterable[Row]]]:
    """Give the benchmarks for a GPU, or end with a sentence where there is none."""
    import torch

    if not torch.cuda.is_available():
        parser.error(
            "--gpu needs an NVIDIA GPU and a build of PyTorch for it; "
            f"PyTorch {torch.__version__} sees none"
        )
    return {name: each.run_on_gpu for name, each in ON_GPU.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--page", type=Path, metavar="FILE")
    parser.add_argument("--gpu", action="store_true", help=f"of {', '.join(ON_GPU)}")
    words = parser.parse_args()
    known = _on_gpu(parser) if words.gpu else {k: each.run for k, each in BENCHMARKS.items()}
    unknown = [name for name in words.names if name not in known]
    if unknown:
        parser.error(f"no benchmark {unknown[0]!r}; there are {', '.join(known)}")
    table = Table("benchmark", "ours", "peer", "ratio", "target")
    rows = []
    for name in words.names or known:
        for row in known[name]():
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
