"""The proof that a network's tensors go together: a forward pass without data."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from filtersurgeon.checkpoint.calling import call
from filtersurgeon.checkpoint.checkpoint import Checkpoint
from filtersurgeon.checkpoint.fitting import input_size
from filtersurgeon.checkpoint.outputs import find_tensors
from filtersurgeon.errors import ArchitectureError

if TYPE_CHECKING:
    from torch import nn

SIDES = (224, 32, 28, 64, 96, 128, 160, 192, 256, 299, 384)
"""Heights and widths to try where nothing tells what a network takes."""


def likely_sizes(model: nn.Module, checkpoint: Checkpoint) -> list[tuple[int, ...]]:
    """List sizes of inputs, (channels, height, width), of which a network takes at least one.

    Networks that begin with a convolution along one axis, or three, get as many sides.
    """
    channels, *sides = input_size(model, checkpoint)
    cfgs = (checkpoint.pretrained_cfg, getattr(model, "pretrained_cfg", None))
    if any(cfg and cfg.get("input_size") for cfg in cfgs):
        return [(channels, *sides)]
    return [(channels, *(side for _ in sides)) for side in SIDES]


def check_runs(model: nn.Module, sizes: Sequence[tuple[int, ...]]) -> tuple[int, ...]:
    """Run a network on shapes alone.

    Args:
        model: the network; its parameters need no data.
        sizes: of inputs, (channels, height, width); one that works is enough.

    Returns:
        The first size that works.

    Raises:
        ArchitectureError: an operator does not take what it is given.
    """
    first = _failure(model, sizes[0])
    if first is None:
        return sizes[0]
    for size in sizes[1:]:
        if _failure(model, size) is None:
            return size
    raise ArchitectureError(f"its layers do not go together: {first}")


def output_shapes(model: nn.Module, size: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Give the shapes of all that a network gives for one image, (channels, height, width)."""
    return [tuple(tensor.shape) for _, tensor in find_tensors(run_without_data(model, size))]


def run_without_data(model: nn.Module, size: Sequence[int]) -> Any:
    """Run a network on the shape of one image, (channels, height, width); give its outputs.

    Hooks are called as in any run. An error is that of the network's own code.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    training = model.training
    # Some networks hold constants that are no buffers; those stay real.
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        tensors = (*model.named_parameters(), *model.named_buffers())
        shaped = {name: torch.empty(t.shape, dtype=t.dtype) for name, t in tensors}
        try:
            return call(model.eval(), shaped, torch.empty((1, *size)))
        finally:
            model.train(training)


def _failure(model: nn.Module, size: tuple[int, ...]) -> str | None:
    """Say where and why a network does not run, or give None if it does."""
    with _entered(model) as entered:
        try:
            run_without_data(model, size)
        except (RuntimeError, ValueError, AssertionError, TypeError, IndexError) as problem:
            reason = " ".join(str(problem).split()).partition(". ")[0][:200]
            place = f"at {entered[-1]}, " if entered and entered[-1] else ""
            return f"{place}{reason or type(problem).__name__}"
    return None


@contextmanager
def _entered(model: nn.Module) -> Iterator[list[str]]:
    """Keep the names of the modules that are running, outermost first."""
    from torch.nn.modules.module import (
        register_module_forward_hook,
        register_module_forward_pre_hook,
    )

    names = {id(module): name for name, module in model.named_modules()}
    running: list[str] = []

    def enter(module: nn.Module, _: object) -> None:
        running.append(names.get(id(module), ""))

    def leave(*_: object) -> None:
        running.pop()

    hooks = (register_module_forward_pre_hook(enter), register_module_forward_hook(leave))
    try:
        yield running
    finally:
        for hook in hooks:
            hook.remove()
