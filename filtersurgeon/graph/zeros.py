"""Which operators preserve zeros, and so which tensors are silent.

A tensor is silent if it is zero at every index whose channel is removed. The weights, shifts and
biases of a removed channel are zero, so the output of a convolution is zero there; it stays so
through a ReLU but not through a sigmoid. Only where a tensor is silent may its
channels be summed over: the sum over the channels that are kept is then the sum over all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from math import inf

from torch import Tensor

from filtersurgeon.graph.labels import UNIFORM, Labels, Step
from filtersurgeon.graph.record import tensors


def zero_preserving(step: Step, made: Sequence[Labels]) -> bool:
    """Tell whether the results of an operator are silent; operators not listed are not."""
    rule = _RULES.get(step.operator)
    return rule is not None and rule(step, made)


def _all(step: Step, _: Sequence[Labels]) -> bool:
    """Zeros stay zeros: silent where all channels that come in are."""
    return all(step.silent(tensor) or not _labelled(step, tensor) for tensor in tensors(step.args))


def _labelled(step: Step, tensor: Tensor) -> bool:
    """Tell whether a tensor has channels along any axis."""
    return any(axis is not None for axis in step.labels(tensor))


def _unless_repeated(step: Step, made: Sequence[Labels]) -> bool:
    """As :func:`_all`, if no axis of equal values was made."""
    before = step.labels(step.args[0])
    uniform = (axis for labels in made for axis in labels[-len(before) :] if axis is not None)
    return _all(step, made) and not any((axis == UNIFORM).any() for axis in uniform)


def _never_less(step: Step, made: Sequence[Labels]) -> bool:
    """Clamped between bounds that let zero through."""
    low = step.arg(1, "min")
    high = step.arg(2, "max")
    bounds = (-inf if low is None else low, inf if high is None else high)
    if any(isinstance(bound, Tensor) for bound in bounds):
        return False
    return bounds[0] <= 0 <= bounds[1] and _all(step, made)


def _at_least(step: Step, made: Sequence[Labels]) -> bool:
    low = step.arg(1, "min")
    return not isinstance(low, Tensor) and low <= 0 and _all(step, made)


def _power(step: Step, made: Sequence[Labels]) -> bool:
    exponent = step.args[1]
    return not isinstance(exponent, Tensor) and exponent > 0 and _all(step, made)


def _factor(step: Step, made: Sequence[Labels]) -> bool:
    """Take a product as silent where one factor is, and spans every axis of channels."""
    return any(_spans(step, tensor, made[0]) for tensor in tensors(step.args))


def _dividend(step: Step, made: Sequence[Labels]) -> bool:
    return isinstance(step.args[0], Tensor) and _spans(step, step.args[0], made[0])


def _terms(step: Step, made: Sequence[Labels]) -> bool:
    """Take a sum as silent where all terms are, and span every axis of channels."""
    return all(
        _spans(step, term, made[0]) if isinstance(term, Tensor) else term == 0
        for term in step.args[:2]
    )


def _spans(step: Step, tensor: Tensor, made: Labels) -> bool:
    shape, result = tensor.shape, step.results[0].shape
    missing = len(made) - len(shape)
    return step.silent(tensor) and all(
        axis is None or (place >= missing and shape[place - missing] == result[place])
        for place, axis in enumerate(made)
    )


def _source(step: Step, made: Sequence[Labels]) -> bool:
    return _spans(step, step.args[1], made[0])


def _weighted(step: Step, _: Sequence[Labels]) -> bool:
    """Check a convolution or linear layer, whose outputs come from weight and bias."""
    tensor, weight, *rest = step.args
    bias = rest[0] if rest else step.kwargs.get("bias")
    return (
        step.silent(weight)
        and (bias is None or step.silent(bias))
        and (step.silent(tensor) or not any(axis is not None for axis in _other(step, tensor)))
    )


def _other(step: Step, tensor: Tensor) -> Labels:
    labels = step.labels(tensor)
    return labels[:-1] if step.operator == "linear" else labels[:1]


def _product(step: Step, made: Sequence[Labels]) -> bool:
    """Check a product of matrices: rows come from the first, columns from the second."""
    one, other = step.args[-2:]
    left, right = step.labels(one), step.labels(other)
    rows = any(axis is not None for axis in left[:-1])
    columns = any(axis is not None for axis in (*right[:-2], right[-1]))
    whole = all(_spans(step, added, made[0]) for added in step.args[:-2])
    return (step.silent(one) or not rows) and (step.silent(other) or not columns) and whole


def _scaled(step: Step, _: Sequence[Labels]) -> bool:
    """Tell of a normalisation with scale and shift per channel: as silent as these."""
    weight = step.args[1]
    return step.silent(step.args[0] if weight is None else weight)


def _padded(step: Step, made: Sequence[Labels]) -> bool:
    return step.arg(2, "value", 0) == 0 and _all(step, made)


_ZERO_PRESERVING = """
relu gelu silu tanh hardswish leaky_relu elu abs neg sqrt sin erf square sign mish celu
hardshrink softshrink asinh atan expm1 log1p round floor prelu _prelu_kernel native_dropout
view flatten unflatten permute transpose t numpy_T mT unsqueeze squeeze as_strided
slice narrow split unsafe_split split_with_sizes unsafe_split_with_sizes select unbind
unsafe_unbind cat concat stack flip roll unfold im2col channel_shuffle native_channel_shuffle
pixel_shuffle pixel_unshuffle sum mean amax amin linalg_vector_norm norm
max_pool2d_with_indices max_pool3d_with_indices max_pool2d avg_pool1d avg_pool2d avg_pool3d
_adaptive_avg_pool2d _adaptive_avg_pool3d adaptive_max_pool2d adaptive_avg_pool1d
adaptive_avg_pool2d upsample_nearest1d upsample_nearest2d upsample_bilinear2d
upsample_bicubic2d upsample_linear1d _upsample_bilinear2d_aa _upsample_bicubic2d_aa
_upsample_nearest_exact2d grid_sampler_2d reflection_pad1d reflection_pad2d
replication_pad1d replication_pad2d
"""

_Rule = Callable[[Step, Sequence[Labels]], bool]

_RULES: Mapping[str, _Rule] = {
    **dict.fromkeys(_ZERO_PRESERVING.split(), _all),
    "copy": _source,
    "expand": _unless_repeated,
    "repeat": _unless_repeated,
    "constant_pad_nd": _padded,
    "clamp": _never_less,
    "hardtanh": _never_less,
    "clamp_min": _at_least,
    "pow": _power,
    "mul": _factor,
    "div": _dividend,
    "add": _terms,
    "sub": _terms,
    "maximum": _terms,
    "minimum": _terms,
    "convolution": _weighted,
    "linear": _weighted,
    **dict.fromkeys(["mm", "bmm", "matmul", "addmm", "baddbmm"], _product),
    **dict.fromkeys(
        [
            "native_batch_norm",
            "_native_batch_norm_legit",
            "_native_batch_norm_legit_no_training",
            "cudnn_batch_norm",
            "_batch_norm_no_update",
            "native_group_norm",
        ],
        _scaled,
    ),
    **dict.fromkeys(["zeros", "new_zeros", "zeros_like", "zero"], lambda _step, _made: True),
}
