"""Networks that are ready for data: a module, and the preprocessing that it expects."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.data.preprocess import Preprocessing, read_preprocessing
from filtersurgeon.errors import ArchitectureError, CheckpointError
from filtersurgeon.networks.build import build, make_initialised
from filtersurgeon.networks.failing import running as running
from filtersurgeon.networks.files import load
from filtersurgeon.networks.fitting import first_convolution
from filtersurgeon.networks.structure.plain_weights import make_all_plain

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Network:
    """A network with its preprocessing.

    Attributes:
        name: what messages and tables call it.
        model: the module, in evaluation mode, its parameters in float32.
        preprocessing: what it expects of its inputs.
        n_classes: number of its outputs.
    """

    name: str
    model: nn.Module
    preprocessing: Preprocessing
    n_classes: int


def open_network(
    checkpoint: Checkpoint, preprocess: Mapping[str, Any] | None = None, *, parts: bool = False
) -> Network:
    """Build a checkpoint's network and find out how to feed it.

    Args:
        checkpoint: the tensors; its ``architecture`` may name a factory.
        preprocess: values that replace those of its ``pretrained_cfg``.
        parts: leave weights in the parts that norms, masks and parametrizations store them in.

    Raises:
        ArchitectureError: it cannot be built, or is no classifier.
        DataError: the preprocessing contradicts itself.
    """
    model = build(checkpoint).float()
    if not parts:
        make_all_plain(model)
    stated, own = checkpoint.pretrained_cfg, getattr(model, "pretrained_cfg", None)
    # A size that the user stated leaves the other values as they are.
    cfg = {**own, **stated} if stated and own and set(stated) == {"input_size"} else stated or own
    cfg = dict(cfg or {})
    cfg = {key: value for key, value in cfg.items() if value is not None}
    first = first_convolution(model)
    if not cfg.get("input_size") and first is not None:
        cfg["in_chans"] = first.in_channels
    preprocessing = read_preprocessing(cfg, **(preprocess or {}))
    return Network(checkpoint.name, model, preprocessing, _classes(model, checkpoint.name))


def network_module(
    source: str,
    digest: str,
    architecture: str | None = None,
    allow_pickle: bool = False,
    folder: str | None = None,
) -> nn.Module:
    """Build a network from its file; what a worker calls, given words only.

    A factory is looked for in ``folder`` too, for a worker may have been started elsewhere.
    """
    if folder is not None and folder not in sys.path:
        sys.path.insert(0, folder)
    with load(source, arch=architecture, allow_pickle=allow_pickle) as checkpoint:
        if checkpoint.digest != digest:
            raise CheckpointError(
                f"{source} gives workers other tensors; write it to a .safetensors file first"
            )
        return build(checkpoint).float()


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
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and stated in (None, name):
            outputs = module.out_features if isinstance(module, nn.Linear) else module.out_channels
            found = (name, outputs) if outputs else found
    return found


def _classes(model: nn.Module, name: str) -> int:
    stated = getattr(model, "num_classes", None)
    if isinstance(stated, int) and stated > 0:
        return stated
    outputs = classifier(model)[1]
    if not outputs:
        raise ArchitectureError(f"{name} has no layer that could give classes")
    return outputs
