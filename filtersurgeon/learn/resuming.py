"""Running a network again from the first layer that changed, on the same images.

Batch normalisations may run as part of the convolutions before them.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from filtersurgeon.errors import ArchitectureError, FilterSurgeonError
from filtersurgeon.networks.failing import describe_failure

if TYPE_CHECKING:
    import torch
    from torch import fx, nn


def fuse_norms(model: nn.Module, image: torch.Tensor) -> dict[str, torch.Tensor]:
    """Move every batch normalisation that directly follows a convolution into it, in place.

    With its running statistics a normalisation is a factor and a shift of each channel, which the
    convolution's weights and bias take up. What cannot be traced is left as it is.

    Args:
        model: in evaluation mode; nothing of it may be trained afterwards.
        image: a batch of one on the meta device, to trace the network with.

    Returns:
        Name of the convolution -> factor of each of its filters (n,).
    """
    from filtersurgeon.graph.follow import normalisations
    from filtersurgeon.graph.graph import run_trace

    try:
        norms = normalisations(model, run_trace(model, image), alone=True)
    except FilterSurgeonError:
        return {}
    names = {id(module): name for name, module in model.named_modules()}
    factors = {}
    for convolution, norm in norms.items():
        if _fits(model.get_submodule(convolution), norm):
            factors[convolution] = _fuse(model.get_submodule(convolution), norm)
            owner, _, name = names[id(norm)].rpartition(".")
            setattr(model.get_submodule(owner), name, _behind(norm))
    return factors


def _fits(convolution: Any, norm: Any) -> bool:
    from timm.layers import BatchNormAct2d
    from torch import nn

    # Other kinds of convolution work on their weights before they use them.
    return (
        type(convolution) is nn.Conv2d
        and type(norm) in (nn.BatchNorm2d, BatchNormAct2d)
        and norm.running_var is not None
    )


def _behind(norm: Any) -> nn.Module:
    """Give what timm's normalisation does besides: drop blocks and an activation."""
    from torch import nn

    return nn.Sequential(norm.drop, norm.act) if hasattr(norm, "act") else nn.Identity()


def _fuse(convolution: Any, norm: Any) -> torch.Tensor:
    import torch
    from torch import nn

    with torch.no_grad():
        factor: torch.Tensor = (norm.running_var + norm.eps).rsqrt()
        shift = -norm.running_mean * factor
        if norm.affine:
            factor, shift = factor * norm.weight, shift * norm.weight + norm.bias
        if convolution.bias is not None:
            shift = shift + factor * convolution.bias
        convolution.weight.mul_(factor[:, None, None, None])
        convolution.bias = nn.Parameter(shift, requires_grad=False)
    return factor


CACHE_BYTES = 1 << 30
_IN_PLACE: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.imul: operator.mul,
    operator.isub: operator.sub,
    operator.itruediv: operator.truediv,
}


class ResumingNetwork:
    """A network whose chosen layers change between runs.

    What flows into a layer is kept for each batch, as far as a gigabyte goes, so that a run in
    which only later layers have changed begins there. The operations are the network's own, in its
    order, so the outputs have the same bits. A network that cannot be traced runs as a whole.

    Args:
        model: in evaluation mode.
        layers: names of the modules that will change.
        reuse: keep anything at all.

    Attributes:
        order: the layers in the order in which they run; of an untraced network, as given.
    """

    def __init__(self, model: nn.Module, layers: Sequence[str], reuse: bool = True) -> None:
        self._model = model
        self._modules = dict(model.named_modules())
        self._kept: dict[tuple[int, int], dict[fx.Node, Any]] = {}
        self._bytes = 0
        self.order = list(layers)
        self._nodes: list[fx.Node] = []
        if reuse:
            self._trace(layers)

    def _trace(self, layers: Sequence[str]) -> None:
        try:
            nodes = list(symbolic_trace(self._model).nodes)
        except ArchitectureError:
            return
        calls = [
            (place, str(node.target))
            for place, node in enumerate(nodes)
            if node.op == "call_module" and str(node.target) in layers
        ]
        if sorted(name for _, name in calls) != sorted(layers):
            return  # called more than once, or not by themselves
        if not all(map(_pure, nodes)):
            return
        for module in self._model.modules():
            if getattr(module, "inplace", False):
                module.inplace = False  # type: ignore[assignment]  # or it would alter what is kept
        self._nodes, self.order = nodes, [name for _, name in calls]
        self._cuts = [place for place, _ in calls]
        last_use = {
            used: place for place, node in enumerate(nodes) for used in node.all_input_nodes
        }
        self._dying: dict[int, list[fx.Node]] = {}
        for node, place in last_use.items():
            self._dying.setdefault(place, []).append(node)

    def changed(self, first: int) -> None:
        """Forget what a change of layer ``order[first]`` and later ones made wrong."""
        for key in [key for key in self._kept if key[1] > first]:
            self._bytes -= _size(self._kept.pop(key))

    def run(self, batch: int, images: torch.Tensor, first: int) -> Any:
        """Give what the network returns for a batch.

        Args:
            batch: its number, by which it is known again.
            images: its images.
            first: no layer before ``order[first]`` differs from what was kept; later ones may.
        """
        from torch.fx import map_arg

        if not self._nodes:
            return self._model(images)
        known = [cut for cut in range(first, -1, -1) if (batch, cut) in self._kept]
        begin = self._cuts[known[0]] if known else 0
        values = dict(self._kept[batch, known[0]]) if known else {}
        cuts = {self._cuts[cut]: cut for cut in range(known[0] + 1 if known else 0, first + 1)}
        for place in range(begin, len(self._nodes)):
            if place in cuts:
                self._keep((batch, cuts[place]), values)
            node = self._nodes[place]
            if node.op == "output":
                break
            values[node] = self._call(node, values, images)
            for dead in self._dying.get(place, ()):
                del values[dead]
        return map_arg(self._nodes[-1].args[0], values.__getitem__)

    def _keep(self, key: tuple[int, int], values: dict[fx.Node, Any]) -> None:
        size = _size(values)
        if self._bytes + size <= CACHE_BYTES:
            self._kept[key] = dict(values)
            self._bytes += size

    def _call(self, node: fx.Node, values: dict[fx.Node, Any], images: torch.Tensor) -> Any:
        from torch.fx import map_arg

        if node.op == "placeholder":
            # Arguments beyond the images keep their defaults.
            return images if node is self._nodes[0] else node.args[0]
        if node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            return getattr(self._modules[owner], name)
        arguments = map_arg(node.args, values.__getitem__)
        keywords = map_arg(node.kwargs, values.__getitem__)
        if node.op == "call_module":
            return self._modules[str(node.target)](*arguments, **keywords)
        if node.op == "call_method":
            return getattr(arguments[0], str(node.target))(*arguments[1:], **keywords)
        assert callable(node.target)
        return _IN_PLACE.get(node.target, node.target)(*arguments, **keywords)


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
        raise ArchitectureError(
            describe_failure("the network cannot be traced (", problem, ")")
        ) from problem


def _pure(node: fx.Node) -> bool:
    """Tell whether an operator leaves what it reads as it is, or can be made to."""
    if node.op == "call_method":
        return not str(node.target).endswith("_")
    if node.op == "call_function":
        return True not in node.args and not node.kwargs.get("inplace")
    return True


def _size(values: dict[Any, Any]) -> int:
    tensors = (value for value in values.values() if hasattr(value, "untyped_storage"))
    return sum(value.numel() * value.element_size() for value in tensors)
