"""The tensors in what a network returns, and the comparison of two such results.

This is the one place that looks into outputs. Whatever traces, compares, exports or scores a
network asks here, so that a tensor which one part sees is never overlooked by another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import fields, is_dataclass
from enum import Enum
from math import inf, isnan
from numbers import Number
from typing import TYPE_CHECKING, Any, NamedTuple

from filtersurgeon.errors import OutputError

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

SCORES = ("logits", "out")
"""Keys of class scores, as transformers, torchvision and timm call them."""

OUTPUT = "output"
"""Key of the metadata that names the output at which measurements look."""

_DEPTH = 50
_NAMED = 4


class Output(NamedTuple):
    """A tensor in what a network returns.

    Attributes:
        place: keys, fields and positions that lead to it, joined by dots; empty for one tensor.
        tensor: the tensor.
    """

    place: str
    tensor: Tensor


class Pair(NamedTuple):
    """Tensors that stand in the same place of two results."""

    place: str
    expected: Tensor
    found: Tensor


def find_tensors(outputs: Any) -> list[Output]:
    """Find every tensor in what a network returns.

    Tensors may stand in mappings, sequences, named tuples and dataclasses, however deep. Numbers,
    strings and None beside them are passed over.

    Raises:
        OutputError: there is no tensor, or an object that may hide some (its type is named).
    """
    found = list(tensors_in(outputs))
    if not found:
        raise OutputError(
            f"the network returns no tensors ({type(outputs).__name__}); "
            "name a factory whose network returns its outputs as tensors"
        )
    return found


def tensors_in(
    value: Any, path: tuple[str, ...] = (), *, known_only: bool = True
) -> Iterator[Output]:
    """Yield every tensor in a value, which may have none.

    Args:
        value: what a network or a module returns.
        path: what leads to the value.
        known_only: refuse objects that may hide tensors; else pass over them.

    Raises:
        OutputError: such an object.
    """
    from torch import Tensor

    if isinstance(value, Tensor):
        yield Output(".".join(path), value)
    elif not _is_plain(value):
        items = _items(value) if len(path) < _DEPTH else None
        if items is None and known_only:
            raise OutputError(
                f"the network returns an object of type {type(value).__name__}, which may hide "
                "tensors; return tensors, or lists, dicts or dataclasses of them"
            )
        for key, item in items or ():
            yield from tensors_in(item, (*path, key), known_only=known_only)


def _is_plain(value: Any) -> bool:
    """Tell whether a value holds no tensor."""
    import torch

    kinds = (Number, str, bytes, Enum, torch.dtype, torch.device)
    return value is None or isinstance(value, kinds)


def _items(value: Any) -> list[tuple[str, Any]] | None:
    """List what a container holds, by name; None for what is no known container."""
    if isinstance(value, Mapping):
        return [(str(key), item) for key, item in value.items()]
    if isinstance(value, Sequence):
        named = isinstance(value, tuple) and hasattr(value, "_fields")
        names: Sequence[Any] = value._fields if named else range(len(value))  # type: ignore[attr-defined]
        return [(str(name), item) for name, item in zip(names, value, strict=True)]
    if is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in fields(value)]
    return None


def pair_up(expected: Any, found: Any) -> list[Pair]:
    """Put the tensors of two results side by side.

    Results with the same keys are paired by them, others in their order.

    Args:
        expected: what a network returned.
        found: what the other returned.

    Raises:
        OutputError: one has no tensors, or their number, shapes or types differ.
    """
    first, second = find_tensors(expected), find_tensors(found)
    if len(first) != len(second):
        raise OutputError(
            f"the networks' outputs differ: {_count(first)} and {_count(second)}; "
            "compare networks that return the same outputs"
        )
    others = {output.place: output.tensor for output in second}
    if {output.place for output in first} != set(others):
        others = {one.place: other.tensor for one, other in zip(first, second, strict=True)}
    pairs = [Pair(place, tensor, others[place]) for place, tensor in first]
    for pair in pairs:
        _check_alike(pair)
    if not any(pair.expected.numel() for pair in pairs):
        raise OutputError("the network's outputs are empty, so there is nothing to compare")
    return pairs


def _check_alike(pair: Pair) -> None:
    where = f" at {pair.place}" if pair.place else ""
    shapes = tuple(pair.expected.shape), tuple(pair.found.shape)
    if shapes[0] != shapes[1]:
        raise OutputError(
            f"the networks' outputs differ in shape{where}: {shapes[0]} and {shapes[1]}"
        )
    if pair.expected.dtype != pair.found.dtype:
        raise OutputError(
            f"the networks' outputs differ in type{where}: {_type(pair.expected)} and "
            f"{_type(pair.found)}"
        )


def relative_difference(expected: Any, found: Any) -> float:
    """Give the largest difference of an output relative to the largest magnitude of its tensor.

    The largest over all tensors; infinite where a value is not finite.

    Raises:
        OutputError: as :func:`pair_up`.
    """
    import torch

    worst = 0.0
    for _, one, other in pair_up(expected, found):
        one, other = as_numbers(one), as_numbers(other)
        if one.numel():
            scale = one.abs().max().clamp(min=torch.finfo(torch.float32).tiny)
            here = float((one - other).abs().max() / scale)
            worst = max(worst, float("inf") if isnan(here) else here)
    return worst


def as_numbers(tensor: Tensor) -> Tensor:
    """Give a tensor in float64; complex numbers as their two parts, on a further axis."""
    import torch

    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    if tensor.is_complex():
        tensor = torch.view_as_real(tensor.resolve_conj())
    return tensor.double()


def find_scores(outputs: Any) -> Tensor | None:
    """Give the tensor of class scores where it is clear which one that is, else None.

    It is clear where there is one tensor only, or one under a key of :data:`SCORES`.

    Raises:
        OutputError: as :func:`find_tensors`.
    """
    found = find_tensors(outputs)
    if len(found) == 1:
        return found[0].tensor
    for key in SCORES:
        named = [tensor for place, tensor in found if place.rpartition(".")[2] == key]
        if len(named) == 1:
            return named[0]
    return None


def choose_output(outputs: Any, name: str) -> Tensor:
    """Give the tensor of a name in what a network returns.

    Args:
        outputs: what it returned. Of a list with one entry for each image, as detectors return,
            the tensors of this name are stacked.
        name: the whole place, such as ``heads.0.logits``, or the end of it, such as ``logits``,
            where one tensor alone has it.

    Raises:
        OutputError: none has it, several have it, or they differ in shape from image to image.
    """
    import torch

    found = find_tensors(outputs)
    if name in (whole := {output.place: output.tensor for output in found}):
        return whole[name]
    named = [output for output in found if output.place.endswith(f".{name}")]
    if len(named) == 1:
        return named[0].tensor
    if not named:
        raise OutputError(
            f"the network returns no output {name!r} but {_count(found)}; "
            "choose one with `output_name`"
        )
    if [output.place for output in named] != [f"{k}.{name}" for k in range(len(named))]:
        raise OutputError(
            f"the network returns several outputs {name!r} ({_list_places(named)}); "
            "give the whole name in `output_name`"
        )
    if len({output.tensor.shape for output in named}) > 1:
        raise OutputError(
            f"the output {name!r} differs in shape from image to image; "
            f"choose that of one with `output_name` {named[0].place}"
        )
    return torch.stack([output.tensor for output in named])


def look_at(network: nn.Module, name: str) -> None:
    """Let a network return one of its tensors, in place; see :func:`choose_output`."""
    kind: Any = type(network)

    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Tensor:
        return choose_output(kind.forward(self, *args, **kwargs), name)

    network.__class__ = type(kind.__name__, (kind,), {"forward": forward})


def class_scores(outputs: Any) -> Tensor:
    """Give the class scores in what a network returns, ``(images, classes)``.

    Raises:
        OutputError: it is not clear which tensor that is, or it has another form.
    """
    scores = _need_scores(outputs, "class scores")
    if scores.ndim != 2 or not scores.is_floating_point():
        raise OutputError(
            f"the network gives outputs of shape {tuple(scores.shape)} ({_type(scores)}), "
            "and class scores (images, classes) are needed"
        )
    return scores


def pixel_scores(outputs: Any) -> Tensor:
    """Give the scores of every pixel in what a network returns.

    They are ``(images, classes, rows, columns)``. An output ``(images, rows, columns)`` gets an
    axis of one class.

    Raises:
        OutputError: it is not clear which tensor that is, or it has another form.
    """
    scores = _need_scores(outputs, "scores of the pixels")
    if scores.ndim == 3:
        scores = scores[:, None]
    if scores.ndim != 4 or not scores.is_floating_point():
        raise OutputError(
            f"the network gives outputs of shape {tuple(scores.shape)} ({_type(scores)}), and "
            "masks need scores of every pixel (images, classes, height, width)"
        )
    return scores


def _need_scores(outputs: Any, what: str) -> Tensor:
    scores = find_scores(outputs)
    if scores is None:
        raise OutputError(
            f"the network returns {_count(find_tensors(outputs))}, and none is named 'logits' "
            f"or 'out'; choose the {what} with `output_name`"
        )
    return scores


SIGMOID, SOFTMAX, LOG_SOFTMAX = "sigmoid", "softmax", "log-softmax"
_ENDINGS = {
    "sigmoid": SIGMOID,
    "sigmoid_": SIGMOID,
    "softmax": SOFTMAX,
    "_softmax": SOFTMAX,
    "log_softmax": LOG_SOFTMAX,
    "_log_softmax": LOG_SOFTMAX,
}
_LAST = 8


class Endings:
    """Records, inside the block, which tensors are the results of a sigmoid or a softmax."""

    def __enter__(self) -> Endings:
        from collections import deque

        from torch.utils._python_dispatch import TorchDispatchMode

        kept: deque[tuple[str, Any]] = deque(maxlen=_LAST)

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(
                self, func: Any, types: Any, args: Any = (), kwargs: Any = None
            ) -> Any:
                found = func(*args, **(kwargs or {}))
                name = func.overloadpacket.__name__
                if name in _ENDINGS:
                    kept.append((_ENDINGS[name], found))
                return found

        self._kept, self._mode = kept, Watch()
        self._mode.__enter__()
        return self

    def __exit__(self, *problem: Any) -> None:
        self._mode.__exit__(*problem)

    def of(self, tensor: Tensor) -> str:
        """Give the name of the operator that made a tensor, or nothing."""
        place = tensor.untyped_storage().data_ptr()
        for name, found in reversed(self._kept):
            if found.untyped_storage().data_ptr() == place and found.numel() == tensor.numel():
                return name
        return ""


def _count(found: Sequence[Output]) -> str:
    """Say how many tensors there are, and where."""
    if len(found) == 1:
        return "1 tensor"
    return f"{len(found)} tensors ({_list_places(found)})"


def _list_places(found: Sequence[Output]) -> str:
    places = [output.place for output in found]
    return ", ".join(places[:_NAMED]) + (", ..." if len(places) > _NAMED else "")


def _type(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


_IMAGES = 2


def output_difference(one: nn.Module, other: nn.Module, size: tuple[int, ...]) -> float:
    """Give ``||other - one|| / ||one||`` of the outputs for random images, in float64.

    Networks that convert to float32 on their way are compared in float32.

    Args:
        one: a network; left as it is.
        other: the network to compare with it; left as it is.
        size: of an image, (channels, height, width).

    Returns:
        The largest over the tensors that the networks return; infinite where a value is not finite.

    Raises:
        OutputError: their outputs cannot be compared.
    """
    import torch

    try:
        return _difference(one, other, size, torch.float64)
    except RuntimeError:
        return _difference(one, other, size, torch.float32)


def _difference(
    one: nn.Module, other: nn.Module, size: tuple[int, ...], dtype: torch.dtype
) -> float:
    import torch

    generator = torch.Generator().manual_seed(0)
    images = torch.randn((_IMAGES, *size), generator=generator, dtype=torch.float64).to(dtype)
    worst = 0.0
    with torch.inference_mode():
        before, after = (deepcopy(model).to(dtype).eval()(images) for model in (one, other))
        for pair in pair_up(before, after):
            first, second = as_numbers(pair.expected), as_numbers(pair.found)
            tiny = torch.finfo(first.dtype).tiny
            here = float((second - first).norm() / first.norm().clamp(min=tiny))
            worst = max(worst, inf if isnan(here) else here)
    return worst
