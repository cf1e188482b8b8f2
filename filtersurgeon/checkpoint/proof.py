"""The proof that a network's tensors go together: a forward pass without data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from filtersurgeon.checkpoint.checkpoint import Checkpoint
from filtersurgeon.checkpoint.fitting import input_size
from filtersurgeon.errors import ArchitectureError

if TYPE_CHECKING:
    from torch import nn

SIDES = (224, 32, 28, 64, 96, 128, 160, 192, 256, 299, 384)
"""Heights and widths to try where nothing tells what a network takes."""


def check_runs(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Run a network on shapes alone.

    Args:
        model: the network; its parameters need no data.
        checkpoint: tells the size of the network's input.

    Raises:
        ArchitectureError: an operator does not take what it is given.
    """
    channels, *sides = input_size(model, checkpoint)
    cfgs = (checkpoint.pretrained_cfg, getattr(model, "pretrained_cfg", None))
    stated = any(cfg and cfg.get("input_size") for cfg in cfgs)
    sizes = [(channels, *sides)] if stated else [(channels, side, side) for side in SIDES]
    reason = _failure(model, sizes[0])
    if reason is not None and all(_failure(model, size) is not None for size in sizes[1:]):
        raise ArchitectureError(f"its layers do not go together: {reason}")


def _failure(model: nn.Module, size: tuple[int, ...]) -> str | None:
    """Say where and why a network does not run, or give None if it does."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.func import functional_call

    training = model.training
    # Some networks hold constants that are no buffers; those stay real.
    with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad(), _entered(model) as entered:
        tensors = (*model.named_parameters(), *model.named_buffers())
        shaped = {name: torch.empty(t.shape, dtype=t.dtype) for name, t in tensors}
        try:
            functional_call(model.eval(), shaped, (torch.empty((1, *size)),))
        except (RuntimeError, ValueError, AssertionError, TypeError, IndexError) as problem:
            reason = " ".join(str(problem).split()).partition(". ")[0][:200]
            place = f"at {entered[-1]}, " if entered and entered[-1] else ""
            return f"{place}{reason or type(problem).__name__}"
        finally:
            model.train(training)
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
