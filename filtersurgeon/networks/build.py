"""``build``: make the network of a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from filtersurgeon.checkpoint.checkpoint import Checkpoint
from filtersurgeon.checkpoint.naming import add_prefix, name_of
from filtersurgeon.checkpoint.weight_parts import find_parts
from filtersurgeon.errors import ArchitectureError, CheckpointError
from filtersurgeon.networks.architecture import candidates, resolve
from filtersurgeon.networks.dry_run import check_runs, likely_sizes
from filtersurgeon.networks.fitting import adapt, adaptations, load_tensors, mismatch, shapes_of
from filtersurgeon.networks.in_memory import InMemory
from filtersurgeon.networks.inputs import with_inputs
from filtersurgeon.networks.resizing import follow, restructure
from filtersurgeon.networks.skeleton import make, skeleton
from filtersurgeon.networks.structure.replay import settle_constants

if TYPE_CHECKING:
    import torch
    from torch import nn


def build(
    checkpoint: Checkpoint, *, arch: str | None = None, device: str | torch.device = "cpu"
) -> nn.Module:
    """Build the network of a checkpoint and load its tensors.

    A checkpoint may have other channels than its architecture: what is in its ``structure`` is
    done again, modules take the shapes of their tensors, and a forward pass without data checks
    that they go together. Kernels keep their sizes, and names must agree.

    Args:
        checkpoint: the tensors.
        arch: the architecture, if the checkpoint neither states it nor shows it.
        device: where to put the network.

    Returns:
        The network in evaluation mode, with the stored types.

    Raises:
        ArchitectureError: the architecture is unknown, ambiguous, or has other tensors.
        CheckpointError: it is packed, or its ``structure`` is not one of this network.

    Examples:
        >>> import torch
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet", num_classes=2)
        >>> network = fs.build(checkpoint)
        >>> network(torch.zeros(1, 3, 160, 160)).shape
        torch.Size([1, 2])
    """
    unsure: list[tuple[int, ...]] = []
    model = _make_shaped(checkpoint, arch, unsure)
    load_tensors(model, checkpoint)
    if unsure:
        try:
            check_runs(model, unsure)
        except ArchitectureError as error:
            architecture = add_prefix(arch) or checkpoint.architecture
            raise ArchitectureError(
                f"{checkpoint.name} does not fit {architecture}: {error}; choose another `arch`"
            ) from None
    return model.to(device).eval()


def _make_shaped(
    checkpoint: Checkpoint, arch: str | None = None, unsure: list[tuple[int, ...]] | None = None
) -> nn.Module:
    """Make a network with a checkpoint's shapes, its parameters on the meta device.

    Args:
        checkpoint: the tensors.
        arch: the architecture, if the checkpoint does not state it.
        unsure: see :func:`~filtersurgeon.networks.dry_run.check_runs`.
    """
    checkpoint.check_unpacked()
    named = add_prefix(arch)
    architecture = with_inputs(named, checkpoint) if named else resolve(checkpoint)
    shapes = shapes_of(checkpoint)
    model = adapt(architecture, shapes)
    difference = mismatch(model, shapes)
    if not difference and not checkpoint.structure:
        return model
    _check_whole(checkpoint, model, architecture)
    remedy = _remedy(architecture, set(shapes) < model.state_dict().keys())
    if difference and not (checkpoint.structure or checkpoint.history):
        _check_not_another(checkpoint, architecture, difference)
    try:
        restructure(model, checkpoint.structure, shapes)
        check_runs(model, likely_sizes(model, checkpoint), unsure)
        settle_constants(model)
    except ArchitectureError as error:
        reasons = dict.fromkeys([str(error)] if checkpoint.structure else [difference, str(error)])
        raise ArchitectureError(
            f"{checkpoint.name} does not fit {name_of(architecture)}: {', and '.join(reasons)}; "
            f"{remedy}"
        ) from None
    except CheckpointError as error:
        raise CheckpointError(f"{checkpoint.name}: {error}") from None
    return model


def _remedy(architecture: str, lacking: bool) -> str:
    """Say what to do about tensors that do not fit.

    Args:
        architecture: of the network.
        lacking: whether all that is wrong with them is that some are missing.
    """
    if isinstance(architecture, InMemory):
        return "check the tensors and `example_inputs`"
    return f"{'save its whole state_dict(), or ' * lacking}choose another `arch`"


def _check_whole(checkpoint: Checkpoint, model: nn.Module, architecture: str) -> None:
    """Refuse weights in parts, as under masks of torch, for a network that has them as one."""
    own, parts = model.state_dict(), find_parts(checkpoint.tensors)
    apart = [x for name, x in parts.items() if name in own and not own.keys() & x.names.values()]
    if apart:
        raise ArchitectureError(
            f"{checkpoint.name}: {apart[0].weight} is stored in parts, and "
            f"{name_of(architecture)} has it as one tensor; {apart[0].joining} before saving"
        )


def _check_not_another(checkpoint: Checkpoint, architecture: str, difference: str) -> None:
    """Refuse a network that is another one as it stands, rather than this one made narrower."""
    others = [name for alike in candidates(checkpoint) for name in alike]
    if others:
        raise ArchitectureError(
            f"{checkpoint.name} does not fit {name_of(architecture)}: {difference}; "
            f"pass `arch` {' or '.join(others)}"
        )


def make_initialised(checkpoint: Checkpoint, n_classes: int | None = None) -> nn.Module:
    """Make a checkpoint's network with parameters as its architecture initialises them.

    A pruned network keeps the first of each layer's initial filters, which are drawn alike.

    Args:
        checkpoint: tells the architecture, the number of input channels, and what was changed.
        n_classes: number of outputs; None for as many as the checkpoint's own.

    Raises:
        ArchitectureError: it is unknown, or cannot have so many classes.
    """
    architecture, shapes = resolve(checkpoint), shapes_of(checkpoint)
    reference = adapt(architecture, shapes)
    options = adaptations(make(architecture), architecture, shapes)
    if n_classes is not None:
        options["num_classes"] = n_classes
    model = skeleton(architecture, on_meta=False, **options)
    if checkpoint.structure or mismatch(reference, shapes):
        wanted = follow(shapes_of(model), shapes_of(reference), shapes)
        try:
            restructure(model, checkpoint.structure, wanted)
        except ArchitectureError as error:
            raise ArchitectureError(
                f"{checkpoint.name} does not fit {name_of(architecture)}: {error}"
            ) from None
        if any(tensor.is_meta for tensor in model.state_dict().values()):
            raise ArchitectureError(
                f"{checkpoint.name} is wider than {architecture}, "
                "which does not tell how to initialise it"
            )
        _keep_filters(model, checkpoint)
    return model


def _keep_filters(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Give pre-defined filter modules the checkpoint's filters, which no initialisation makes."""
    import torch

    from filtersurgeon.networks.modules.predefined import BankConvolution

    for name, module in model.named_modules():
        if isinstance(module, BankConvolution):
            with torch.no_grad():
                module.filters.copy_(checkpoint[f"{name}.filters"].torch())
                module.which.copy_(checkpoint[f"{name}.which"].torch())


def convolution_groups(checkpoint: Checkpoint) -> dict[str, int]:
    """Ask the architecture for the number of groups of every convolution, by module name.

    Raises:
        ArchitectureError: as :func:`build`.
    """
    from torch import nn

    model = _make_shaped(checkpoint)
    return {
        name: module.groups
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    }
