"""Whether a network has given tensors once classes and input channels are adapted; loading them."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from typing import TYPE_CHECKING, Any

from filtersurgeon.checkpoint.checkpoint import Checkpoint
from filtersurgeon.checkpoint.naming import is_factory
from filtersurgeon.errors import ArchitectureError
from filtersurgeon.networks.signature import Shapes, adaptable_modules, find_stem, stem_channels
from filtersurgeon.networks.skeleton import make
from filtersurgeon.networks.structure.plain_weights import refresh

if TYPE_CHECKING:
    from torch import nn

_COUNTER = "num_batches_tracked"


def shapes_of(tensors: Checkpoint | nn.Module) -> dict[str, tuple[int, ...]]:
    """Give the shape of every tensor of a checkpoint or a network."""
    named = tensors.tensors if isinstance(tensors, Checkpoint) else tensors.state_dict()
    return {name: tuple(tensor.shape) for name, tensor in named.items()}


def fits(architecture: str, shapes: Shapes) -> bool:
    """Tell whether a network has exactly these tensors, its classes and input channels adapted."""
    try:
        return not mismatch(adapt(architecture, shapes), shapes)
    except ArchitectureError:
        return False


def adapt(architecture: str, shapes: Shapes) -> nn.Module:
    """Make a network with the number of classes and of input channels that tensors show."""
    model = make(architecture)
    options = adaptations(model, architecture, shapes)
    try:
        return make(architecture, **options) if options else model
    except ArchitectureError:
        # A function of the user's need not know num_classes; what differs is then described.
        if is_factory(architecture):
            return model
        raise


def adaptations(model: nn.Module, architecture: str, shapes: Shapes) -> dict[str, Any]:
    """Find the options that give a network the classes and input channels of some tensors."""
    own = shapes_of(model)
    if is_factory(architecture):
        return _factory_classes(own, shapes)
    if architecture.startswith("transformers:"):
        return {}  # its configuration states them
    heads, stems = adaptable_modules(model)
    options = {}
    for option, count, modules in (
        ("num_classes", _classes, heads),
        ("in_chans", stem_channels, stems),
    ):
        seen = {found for name in modules if (found := count(shapes, name)) is not None}
        if len(seen) == 1 and seen != {count(own, name) for name in modules} - {None}:
            options[option] = seen.pop()
    if architecture.startswith("torchvision:"):
        options.pop("in_chans", None)
    elif heads and not any(name.startswith(tuple(f"{x}." for x in heads)) for name in shapes):
        options["num_classes"] = 0
    return options


def _classes(shapes: Shapes, head: str) -> int | None:
    weight = shapes.get(f"{head}.weight", ())
    return weight[0] if weight else None


def _factory_classes(own: Shapes, shapes: Shapes) -> dict[str, int]:
    """Give the number of classes if one layer alone differs, and in its outputs only."""
    differing = [name for name in own if shapes.get(name, own[name]) != own[name]]
    layers = {name.rpartition(".")[0] for name in differing}
    counts = {shapes[name][0] for name in differing if shapes[name]}
    same_inputs = all(shapes[name][1:] == own[name][1:] for name in differing)
    return {"num_classes": counts.pop()} if len(layers) == len(counts) == same_inputs else {}


def mismatch(model: nn.Module, shapes: Shapes) -> str:
    """Describe the first difference between a network's tensors and those given, or nothing."""
    return name_mismatch(model, shapes) or _shape_mismatch(shapes_of(model), shapes)


def name_mismatch(model: nn.Module, shapes: Shapes) -> str:
    """Describe the first difference in the names of tensors, or nothing."""
    own = model.state_dict()
    missing = [name for name in own if name not in shapes and not name.endswith(_COUNTER)]
    if missing:
        return f"{len(missing)} tensors are missing, such as {missing[0]}"
    extra = [name for name in shapes if name not in own]
    if extra:
        return f"it has no tensor {extra[0]} ({len(extra)} such)"
    return ""


def _shape_mismatch(own: Shapes, shapes: Shapes) -> str:
    for name, shape in own.items():
        if name in shapes and shapes[name] != shape:
            return f"{name} has shape {list(shapes[name])} instead of {list(shape)}"
    return ""


def first_convolution(model: nn.Module) -> Any:
    """Give the convolution that reads the image, or the module in its place, or None."""
    from torch.nn.modules.conv import _ConvNd

    from filtersurgeon.networks.modules.predefined import PredefinedFilterModule

    kinds = (_ConvNd, PredefinedFilterModule)
    name = find_stem(model, kinds)
    return None if name is None else model.get_submodule(name)


def input_size(model: nn.Module, checkpoint: Checkpoint) -> tuple[int, ...]:
    """Give the network's own input size, (channels, height, width); 224x224 if it states none.

    The channels are those of its stem, which a description of other weights may state wrong. A
    network that begins with a convolution along one axis, or three, has as many sides.
    """
    known: tuple[int, ...] | None = getattr(checkpoint.architecture, "size", None)
    if known is not None:  # of a module in memory
        return known
    shapes = shapes_of(checkpoint)
    counts = (stem_channels(shapes, name) for name in adaptable_modules(model)[1])
    channels = next((count for count in counts if count is not None), None)
    for cfg in (checkpoint.pretrained_cfg, getattr(model, "pretrained_cfg", None)):
        if cfg and cfg.get("input_size"):
            stated, *sides = cfg["input_size"]
            # A stem behind a space-to-depth step reads 4 or 16 times the channels of the image.
            folded = channels in (4 * stated, 16 * stated)
            return (stated if folded or channels is None else channels, *sides)
    first = first_convolution(model)
    if first is None:
        return (channels or 3, 224, 224)
    return (channels or first.in_channels, *(224 for _ in first.kernel_size))


def load_tensors(model: nn.Module, checkpoint: Checkpoint) -> None:
    """Put a checkpoint's tensors, with their types, in the place of a network's own.

    Tensors that are one stay one, unless the checkpoint stores different values for them.
    """
    import torch

    tied = _find_tied(model)
    tensors = OrderedDict(checkpoint.state_dict())
    # Some modules ask which version of themselves was saved; files do not tell, shapes do.
    tensors._metadata = model.state_dict()._metadata  # type: ignore[attr-defined]
    model.load_state_dict(tensors, strict=False, assign=True)
    refresh(model)
    for (first_module, first), *others in tied:
        kept = getattr(first_module, first)
        for module, name in others:
            if torch.equal(kept, getattr(module, name)):
                setattr(module, name, kept)


def _find_tied(model: nn.Module) -> list[list[tuple[nn.Module, str]]]:
    """List the places of every parameter and buffer that has more than one."""
    places = defaultdict(list)
    for module in model.modules():
        for name, tensor in (
            *module.named_parameters(recurse=False, remove_duplicate=False),
            *module.named_buffers(recurse=False, remove_duplicate=False),
        ):
            places[id(tensor)].append((module, name))
    return [shared for shared in places.values() if len(shared) > 1]
