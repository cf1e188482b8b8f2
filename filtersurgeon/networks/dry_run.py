"""Running a network without data, to check that its tensors go together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from filtersurgeon.checkpoint.checkpoint import Checkpoint
from filtersurgeon.checkpoint.naming import is_factory
from filtersurgeon.errors import ArchitectureError, OutputError, ran_out_of_memory
from filtersurgeon.networks.failing import (
    about_sizes,
    looks_at_values,
    reason,
    unlogged,
)
from filtersurgeon.networks.fitting import input_size
from filtersurgeon.networks.outputs import find_tensors
from filtersurgeon.networks.restoring import restore_attributes

if TYPE_CHECKING:
    from torch import Tensor, nn


def call(model: nn.Module, tensors: Mapping[str, Tensor], *inputs: Any) -> Any:
    """Run a network with some of its parameters and buffers exchanged.

    A tensor that has several names, because modules share it or because a module stands in several
    places, is exchanged under all of them by any. (``torch.func.functional_call`` leaves exchanged
    tensors behind in a module that stands in several places.)

    What the network remembers of the run is forgotten, as it belongs to the exchanged tensors.

    Args:
        model: the network; as it was in the end.
        tensors: by name.
        inputs: what the network is called with.
    """
    own: dict[str, Tensor] = dict(model.named_buffers(remove_duplicate=False))
    own.update(model.named_parameters(remove_duplicate=False))
    others = {id(own[name]): tensor for name, tensor in tensors.items()}
    undo: list[tuple[dict[str, Any], dict[str, Any]]] = []
    try:
        for module in model.modules():
            holders: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for holder in holders:
                undo.append((holder, dict(holder)))
                holder.update({k: others[id(t)] for k, t in holder.items() if id(t) in others})
        with restore_attributes(model):
            return model(*inputs)
    finally:
        for holder, before in undo:
            holder.update(before)


_ROOM = 90
"""Characters of what an operator raised."""
SIDES = (224, 32, 28, 64, 96, 128, 160, 192, 256, 299, 384, 16, 48, 112, 227, 512)
"""Heights and widths to try where nothing states what a network takes."""
_LARGEST = 1 << 27
"""Elements of a tensor, of one image, from which a smaller image is taken if no size is stated."""


def likely_sizes(model: nn.Module, checkpoint: Checkpoint) -> list[tuple[int, ...]]:
    """List sizes of inputs, (channels, height, width), of which a network takes at least one.

    Networks that begin with a convolution along one axis, or three, get as many sides.
    """
    channels, *sides = input_size(model, checkpoint)
    cfgs = (checkpoint.pretrained_cfg, getattr(model, "pretrained_cfg", None))
    in_memory = getattr(checkpoint.architecture, "size", None) is not None
    if in_memory or any(cfg and cfg.get("input_size") for cfg in cfgs):
        return [(channels, *sides)]
    return [(channels, *(side for _ in sides)) for side in SIDES]


def find_size(model: nn.Module, checkpoint: Checkpoint) -> tuple[int, ...]:
    """Give the size of a network's input, (channels, height, width), or find a usual one.

    Where a factory of the user's makes the network and nothing states the size, it is the first of
    the usual ones that the layers take, and with which no tensor is very large.

    Raises:
        ArchitectureError: the layers take none of them.
    """
    sizes = likely_sizes(model, checkpoint)
    if sizes[1:] and is_factory(checkpoint.architecture):
        try:
            return check_runs(model, _large_last(model, sizes))
        except ArchitectureError as error:
            cause = error.__cause__
            if cause is not None and about_sizes(cause):
                raise ArchitectureError(
                    f"{checkpoint.name} takes no image of a usual size ({reason(cause, _ROOM)}); "
                    "state its size with `input_size`"
                ) from cause
    return sizes[0]


def check_runs(
    model: nn.Module,
    sizes: Iterable[tuple[int, ...]],
    unsure: list[tuple[int, ...]] | None = None,
) -> tuple[int, ...]:
    """Run a network on shapes alone, or on random numbers if it looks at the values of tensors.

    Args:
        model: the network; its parameters need no data.
        sizes: of inputs, (channels, height, width); one that works is enough.
        unsure: takes a size with which the network runs up to where it looks at values, because its
            parameters have no data.

    Returns:
        The first size that works.

    Raises:
        ArchitectureError: an operator does not take what it is given.
        OutputError: the network has no such output as was chosen.
    """
    unsure = [] if unsure is None else unsure
    first: Exception | None = None
    for size in sizes:
        failure = _failure(model, size, unsure)
        if failure is None:
            return size
        first = first or failure
    assert first is not None  # there is a size
    what = "its layers do not go together" if about_sizes(first) else "it fails on an image"
    raise ArchitectureError(f"{what}: {reason(first, _ROOM)}") from first


def output_shapes(model: nn.Module, size: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Give the shapes of all that a network gives for one image, (channels, height, width)."""
    return [tuple(tensor.shape) for _, tensor in find_tensors(run_without_data(model, size))]


