"""Rectifiers with another slope in one pass or in both: ReLU, Leaky ReLU, ProxyGrad.

Networks call rectifiers as modules, as functions and as methods. All of these pass through
``torch.overrides``, where they can be met at one place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function_unary

from filtersurgeon.errors import ArchitectureError
from filtersurgeon.networks.modules.rectifier_kinds import Shape, check_kind, reshape


class _TwoSlopes(torch.autograd.Function):
    """Rectify with one slope, and pass gradients with another."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, shape: Shape) -> Tensor:
        ctx.save_for_backward(x)
        ctx.shape = shape
        return _forward(x, shape)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (x,), shape = ctx.saved_tensors, ctx.shape
        slopes = torch.ones_like(x).masked_fill_(x < 0, shape.backward_slope)
        if shape.cap < inf:
            slopes.masked_fill_(x > shape.cap, 0)
        # A new tensor: other holders of the incoming gradient must not see it change.
        return gradients[0] * slopes, None


def _forward(x: Tensor, shape: Shape) -> Tensor:
    leaked = functional.leaky_relu(x, shape.forward_slope) if shape.forward_slope else x.relu()
    return leaked.clamp(max=shape.cap) if shape.cap < inf else leaked


def rectify(x: Tensor, shape: Shape) -> Tensor:
    """Rectify any tensor.

    Source of ProxyGrad, where the slopes differ: Linse, *Towards Understanding CNNs Through
    Visualization and Systematic Simplification*, 2025, section 5.2 and Table 5.2. The proxy of a
    capped rectifier is a capped Leaky ReLU, so nothing flows above the cap.

    Args:
        x: any shape.
        shape: slopes below zero, and the cap.
    """
    if has_torch_function_unary(x):  # other overrides see this call as one operation
        return handle_torch_function(rectify, (x,), x, shape)
    if shape.forward_slope == shape.backward_slope:
        return _forward(x, shape)
    result: Tensor = _TwoSlopes.apply(x, shape)
    return result


_RELU = Shape()


class Rectifier(nn.Module):
    """A rectifier as a layer; it has no parameters, so a state dict does not change."""

    def __init__(self, shape: Shape = _RELU) -> None:
        super().__init__()
        self.shape = shape

    def forward(self, x: Tensor) -> Tensor:
        """Rectify any tensor."""
        return rectify(x, self.shape)

    def extra_repr(self) -> str:
        """Show the slopes and the cap."""
        return ", ".join(f"{name}={value:g}" for name, value in self.shape._asdict().items())


class ProxyGradReLU(Rectifier):
    """A ReLU whose gradients leak.

    Args:
        slope: what gradients are multiplied with where the input is negative, 0 to 1.
    """

    def __init__(self, slope: float = 0.1) -> None:
        super().__init__(Shape(0.0, slope))


SMOOTH = (nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.ELU, nn.CELU, nn.SELU, nn.Softplus)
SMOOTH_NAMES = {"GELU", "GELUTanh", "QuickGELU", "Swish", "Mish", "HardSwish", "HardMish"}
SMOOTH_CALLS = {"gelu", "silu", "silu_", "mish", "hardswish", "elu", "elu_", "celu", "selu"}


