"""What torch's exporters need: plain outputs, no messages, and failures in one line."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from filtersurgeon.errors import FilterSurgeonError, OptionError, ran_out_of_memory
from filtersurgeon.networks.failing import describe_failure, unlogged
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


def plain_outputs(model: nn.Module, images: Tensor) -> nn.Module:
    """Give a network that exporters can write, which is the network itself where they can.

    Args:
        model: in evaluation mode.
        images: an input.

    Raises:
        OutputError: it returns no tensors, or hides them in an unknown object.
    """
    with torch.no_grad():
        outputs = model(images)
    find_tensors(outputs)
    return model if _is_known(outputs) else PlainOutputs(model).eval()


def _is_known(outputs: Any) -> bool:
    """Tell whether exporters know every container in these outputs, and what else is in them."""
    if outputs is None or isinstance(outputs, Tensor):
        return True
    if type(outputs) not in _KNOWN:
        return False
    items: Sequence[Any] = list(outputs.values() if isinstance(outputs, dict) else outputs)
    return all(map(_is_known, items))