def run_without_data(model: nn.Module, size: Sequence[int]) -> Any:
    """Run a network on the shape of one image, (channels, height, width); give its outputs.

    Hooks are called as in any run. An error is that of the network's own code. The image is of the
    type of the parameters; where they are of several, all is float32, as for any data.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    training = model.training
    types = _types(model)
    dtype = types.pop() if len(types) == 1 else torch.float32
    # Some networks hold constants that are no buffers; those stay real.
    with unlogged(), FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
        shaped = {
            name: torch.empty(t.shape, dtype=dtype if types and t.is_floating_point() else t.dtype)
            for name, t in (*model.named_parameters(), *model.named_buffers())
        }
        try:
            return call(model.eval(), shaped, torch.empty((1, *size), dtype=dtype))
        finally:
            model.train(training)


def _large_last(model: nn.Module, sizes: Sequence[tuple[int, ...]]) -> Iterator[tuple[int, ...]]:
    """Yield sizes, at the end those with which a network makes a very large tensor.

    A size is tried when its turn comes, up to where the network fails.
    """
    from filtersurgeon.networks.tensor_limit import TensorLimit

    late = []
    for size in sizes:
        with TensorLimit(_LARGEST) as limit, suppress(Exception):
            run_without_data(model, size)
        if limit.exceeded:
            late.append(size)
        else:
            yield size
    yield from late


def _failure(
    model: nn.Module, size: tuple[int, ...], unsure: list[tuple[int, ...]]
) -> Exception | None:
    """Give what a network raises, or None if it runs."""
    try:
        run_without_data(model, size)
    except OutputError:
        raise
    except Exception as problem:  # whatever the network's own code raises
        if ran_out_of_memory(problem):
            raise
        if not looks_at_values(problem):
            return problem
        if has_data(model):
            return _failure_on_numbers(model, size)
        unsure.append(size)
    return None


def has_data(model: nn.Module) -> bool:
    """Tell whether all parameters and buffers of a network have data."""
    return not any(tensor.is_meta for tensor in (*model.parameters(), *model.buffers()))


def _failure_on_numbers(model: nn.Module, size: tuple[int, ...]) -> Exception | None:
    """Give what a network raises for a random image, or None if it runs."""
    import torch

    training, dtype = model.training, next(iter(_types(model)), torch.float32)
    image = torch.randn((1, *size), generator=torch.Generator().manual_seed(0))
    own = (*model.named_parameters(), *model.named_buffers())
    several = len(_types(model)) > 1
    same = {name: t.float() for name, t in own if several and t.is_floating_point()}
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            call(model.eval(), same, image if several else image.to(dtype))
    except OutputError:
        raise
    except Exception as problem:  # whatever the network's own code raises
        if ran_out_of_memory(problem):
            raise
        return problem
    finally:
        model.train(training)
    return None


def _types(model: nn.Module) -> set[Any]:
    return {p.dtype for p in model.parameters() if p.is_floating_point()}
