"""Networks that are ready for data: a module, and the preprocessing that it expects."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.data.labels import imagenet_names
from filtersurgeon.data.preprocess import Preprocessing, read_preprocessing
from filtersurgeon.errors import (
    ArchitectureError,
    CheckpointError,
    DataError,
    FilterSurgeonError,
)
from filtersurgeon.networks.build import build, make_initialised
from filtersurgeon.networks.dry_run import (
    check_runs,
    likely_sizes,
    output_shapes,
    run_without_data,
)
from filtersurgeon.networks.failing import running as running
from filtersurgeon.networks.files import load
from filtersurgeon.networks.fitting import first_convolution, input_size
from filtersurgeon.networks.outputs import OUTPUT, find_scores, look_at
from filtersurgeon.networks.structure.plain_weights import make_all_plain

if TYPE_CHECKING:
    from torch import nn


STATED = {"input_size", "mean", "std", "crop_pct", "crop_mode", "interpolation", "label_names"}
"""Values of a description that options state one by one."""

_IMAGE_AXES = 3
"""Of an image, channels among them."""


@dataclass(frozen=True)
class Network:
    """A network with its preprocessing.

    Attributes:
        name: what messages and tables call it.
        model: the module, in evaluation mode, its parameters in float32.
        preprocessing: what it expects of its inputs.
        n_classes: number of its outputs.
        class_names: what these stand for, if the checkpoint tells.
    """

    name: str
    model: nn.Module
    preprocessing: Preprocessing
    n_classes: int
    class_names: tuple[str, ...] = ()


def open_network(
    checkpoint: Checkpoint,
    preprocess: Mapping[str, Any] | None = None,
    *,
    parts: bool = False,
    any_size: bool = False,
) -> Network:
    """Build a checkpoint's network and find out how to feed it.

    Args:
        checkpoint: the tensors; its ``architecture`` may name a factory.
        preprocess: values that replace those of its ``pretrained_cfg``.
        parts: leave weights in the parts that norms, masks and parametrizations store them in.
        any_size: the inputs need not be images, and are not preprocessed then.

    Raises:
        ArchitectureError: it cannot be built, or is no classifier.
        DataError: the preprocessing contradicts itself, or the network takes no images.
    """
    model = build(checkpoint).float()
    if not parts:
        make_all_plain(model)
    stated, own = checkpoint.pretrained_cfg, getattr(model, "pretrained_cfg", None)
    # Single values that the user stated leave the others as they are.
    cfg = {**own, **stated} if stated and own and set(stated) <= STATED else stated or own
    cfg = dict(cfg or {})
    cfg = {key: value for key, value in cfg.items() if value is not None}
    first = first_convolution(model)
    if not cfg.get("input_size") and first is not None:
        cfg["in_chans"] = first.in_channels
    stated_size = (preprocess or {}).get("input_size") or cfg.get("input_size")
    size = tuple(stated_size or input_size(model, checkpoint))
    if len(size) == _IMAGE_AXES:
        preprocessing = read_preprocessing(cfg, **(preprocess or {}))
    elif any_size:
        preprocessing = _no_preprocessing(size[0])
    else:
        given = ",".join(map(str, size))
        if (preprocess or {}).get("input_size"):
            raise DataError(f"input_size={given} should be channels, height and width: 3,224,224")
        raise DataError(
            f"{checkpoint.name} takes inputs of size {given}, and images have channels, height "
            "and width; check `input_size`"
        )
    classes = _look_at_output(model, checkpoint) or _classes(model, checkpoint, size)
    names = class_names(checkpoint, classes)
    return Network(checkpoint.name, model, preprocessing, classes, names)


def class_names(checkpoint: Checkpoint, n_classes: int) -> tuple[str, ...]:
    """Give the names of a checkpoint's classes, or nothing where it does not tell all of them."""
    names = (checkpoint.pretrained_cfg or {}).get("label_names")
    if not isinstance(names, list | tuple) or len(names) != n_classes:
        return ()
    return tuple(map(str, names))


