"""Prune one small network of every family of timm and torchvision, and write what came of it.

``python -m benchmarks.breadth --page docs/breadth_table.md`` writes the table; with ``--resume`` an
interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

SPARSITY = 0.3
_MOST_PARAMETERS = 120_000_000
_CANDIDATES = 5
_SMALL = ("test_", "atto", "femto", "nano", "tiny", "_xxs", "_xs", "small", "_s", "_b0", "_t0")
_TOO_LARGE = ("large", "huge", "giant", "gigantic", "enormous", "so400m", "_7b", "_l_", "_g_")


@dataclass(frozen=True)
class Row:
    """A network of the table.

    Attributes:
        family: module of timm, or torchvision.
        model: its name, as ``--arch`` takes it.
        free: channels that may be removed.
        left: share of the parameters that is left.
        difference: the largest, of an output, relative to the largest output.
        reloads: whether the written file loads and runs.
        seconds: CPU time of graph and pruning.
        refused: why it is not pruned.
    """

    family: str
    model: str
    free: int = 0
    left: float = 1.0
    difference: float = 0.0
    reloads: bool = False
    seconds: float = 0.0
    refused: str = ""


def families() -> Iterator[tuple[str, str]]:
    """Give the smallest network with a convolution of every module of timm, and torchvision's."""
    from torch import nn

    from filtersurgeon.checkpoint.vision import import_timm, import_torchvision
    from filtersurgeon.errors import FilterSurgeonError
    from filtersurgeon.networks.skeleton import make

    timm, torchvision = import_timm(), import_torchvision()
    for family in timm.list_modules():
        names = timm.list_models(module=family)
        small = [n for n in names if not any(word in n for word in _TOO_LARGE)] or names
        sizes = {}
        for name in sorted(small, key=_promise)[:_CANDIDATES]:
            try:
                network = make(f"timm:{name}")
            except FilterSurgeonError:
                continue
            if any(isinstance(module, nn.Conv2d) for module in network.modules()):
                sizes[name] = sum(p.numel() for p in network.parameters())
        if sizes and min(sizes.values()) < _MOST_PARAMETERS:
            yield family, f"timm:{min(sizes, key=lambda name: (sizes[name], name))}"
    seen = set()
    for name in torchvision.models.list_models(module=torchvision.models):
        home = torchvision.models.get_model_builder(name).__module__
        if home not in seen:
            seen.add(home)
            yield "torchvision", f"torchvision:{name}"


def _promise(name: str) -> tuple[int, int, str]:
    """Put names that promise a small network first."""
    rank = next((n for n, word in enumerate(_SMALL) if word in name), len(_SMALL))
    return rank, len(name), name


def row(family: str, architecture: str) -> Row:
    """Prune a network with random weights, load what was written, and run it."""
    import torch
    from safetensors.torch import save_file

    import filtersurgeon as fs
    from filtersurgeon.networks.skeleton import skeleton

    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "wide.safetensors"), Path(folder, "slim.safetensors")
        torch.manual_seed(0)
        state = skeleton(architecture, on_meta=False).state_dict()
        save_file({n: t.clone().contiguous() for n, t in state.items()}, source)
        with fs.load(source, arch=architecture) as checkpoint:
            started = time.process_time()
            reports: list[Any] = []
            try:
                free = fs.channels(checkpoint).free
                slim = fs.prune(
                    checkpoint,
                    sparsity=SPARSITY,
                    per_layer=True,
                    method="l2",
                    observe=reports.append,
                )
            except fs.FilterSurgeonError as error:
                return Row(family, architecture, refused=str(error))
            seconds = time.process_time() - started
            fs.save(slim, target)
            left = slim.parameters / checkpoint.parameters
        with fs.load(target) as again:
            network = fs.build(again)
            size = fs.channels(again).input_size
        with torch.no_grad():
            network(torch.randn(1, *size))
    difference = float(getattr(reports[0], "difference", None) or 0.0)
    return Row(family, architecture, free, left, difference, True, seconds)


def page(rows: list[Row]) -> str:
    """Write the table in Markdown."""
    pruned = sum(not row.refused for row in rows)
    lines = [
        f"{pruned} of {len(rows)} networks are pruned, reload and run; the others are refused.\n",
        "| family | model | free channels | parameters left | largest difference | CPU s |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        name = row.model.partition(":")[2]
        if row.refused:
            lines.append(f"| {row.family} | {name} | refused: {row.refused} | | | |")
        else:
            lines.append(
                f"| {row.family} | {name} | {row.free:,} | {row.left:.1%} | "
                f"{row.difference:.0e} | {row.seconds:.1f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the table, one network after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", type=Path, required=True)
    parser.add_argument("--json", type=Path, default=Path("breadth.json"))
    parser.add_argument("--resume", action="store_true", help="keep the rows of --json")
    words = parser.parse_args()
    known = json.loads(words.json.read_text()) if words.resume and words.json.exists() else []
    rows = [Row(**entry) for entry in known]
    done = {row.model for row in rows}
    for family, architecture in families():
        if architecture not in done:
            rows.append(row(family, architecture))
            words.json.write_text(json.dumps([asdict(r) for r in rows], indent=1) + "\n")
            words.page.write_text(page(rows))


if __name__ == "__main__":
    main()
