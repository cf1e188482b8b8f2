"""``build``: from a checkpoint to the network that runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from filtersurgeon.checkpoint.architecture import resolve
from filtersurgeon.checkpoint.checkpoint import Checkpoint
from filtersurgeon.checkpoint.folder import prefixed
from filtersurgeon.checkpoint.signature import Shapes, adaptable_modules
from filtersurgeon.checkpoint.skeleton import skeleton
from filtersurgeon.errors import ArchitectureError

if TYPE_CHECKING:
    import torch
    from torch import nn

_COUNTER = "num_batches_tracked"


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
    checkpoint.check_unpacked()
    architecture = prefixed(arch) or resolve(checkpoint)
    shapes = {name: stored.shape for name, stored in checkpoint.tensors.items()}
    model = _shaped(architecture, shapes)
    mismatch = _mismatch(model, shapes)
    if mismatch:
        raise ArchitectureError(
            f"{checkpoint.name} does not fit {architecture}: {mismatch}; "
            "choose another --arch or --factory"
        )
    model.load_state_dict(checkpoint.state_dict(), strict=False, assign=True)
    return model.to(device).eval()


def initialised(checkpoint: Checkpoint, n_classes: int | None = None) -> nn.Module:
    """Make a checkpoint's network with parameters as its architecture initialises them.

    Args:
        checkpoint: tells the architecture and the number of input channels.
        n_classes: number of outputs; None for as many as the checkpoint's own.

    Raises:
        ArchitectureError: it is unknown, or cannot have so many classes.
    """
    architecture = resolve(checkpoint)
    shapes = {name: stored.shape for name, stored in checkpoint.tensors.items()}
    options = _adaptations(make(architecture), architecture, shapes)
    if n_classes is not None:
        options["num_classes"] = n_classes
    return skeleton(architecture, on_meta=False, **options)


def fits(architecture: str, shapes: Shapes) -> bool:
    """Tell whether a network has exactly these tensors, its classes and input channels adapted."""
    try:
        return not _mismatch(_shaped(architecture, shapes), shapes)
    except ArchitectureError:
        return False


def make(architecture: str, **options: Any) -> nn.Module:
    """Make a network whose every tensor but its parameters is real.

    Some networks read their parameters' device while they are made, and so end up with buffers on
    the meta device or fail; those are made the ordinary way, with initialised parameters.
    """
    try:
        model = skeleton(architecture, **options)
    except ArchitectureError:
        model = skeleton(architecture, on_meta=False, **options)
    if any(_unreal(module) for module in model.modules()):
        model = skeleton(architecture, on_meta=False, **options)
    return model


def _unreal(module: nn.Module) -> bool:
    import torch

    loose = (value for value in vars(module).values() if isinstance(value, torch.Tensor))
    return any(tensor.is_meta for tensor in (*module.buffers(recurse=False), *loose))


def _shaped(architecture: str, shapes: Shapes) -> nn.Module:
    """Make a network with the number of classes and of input channels that tensors show."""
    model = make(architecture)
    options = _adaptations(model, architecture, shapes)
    try:
        return make(architecture, **options) if options else model
    except ArchitectureError:
        # A function of the user's need not know num_classes; what differs is then described.
        if architecture.startswith("factory:"):
            return model
        raise


def _adaptations(model: nn.Module, architecture: str, shapes: Shapes) -> dict[str, Any]:
    """Find the options that give a network the classes and input channels of some tensors."""
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    if architecture.startswith("factory:"):
        return _factory_classes(own, shapes)
    heads, stems = adaptable_modules(model)
    options = {}
    for option, axis, modules in (("num_classes", 0, heads), ("in_chans", 1, stems)):
        weights = [f"{name}.weight" for name in modules]
        seen = {shapes[name][axis] for name in weights if len(shapes.get(name, ())) > axis}
        if len(seen) == 1 and seen != {own[name][axis] for name in weights if name in own}:
            options[option] = seen.pop()
    if architecture.startswith("torchvision:"):
        options.pop("in_chans", None)
    return options


def _factory_classes(own: Shapes, shapes: Shapes) -> dict[str, int]:
    """Give the number of classes if one layer alone differs, and in its outputs only."""
    differing = [name for name in own if shapes.get(name, own[name]) != own[name]]
    layers = {name.rpartition(".")[0] for name in differing}
    counts = {shapes[name][0] for name in differing if shapes[name]}
    same_inputs = all(shapes[name][1:] == own[name][1:] for name in differing)
    return {"num_classes": counts.pop()} if len(layers) == len(counts) == same_inputs else {}


def _mismatch(model: nn.Module, shapes: Shapes) -> str:
    """Describe the first difference between a network's tensors and those given, or nothing."""
    own = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    missing = [name for name in own if name not in shapes and not name.endswith(_COUNTER)]
    if missing:
        return f"{len(missing)} of its tensors are missing, such as {missing[0]}"
    extra = [name for name in shapes if name not in own]
    if extra:
        return f"it has no tensor {extra[0]} ({len(extra)} such)"
    for name, shape in own.items():
        if name in shapes and shapes[name] != shape:
            return f"{name} has shape {list(shapes[name])} instead of {list(shape)}"
    return ""


def input_size(model: nn.Module, checkpoint: Checkpoint) -> tuple[int, ...]:
    """Give the network's own input size, (channels, height, width); 224x224 if it states none.

    The channels are those of its stem, which a description of other weights may state wrong.
    """
    stems = (f"{name}.weight" for name in adaptable_modules(model)[1])
    channels = next((checkpoint[name].shape[1] for name in stems if name in checkpoint), 3)
    for cfg in (checkpoint.pretrained_cfg, getattr(model, "pretrained_cfg", None)):
        if cfg and cfg.get("input_size"):
            return (channels, *cfg["input_size"][1:])
    return (channels, 224, 224)


def convolution_groups(checkpoint: Checkpoint) -> dict[str, int]:
    """Ask the architecture for the number of groups of every convolution, by module name.

    Raises:
        ArchitectureError: as :func:`build`.
    """
    from torch import nn

    checkpoint.check_unpacked()
    architecture = resolve(checkpoint)
    shapes = {name: stored.shape for name, stored in checkpoint.tensors.items()}
    model = _shaped(architecture, shapes)
    mismatch = _mismatch(model, shapes)
    if mismatch:
        raise ArchitectureError(f"{checkpoint.name} does not fit {architecture}: {mismatch}")
    return {
        name: module.groups
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d)
    }
