"""Prefixes that trainers put before the names of a network's tensors, found by the network."""

from __future__ import annotations

from dataclasses import replace

from filtersurgeon.checkpoint.checkpoint import Checkpoint
from filtersurgeon.checkpoint.wrapped_names import bare_names
from filtersurgeon.errors import ArchitectureError, CheckpointError
from filtersurgeon.networks.fitting import adapt, shapes_of
from filtersurgeon.networks.signature import are_known, read_index

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
    bare = bare_names(checkpoint, checkpoint.name)
    if removed := sum(old != new for old, new in bare.items()):
        note = f"{checkpoint.name}: removed the prefixes of wrappers from {removed} names"
        checkpoint = replace(checkpoint.renamed(bare), notes=(*checkpoint.notes, note))
    prefixes = _prefixes(checkpoint)
    if checkpoint.architecture is None:
        return _by_index(checkpoint, prefixes)
    first = {name.partition(".")[0] for name in checkpoint}
    if not prefixes and len(first) > _MOST:
        return checkpoint
    # The names of a known network need no prefix; the library that makes it is not loaded for that.
    if are_known(read_index().entries, shapes_of(checkpoint)):
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
    known = read_index().entries
    if are_known(known, shapes):
        return checkpoint
    fitting = [p for p in shared if are_known(known, {k[len(p) :]: v for k, v in shapes.items()})]
    return _below(checkpoint, fitting[0]) if fitting else checkpoint


def _by_network(checkpoint: Checkpoint, architecture: str, prefixes: list[str]) -> Checkpoint:
    """Compare the names behind each prefix with those of the stated architecture."""
    try:
        own = _names(shapes_of(adapt(architecture, shapes_of(checkpoint))))
    except ArchitectureError:
        return checkpoint  # told where the network is needed
    shapes = shapes_of(checkpoint)
    if own <= set(shapes) or not own:
        return checkpoint
    common = next(iter(own)).partition(".")[0] + "."
    if all(name.startswith(common) for name in own) and {common + k for k in shapes} >= own:
        return checkpoint.renamed({name: common + name for name in checkpoint})
    fitting = [p for p in prefixes if _fits(architecture, shapes, p)]
    if len(fitting) > 1:
        listed = " and ".join(repr(p) for p in fitting)
        raise CheckpointError(
            f"{checkpoint.name} holds several networks, under {listed}; choose one with `prefix`"
        )
    return _below(checkpoint, fitting[0]) if fitting else checkpoint


def _fits(architecture: str, shapes: dict[str, tuple[int, ...]], prefix: str) -> bool:
    below = {name[len(prefix) :]: s for name, s in shapes.items() if name.startswith(prefix)}
    own = _names(shapes_of(adapt(architecture, below)))
    return own <= set(below)


def _names(shapes: dict[str, tuple[int, ...]]) -> set[str]:
    return {name for name in shapes if not name.endswith(_COUNTER)}


def _below(checkpoint: Checkpoint, prefix: str) -> Checkpoint:
    names = {name: name[len(prefix) :] for name in checkpoint if name.startswith(prefix)}
    note = f"{checkpoint.name}: removed {prefix!r} from the names of tensors"
    if left := len(checkpoint) - len(names):
        note += f", and left out {left} tensors with other names"
    return replace(checkpoint.renamed(names), notes=(*checkpoint.notes, note))
