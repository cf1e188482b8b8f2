"""Choose among architectures with the same tensors by their batch-norm statistics.

Two architectures may have the same tensors and compute differently: EfficientNet-Lite0 with
symmetric padding or TensorFlow's, ResNet-18 with blur pools or without. The running means and
variances were estimated in the network that was trained; in the other one the activations of
natural images deviate from them. Measured with crops of two photographs on the pretrained
EfficientNet-Lite0, the median layer deviates by 0.02 nats with the right padding and by 0.09 with
the wrong one, which costs 14 points of top-1. Networks that were trained on other images, or hardly
trained, deviate by 0.2 nats and more in any architecture, and then there is no verdict.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from filtersurgeon.checkpoint.checkpoint import Checkpoint
from filtersurgeon.networks.fitting import adapt, input_size, load_tensors, shapes_of

if TYPE_CHECKING:
    from torch import Tensor, nn

_PHOTOGRAPHS = ("china.jpg", "flower.jpg")
_SCALES = (1.0, 0.6)
_CLOSE = 0.1
"""Largest deviation, median over layers, in nats, of a network that knows such images."""
_MARGIN = 0.75
"""Largest ratio of deviations, geometric mean over layers, at which one architecture is chosen."""
_MAJORITY = 0.6
"""Least share of the layers that have to agree."""


def has_statistics(checkpoint: Checkpoint) -> bool:
    """Tell whether a checkpoint holds running statistics of batch normalisations."""
    return any(name.endswith("running_var") for name in checkpoint)


def best_by_statistics(checkpoint: Checkpoint, architectures: Sequence[str]) -> str | None:
    """Give the architecture that a checkpoint's batch-norm statistics fit clearly best.

    Args:
        checkpoint: the tensors.
        architectures: what their names and shapes fit.

    Returns:
        One of them; None if the statistics are those of an untrained network, there are none, or
        they do not tell.
    """
    if not _is_trained(checkpoint):
        return None
    deviations = [_deviations(checkpoint, architecture) for architecture in architectures]
    if any(found is None or len(found) != len(deviations[0] or ()) for found in deviations):
        return None
    logs = np.log([np.maximum(found, 1e-9) for found in deviations])  # type: ignore[arg-type]
    best = int(logs.mean(axis=1).argmin())
    if np.median(logs[best]) > np.log(_CLOSE):
        return None
    rivals = np.delete(logs, best, axis=0)
    closer = (logs[best] <= rivals).mean(axis=1)
    ratios = np.exp((logs[best] - rivals).mean(axis=1))
    return (
        architectures[best] if (closer >= _MAJORITY).all() and (ratios <= _MARGIN).all() else None
    )


def _is_trained(checkpoint: Checkpoint) -> bool:
    """Tell whether any running variance is other than the one that it begins with."""
    names = [name for name in checkpoint if name.endswith("running_var")]
    return any((checkpoint[name].array() != 1).any() for name in names)


def _deviations(checkpoint: Checkpoint, architecture: str) -> list[float] | None:
    """Measure how far the activations of photographs are from the running statistics.

    Returns:
        For every batch normalisation the median over channels of the Kullback-Leibler divergence
        between normal distributions, in nats; None if the network does not take such images.
    """
    import torch

    model = adapt(architecture, shapes_of(checkpoint))
    load_tensors(model, checkpoint)
    model.float().eval()
    channels, *sides = input_size(model, checkpoint)
    if channels not in (1, 3) or len(sides) != 2:
        return None
    cfg: Any = checkpoint.pretrained_cfg or getattr(model, "pretrained_cfg", None) or {}
    images = _photographs(channels, (sides[0], sides[1]), cfg)
    if images is None:
        return None
    found: list[float] = []
    with _watch(model, found), torch.inference_mode():
        try:
            model(images)
        except (RuntimeError, AssertionError, ValueError):
            return None
    return found


@contextmanager
def _watch(model: nn.Module, found: list[float]) -> Iterator[None]:
    """Collect the deviation at every batch normalisation that runs inside the block."""
    from torch.nn.modules.batchnorm import _BatchNorm

    def look(norm: Any, inputs: tuple[Tensor, ...]) -> None:
        axes = [axis for axis in range(inputs[0].dim()) if axis != 1]
        seen = inputs[0].double()
        stored = norm.running_var.double() + norm.eps
        ratio = (seen.var(axes) + norm.eps) / stored
        apart = (seen.mean(axes) - norm.running_mean.double()).square() / stored
        found.append(float((0.5 * (ratio + apart - 1 - ratio.log())).median()))

    norms = [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_var is not None]
    hooks = [norm.register_forward_pre_hook(look) for norm in norms]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _photographs(channels: int, size: tuple[int, int], cfg: Any) -> Tensor | None:
    """Give crops of scikit-learn's photographs as a network expects them, or None without them.

    Returns:
        (images, channels, height, width), normalised.
    """
    import torch

    spec = find_spec("sklearn")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = [Path(f) / "datasets" / "images" / name for f in folders for name in _PHOTOGRAPHS]
    crops = [crop for file in files if file.is_file() for crop in _crops(file, size)]
    if not crops:
        return None
    pixels = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float() / 255
    mean = torch.tensor(cfg.get("mean") or (0.485, 0.456, 0.406)).float()
    std = torch.tensor(cfg.get("std") or (0.229, 0.224, 0.225)).float()
    if channels == 1:
        pixels, mean, std = pixels.mean(1, keepdim=True), mean.mean()[None], std.mean()[None]
    return (pixels - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)


def _crops(file: Path, size: tuple[int, int]) -> list[NDArray[np.uint8]]:
    """Cut the left, middle and right out of a photograph at several scales."""
    from PIL import Image

    found = []
    with Image.open(file, formats=("JPEG",)) as opened:
        photograph = opened.convert("RGB")
    for scale in _SCALES:
        # The shorter side must hold a crop.
        least = max(size[0] / photograph.height, size[1] / photograph.width)
        factor = max(scale, least)
        width, height = (max(1, round(side * factor)) for side in photograph.size)
        resized = photograph.resize((max(width, size[1]), max(height, size[0])))
        for share in (0.0, 0.5, 1.0):
            left = int(share * (resized.width - size[1]))
            top = int(share * (resized.height - size[0]))
            box = (left, top, left + size[1], top + size[0])
            found.append(np.asarray(resized.crop(box), np.uint8))
    return found
