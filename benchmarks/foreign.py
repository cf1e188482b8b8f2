"""Prune networks of other packages, and compare each with its masked original.

``python -m benchmarks.foreign --page docs/foreign_table.md`` writes the table; with ``--resume`` an
interrupted run goes on where it stopped. Torch-Pruning gets the same networks, weights, inputs and
share of every layer; it is told which layers make the outputs. Both results are judged in the same
way: which indices of every tensor are left shows in its numbers, which do not repeat, and the
original network with all others set to zero should return the same.
"""

from __future__ import annotations

import argparse
import json
import re
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import remove_weight_norm
from torch.nn.utils.parametrize import is_parametrized, remove_parametrizations
from torch.nn.utils.weight_norm import WeightNorm

from benchmarks.foreign_networks import networks
from filtersurgeon.checkpoint.vision import import_timm

SPARSITY = 0.3
LIMIT = 20  # seconds of CPU time for a network and a package
WRONG = 1e-4


@dataclass(frozen=True)
class Outcome:
    """What one package made of a network.

    Attributes:
        left: share of the parameters that is left.
        difference: the largest, of an output, relative to the largest output.
        seconds: CPU time.
        refused: why it is not pruned, or cannot be judged.
    """

    left: float = 1.0
    difference: float = 0.0
    seconds: float = 0.0
    refused: str = ""


@dataclass(frozen=True)
class Row:
    """A network of the table."""

    package: str
    network: str
    parameters: int
    ours: Outcome
    peer: Outcome


class _TooLongError(BaseException):
    """Raised when a network takes longer than the limit."""


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise _TooLongError(f"not done after {LIMIT} s of CPU time")


def randomise(network: nn.Module) -> None:
    """Give parameters and statistics numbers of usual size that do not repeat."""
    generator = torch.Generator().manual_seed(0)

    def spread(like: Tensor, low: float, high: float) -> Tensor:
        steps = torch.randperm(like.numel(), generator=generator).double().add(0.37)
        return (
            (low + (high - low) * steps / max(1, like.numel())).to(like.dtype).reshape(like.shape)
        )

    with torch.no_grad():
        for name, tensor in network.named_parameters():
            if not tensor.is_floating_point():
                continue
            if tensor.ndim > 1:
                fan = max(1, tensor[0].numel())
                scale = fan**-0.5 if fan > 1 else 0.5
                tensor.copy_(torch.randn(tensor.shape, generator=generator) * scale)
            elif name.endswith("bias"):
                tensor.copy_(spread(tensor, -0.2, 0.2))
            else:
                tensor.copy_(spread(tensor, 0.5, 1.5))
        for name, buffer in network.named_buffers():
            if name.endswith("running_mean"):
                buffer.copy_(spread(buffer, -0.2, 0.2))
            elif name.endswith("running_var") or _is_uniform(buffer):
                tensor.copy_(spread(tensor, 0.5, 1.5))
                buffer.copy_(spread(buffer, 0.5, 1.5))


def _is_uniform(tensor: Tensor) -> bool:
    """Tell whether a buffer has one number everywhere, as frozen normalisations begin with."""
    one_number = tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all())
    return one_number and tensor.is_floating_point()


def difference(original: nn.Module, pruned: nn.Module, inputs: Any) -> float:
    """Compare a pruned network with the original, in which what was removed is zero.

    Raises:
        ValueError: it does not show which indices of a tensor are left.
    """
    masked, pruned = deepcopy(original), deepcopy(pruned)
    for network in (masked, pruned):
        _join_parts(network)
    state, slim = masked.state_dict(), pruned.state_dict()
    for name, tensor in state.items():
        if name in slim and slim[name].shape != tensor.shape:
            tensor.copy_(_mask(name, tensor, slim[name]))
    expected, found = _run_both(masked, pruned, inputs)
    return _largest_difference(expected, found)


def _join_parts(network: nn.Module) -> None:
    """Make ordinary weights of those that are stored in parts, whose numbers a cut may change."""
    for module in network.modules():
        if is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                remove_parametrizations(module, name)
        for hook in list(module._forward_pre_hooks.values()):
            if isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)


def _mask(name: str, wide: Tensor, slim: Tensor) -> Tensor:
    """Set to zero what is not left; variances that are not left stay, to stay positive.

    Where channels are averaged over, both packages may multiply a scale by the share that is gone.
    """
    kept = _kept(wide.numpy(), slim.numpy())
    share = slim.numel() / wide.numel()
    scaled = kept is None
    if scaled:
        kept = _kept(wide.numpy(), slim.numpy() * share)
    if kept is None:
        raise ValueError(f"unmatched: {name}, {tuple(wide.shape)} to {tuple(slim.shape)}")
    masked = wide.clone() if name.endswith("running_var") else torch.zeros_like(wide)
    places = np.ix_(*kept)
    masked[places] = wide[places] if scaled else slim
    return masked


