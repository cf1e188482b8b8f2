"""Which modules read the output of a layer.

- ``find_followers``: the layer that can take up a factor per output channel. A symbolic trace is
  followed from the convolution on, through operators that commute with such a factor. Anything else
  ends the search with the name of the operator: the answer is exact, or there is none.
- ``sole_readers``: the module that alone reads the output of another, directly.
- ``normalisations``: the batch normalisation that reads each convolution, from one run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from filtersurgeon.errors import ArchitectureError, LayerError
from filtersurgeon.networks.failing import told

if TYPE_CHECKING:
    import torch
    from torch import fx, nn

_LEAVE = "leave it out with `layers` '!{0}', or leave out `fold`"
_KEEPING_FUNCTIONS = {"relu", "leaky_relu", "dropout", "adaptive_avg_pool2d", "avg_pool2d",
                      "max_pool2d", "contiguous"}  # fmt: skip
_SIGNED = {"relu", "leaky_relu", "max_pool2d", "ReLU", "LeakyReLU", "PReLU", "MaxPool2d",
           "AdaptiveMaxPool2d"}  # fmt: skip
_KEEPING_MODULES = {"Identity", "Dropout", "Dropout2d", "ReLU", "LeakyReLU", "PReLU", "AvgPool2d",
                    "AdaptiveAvgPool2d", "MaxPool2d", "AdaptiveMaxPool2d"}  # fmt: skip


@dataclass(frozen=True)
class Follower:
    """The layer that takes up the scale of another's output channels.

    Attributes:
        name: its module.
        kind: ``normalisation`` (batch normalisation), or ``weight`` (convolution or linear).
        positive: the way there goes through a ReLU or the like, which only a factor above zero
            passes.
        groups: of a convolution.
    """

    name: str
    kind: str
    positive: bool
    groups: int


@dataclass
class _Walk:
    """Where we are: the axis of the channels, and whether something needs a positive factor."""

    axis: int = 1
    positive: bool = False


def find_followers(model: nn.Module, layers: Iterable[str]) -> dict[str, Follower]:
    """Find for each convolution the layer that can take up a factor per output channel.

    Args:
        model: in evaluation mode.
        layers: module names.

    Returns:
        Layer -> follower.

    Raises:
        ArchitectureError: the network cannot be traced.
        LayerError: between a layer and the next weights there is something that a factor per
            channel does not pass, such as a layer normalisation or a second reader.
    """
    graph = symbolic_trace(model)
    calls: dict[str, list[fx.Node]] = {}
    for node in graph.nodes:
        if node.op == "call_module":
            calls.setdefault(str(node.target), []).append(node)
    modules = dict(model.named_modules())
    return {name: _follow(name, calls, modules) for name in layers}


def symbolic_trace(model: nn.Module) -> fx.Graph:
    """Trace a network, keeping layers whole.

    Raises:
        ArchitectureError: its code depends on values, which a symbolic trace cannot follow.
    """
    from torch import fx
    from torch.nn.modules.batchnorm import _BatchNorm

    class Tracer(fx.Tracer):
        def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002
            return isinstance(m, _BatchNorm) or not any(m.children())

    try:
        return Tracer().trace(model)
    except Exception as problem:  # whatever the network's own code raises
        raise ArchitectureError(told("the network cannot be traced (", problem, ")")) from problem


def sole_readers(model: nn.Module) -> dict[str, str]:
    """Find the module that alone reads the output of another, both called once.

    Returns:
        Module name -> name of its reader, in the order of the run.

    Raises:
        ArchitectureError: the network cannot be traced.
    """
    nodes = list(symbolic_trace(model).nodes)
    calls = Counter(str(node.target) for node in nodes if node.op == "call_module")
    found = {}
    for node in nodes:
        reader = next(iter(node.users), None)
        if reader is None or len(node.users) > 1 or {node.op, reader.op} != {"call_module"}:
            continue
        before, after = str(node.target), str(reader.target)
        if calls[before] == calls[after] == 1:
            found[before] = after
    return found


def normalisations(model: nn.Module, images: torch.Tensor) -> dict[str, nn.Module]:
    """Find the batch normalisation that reads each convolution's output.

    Args:
        model: the network; it is run once, in the mode that it is in.
        images: inputs to run it on.

    Returns:
        Module name of a convolution -> the normalisation, for those that have one.
    """
    import torch
    from torch import nn

    # Keeping the outputs alive keeps their identities apart.
    outputs: list[tuple[Any, str]] = []
    found: dict[str, nn.Module] = {}

    def remember(name: str) -> Any:
        return lambda _module, _inputs, output: outputs.append((output, name))

    def look_up(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        found.update({name: module for output, name in outputs if output is inputs[0]})

    handles = []
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            handles.append(module.register_forward_hook(remember(name)))
        elif isinstance(module, nn.BatchNorm2d):
            handles.append(module.register_forward_pre_hook(look_up))
    try:
        with torch.no_grad():
            model(images)
    finally:
        for handle in handles:
            handle.remove()
    return found


def _follow(layer: str, calls: dict[str, list[Any]], modules: dict[str, Any]) -> Follower:
    if len(calls.get(layer, ())) != 1:
        times = len(calls.get(layer, ()))
        raise LayerError(f"layer {layer} is called {times} times; {_LEAVE.format(layer)}")
    walk, node = _Walk(), calls[layer][0]
    while True:
        readers = list(node.users)
        if len(readers) != 1:
            raise LayerError(
                f"layer {layer}: {len(readers)} operators read {node.name}, and its scale can move "
                f"into one only; {_LEAVE.format(layer)}"
            )
        node = readers[0]
        if node.op == "call_module":
            module = modules[str(node.target)]
            found = _taker(str(node.target), module, walk)
            if found and len(calls[str(node.target)]) == 1:
                return found
            passes = not found and _passes_module(module, walk)
        else:
            passes = _passes_operator(node, walk)
        if not passes:
            what = _described(node, modules)
            raise LayerError(
                f"layer {layer}: a factor per channel does not pass {what}; {_LEAVE.format(layer)}"
            )


def _taker(name: str, module: Any, walk: _Walk) -> Follower | None:
    """Give the module as a follower if its own weights can take up the factor."""
    from torch import nn
    from torch.nn.modules.batchnorm import _BatchNorm

    if isinstance(module, _BatchNorm) and walk.axis == 1:
        usable = module.affine and module.track_running_stats
        return Follower(name, "normalisation", walk.positive, 1) if usable else None
    if isinstance(module, nn.Conv2d) and walk.axis == 1 and _plain(module):
        return Follower(name, "weight", walk.positive, module.groups)
    if isinstance(module, nn.Linear) and walk.axis == -1:
        return Follower(name, "weight", walk.positive, 1)
    return None


def _plain(module: Any) -> bool:
    """Tell whether a convolution uses its weight as it is stored, padded with zeros if at all."""
    from torch import nn

    forward = type(module).forward is nn.Conv2d.forward or type(module).__name__ == "Conv2dSame"
    return forward and module.padding_mode == "zeros"


def _passes_module(module: Any, walk: _Walk) -> bool:
    from torch import nn

    kind = type(module).__name__
    if isinstance(module, nn.Flatten) and module.start_dim == 1 and module.end_dim == -1:
        return _flatten(walk)
    if kind not in _KEEPING_MODULES or not type(module).__module__.startswith("torch.nn"):
        return False
    if kind == "PReLU" and module.weight.numel() > 1 and walk.axis != 1:
        return False
    walk.positive |= kind in _SIGNED
    return walk.axis == 1 or "Pool" not in kind


def _passes_operator(node: Any, walk: _Walk) -> bool:
    word = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    arguments = [*node.args[1:], *node.kwargs.values()]
    if word == "permute":
        order = arguments[0] if isinstance(arguments[0], tuple | list) else arguments
        return _permute(list(order), walk)
    if word == "flatten":
        return arguments in ([1], [1, -1]) and _flatten(walk)
    if word == "mean":
        over = arguments[0] if arguments else None
        spatial = over in ((2, 3), [2, 3], (-1, -2), [-1, -2], (-2, -1), [-2, -1])
        passes = spatial and walk.axis == 1 and len(arguments) == 1
        walk.axis = -1
        return passes
    walk.positive |= word in _SIGNED
    return word in _KEEPING_FUNCTIONS and (walk.axis == 1 or "pool" not in word)


def _permute(order: list[Any], walk: _Walk) -> bool:
    if order != [0, 2, 3, 1] or walk.axis != 1:
        return False
    walk.axis = -1
    return True


def _flatten(walk: _Walk) -> bool:
    if walk.axis != 1:
        return False
    walk.axis = -1
    return True


def _described(node: Any, modules: dict[str, Any]) -> str:
    if node.op == "call_module":
        return f"{node.target} ({type(modules[str(node.target)]).__name__})"
    if node.op == "output":
        return "the network's output"
    word = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "?")
    return f"the operator {word}"
