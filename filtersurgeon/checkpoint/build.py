"""``build``: from a checkpoint to the network that runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from filtersurgeon.checkpoint.architecture import resolve
from filtersurgeon.checkpoint.checkpoint import Checkpoint
from filtersurgeon.checkpoint.fitting import adaptations, adapted, mismatch, shapes_of
from filtersurgeon.checkpoint.folder import prefixed
from filtersurgeon.checkpoint.loading import load_tensors
from filtersurgeon.checkpoint.skeleton import make, skeleton
from filtersurgeon.errors import ArchitectureError

if TYPE_CHECKING:
    import torch
    from torch import nn


def build(
    checkpoint: Checkpoint, *, arch: str | None = None, device: str | torch.device = "cpu"
) -> nn.Module:
    """Make the network of a checkpoint and load its tensors.

    Args:
        checkpoint: the tensors.
        arch: the architecture, if the checkpoint neither states it nor shows it.
        device: where to put the network.

    Returns:
        The network in evaluation mode, with the stored types.

    Raises:
        ArchitectureError: the architecture is unknown, ambiguous, or has other tensors.
    """
    model = _shaped(checkpoint, arch)
    load_tensors(model, checkpoint)
    return model.to(device).eval()


def _shaped(checkpoint: Checkpoint, arch: str | None = None) -> nn.Module:
    """Make a network with a checkpoint's shapes, its parameters on the meta device."""
    checkpoint.check_unpacked()
    architecture = prefixed(arch) or resolve(checkpoint)
    shapes = shapes_of(checkpoint)
    model = adapted(architecture, shapes)
    difference = mismatch(model, shapes)
    if difference:
        raise ArchitectureError(
            f"{checkpoint.name} does not fit {architecture}: {difference}; "
            "choose another --arch or --factory"
        )
    return model


def initialised(checkpoint: Checkpoint, n_classes: int | None = None) -> nn.Module:
    """Make a checkpoint's network with parameters as its architecture initialises them.

    Args:
        checkpoint: tells the architecture and the number of input channels.
        n_classes: number of outputs; None for as many as the checkpoint's own.

    Raises:
        ArchitectureError: it is unknown, or cannot have so many classes.
    """
    architecture = resolve(checkpoint)
    options = adaptations(make(architecture), architecture, shapes_of(checkpoint))
    if n_classes is not None:
        options["num_classes"] = n_classes
    return skeleton(architecture, on_meta=False, **options)


def convolution_groups(checkpoint: Checkpoint) -> dict[str, int]:
    """Ask the architecture for the number of groups of every convolution, by module name.

    Raises:
        ArchitectureError: as :func:`build`.
    """
    from torch import nn

    model = _shaped(checkpoint)
    return {
        name: module.groups
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    }
