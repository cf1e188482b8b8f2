"""Prefixes that trainers put before the names of a network's tensors, found by the network."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from filtersurgeon.checkpoint.checkpoint import Checkpoint
from filtersurgeon.errors import ArchitectureError, CheckpointError
from filtersurgeon.networks.fitting import adapt, shapes_of
from filtersurgeon.networks.signature import names_hash, read_index

if TYPE_CHECKING:
    from torch import nn

_COUNTER = "num_batches_tracked"
_MOST = 16
"""Prefixes that are tried."""


def fit_names(checkpoint: Checkpoint, prefix: str | None = None) -> Checkpoint:
    """Give tensors the names that their network has, and leave out those of other modules.

    Args:
        checkpoint: as it was read, its architecture stated if it is known.
        prefix: to take and remove; by default the one behind which all of the network's names are.

    Raises:
        CheckpointError: no name begins with ``prefix``, or several prefixes fit.
    """
    if prefix is not None:
        if not any(name.startswith(prefix) and name != prefix for name in checkpoint):
            raise CheckpointError(
                f"{checkpoint.name} has no tensor whose name begins with {prefix!r}; "
                f"change `prefix`, the names begin as {next(iter(checkpoint), '')!r} does"
            )
        return _below(checkpoint, prefix)
    if checkpoint.history:
        return checkpoint
    prefixes = _prefixes(checkpoint)
    if checkpoint.architecture is None:
        return _by_index(checkpoint, prefixes)
    first = {name.partition(".")[0] for name in checkpoint}
    if not prefixes and len(first) > _MOST:
        return checkpoint
    # The names of a known network need no prefix; the library that makes it is not loaded for that.
    if names_hash(shapes_of(checkpoint)) in {entry.names for entry in read_index().entries}:
        return checkpoint
    return _by_network(checkpoint, checkpoint.architecture, prefixes)


def _prefixes(checkpoint: Checkpoint) -> list[str]:
    """List beginnings of names, up to two modules deep."""
    found: dict[str, None] = {}
    for name in checkpoint:
        parts = name.split(".")
        for depth in (1, 2):
            if len(parts) > depth:
                found[".".join(parts[:depth]) + "."] = None
    return list(found)


def _by_index(checkpoint: Checkpoint, prefixes: list[str]) -> Checkpoint:
    """Compare the names behind each prefix with those of the known networks."""
    shapes = shapes_of(checkpoint)
    # A network has a name at its root, or all of its names begin alike; both are cheap to see.
    shared = [p for p in prefixes if all(name.startswith(p) for name in shapes)]
    if not shared:
        return checkpoint
    known = {entry.names for entry in read_index().entries}
    if names_hash(shapes) in known:
        return checkpoint
    fitting = [
        p for p in shared if names_hash({k[len(p) :]: v for k, v in shapes.items()}) in known
    ]
    return _below(checkpoint, fitting[0]) if fitting else checkpoint


def _by_network(checkpoint: Checkpoint, architecture: str, prefixes: list[str]) -> Checkpoint:
    """Compare the names behind each prefix with those of the stated architecture."""
    try:
        network = adapt(architecture, shapes_of(checkpoint))
    except ArchitectureError:
        return checkpoint  # told where the network is needed
    own, shapes = _names(shapes_of(network)), shapes_of(checkpoint)
    if own <= set(shapes) or not own:
        _check_once(checkpoint, architecture, prefixes, own)
        return checkpoint
    common = next(iter(own)).partition(".")[0] + "."
    if all(name.startswith(common) for name in own) and {common + k for k in shapes} >= own:
        tensors = {common + name: stored for name, stored in checkpoint.tensors.items()}
        return replace(checkpoint, tensors=tensors)
    fitting = [p for p in prefixes if _fits(architecture, shapes, p)]
    if len(fitting) > 1:
        listed = " and ".join(repr(p) for p in fitting)
        raise CheckpointError(
            f"{checkpoint.name} holds several networks, under {listed}; choose one with `prefix`"
        )
    return _with_shared(_below(checkpoint, fitting[0]) if fitting else checkpoint, network)


def _check_once(
    checkpoint: Checkpoint, architecture: str, prefixes: list[str], own: set[str]
) -> None:
    """Refuse a network that stands at the root, and once more behind a prefix."""
    shapes = shapes_of(checkpoint)
    extra = {name for name in shapes if name not in own and not name.endswith(_COUNTER)}
    again = (p for p in prefixes if any(name.startswith(p) for name in extra))
    found = next((p for p in again if _fits(architecture, shapes, p)), None)
    if found is not None:
        raise CheckpointError(
            f"{checkpoint.name} holds the network twice, with and without {found!r} before its "
            f"names; take the former with `prefix={found!r}`, or save one of them"
        )


def _with_shared(checkpoint: Checkpoint, network: nn.Module) -> Checkpoint:
    """Give tensors that modules share all of their names, of which a file may hold one."""
    tensors = dict(checkpoint.tensors)
    for names in _shared_names(network):
        found = next((name for name in names if name in tensors), None)
        if found is not None:
            tensors.update({name: tensors[found] for name in names if name not in tensors})
    return replace(checkpoint, tensors=tensors) if len(tensors) > len(checkpoint) else checkpoint


def _shared_names(network: nn.Module) -> list[list[str]]:
    """List the names of every tensor that has several."""
    found: dict[int, list[str]] = {}
    for name, tensor in network.state_dict(keep_vars=True).items():
        found.setdefault(id(tensor), []).append(name)
    return [names for names in found.values() if len(names) > 1]


def _fits(architecture: str, shapes: dict[str, tuple[int, ...]], prefix: str) -> bool:
    below = {name[len(prefix) :]: s for name, s in shapes.items() if name.startswith(prefix)}
    network = adapt(architecture, below)
    held = set(below)
    for names in _shared_names(network):
        if not held.isdisjoint(names):
            held.update(names)
    return _names(shapes_of(network)) <= held


def _names(shapes: dict[str, tuple[int, ...]]) -> set[str]:
    return {name for name in shapes if not name.endswith(_COUNTER)}


def _below(checkpoint: Checkpoint, prefix: str) -> Checkpoint:
    tensors = {
        name[len(prefix) :]: stored
        for name, stored in checkpoint.tensors.items()
        if name.startswith(prefix)
    }
    note = f"{checkpoint.name}: removed {prefix!r} from the names of tensors"
    if left := len(checkpoint) - len(tensors):
        note += f", and left out {left} tensors with other names"
    return replace(checkpoint, tensors=tensors, notes=(*checkpoint.notes, note))
