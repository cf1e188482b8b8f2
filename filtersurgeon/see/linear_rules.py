"""The linear part of each operator of torch, by the operator's name.

Pooling is the adjoint of an upsampling, so that its transpose is that upsampling.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional
from torch.nn.modules.utils import _pair

from filtersurgeon.errors import OptionError, near_misses

UPSAMPLINGS = ("nearest", "bilinear", "bicubic")
Pair = tuple[int, int]


def check_upsampling(mode: str) -> None:
    """Refuse an unknown interpolation; raises OptionError with the near misses."""
    if mode not in UPSAMPLINGS:
        raise OptionError(f"upsample {mode!r} is unknown{near_misses(mode, UPSAMPLINGS)}")


def unpool(x: Tensor, mode: str, stride: Pair, offset: Pair, size: Pair) -> Tensor:
    """Upsample a map and lay it onto a canvas.

    Source: Rafegas and Vanrell, *Understanding learned CNN features through Filter Decoding with
    Substitution*, 2015, section 3 (``unpool``).

    Args:
        x: ``(images, channels, height, width)``.
        mode: ``nearest``, ``bilinear`` or ``bicubic``.
        stride: factors of the upsampling.
        offset: where the upsampled map begins on the canvas; may be negative.
        size: height and width of the canvas; what does not fit is cut off.
    """
    aligned = {} if mode == "nearest" else {"align_corners": False}
    factors = (float(stride[0]), float(stride[1]))
    large = functional.interpolate(x, scale_factor=factors, mode=mode, **aligned)
    pads = [
        amount
        for axis in (1, 0)
        for amount in (offset[axis], size[axis] - offset[axis] - large.shape[axis - 2])
    ]
    return functional.pad(large, pads)


class _AdjointOfUnpool(torch.autograd.Function):
    """The linear map whose transpose is :func:`unpool`."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, pooled: Pair, mode: str, stride: Pair, offset: Pair) -> Tensor:
        size = (x.shape[-2], x.shape[-1])
        ctx.rest = (mode, stride, offset, size)
        small = x.new_zeros(*x.shape[:2], *pooled, requires_grad=True)
        with torch.enable_grad():
            large = unpool(small, *ctx.rest)
        return torch.autograd.grad(large, small, x.detach())[0]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None, None]:
        return unpool(gradients[0], *ctx.rest), None, None, None, None


