"""Run a network on an image and follow every feature map: which module made it, and its kind."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isqrt
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd
from torch.overrides import TorchFunctionMode
from torch.utils.weak import WeakTensorKeyDictionary

from filtersurgeon.networks.outputs import tensors_in
from filtersurgeon.walk.layout import Feed, Step
from filtersurgeon.walk.rules import FLAT, OTHER, SAME

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
UNNAMED = frozenset(
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
    return "" if name in UNNAMED else _WORDS.get(name, name.replace("_", " "))


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


Keep = Callable[[int, Step, np.ndarray], None]
"""Takes a step's number, the step, and its maps ``(channels, height, width)`` in float32."""


@dataclass
class Given:
    """What steps were given, beside where it came from.

    Attributes:
        links: for every step, and each of its feeds, ``same``, ``flat`` or empty; see
            :class:`~filtersurgeon.walk.rules.Link`.
        settings: numbers that functions were called with, by step and name.
    """

    links: list[tuple[str, ...]] = field(default_factory=list)
    settings: dict[int, dict[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class _Mark:
    """Tells maps from others: their shape, and a weighted sum of each."""

    shape: tuple[int, ...]
    sums: np.ndarray

    @classmethod
    def of(cls, maps: np.ndarray) -> _Mark:
        rows = maps.reshape(len(maps), -1)
        return cls(maps.shape, rows @ np.linspace(1, 2, rows.shape[1], dtype=np.float32))

    def compare(self, maps: np.ndarray) -> str:
        """Say whether maps are these, or these in one row."""
        how = SAME
        if maps.shape != self.shape:
            if maps.shape[1:] != (1, 1) or maps.size != int(np.prod(self.shape)):
                return OTHER
            how, maps = FLAT, maps.reshape(self.shape)
        close = np.allclose(_Mark.of(maps).sums, self.sums, rtol=1e-5, atol=1e-7, equal_nan=True)
        return how if close else OTHER


@dataclass(frozen=True)
class _Origin:
    """Where a tensor comes from, and which of its axes holds channels."""

    feed: Feed
    axis: int | None


def follow(
    network: nn.Module, image: Tensor, keep: Keep, given: Given | None = None
) -> tuple[list[Step], Any]:
    """Run a network once and list what it did.

    Functions are watched as they are called, so any control flow in Python is followed; modules
    without weighted parts are one step each. A tensor whose making was not seen, because it does
    not depend on the image or was made by compiled code, feeds nothing.

    Args:
        network: in evaluation mode.
        image: a batch of one, ``(1, channels, height, width)``.
        keep: given the maps of every step while the network runs; they are a copy.
        given: filled with what the steps were given; None saves that work.

    Returns:
        The steps in the order in which they ran, the image first, and what the network returned.
    """
    watcher = _Watcher(keep, given)
    with torch.no_grad():
        watcher.begin(image)
        with watcher.hooked(network), watcher:
            output = network(image)
    return watcher.steps, output


class _Watcher(TorchFunctionMode):
    """Keeps the origin of every tensor that depends on the image."""

    def __init__(self, keep: Keep, given: Given | None) -> None:
        super().__init__()
        self.steps: list[Step] = []
        self._keep = keep
        self._given = given
        self._marks: list[_Mark] = []
        self._links: tuple[str, ...] = ()
        self._origins = WeakTensorKeyDictionary()
        self._names: Counter[str] = Counter()
        self._around = [""]
        self._inside = 0  # depth of modules that are one step each

    def begin(self, image: Tensor) -> None:
        """Make the image the first step."""
        self._add(Step("input", "", "input", "image", ()), image, 1)

    @contextmanager
    def hooked(self, network: nn.Module) -> Iterator[None]:
        """Be told when modules begin and end."""
        handles = []
        for name, module in network.named_modules():
            unit = bool(name) and is_unit(module)
            before, after = self._hooks(name, unit)
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(
                module.register_forward_hook(after, with_kwargs=True, always_call=not unit)
            )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _hooks(self, name: str, unit: bool) -> tuple[Callable[..., None], Callable[..., None]]:
        def enter(_module: nn.Module, args: Any, kwargs: Any) -> None:
            self._around.append(name)
            self._inside += unit
            if unit and self._inside == 1:
                self._compare((*args, *kwargs.values()))

        def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            self._around.pop()
            self._inside -= unit
            if unit and not self._inside:
                self._inside += 1  # what is computed here is no part of the network
                self._end_of_unit(name, module, (*args, *kwargs.values()), output)
                self._inside -= 1

        return enter, leave

    def _compare(self, given: Sequence[Any]) -> None:
        """Note what the next step is given, before a function in place can change it."""
        if self._given is None:
            return
        inputs = [(x, o) for x in _tensors(given) if (o := self._origins.get(x)) is not None]
        self._links = tuple(
            self._marks[origin.feed.step].compare(as_maps(x, _channel_axis(x, origin.axis)))
            for x, origin in inputs
        )

    def _end_of_unit(self, name: str, module: nn.Module, given: Any, output: Any) -> None:
        inputs = [(x, o) for x in _tensors(given) if (o := self._origins.get(x)) is not None]
        outputs = list(_tensors([output]))
        if not inputs or not outputs:
            return
        first, origin = inputs[0]
        if type(module).__name__ in SKIPPED:
            axis = _axis_after("flatten", first, outputs[0], (), origin.axis)
            self._origins[outputs[0]] = _Origin(origin.feed, axis)
            return
        kind = module_kind(module, first, outputs[0])
        feeds = tuple(origin.feed for _, origin in inputs)
        step = Step(self._once(name), name, kind, module_text(module), feeds)
        axis = _module_axis(kind, outputs[0], first, origin.axis)
        for tensor in outputs[1:]:
            self._origins[tensor] = _Origin(Feed(len(self.steps)), None)
        self._add(step, outputs[0], axis)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function, and note what became of the maps that went in."""
        kwargs = kwargs or {}
        if self._inside:
            return func(*args, **kwargs)
        given = list(_tensors((*args, *kwargs.values())))
        # Looked up first: an operator in place gives the very tensor that it was given.
        inputs = [(x, o, x.shape) for x in given if (o := self._origins.get(x)) is not None]
        name = function_name(func)
        if inputs and function_kind(name, len(inputs)):
            self._compare(given)
        result = func(*args, **kwargs)
        outputs = list(_tensors([result]))
        if inputs and outputs:
            self._end_of_function(name, (args, kwargs), inputs, outputs)
        return result

    def _end_of_function(
        self,
        name: str,
        call: tuple[Any, dict[str, Any]],
        inputs: list[tuple[Tensor, _Origin, Any]],
        outputs: list[Tensor],
    ) -> None:
        tensor, origin, _ = inputs[0]
        args, kwargs = call
        axis = _axis_after(name, tensor, outputs[0], args, origin.axis)
        kind = function_kind(name, len(inputs))
        if kind:
            around = self._around[-1]
            feeds = tuple(origin.feed for _, origin, _ in inputs)
            label = {"iadd": "add", "imul": "mul"}.get(name, name)
            step = Step(
                self._once(f"{around}/{label}"), around, kind, label.replace("_", " "), feeds
            )
            if self._given is not None and kind == "pool":
                self._given.settings[len(self.steps)] = _settings(name, args, kwargs)
            self._add(step, outputs[0], axis)
            return
        word = passing_word(name)
        feed = Feed(origin.feed.step, (*origin.feed.through, word) if word else origin.feed.through)
        for output in outputs:
            self._origins[output] = _Origin(feed, axis)

    def _add(self, step: Step, tensor: Tensor, axis: int | None) -> None:
        axis = _channel_axis(tensor, axis)
        self._origins[tensor] = _Origin(Feed(len(self.steps)), axis)
        maps = as_maps(tensor, axis)
        if self._given is not None:
            known = self._links if len(self._links) == len(step.feeds) else ()
            self._given.links.append(known or (OTHER,) * len(step.feeds))
            self._marks.append(_Mark.of(maps))
        self._keep(len(self.steps), step, maps)
        self.steps.append(step)

    def _once(self, name: str) -> str:
        self._names[name] += 1
        count = self._names[name]
        return name if count == 1 else f"{name}#{count}"


_POOLING = ("kernel_size", "stride", "padding", "dilation")
_MEANS = ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override")


def _settings(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Give the settings of a pooling function by name."""
    names = _MEANS if name.startswith("avg") else _POOLING
    return {**dict(zip(names, args[1:], strict=False)), **kwargs}


def _channel_axis(tensor: Tensor, axis: int | None) -> int:
    if axis is None or axis >= tensor.ndim:
        return {4: 1, 3: 2}.get(tensor.ndim, min(1, tensor.ndim - 1))
    return axis


def as_maps(tensor: Tensor, axis: int) -> np.ndarray:
    """Give the first of a batch as ``(channels, height, width)`` float32, a copy.

    A row of tokens becomes a square where their number is one; a single number per channel a map
    of one pixel.

    Args:
        tensor: with the batch on its first axis, if it has more than one.
        axis: the one that holds the channels.
    """
    values = tensor.detach()
    if not values.ndim:
        values = values[None]
    if values.ndim > 1:
        values = values.movedim(axis, 1)[0]
    maps = values.to("cpu", torch.float32, copy=True).contiguous().numpy()
    if maps.ndim == 2 and isqrt(maps.shape[1]) ** 2 == maps.shape[1]:
        return maps.reshape(len(maps), isqrt(maps.shape[1]), -1)
    if maps.ndim <= 2:
        return maps.reshape(len(maps), 1, -1)
    return maps.reshape(*maps.shape[:2], -1)


def _tensors(values: Sequence[Any]) -> Iterator[Tensor]:
    return (output.tensor for output in tensors_in(values, known_only=False))


def _module_axis(kind: str, made: Tensor, given: Tensor, axis: int | None) -> int | None:
    if kind == "conv":
        return 1
    if kind == "linear":
        return made.ndim - 1
    return axis if made.ndim == given.ndim else None


def _axis_after(
    name: str, given: Tensor, made: Tensor, args: Sequence[Any], axis: int | None
) -> int | None:
    """Say which axis holds the channels after a function; None where it cannot be told."""
    if axis is None:
        return None
    rest = args[1] if len(args) == 2 and isinstance(args[1], tuple | list) else args[1:]
    if name == "permute":
        order = [int(place) % given.ndim for place in rest]
        return order.index(axis)
    if name in ("transpose", "swapaxes") and len(rest) == 2:
        one, other = (int(place) % given.ndim for place in rest)
        return {one: other, other: one}.get(axis, axis)
    if name == "linear":
        return made.ndim - 1
    if name in ("view", "reshape", "flatten", "squeeze", "unsqueeze", "getitem", "unflatten"):
        size = given.shape[axis] if axis < given.ndim else -1
        if axis < made.ndim and made.shape[axis] == size:
            return axis
        if made.ndim == 2:
            return 1
        fitting = [place for place in range(1, made.ndim) if made.shape[place] == size]
        return fitting[0] if len(fitting) == 1 else None
    return axis if made.ndim == given.ndim else None
