"""What torch's exporters need: plain outputs, no messages, and failures in one line."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from inspect import Parameter, signature
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten_with_path, tree_leaves, tree_map_only

from filtersurgeon.errors import FilterSurgeonError, OptionError, ran_out_of_memory
from filtersurgeon.networks.failing import describe_failure, unlogged
from filtersurgeon.networks.in_memory import bound_inputs, unbind
from filtersurgeon.networks.outputs import find_tensors

if TYPE_CHECKING:
    from collections.abc import Sequence


@contextlib.contextmanager
def quietly(what: str) -> Iterator[None]:
    """Keep the block's warnings and prints to itself, and turn its failure into one line.

    Raises:
        OptionError: it failed; names what was tried and the reason.
    """
    try:
        unheard = io.StringIO()
        with (
            unlogged(),
            warnings.catch_warnings(),
            contextlib.redirect_stdout(unheard),
            contextlib.redirect_stderr(unheard),  # programs that torch cannot export are printed
        ):
            warnings.simplefilter("ignore")
            yield
    except FilterSurgeonError:
        raise
    except Exception as error:
        if ran_out_of_memory(error):
            raise
        # Exporters raise what any operator of the network makes them raise.
        raise OptionError(describe_failure(f"torch cannot {what}: ", error)) from error


_KNOWN = (list, tuple, dict, OrderedDict)


class PlainOutputs(nn.Module):
    """A network whose outputs are its tensors: one, or a tuple of them.

    Args:
        model: returns tensors in containers that exporters do not know.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, *inputs: Any) -> Tensor | tuple[Tensor, ...]:
        """Run the network."""
        found = tuple(tensor for _, tensor in find_tensors(self.model(*inputs)))
        return found[0] if len(found) == 1 else found


class SeveralInputs(nn.Module):
    """A network that takes all its tensors one after the other.

    Args:
        model: bound to its inputs, see :func:`~filtersurgeon.networks.in_memory.bind`; changed to
            take them itself again.

    Attributes:
        names: of the tensors: of the argument, or the place in it, such as ``batch.image``.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        inputs = bound_inputs(model)
        assert inputs is not None
        unbind(model)
        self.model, self._inputs = model, inputs
        found, _ = tree_flatten_with_path(inputs.with_image(inputs.image))
        tensors = [(path, value) for path, value in found if isinstance(value, Tensor)]
        arguments = [
            name
            for name, parameter in signature(model.forward).parameters.items()
            if parameter.kind in (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
        ]
        self.names = [_name(path, arguments) for path, _ in tensors]
        self.batched = inputs.batched

    def spread(self, images: Tensor) -> tuple[Tensor, ...]:
        """Give the tensors that it is called with for a batch of images."""
        found = tree_leaves(self._inputs.with_image(images))
        return tuple(x.contiguous() for x in found if isinstance(x, Tensor))

    def forward(self, *tensors: Tensor) -> Any:
        """Run the network."""
        values = iter(tensors)
        given = self._inputs.with_image(self._inputs.image)
        args, kwargs = tree_map_only(Tensor, lambda _: next(values), given)
        return self.model(*args, **kwargs)


def _name(path: Sequence[Any], arguments: Sequence[str]) -> str:
    by_name, first, *deeper = [getattr(key, "key", getattr(key, "idx", "")) for key in path]
    if not by_name:
        place = int(first)
        first = arguments[place] if place < len(arguments) else f"input_{place}"
    return ".".join(map(str, (first, *deeper)))


def plain_outputs(model: nn.Module, *inputs: Tensor) -> nn.Module:
    """Give a network that exporters can write, which is the network itself where they can.

    Args:
        model: in evaluation mode.
        inputs: what it is called with.

    Raises:
        OutputError: it returns no tensors, or hides them in an unknown object.
    """
    with torch.no_grad():
        outputs = model(*inputs)
    find_tensors(outputs)
    return model if _is_known(outputs) else PlainOutputs(model).eval()


def batch_sizes(inputs: Sequence[Tensor], batch: torch.export.Dim | None) -> Any:
    """Say which sizes of inputs of :class:`SeveralInputs`, or of one image, may change."""
    if batch is None:
        return None
    sizes = tuple({0: batch} for _ in inputs)
    return sizes if len(sizes) == 1 else (sizes,)


def _is_known(outputs: Any) -> bool:
    """Tell whether exporters know every container in these outputs, and what else is in them."""
    if outputs is None or isinstance(outputs, Tensor):
        return True
    if type(outputs) not in _KNOWN:
        return False
    items: Sequence[Any] = list(outputs.values() if isinstance(outputs, dict) else outputs)
    return all(map(_is_known, items))