def pool(x: Tensor, pooled: Pair, mode: str, kernel: Pair, stride: Pair, padding: Pair) -> Tensor:
    """Pool linearly, by the adjoint of an upsampling.

    A pooled value becomes ``stride`` pixels in the middle of its window.

    Args:
        x: ``(images, channels, height, width)``.
        pooled: height and width of the result.
        mode: of the upsampling.
        kernel: height and width of a window.
        stride: of the windows.
        padding: around the map, before pooling.
    """
    pairs = zip(kernel, stride, padding, strict=True)
    offset = tuple((k - s + 1) // 2 - p for k, s, p in pairs)
    result: Tensor = _AdjointOfUnpool.apply(x, pooled, mode, stride, offset)
    return result


class Settings(NamedTuple):
    """How a network is linearised.

    Attributes:
        upsample: interpolation that pooling is the adjoint of.
        padded: keep the zero padding of convolutions and pooling.
        gates: results of sigmoids of this run, by the address of their memory.
    """

    upsample: str
    padded: bool
    gates: dict[int, Tensor]


Arguments = tuple[Any, ...]
Options = Mapping[str, Any]
Handler = Callable[[Settings, Any, Arguments, Options], Any]


def _argument(args: Arguments, options: Options, place: int, name: str, default: Any) -> Any:
    return args[place] if len(args) > place else options.get(name, default)


def _identity(_settings: Settings, _func: Any, args: Arguments, options: Options) -> Tensor:
    x: Tensor = args[0] if args else options["input"]
    return x


def _gate(settings: Settings, _func: Any, args: Arguments, _options: Options) -> Tensor:
    """Pass on; the result, and every view of it, is known as a factor, should it be one."""
    factor: Tensor = args[0].clone()
    settings.gates[factor.untyped_storage().data_ptr()] = factor
    return factor


def _uniform(_settings: Settings, _func: Any, args: Arguments, options: Options) -> Tensor:
    """Give the softmax of equal numbers."""
    dim = _argument(args, options, 1, "dim", -1)
    return torch.full_like(args[0], 1 / args[0].shape[dim]).detach()


def _attention(_settings: Settings, _func: Any, args: Arguments, options: Options) -> Tensor:
    """Attention that looks everywhere alike."""
    query, _, value = (_argument(args, options, i, k, None) for i, k in enumerate(_QKV))
    mean: Tensor = value.mean(-2, keepdim=True)
    return mean.expand(*query.shape[:-1], value.shape[-1])


_QKV = ("query", "key", "value")


def _product(settings: Settings, func: Any, args: Arguments, options: Options) -> Any:
    """Give one factor of a product, where the other is a gate."""
    a, b = args[0], _argument(args, options, 1, "other", None)
    if not (_from_image(a) and _from_image(b)):
        return func(*args, **options)
    shape = torch.broadcast_shapes(a.shape, b.shape)
    if _is_gate(b, settings) or b.numel() < a.numel():
        return a.expand(shape)
    if _is_gate(a, settings) or a.numel() < b.numel():
        return b.expand(shape)
    return func(*args, **options)


def _quotient(_settings: Settings, func: Any, args: Arguments, options: Options) -> Any:
    """Give the dividend, where the divisor depends on the image, as a norm does."""
    a, b = args[0], _argument(args, options, 1, "other", None)
    if _from_image(a) and _from_image(b):
        return a.expand(torch.broadcast_shapes(a.shape, b.shape))
    return func(*args, **options)


def _from_image(x: Any) -> bool:
    return isinstance(x, Tensor) and x.requires_grad


def _is_gate(x: Tensor, settings: Settings) -> bool:
    return x.untyped_storage().data_ptr() in settings.gates


def _clamp(_settings: Settings, func: Any, args: Arguments, options: Options) -> Any:
    low = _argument(args, options, 1, "min", None)
    return args[0] if low == 0 else func(*args, **options)


def _convolution(settings: Settings, func: Any, args: Arguments, options: Options) -> Any:
    x, weight = args[:2]
    stride, padding, dilation, groups = (
        _argument(args, options, place, name, default)
        for place, name, default in (
            (3, "stride", 1), (4, "padding", 0), (5, "dilation", 1), (6, "groups", 1)
        )
    )  # fmt: skip
    return func(x, weight, None, stride, padding if settings.padded else 0, dilation, groups)


def _linear(_settings: Settings, func: Any, args: Arguments, _options: Options) -> Any:
    return func(args[0], args[1] if len(args) > 1 else _options["weight"])


def _pad(settings: Settings, func: Any, args: Arguments, options: Options) -> Any:
    pads = list(_argument(args, options, 1, "pad", ()))
    if not settings.padded and args[0].ndim == 4:
        pads[:4] = [min(0, amount) for amount in pads[:4]]
        return func(args[0], pads)
    return func(*args, **options)


def _batch_norm(_settings: Settings, _func: Any, args: Arguments, options: Options) -> Tensor:
    x, _, variance, weight = (
        _argument(args, options, place, name, None)
        for place, name in enumerate(("input", "running_mean", "running_var", "weight"))
    )
    scale = x.new_ones(x.shape[1]) if weight is None else weight
    if variance is not None:
        scale = scale / torch.sqrt(variance + _argument(args, options, 7, "eps", 1e-5))
    return x * scale.view(-1, *[1] * (x.ndim - 2))


def _layer_norm(_settings: Settings, _func: Any, args: Arguments, options: Options) -> Tensor:
    x, shape = args[0], _argument(args, options, 1, "normalized_shape", ())
    weight = _argument(args, options, 2, "weight", None)
    centred: Tensor = x - x.mean(tuple(range(-len(shape), 0)), keepdim=True)
    return centred if weight is None else centred * weight


def _group_norm(_settings: Settings, _func: Any, args: Arguments, options: Options) -> Tensor:
    x, groups = args[0], _argument(args, options, 1, "num_groups", 1)
    weight = _argument(args, options, 2, "weight", None)
    parts = x.reshape(x.shape[0], groups, -1)
    centred: Tensor = (parts - parts.mean(-1, keepdim=True)).view(x.shape)
    return centred if weight is None else centred * weight.view(-1, *[1] * (x.ndim - 2))


def _instance_norm(settings: Settings, func: Any, args: Arguments, options: Options) -> Tensor:
    weight = _argument(args, options, 3, "weight", None)
    return _group_norm(settings, func, (args[0], args[0].shape[1], weight), {})


def _max_pool(settings: Settings, _func: Any, args: Arguments, options: Options) -> Any:
    x = args[0]
    kernel = _pair(_argument(args, options, 1, "kernel_size", None))
    stride = _pair(_argument(args, options, 2, "stride", None) or kernel)
    padding = _pair(_argument(args, options, 3, "padding", 0) if settings.padded else 0)
    dilation = _pair(_argument(args, options, 4, "dilation", 1))
    ceil_mode = _argument(args, options, 5, "ceil_mode", False)
    small = functional.max_pool2d(x.detach(), kernel, stride, padding, dilation, ceil_mode)
    reach = tuple((k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True))
    pooled = (small.shape[-2], small.shape[-1])
    return pool(x, pooled, settings.upsample, reach, stride, padding)


def _average_pool(settings: Settings, func: Any, args: Arguments, options: Options) -> Any:
    x = args[0]
    kernel = _pair(_argument(args, options, 1, "kernel_size", None))
    stride = _pair(_argument(args, options, 2, "stride", None) or kernel)
    padding = _pair(_argument(args, options, 3, "padding", 0) if settings.padded else 0)
    ceil_mode = _argument(args, options, 4, "ceil_mode", False)
    if stride == (1, 1):  # a blur, linear as it is, and nothing that one could upsample
        return func(x, kernel, stride, padding, ceil_mode, *args[5:])
    small = functional.avg_pool2d(x.detach(), kernel, stride, padding, ceil_mode)
    pooled = (small.shape[-2], small.shape[-1])
    return pool(x, pooled, settings.upsample, kernel, stride, padding) / (stride[0] * stride[1])


def _adaptive_max_pool(_settings: Settings, _func: Any, args: Arguments, options: Options) -> Any:
    x, size = args[0], _argument(args, options, 1, "output_size", 1)
    small = functional.adaptive_avg_pool2d(x, size)
    return small * (x.shape[-1] * x.shape[-2] / (small.shape[-1] * small.shape[-2]))


_ACTIVATIONS = (
    "relu", "relu6", "rectify", "leaky_relu", "hardtanh", "elu", "celu", "selu", "prelu", "gelu",
    "silu", "mish", "hardswish", "softplus", "tanh", "dropout", "dropout2d", "feature_dropout",
    "normalize", "log_softmax",
)  # fmt: skip

HANDLERS: dict[str, Handler] = {
    **dict.fromkeys(_ACTIVATIONS, _identity),
    **dict.fromkeys(("sigmoid", "hardsigmoid"), _gate),
    **dict.fromkeys(("mul", "multiply", "imul", "rmul"), _product),
    **dict.fromkeys(("div", "divide", "true_divide", "truediv", "itruediv"), _quotient),
    **dict.fromkeys(("clamp", "clamp_min"), _clamp),
    "softmax": _uniform,
    "scaled_dot_product_attention": _attention,
    "conv2d": _convolution,
    "linear": _linear,
    "pad": _pad,
    "batch_norm": _batch_norm,
    "layer_norm": _layer_norm,
    "group_norm": _group_norm,
    "instance_norm": _instance_norm,
    "max_pool2d": _max_pool,
    "avg_pool2d": _average_pool,
    "adaptive_max_pool2d": _adaptive_max_pool,
}

NONLINEAR = {
    "mul", "matmul", "bmm", "einsum", "max", "min", "amax", "amin", "maximum", "minimum", "exp",
    "log", "abs", "sqrt", "rsqrt", "square", "pow", "norm", "std", "var", "var_mean", "topk",
    "sort", "where", "sin", "cos", "round", "sign", "logsumexp", "cumprod", "prod", "rms_norm",
    "grid_sample", "lp_pool2d", "fractional_max_pool2d", "multi_head_attention_forward",
}  # fmt: skip
