"""What modules and functions are: their kinds, and what people call them."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

TIMES = "\u00d7"

ADD = frozenset(["add", "sub", "radd", "iadd", "isub", "rsub"])
MULTIPLY = frozenset(["mul", "imul", "rmul", "div", "truediv"])
CONCAT = frozenset(["cat", "concat", "concatenate", "stack", "hstack"])
MATMUL = frozenset(["matmul", "bmm", "einsum", "scaled_dot_product_attention", "baddbmm"])
ACTIVATIONS = frozenset(
    ["relu", "relu6", "leaky_relu", "prelu", "rrelu", "elu", "selu", "celu", "gelu", "silu",
     "mish", "hardswish", "hardsigmoid", "hardtanh", "sigmoid", "tanh", "softmax", "log_softmax",
     "softplus", "softsign", "glu", "clamp", "clip", "threshold", "exp"]
)  # fmt: skip
CONVOLUTIONS = frozenset(
    ["conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d"]
)
NORMS = frozenset(["batch_norm", "layer_norm", "group_norm", "instance_norm", "rms_norm"])
SKIPPED = frozenset(
    ["Identity", "Dropout", "Dropout1d", "Dropout2d", "Dropout3d", "AlphaDropout", "DropPath",
     "DropBlock2d", "StochasticDepth", "Flatten", "Unflatten"]
)  # fmt: skip
SILENT = frozenset(
    ["contiguous", "clone", "detach", "to", "float", "type_as", "get", "alias", "dropout",
     "dropout2d", "type", "half", "requires_grad", "view", "reshape", "flatten", "squeeze",
     "unsqueeze", "permute", "transpose", "movedim", "expand", "unflatten", "size", "set"]
)  # fmt: skip
"""Functions that a map passes through without a word."""

_WORDS = {"getitem": "slice", "chunk": "split", "tensor_split": "split", "unbind": "split",
          "mul": "scale", "div": "scale", "truediv": "scale", "add": "shift", "sub": "shift",
          "rsub": "shift", "narrow": "slice"}  # fmt: skip


def function_name(function: Any) -> str:
    """Give a function's name without the underscores of operators and in-place forms."""
    return str(getattr(function, "__name__", function)).strip("_")


def passing_word(name: str) -> str:
    """Say what a function does to a map that passes through it; empty for nothing."""
    return "" if name in SILENT else _WORDS.get(name, name.replace("_", " "))


def function_kind(name: str, n_sources: int) -> str:
    """Give the kind of a function that n maps go into; empty if they only pass."""
    if name in CONCAT:
        return "concat"
    if n_sources > 1:
        for kind, names in (("add", ADD), ("multiply", MULTIPLY), ("matmul", MATMUL)):
            if name in names:
                return kind
        return "other"
    if name in ACTIVATIONS:
        return "activation"
    if "pool" in name or name in ("mean", "amax", "interpolate", "upsample"):
        return "pool"
    if name in NORMS:
        return "norm"
    if name in MATMUL:
        return "matmul"
    return "conv" if name in CONVOLUTIONS else "linear" if name == "linear" else ""


def is_unit(module: nn.Module) -> bool:
    """Tell whether a module is one step: it holds no module with weights of its own."""
    if isinstance(module, nn.Sequential | nn.ModuleList | nn.ModuleDict):
        return False
    children = list(module.children())
    return not any(True for child in children for _ in child.parameters())


def module_kind(module: nn.Module, given: Tensor, made: Tensor) -> str:
    """Give the kind of a module that is one step."""
    name = type(module).__name__
    if isinstance(module, _ConvNd):
        return "conv"
    if isinstance(module, nn.Linear):
        return "linear"
    if "Norm" in name or name == "FrozenBatchNorm2d":
        return "activation" if _rectifier(module) else "norm"
    if "Pool" in name or name in ("Upsample", "BlurPool2d"):
        return "pool"
    same = given.shape == made.shape
    return "activation" if same and not any(True for _ in module.parameters()) else "other"


def module_text(module: nn.Module) -> str:
    """Say what a module that is one step does."""
    if isinstance(module, _ConvNd):
        return _convolution(module)
    if isinstance(module, nn.Linear):
        return f"linear {module.in_features} → {module.out_features}"
    name = type(module).__name__
    if "Norm" in name:
        rectifier = _rectifier(module)
        bare = re.sub(r"(Act)?(1d|2d|3d)?$", "", re.sub(r"Act(?=2d$)", "", name))
        words = _space(bare)
        return f"{words} + {type(rectifier).__name__}" if rectifier else words
    if "Pool" in name:
        return _pooling(module, name)
    return name


def _rectifier(module: nn.Module) -> nn.Module | None:
    """Find what a normalisation with an activation in it ends with."""
    found = getattr(module, "act", None)
    return found if isinstance(found, nn.Module) and not isinstance(found, nn.Identity) else None


def _space(name: str) -> str:
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def _convolution(module: _ConvNd) -> str:
    words = [TIMES.join(map(str, module.kernel_size))]
    if max(module.stride) > 1:
        words.append(f"stride {_once(module.stride)}")
    if max(module.dilation) > 1:
        words.append(f"dilation {_once(module.dilation)}")
    if module.groups > 1:
        depthwise = module.groups == module.in_channels
        words.append("depthwise" if depthwise else f"{module.groups} groups")
    transposed = "transposed " if module.transposed else ""
    return f"{transposed}conv {', '.join(words)}"


def _pooling(module: nn.Module, name: str) -> str:
    bare = _space(re.sub(r"(1d|2d|3d|Same)+$", "", name))
    size: Any = getattr(module, "kernel_size", None)
    if size is None:
        return bare
    stride: Any = getattr(module, "stride", None)
    text = f"{bare} {_once(size)}"
    return f"{text}, stride {_once(stride)}" if stride is not None else text


def _once(value: Any) -> str:
    """Write a size per axis once where they are all the same."""
    if not isinstance(value, tuple | list):
        return str(value)
    return str(value[0]) if len(set(value)) == 1 else TIMES.join(map(str, value))