def shape_of_call(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Shape | None:
    """Give the shape of a rectifier that is called as a function, or None for other functions."""
    name = name.strip("_")
    if name == "rectify":
        return Shape(*args[1])
    if name == "relu":
        return Shape()
    if name == "relu6":
        return Shape(cap=6.0)
    if name == "leaky_relu":
        slope = kwargs.get("negative_slope", args[1] if len(args) > 1 else 0.01)
        return Shape(float(slope), float(slope))
    if name in ("clamp", "clamp_min", "hardtanh"):
        return _shape_of_limits(name, args, kwargs)
    return None


def _shape_of_limits(name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Shape | None:
    words = ("min_val", "max_val") if name == "hardtanh" else ("min", "max")
    low = kwargs.get(words[0], args[1] if len(args) > 1 else None)
    high = kwargs.get(words[1], args[2] if len(args) > 2 else None)
    if isinstance(low, Tensor) or isinstance(high, Tensor) or low != 0:
        return None
    return Shape(cap=inf if high is None else float(high))


class Rectifiers(TorchFunctionMode):
    """Inside this context, rectifiers of floating-point tensors take another shape.

    Args:
        choose: from the shape of a rectifier to the one that takes its place.
        smooth: replace smooth activations (GELU, SiLU, ...) too, as if they were ReLUs.
    """

    def __init__(self, choose: Callable[[Shape], Shape], smooth: bool = False) -> None:
        super().__init__()
        self.choose, self.smooth = choose, smooth
        self.met: Counter[str] = Counter()

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Replace a call where it rectifies; pass every other call on."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        x = args[0] if args else kwargs.get("input")
        if isinstance(x, Tensor) and x.is_floating_point():
            shape = shape_of_call(name, args, kwargs)
            if shape is None and self.smooth and name in SMOOTH_CALLS:
                shape = Shape()
            if shape is not None:
                self.met[name.strip("_")] += 1
                return rectify(x, self.choose(shape))
        return func(*args, **kwargs)


@contextmanager
def rectified(kind: str, slope: float) -> Iterator[Rectifiers]:
    """Run networks inside the block with other rectifiers; the networks are not touched.

    ``proxygrad`` leaves every output as it is. Smooth activations stay.

    Args:
        kind: ``relu``, ``leaky-relu`` or ``proxygrad``.
        slope: below zero.

    Yields:
        The context, whose ``met`` counts the rectifiers that were called.
    """
    check_kind(kind, slope)
    with Rectifiers(lambda own: reshape(own, kind, slope)) as mode:
        yield mode


def shape_of_module(module: nn.Module) -> Shape | None:
    """Give the shape of a layer that rectifies; None for layers that do not."""
    if isinstance(module, Rectifier):
        return module.shape
    if isinstance(module, nn.LeakyReLU):
        return Shape(module.negative_slope, module.negative_slope)
    if isinstance(module, nn.Hardtanh):  # a ReLU6 is one
        return Shape(cap=module.max_val) if module.min_val == 0 else None
    return Shape() if isinstance(module, nn.ReLU) else None


def swap_modules(model: nn.Module, kind: str, slope: float) -> Counter[str]:
    """Put other rectifiers in the place of a network's activation layers, in place.

    Smooth activations become rectifiers too; sigmoids and other gates stay.

    Returns:
        How many layers of which class were replaced.
    """
    replaced: Counter[str] = Counter()
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            shape = Shape() if _is_smooth(child) else shape_of_module(child)
            if shape is not None:
                replaced[type(child).__name__] += 1
                setattr(module, name, Rectifier(reshape(shape, kind, slope)))
    return replaced


def _is_smooth(module: nn.Module) -> bool:
    # timm has classes of its own, such as GELUTanh, beside torch's.
    from_timm = type(module).__module__.startswith("timm.layers.activations")
    return isinstance(module, SMOOTH) or (from_timm and type(module).__name__ in SMOOTH_NAMES)


def swap_calls(model: nn.Module, kind: str, slope: float) -> None:
    """Give a network other rectifiers where it calls functions, in place and for good."""
    own = type(model)

    class Converted(own):  # type: ignore[misc, valid-type]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            with Rectifiers(lambda shape: reshape(shape, kind, slope), smooth=True):
                return super().forward(*args, **kwargs)

    Converted.__name__ = Converted.__qualname__ = own.__name__
    Converted.__module__ = own.__module__
    model.__class__ = Converted


def check_met(mode: Rectifiers, name: str) -> None:
    """Refuse a network that ran without calling a rectifier.

    Raises:
        ArchitectureError: none was called.
    """
    if not mode.met:
        raise ArchitectureError(
            f"{name} has no rectifier (ReLU, ReLU6, Leaky ReLU) whose slope could be changed; "
            "fsurgeon convert --activation gives it some"
        )


def calls_functions(model: nn.Module, inputs: Tensor) -> bool:
    """Tell whether a network calls activations as functions, besides those of its layers.

    Args:
        model: run once, in the mode that it is in.
        inputs: a batch that it takes.
    """
    depth, outside = [0], [0]

    def enter(*_: Any) -> None:
        depth[0] += 1

    def leave(*_: Any) -> None:
        depth[0] -= 1

    def count(shape: Shape) -> Shape:
        outside[0] += not depth[0]
        return shape

    handles = []
    for module in model.modules():
        if shape_of_module(module) is not None or _is_smooth(module):
            handles.append(module.register_forward_pre_hook(enter))
            handles.append(module.register_forward_hook(leave))
    try:
        with torch.no_grad(), Rectifiers(count, smooth=True):
            model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    return outside[0] > 0
