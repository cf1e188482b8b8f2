"""Give a network other rectifiers: ReLU, Leaky ReLU, or ReLU with ProxyGrad."""

from __future__ import annotations

from torch import nn

from filtersurgeon.errors import CheckpointError
from filtersurgeon.networks.modules.rectifier_kinds import check_kind
from filtersurgeon.networks.modules.rectifiers import swap_calls, swap_modules


def activation(model: nn.Module, *, kind: str, slope: float, functions: bool) -> None:
    """Replace the activations of a network; gates such as sigmoids stay.

    Args:
        model: the network, changed in place.
        kind: ``relu``, ``leaky-relu`` or ``proxygrad``.
        slope: below zero, 0 to 1.
        functions: the network calls activations as functions, which are then met as they are
            called; otherwise layers are exchanged.

    Raises:
        OptionError: an unknown kind, or a slope that is none.
        CheckpointError: the network has no activation layer.
    """
    check_kind(kind, slope)
    if functions:
        swap_calls(model, kind, slope)
    elif not swap_modules(model, kind, slope):
        raise CheckpointError("the structure changes activations, but the network has none")
