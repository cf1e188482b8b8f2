"""Find how the layers of a network make their values, from their modules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.utils import _pair

from filtersurgeon.walk.layout import Step
from filtersurgeon.walk.rules import Rule

_CODE = "its own code computes more than the page holds"


def rule_of(
    step: Step,
    module: nn.Module | None,
    settings: Mapping[str, Any],
    given: tuple[int, int, int] | None,
) -> Rule | None:
    """Say how a step computes its values; None for kinds that no page computes.

    Args:
        step: what it does.
        module: the module that is the step, or None for a function.
        settings: numbers that the function was called with, by name.
        given: channels, height and width of what it reads.
    """
    if step.kind == "conv":
        return _convolution(module, given)
    if step.kind == "linear":
        if module is None or type(module).forward is not nn.Linear.forward:
            return Rule("", _CODE)
        return Rule("conv", bias=_values(module.bias))
    if step.kind == "pool":
        return _pooling(step, module, settings)
    if step.kind == "activation":
        return _activation(step, module)
    return Rule("sum") if step.kind == "add" and step.text == "add" else None


def _convolution(module: nn.Module | None, given: tuple[int, int, int] | None) -> Rule:
    if not isinstance(module, nn.Conv2d) or given is None:
        return Rule("", "the page computes two-dimensional convolutions only")
    same = type(module).__name__.startswith("Conv2dSame") or module.padding == "same"
    plain = type(module).forward is nn.Conv2d.forward
    if not plain and not type(module).__name__.startswith("Conv2dSame"):
        return Rule("", _CODE)
    stride, dilation = _pair(module.stride), _pair(module.dilation)
    if same:
        padding = tuple(
            _same_padding(size, kernel, by, apart)
            for size, kernel, by, apart in zip(
                given[1:], module.kernel_size, stride, dilation, strict=True
            )
        )
    else:
        padding = (0, 0) if isinstance(module.padding, str) else _pair(module.padding)
    if module.padding_mode != "zeros" and any(padding):
        return Rule("", f"its padding is {module.padding_mode}")
    return Rule(
        "conv", stride=stride, padding=(padding[0], padding[1]), dilation=dilation,
        bias=_values(module.bias),
    )  # fmt: skip


def _same_padding(size: int, kernel: int, stride: int, dilation: int) -> int:
    wanted = (-(-size // stride) - 1) * stride + (kernel - 1) * dilation + 1 - size
    return max(0, wanted) // 2


_ADAPTIVE = {"adaptive_avg_pool2d": "mean", "adaptive_max_pool2d": "max", "mean": "mean",
             "amax": "max"}  # fmt: skip
_SLIDING = {"avg_pool2d": "mean", "max_pool2d": "max"}
_SELECTED = {"avg": "mean", "fast": "mean", "fastavg": "mean", "max": "max", "fastmax": "max"}


def _pooling(step: Step, module: nn.Module | None, settings: Mapping[str, Any]) -> Rule:
    if module is None:
        name = step.text.replace(" ", "_")
        if name in _ADAPTIVE:
            return Rule(_ADAPTIVE[name])
        if name in _SLIDING and settings.get("kernel_size"):
            return _sliding(_SLIDING[name], settings)
        return Rule("", "the settings of this pooling are not in the page")
    if type(module).__name__ == "SelectAdaptivePool2d":
        how = _SELECTED.get(str(getattr(module, "pool_type", "")), "")
        return Rule(how) if how else Rule("", _CODE)
    for kind, how in ((nn.AdaptiveAvgPool2d, "mean"), (nn.AdaptiveMaxPool2d, "max")):
        if isinstance(module, kind) and type(module).forward is kind.forward:
            return Rule(how)
    for sliding, how in ((nn.AvgPool2d, "mean"), (nn.MaxPool2d, "max")):
        if isinstance(module, sliding) and type(module).forward is sliding.forward:
            return _sliding(how, vars(module))
    return Rule("", _CODE)


def _sliding(how: str, settings: Mapping[str, Any]) -> Rule:
    window = _pair(settings["kernel_size"])
    divisor = "all" if settings.get("count_include_pad", True) else "inside"
    return Rule(
        how, window=window, stride=_pair(settings.get("stride") or window),
        padding=_pair(settings.get("padding") or 0), dilation=_pair(settings.get("dilation") or 1),
        divisor=str(settings.get("divisor_override") or divisor),
    )  # fmt: skip


_RECTIFIERS = {"ReLU": "relu", "relu": "relu", "ReLU6": "relu6", "relu6": "relu6"}


def _activation(step: Step, module: nn.Module | None) -> Rule | None:
    how = _RECTIFIERS.get(step.text)
    if how:
        return Rule(how)
    act = _RECTIFIERS.get(type(getattr(module, "act", None)).__name__)
    if act is None or module is None or not isinstance(module, _BatchNorm):
        return None
    affine = affine_of(module)
    return None if affine is None else Rule(act, affine=affine)


def affine_of(module: nn.Module | None) -> np.ndarray | None:
    """Give the scales and shifts of a batch normalisation in evaluation, ``(2, channels)``.

    None for other modules.
    """
    known = isinstance(module, _BatchNorm) or type(module).__name__ == "FrozenBatchNorm2d"
    if module is None or not known:
        return None
    mean, variance = module.running_mean, module.running_var
    if module.training or not isinstance(mean, Tensor) or not isinstance(variance, Tensor):
        return None
    with torch.no_grad():
        scale = 1 / torch.sqrt(variance.double() + float(getattr(module, "eps", 1e-5)))
        if isinstance(module.weight, Tensor):
            scale = scale * module.weight.double()
        shift = -mean.double() * scale
        if isinstance(module.bias, Tensor):
            shift = shift + module.bias.double()
        found: np.ndarray = torch.stack([scale, shift]).float().cpu().numpy()
    return found


def _values(bias: Any) -> np.ndarray | None:
    if not isinstance(bias, Tensor):
        return None
    values: np.ndarray = bias.detach().float().cpu().numpy()
    return values
