"""Give a network other activations: ReLU, Leaky ReLU, or ReLU with ProxyGrad."""

from __future__ import annotations

from dataclasses import replace

from filtersurgeon.checkpoint import Checkpoint, HistoryEntry
from filtersurgeon.errors import ArchitectureError
from filtersurgeon.rectifiers.kinds import check_kind

DEFAULT_SLOPE = 0.1


def convert(checkpoint: Checkpoint, *, activation: str, slope: float = DEFAULT_SLOPE) -> Checkpoint:
    """Replace the activations of a network by rectifiers; no tensor changes.

    Rectifiers (ReLU, ReLU6, Leaky ReLU) and smooth activations (GELU, SiLU, ...) are replaced, a
    cap such as that of ReLU6 stays, and so do gates. What takes the place of what is in the
    checkpoint's ``structure``, which ``build`` follows. Source of ProxyGrad: Linse, *Towards
    Understanding CNNs Through Visualization and Systematic Simplification*, 2025, section 5.4.

    Args:
        checkpoint: the network.
        activation: ``relu``; ``leaky-relu``, which leaks in both passes; or ``proxygrad``, which
            leaks in the backward pass only.
        slope: below zero, 0 to 1; ``relu`` has none.

    Returns:
        A checkpoint with the same tensors.

    Raises:
        OptionError: an unknown activation, or a slope that is none.
        ArchitectureError: the network cannot be built, or has no activation to replace.
    """
    check_kind(activation, slope)
    slope = 0.0 if activation == "relu" else slope
    functions = _calls_functions(checkpoint)
    edit = {"edit": "activation", "kind": activation, "slope": slope, "functions": functions}
    kept = [x for x in checkpoint.structure if x.get("edit") != "activation"]
    options = {"activation": activation, **({"slope": slope} if slope else {})}
    edited = checkpoint.edited(HistoryEntry("convert", options), {}, "")
    return replace(edited, structure=(*kept, edit))


def _calls_functions(checkpoint: Checkpoint) -> bool:
    """Tell whether activations are called as functions, by running the network once."""
    import torch

    from filtersurgeon.learn.networks import open_network
    from filtersurgeon.rectifiers.swap import calls_functions, swap_modules

    network = open_network(checkpoint)
    size = network.preprocessing.input_size or (network.preprocessing.channels, 224, 224)
    if calls_functions(network.model, torch.zeros((1, *size))):
        return True
    if not swap_modules(network.model, "relu", 0.0):
        raise ArchitectureError(f"{checkpoint.name} has no activation that could be replaced")
    return False