def output_names(network: Network) -> tuple[str, ...]:
    """Give the names of a network's classes: its checkpoint's, or ImageNet's for as many classes.

    Returns:
        A name for every class, or nothing where they are not known.
    """
    return network.class_names or imagenet_names(network.n_classes)


def _no_preprocessing(channels: int) -> Preprocessing:
    return Preprocessing((0.0,) * channels, (1.0,) * channels, None, 1.0, "center", "bicubic")


def _look_at_output(model: nn.Module, checkpoint: Checkpoint) -> int | None:
    """Let a network return the output that its checkpoint names; give its number of classes.

    Returns:
        The number, where the output has the form of class scores; None where it has not, or where
        no output is named.

    Raises:
        OutputError: the network has no such output.
    """
    if OUTPUT not in checkpoint.annotations:
        return None
    look_at(model, checkpoint.annotations[OUTPUT])
    size = check_runs(model, likely_sizes(model, checkpoint))
    (shape,) = output_shapes(model, size)
    return shape[1] if len(shape) in (2, 4) else None


def network_module(
    source: str,
    digest: str,
    architecture: str | None = None,
    allow_pickle: bool = False,
    folder: str | None = None,
    stated: Mapping[str, str] | None = None,
) -> nn.Module:
    """Build a network from its file; what a worker calls, given words only.

    A factory is looked for in ``folder`` too, for a worker may have been started elsewhere. What
    was ``stated`` of inputs and outputs need not be in the file.
    """
    if folder is not None and folder not in sys.path:
        sys.path.insert(0, folder)
    with load(source, arch=architecture, allow_pickle=allow_pickle) as checkpoint:
        if checkpoint.digest != digest:
            raise CheckpointError(
                f"{source} gives workers other tensors; write it to a .safetensors file first"
            )
        annotations = {**checkpoint.annotations, **(stated or {})}
        model = build(replace(checkpoint, annotations=annotations)).float()
        if OUTPUT in annotations:
            look_at(model, annotations[OUTPUT])
        return model


def fresh_model(checkpoint: Checkpoint, n_classes: int | None, seed: int) -> nn.Module:
    """Make a checkpoint's network as its architecture initialises it.

    Args:
        checkpoint: tells the architecture and the input channels.
        n_classes: number of outputs; None for the checkpoint's own.
        seed: of the initialisation.

    Raises:
        ArchitectureError: it is unknown, or cannot have so many classes.
    """
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make_initialised(checkpoint, n_classes)


def classifier(model: nn.Module) -> tuple[str, int]:
    """Name the layer that gives the classes, and count them; an empty name if there is none."""
    from torch import nn

    cfg: Any = getattr(model, "pretrained_cfg", None) or {}
    stated = cfg.get("classifier")
    found = ("", 0)
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    for name, module in model.named_modules():
        if isinstance(module, kinds) and stated in (None, name):
            outputs = module.out_features if isinstance(module, nn.Linear) else module.out_channels
            found = (name, outputs) if outputs else found
    return found


def _classes(model: nn.Module, checkpoint: Checkpoint, size: tuple[int, ...]) -> int:
    stated = getattr(model, "num_classes", None)
    if isinstance(stated, int) and stated > 0:
        return stated
    name, outputs = classifier(model)
    if not outputs:
        raise ArchitectureError(f"{checkpoint.name} has no layer that could give classes")
    if not hasattr(model.get_submodule(name), "in_features"):
        # The last convolution by name need not be the one that gives the scores of pixels.
        return _map_classes(model, [size, *likely_sizes(model, checkpoint)]) or outputs
    return outputs


def _map_classes(model: nn.Module, sizes: list[tuple[int, ...]]) -> int | None:
    """Count the classes of a network that gives scores of pixels; None where it gives others."""
    try:
        scores = find_scores(run_without_data(model, check_runs(model, sizes)))
    except FilterSurgeonError:
        return None  # reported where the network runs
    if scores is None or scores.ndim not in (3, 4):
        return None
    return int(scores.shape[1]) if scores.ndim == 4 else 1