def _kept(wide: np.ndarray, slim: np.ndarray) -> list[np.ndarray] | None:
    """Find the indices of every axis that are left, by the numbers at some of their places."""
    if wide.ndim != slim.ndim or not slim.size:
        return None
    order = np.argsort(wide, axis=None, kind="stable")
    ordered = wide.ravel()[order]
    places = np.arange(slim.size)
    if slim.size > 400_000:
        places = np.random.default_rng(0).choice(slim.size, 400_000, replace=False)
    values = slim.ravel()[places]
    after = np.minimum(np.searchsorted(ordered, values), wide.size - 1)
    before = np.maximum(after - 1, 0)
    nearer = np.abs(ordered[before] - values) < np.abs(ordered[after] - values)
    found = np.where(nearer, before, after)
    hit = np.isclose(ordered[found], values, rtol=1e-6, atol=0)
    old = np.unravel_index(order[found[hit]], wide.shape)
    new = np.unravel_index(places[hit], slim.shape)
    kept = []
    for axis, (many, few) in enumerate(zip(wide.shape, slim.shape, strict=True)):
        if many == few:
            kept.append(np.arange(many))
            continue
        votes = np.zeros((few, many), np.int32)
        np.add.at(votes, (new[axis], old[axis]), 1)
        if not votes.max(1).all():
            return None
        kept.append(votes.argmax(1))
    return kept


def call(network: nn.Module, inputs: Any, dtype: torch.dtype) -> Any:
    """Call a network with a tensor, a tuple of arguments or a dict of arguments by name."""

    def cast(value: Any) -> Any:
        real = isinstance(value, Tensor) and value.is_floating_point()
        return value.to(dtype) if real else value

    torch.manual_seed(0)
    with torch.no_grad():
        if isinstance(inputs, Mapping):
            return network(**{name: cast(value) for name, value in inputs.items()})
        return network(*map(cast, inputs if isinstance(inputs, tuple) else (inputs,)))


def _run_both(masked: nn.Module, pruned: nn.Module, inputs: Any) -> tuple[Any, Any]:
    """Run both in float64, or in float32 if one of them converts to that on its way."""
    try:
        wide, slim = deepcopy(masked).double(), deepcopy(pruned).double()
        return call(wide, inputs, torch.float64), call(slim, inputs, torch.float64)
    except RuntimeError:
        return call(masked, inputs, torch.float32), call(pruned, inputs, torch.float32)


def _tensors(value: Any) -> Iterator[Tensor]:
    from filtersurgeon.networks.outputs import tensors_in

    for output in tensors_in(value, known_only=False):
        if output.tensor.is_floating_point() and output.tensor.numel():
            yield output.tensor


def _largest_difference(expected: Any, found: Any) -> float:
    worst = 0.0
    pairs = list(_tensors(expected)), list(_tensors(found))
    if [x.shape for x in pairs[0]] != [x.shape for x in pairs[1]] or not pairs[0]:
        raise ValueError("the outputs have other shapes")
    for one, other in zip(*pairs, strict=True):
        scale = one.abs().max().clamp(min=1e-30)
        value = float((one - other).abs().max() / scale)
        worst = max(worst, value if value == value else float("inf"))
    return worst


def ours(network: nn.Module, inputs: Any) -> Outcome:
    """Prune with this package."""
    import filtersurgeon as fs

    options: dict[str, Any] = {"sparsity": SPARSITY, "per_layer": True, "method": "l2"}
    started = time.process_time()
    try:
        pruned = fs.prune(network, inputs, **options)
    except fs.FilterSurgeonError as error:
        return Outcome(refused=" ".join(str(error).split()))
    return _judge(network, pruned, inputs, time.process_time() - started)


def peer(network: nn.Module, inputs: Any) -> Outcome:
    """Prune with Torch-Pruning, which leaves the layers alone that make the outputs."""
    import torch_pruning

    pruned = deepcopy(network)
    parts = dict(pruned.named_modules())
    started = time.process_time()
    try:
        pruner = torch_pruning.pruner.MagnitudePruner(
            pruned, inputs, importance=torch_pruning.importance.MagnitudeImportance(p=2),
            pruning_ratio=SPARSITY,
            ignored_layers=[parts[name] for name in output_layers(network, inputs)],
        )  # fmt: skip
        pruner.step()
        seconds = time.process_time() - started
        call(pruned, inputs, torch.float32)
    except Exception as error:
        return Outcome(refused=" ".join(f"{type(error).__name__}: {error}".split()))
    return _judge(network, pruned, inputs, seconds)


