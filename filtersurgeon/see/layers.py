"""Layers of a running network: their names, their outputs, their units."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from filtersurgeon.errors import LayerError, OptionError, near_misses
from filtersurgeon.filters import as_globs, natural_order

if TYPE_CHECKING:
    from torch import Tensor, nn


class _ReachedError(Exception):
    """Ends a forward pass at the last layer that was of interest."""


def output_of(model: nn.Module, layer: str, images: Tensor) -> Tensor:
    """Run a network up to a layer.

    Args:
        model: the network, or a wrapper whose ``model`` it is.
        layer: a module's name in the network.
        images: ``(images, channels, height, width)``.

    Returns:
        The layer's output with channels second, ``(images, channels, ...)``; of a layer that runs
        several times, the first.

    Raises:
        LayerError: the network does not run that layer, or it gives no tensor, or another number
            of maps than images.
    """
    return outputs_of(model, [layer], images)[layer]


def outputs_of(
    model: nn.Module, layers: Sequence[str], images: Tensor, inputs: bool = False
) -> dict[str, Tensor]:
    """Run a network up to the last of several layers; see :func:`output_of`.

    Args:
        model: the network, or a wrapper whose ``model`` it is.
        layers: names of modules.
        images: ``(images, channels, height, width)``.
        inputs: also give what each layer reads, under its name with ``<`` before it.
    """
    network: nn.Module = getattr(model, "model", model)
    modules = {name: network.get_submodule(name) for name in layers}
    found: dict[str, Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: nn.Module, read: Any, output: Any) -> None:
            if name in found:
                return
            found[name] = channels_second(module, output, name)
            check_images(found[name], len(images), name)
            if inputs:
                found[f"<{name}"] = channels_second(module, read[0], name)
            if all(layer in found for layer in modules):
                raise _ReachedError

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in modules.items()]
    try:
        model(images)
    except _ReachedError:
        return found
    finally:
        for handle in handles:
            handle.remove()
    missing = next(layer for layer in modules if layer not in found)
    raise LayerError(f"layer {missing} is not run by the network; choose another with `layers`")


def check_images(output: Tensor, count: int, layer: str) -> None:
    """Refuse a layer's output that does not hold one entry for each of so many images.

    Raises:
        LayerError: the network runs the layer on single images, or on parts of them.
    """
    if output.ndim == 0 or len(output) != count:
        found = len(output) if output.ndim else 1
        raise LayerError(
            f"layer {layer} gives {found} outputs for {count} images: it runs on parts of the "
            "batch; choose another layer"
        )


def channels_second(module: nn.Module, output: Any, layer: str) -> Tensor:
    """Put the channels of a layer's output on the second axis.

    Raises:
        LayerError: the layer gives no tensor.
    """
    import torch
    from torch import nn

    if not isinstance(output, torch.Tensor):
        raise LayerError(f"layer {layer} gives {type(output).__name__}, not one tensor")
    channels_last = isinstance(module, nn.Linear) or type(module) is nn.LayerNorm
    return output.movedim(-1, 1) if channels_last and output.ndim > 2 else output


def choose_layers(
    model: nn.Module, globs: Iterable[str] | None, default: Sequence[str] = ()
) -> list[str]:
    """Choose layers of a network by name, in the natural order of their names.

    Args:
        model: the network.
        globs: shell patterns; ``!GLOB`` leaves layers out. A pattern without wildcards names one
            layer, of any kind; one with wildcards means convolutions and linear layers.
        default: what is chosen without patterns.

    Raises:
        LayerError: a pattern matches nothing; names the near misses.
    """
    from torch import nn

    patterns = as_globs(globs)
    if not patterns:
        return list(default)
    every = [name for name, _ in model.named_modules() if name]
    weighted = [
        name for name, module in model.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)
    ]
    wanted = [glob for glob in patterns if not glob.startswith("!")]
    unwanted = [glob[1:] for glob in patterns if glob.startswith("!")]
    chosen: set[str] = set() if wanted else set(weighted)
    for glob in wanted:
        chosen |= _match(glob, every, weighted)
    for glob in unwanted:
        chosen -= _match(glob, every, every)
    if not chosen:
        raise LayerError("no layer is left; `layers` leaves every one out")
    return sorted(chosen, key=natural_order)


def _match(glob: str, every: Sequence[str], weighted: Sequence[str]) -> set[str]:
    wild = any(sign in glob for sign in "*?[")
    found = {name for name in (weighted if wild else every) if fnmatchcase(name, glob)}
    if not found:
        raise LayerError(f"no layer matches {glob!r}{near_misses(glob.strip('*?.'), every)}")
    return found


def read_units(text: str | None, count: int, layer: str, most: int = 64) -> list[int]:
    """Read a list of units such as ``0,3,8-11``.

    Args:
        text: the list; ``all``; or None for at most ``most``, the first ones.
        count: how many units the layer has.
        layer: its name, for messages.
        most: see ``text``.

    Raises:
        OptionError: not such a list.
        LayerError: the layer has no such unit.
    """
    if text is None:
        return list(range(min(count, most)))
    if text == "all":
        return list(range(count))
    units: list[int] = []
    for word in text.split(","):
        first, dash, last = word.strip().partition("-")
        if not _is_unit(first) or (dash and not _is_unit(last)):
            raise OptionError(f"`units` {text} should read 0,3,8-11, or all")
        units += range(int(first), int(last if dash else first) + 1)
    beyond = [unit for unit in units if unit >= count]
    if beyond:
        raise LayerError(
            f"layer {layer} has no unit {beyond[0]}; its {count} units are 0 to {count - 1}"
        )
    if not units:
        raise OptionError(f"`units` {text} names no unit")
    return list(dict.fromkeys(units))


def units_note(layer: str, chosen: int, count: int) -> str | None:
    """Say that only the first units of a layer were taken, where that is so."""
    if chosen == count:
        return None
    name = layer or "the output"
    return f"{name}: the first {chosen} of {count:,} units; `units='all'` takes every one"


def _is_unit(word: str) -> bool:
    return word.isdecimal() and len(word) < 10
