"""Other rectifiers in a network, for a while or for good.

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
from torch.overrides import TorchFunctionMode

from filtersurgeon.errors import ArchitectureError
from filtersurgeon.networks.modules.rectifiers.kinds import Shape, check_kind, reshaped
from filtersurgeon.networks.modules.rectifiers.rectifier import Rectifier, rectify

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
    with Rectifiers(lambda own: reshaped(own, kind, slope)) as mode:
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
                setattr(module, name, Rectifier(reshaped(shape, kind, slope)))
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
            with Rectifiers(lambda shape: reshaped(shape, kind, slope), smooth=True):
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
