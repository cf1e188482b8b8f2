"""A network without weights of its own: as its architecture initialises it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from filtersurgeon.checkpoint.checkpoint import Checkpoint
from filtersurgeon.checkpoint.naming import prefixed
from filtersurgeon.checkpoint.torch_bridge import from_torch
from filtersurgeon.errors import ArchitectureError
from filtersurgeon.networks.skeleton import skeleton

if TYPE_CHECKING:
    from torch import nn


def untrained(architecture: str, *, seed: int = 0, **options: Any) -> Checkpoint:
    """Make a checkpoint from the name of an architecture alone; downloads nothing.

    Args:
        architecture: ``timm:NAME``, ``torchvision:NAME`` or ``factory:MODULE:FUNCTION``.
        seed: of the initialisation.
        options: passed to the library, such as ``num_classes`` and ``in_chans`` for timm.

    Raises:
        ArchitectureError: no library knows it, or it cannot be made so.

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> checkpoint["conv1.0.weight"].array().shape
        (16, 3, 3, 3)
    """
    import torch

    name = prefixed(architecture)
    if not name:
        raise ArchitectureError("name an architecture, such as timm:resnet18")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = skeleton(name, on_meta=False, **options)
    tensors = {key: from_torch(tensor, key) for key, tensor in model.state_dict().items()}
    return Checkpoint(tensors, name, architecture=name, pretrained_cfg=_description(model))


def _description(model: nn.Module) -> dict[str, Any] | None:
    from filtersurgeon.networks.hub import is_plain

    cfg = getattr(model, "pretrained_cfg", None) or {}
    described = {key: value for key, value in dict(cfg).items() if is_plain(value)}
    classes = getattr(model, "num_classes", None)
    if described and isinstance(classes, int):
        described["num_classes"] = classes
    return described or None
