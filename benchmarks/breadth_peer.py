"""Prune the networks of the breadth table with Torch-Pruning, and write what came of it.

``python -m benchmarks.breadth_peer --page docs/breadth_peer_table.md`` uses it as its README and
its example for timm do: trace, prune 30 % of every layer by L2 norm, leave the classifier alone,
and tell it the heads of every attention that holds them as timm's do; nothing is told about a
network in particular. A network counts as pruned if it lost parameters and still runs on the image
that it was traced with; whether its outputs are right is not looked at. A network that is already
in the table is not tried again.
"""

from __future__ import annotations

import argparse
import re
import signal
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import torch

OURS = Path(__file__).parents[1] / "docs" / "breadth_table.md"
SPARSITY = 0.3
LIMIT = 120  # seconds of CPU time for a network


class _TooLongError(BaseException):
    """Raised when a network takes longer than the limit."""


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise _TooLongError(f"not done after {LIMIT} s of CPU time")


def networks() -> Iterator[tuple[str, str]]:
    """Give family and architecture of every row of the breadth table."""
    for line in OURS.read_text("utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 6 and cells[0] not in ("family", "---"):
            library = "torchvision" if cells[0] == "torchvision" else "timm"
            yield cells[0], f"{library}:{cells[1]}"


def outcome(architecture: str) -> str:
    """Prune a network with random weights; give a row's last three cells."""
    import torch_pruning

    from filtersurgeon.checkpoint import Checkpoint
    from filtersurgeon.networks.fitting import input_size
    from filtersurgeon.networks.skeleton import skeleton

    torch.manual_seed(0)
    network = skeleton(architecture, on_meta=False).eval()
    image = torch.randn(1, *input_size(network, Checkpoint({}, architecture=architecture)))
    before = sum(p.numel() for p in network.parameters())
    started = time.process_time()
    try:
        pruner = torch_pruning.pruner.MagnitudePruner(
            network, image, importance=torch_pruning.importance.MagnitudeImportance(p=2),
            pruning_ratio=SPARSITY, ignored_layers=_classifiers(network),
            num_heads={each.qkv: each.num_heads for each in _attentions(network)},
        )  # fmt: skip
        pruner.step()
        for each in _attentions(network):
            each.num_heads = pruner.num_heads[each.qkv]
            each.head_dim = each.qkv.out_features // (3 * each.num_heads)
        with torch.no_grad():
            network(image)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return f"{re.sub(r'[|`<>]', ' ', reason)[:90]} | | |"
    seconds = time.process_time() - started
    left = sum(p.numel() for p in network.parameters()) / before
    word = "pruned" if left < 1 else "nothing was cut"
    return f"{word} | {left:.1%} | {seconds:.1f} |"


def _attentions(network: torch.nn.Module) -> list[Any]:
    """Give the modules that make queries, keys and values of several heads in one layer."""
    return [
        module
        for module in network.modules()
        if isinstance(getattr(module, "qkv", None), torch.nn.Linear)
        and isinstance(getattr(module, "num_heads", None), int)
    ]


def _classifiers(network: torch.nn.Module) -> Sequence[torch.nn.Module]:
    """Give the layers that make the logits, which must not be cut."""
    classifier = getattr(network, "get_classifier", None)
    named = classifier() if callable(classifier) else None
    if isinstance(named, torch.nn.Module):
        return [named]
    kinds = (torch.nn.Linear, torch.nn.Conv2d)
    return [module for module in network.modules() if isinstance(module, kinds)][-1:]


def main() -> None:
    """Write the table, row by row."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--page", type=Path, required=True)
    page: Path = parser.parse_args().page
    rows = page.read_text("utf-8").splitlines()[4:] if page.exists() else []
    tried = {row.split("|")[2].strip() for row in rows}
    signal.signal(signal.SIGPROF, _stop)
    for family, architecture in networks():
        name = architecture.partition(":")[2]
        if name in tried:
            continue
        signal.setitimer(signal.ITIMER_PROF, LIMIT)
        try:
            rows.append(f"| {family} | {name} | {outcome(architecture)}")
        except _TooLongError as error:
            rows.append(f"| {family} | {name} | {error} | | |")
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
        pruned = sum("| pruned |" in row for row in rows)
        head = [
            f"{pruned} of {len(rows)} networks are pruned and run.", "",
            "| family | model | outcome | parameters left | CPU s |", "|---|---|---|---:|---:|",
        ]  # fmt: skip
        page.write_text("\n".join([*head, *sorted(rows)]) + "\n", "utf-8")


if __name__ == "__main__":
    main()