def _judge(network: nn.Module, pruned: nn.Module, inputs: Any, seconds: float) -> Outcome:
    left = _count(pruned) / _count(network)
    if left == 1:
        return Outcome(seconds=seconds, refused="nothing was cut")
    try:
        worst = difference(network, pruned, inputs)
    except ValueError as error:
        return Outcome(left, float("inf"), seconds, str(error))
    return Outcome(left, worst, seconds)


def output_layers(network: nn.Module, inputs: Any) -> list[str]:
    """Name the layers whose channels leave the network, for the peer."""
    import filtersurgeon as fs

    try:
        found = fs.channels(network, example_inputs=inputs)
    except fs.FilterSurgeonError:
        kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
        return [name for name, part in network.named_modules() if isinstance(part, kinds)][-1:]
    parts = dict(network.named_modules())
    leaving = [
        name
        for bundle in found.bundles
        if any(pin.operator == "output" for pin in bundle.pins)
        for name in bundle.made_by
    ]
    return [name for name in dict.fromkeys(leaving) if name in parts]


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def _limited(function: Callable[[nn.Module, Any], Outcome], *given: Any) -> Outcome:
    signal.setitimer(signal.ITIMER_PROF, LIMIT)
    try:
        return function(*given)
    except _TooLongError as error:
        return Outcome(refused=str(error))
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def row(package: str, name: str, make: Callable[[], tuple[nn.Module, Any]]) -> Row:
    """Prune one network with both packages."""
    torch.manual_seed(0)
    network, inputs = make()
    network.eval()
    randomise(network)
    found = _limited(ours, network, inputs)
    return Row(package, name, _count(network), found, _limited(peer, network, inputs))


def page(rows: list[Row]) -> str:
    """Write the table in Markdown."""
    cut = [row for row in rows if not row.ours.refused]
    wrong = [row for row in cut if row.ours.difference > WRONG]
    theirs = [row for row in rows if not row.peer.refused]
    exact = [row for row in theirs if row.peer.difference <= WRONG]
    lines = [
        f"{len(cut)} of {len(rows)} networks are pruned, {len(wrong)} of them to other outputs; "
        f"{len(rows) - len(cut)} are refused. Torch-Pruning {version('torch-pruning')} prunes "
        f"{len(theirs)}, {len(theirs) - len(exact)} of them to other outputs.\n",
        "| package | network | parameters | left | largest difference | "
        "left, Torch-Pruning | its largest difference |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for row in sorted(rows, key=lambda row: (row.package.lower(), row.network.lower())):
        cells = " | ".join(map(_cells, (row.ours, row.peer)))
        lines.append(f"| {row.package} | {row.network} | {row.parameters:,} | {cells} |")
    return "\n".join(lines) + "\n"


def _cells(outcome: Outcome) -> str:
    if outcome.refused and outcome.left == 1:
        return f"{re.sub(r'[|`<>]', ' ', outcome.refused)[:90]} | "
    if outcome.refused:
        return f"{outcome.left:.1%} | {re.sub(r'[|`<>]', ' ', outcome.refused)[:90]}"
    return f"{outcome.left:.1%} | {outcome.difference:.0e}"


def read(path: Path) -> list[Row]:
    """Read the rows of an earlier run."""
    return [
        Row(**{**entry, "ours": Outcome(**entry["ours"]), "peer": Outcome(**entry["peer"])})
        for entry in json.loads(path.read_text())
    ]


def main() -> None:
    """Write the table, one network after the other."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="only networks whose name holds one of these")
    parser.add_argument("--page", type=Path, required=True)
    parser.add_argument("--json", type=Path, default=Path("foreign.json"))
    parser.add_argument("--resume", action="store_true", help="keep the rows of --json")
    words = parser.parse_args()
    known = read(words.json) if words.resume and words.json.exists() else []
    rows = {(row.package, row.network): row for row in known}
    import_timm()  # and with it torchvision, also beside a CPU build of torch
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGPROF, _stop)
    for package, name, make in networks():
        key = package, name
        if key in rows or (words.names and not any(word in name for word in words.names)):
            continue
        rows[key] = row(*key, make)
        words.json.write_text(json.dumps([asdict(r) for r in rows.values()], indent=1) + "\n")
        words.page.write_text(page(list(rows.values())))


if __name__ == "__main__":
    main()
