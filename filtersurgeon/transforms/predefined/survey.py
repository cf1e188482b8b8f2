"""Which convolutions of a network run, which of them see the image, and what follows them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from filtersurgeon.networks.proof import run_without_data


@dataclass
class Survey:
    """What one run without data shows.

    Attributes:
        called: modules in the order of their first call.
        first: those that read the image.
        normalised: those whose output goes straight into a normalisation.
    """

    called: list[str] = field(default_factory=list)
    first: set[str] = field(default_factory=set)
    normalised: set[str] = field(default_factory=set)


def survey(model: nn.Module, size: Sequence[int]) -> Survey:
    """Run a network on shapes alone and watch its convolutions.

    Args:
        model: any network.
        size: of an image that it takes, (channels, height, width).

    Returns:
        Module names. Where no convolution reads the very image, such as behind a step that scales
        it, the one that runs first counts as its reader.
    """
    found = Survey()
    with _watch(model, found):
        run_without_data(model, size)
    if not found.first:
        found.first.update(found.called[:1])
    return found


@contextmanager
def _watch(model: nn.Module, found: Survey) -> Iterator[None]:
    names = {id(module): name for name, module in model.named_modules()}
    made: dict[int, tuple[Tensor, str]] = {}  # tensors are kept, so that no id is used twice
    image: Tensor | None = None

    def before(module: nn.Module, given: Any) -> None:
        nonlocal image
        name, x = names.get(id(module)), given[0] if given else None
        if name is None:
            return
        if image is None:
            image = x  # the first module that is called is the network itself
        if isinstance(module, nn.Conv2d):
            if name not in found.called:
                found.called.append(name)
            if x is image:
                found.first.add(name)
        elif "norm" in type(module).__name__.lower() and id(x) in made:
            found.normalised.add(made[id(x)][1])

    def after(module: nn.Module, _: Any, output: Any) -> None:
        if isinstance(module, nn.Conv2d) and isinstance(output, Tensor):
            made[id(output)] = (output, names.get(id(module), ""))

    hooks = (register_module_forward_pre_hook(before), register_module_forward_hook(after))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
