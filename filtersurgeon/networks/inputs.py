"""What a network is called with: the size of one image, or several inputs by name.

Several inputs are stored in a checkpoint's metadata, so that they are stated once. Whatever runs
the network then gives it one of them, the image, and the others as they are.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeAlias

from filtersurgeon.checkpoint.checkpoint import Checkpoint
from filtersurgeon.checkpoint.documents import parse_json
from filtersurgeon.errors import CheckpointError, OptionError
from filtersurgeon.networks.arguments import describe_mismatch
from filtersurgeon.networks.in_memory import InMemory, Inputs, bind

if TYPE_CHECKING:
    from torch import nn

INPUTS = "inputs"
"""Key of the metadata that describes several inputs."""

DTYPES = ("float32", "float64", "float16", "bfloat16", "int64", "int32", "int16", "int8", "uint8",
          "bool")  # fmt: skip
_LARGEST = 1 << 31

InputSize: TypeAlias = str | Sequence[int] | Sequence[str] | Mapping[str, Any]
"""A size, ``(3, 224, 224)`` or ``"3,224,224"``; or sizes by name, ``{"image": (3, 224, 224)}`` or
``["image=3,224,224", "age=1:float32"]``."""


@dataclass(frozen=True)
class Input:
    """One input of a network.

    Attributes:
        name: of the argument; empty for a positional one. A point leads into a dict that is the
            argument: ``batch.image``.
        size: without the axis of the batch.
        dtype: as torch calls it.
    """

    name: str
    size: tuple[int, ...]
    dtype: str = "float32"

    @property
    def is_real(self) -> bool:
        """Whether it holds real numbers, as images do."""
        return "float" in self.dtype


class Called(str):
    """The name of an architecture, and what its network is called with.

    Attributes:
        inputs: all of them.
    """

    inputs: tuple[Input, ...]

    @property
    def size(self) -> tuple[int, ...]:
        """Size of the image without the axis of the batch."""
        return find_image(self.inputs).size


def read_inputs(given: InputSize) -> tuple[Input, ...]:
    """Read the sizes and types of a network's inputs.

    Raises:
        OptionError: they are written in another way, or none holds real numbers.
    """
    if isinstance(given, Mapping):
        words = [f"{name}={_as_word(size)}" for name, size in given.items()]
    elif isinstance(given, str):
        words = given.split()
    elif given and all(isinstance(item, str) for item in given):
        words = [part for item in given for part in str(item).split()]
    else:
        words = [_as_word(given)]
    found = tuple(map(_read_input, words))
    names = [one.name for one in found if one.name]
    if len(set(names)) < len(names) or any(
        other.startswith(f"{name}.") for name in names for other in names
    ):
        raise OptionError(f"`input_size` {' '.join(words)} names an input twice")
    if not found or not any(one.is_real for one in found):
        raise OptionError("`input_size` should name an input of real numbers, such as 3,224,224")
    return found


def _as_word(size: Any) -> str:
    return size if isinstance(size, str) else ",".join(map(str, size))


def _read_input(word: str) -> Input:
    name, equals, rest = word.rpartition("=")
    size, colon, dtype = rest.partition(":")
    parts = size.split(",")
    known = dtype in DTYPES if colon else True
    named = not equals or all(part.isidentifier() or part.isdecimal() for part in name.split("."))
    counts = [part.strip() for part in parts]
    right = all(part.isascii() and part.isdecimal() and len(part) < 10 for part in counts)
    if not right or not known or not named or not 0 < _volume(counts) < _LARGEST:
        raise OptionError(
            f"`input_size` {word[:60]} should read C,H,W, such as 3,224,224, or NAME=SIZE:TYPE, "
            f"such as age=1:float32 (types: {', '.join(DTYPES[:6])}, ...)"
        )
    return Input(name, tuple(map(int, counts)), dtype or "float32")


def _volume(counts: Sequence[str]) -> int:
    whole = 1
    for part in counts:
        whole *= int(part)
    return whole


def find_image(inputs: Sequence[Input]) -> Input:
    """Give the input that is varied: of those with real numbers the first with the most axes."""
    return max((one for one in inputs if one.is_real), key=lambda one: len(one.size))


def with_input_size(checkpoint: Checkpoint, given: InputSize) -> Checkpoint:
    """State what a checkpoint's network is called with; it is stored with the checkpoint.

    Raises:
        OptionError: as :func:`read_inputs`.
    """
    inputs = read_inputs(given)
    image = find_image(inputs)
    cfg = {**(checkpoint.pretrained_cfg or {}), "input_size": list(image.size)}
    rest = {key: text for key, text in checkpoint.annotations.items() if key != INPUTS}
    if inputs != (Input("", image.size),):
        rows = [[one.name, list(one.size), one.dtype] for one in inputs]
        rest[INPUTS] = json.dumps(rows)
    return replace(checkpoint, pretrained_cfg=cfg, annotations=rest)


def stored_inputs(checkpoint: Checkpoint) -> tuple[Input, ...]:
    """Give the inputs that a checkpoint states by name; none for one image.

    Raises:
        CheckpointError: the metadata holds something else.
    """
    text = checkpoint.annotations.get(INPUTS)
    if text is None:
        return ()
    try:
        rows = parse_json(text)
        return read_inputs([f"{'=' * bool(n)}".join((n, f"{_as_word(s)}:{t}")) for n, s, t in rows])
    except (ValueError, TypeError, OptionError):
        raise CheckpointError(f"{checkpoint.name} has corrupt metadata: {INPUTS}") from None


def with_inputs(architecture: str, checkpoint: Checkpoint) -> str:
    """Give an architecture that carries the inputs of a checkpoint, if it states several."""
    inputs = () if isinstance(architecture, InMemory | Called) else stored_inputs(checkpoint)
    if not inputs:
        return architecture
    called = Called(architecture)
    called.inputs = inputs
    return called


def call_with(network: nn.Module, inputs: Sequence[Input]) -> nn.Module:
    """Let a network take one image, in place, and its other inputs as they are.

    The others are drawn once: normal numbers, zeros for whole numbers, and true.

    Raises:
        OptionError: its ``forward`` takes other arguments.
    """
    import torch

    generator = torch.Generator().manual_seed(0)
    image: torch.Tensor | None = None
    args: list[torch.Tensor] = []
    kwargs: dict[str, Any] = {}
    for one in inputs:
        shape, dtype = (1, *one.size), getattr(torch, one.dtype)
        if one.is_real:
            made = torch.randn(shape, generator=generator).to(dtype)
        else:
            made = torch.full(shape, one.dtype == "bool", dtype=dtype)
        if one is find_image(inputs):
            image = made
        first, *deeper = one.name.split(".")
        if not one.name:
            args.append(made)
            continue
        place: dict[str, Any] = kwargs
        for part in deeper:
            place = place.setdefault(first, {})
            first = part
        place[first] = made
    assert image is not None
    if unmet := describe_mismatch(network.forward, len(args), kwargs):
        raise OptionError(
            f"the forward of {type(network).__name__} {unmet}; name each of its inputs in "
            "`input_size`"
        )
    bind(network, Inputs(tuple(args), kwargs, image, batched=True))
    return network
