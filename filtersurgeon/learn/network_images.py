"""Make images from a network itself, from the statistics that its batch norms store."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import cos, pi
from typing import TYPE_CHECKING, Any

from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.errors import ArchitectureError, OptionError
from filtersurgeon.learn.networks import Network, running
from filtersurgeon.networks.devices import FittingBatches, device_of, mix

if TYPE_CHECKING:
    from torch import Tensor, nn

STEPS = 30
_STEP_SIZE = 0.2  # of Adam at the beginning, in units of the normalised pixels
_BATCH = 64
_GREY, _SPREAD = 0.45, 0.25  # of the pixels that images begin with, in 0..1
_USUAL = 224


def images_of_network(
    network: Network,
    n: int,
    *,
    size: Sequence[int] | None = None,
    seed: int = 0,
    steps: int = STEPS,
    batch_size: int = _BATCH,
    progress: Progress | None = None,
) -> Tensor:
    """Make images on which a network's batch norms see the statistics that they store.

    Images begin as noise with the spectrum of photographs (amplitude 1/f). Adam then changes the
    pixels of a batch so that, in front of every batch norm, the mean and deviation of each channel
    over the batch match the stored ones. No labels and no data are needed.
    Source: Yin et al., *Dreaming to Distill: Data-free Knowledge Transfer via DeepInversion*,
    2020, Eq. 4, without labels; the error of each channel is in units of its stored deviation.

    Args:
        network: in evaluation mode, as :func:`~filtersurgeon.learn.networks.open_network` gives it.
        n: number of images.
        size: channels, height and width; None takes the network's own, or 224 by 224.
        seed: of the noise.
        steps: of Adam; 0 gives the noise that images begin as.
        batch_size: images that match the statistics together, at least 2.
        progress: told steps done and steps in all.

    Returns:
        ``(n, channels, height, width)`` float32 on the network's device, normalised as the network
        expects; the pixels lie in 0..1 before that.

    Raises:
        ArchitectureError: the network has no batch norm with stored statistics, or it does not
            take images of this size.
        OptionError: no images, or negative steps.
        OutOfMemoryError: a batch does not fit.

    Examples:
        >>> import filtersurgeon as fs
        >>> from filtersurgeon.learn.networks import open_network
        >>> network = open_network(fs.untrained("timm:test_resnet"))
        >>> images_of_network(network, 4, size=(3, 32, 32), steps=2).shape
        torch.Size([4, 3, 32, 32])
    """
    import torch

    if n < 1 or steps < 0 or batch_size < 2:
        raise OptionError("make at least 1 image, in batches of at least 2, with 0 steps or more")
    norms = batch_norms(network.model)
    if not norms:
        raise ArchitectureError(
            f"{network.name} has no batch norm, so no images can be made from it"
        )
    shape = tuple(size or network.preprocessing.input_size or _default_size(network))

    def make(batch_size: int) -> Tensor:
        # Batches of nearly equal size: a last batch of few images would match by chance alone.
        batches = max(1, round(n / batch_size))
        sizes = [n // batches + (k < n % batches) for k in range(batches)]
        made = []
        for number, count in enumerate(sizes):
            place = (number * steps, batches * steps)
            images = _first_images(network, max(count, 2), shape, mix(seed, number))
            made.append(_fit(network, norms, images, steps, place, progress)[:count])
        return torch.cat(made)

    with running(network.name), _still(network.model):
        found: Tensor = FittingBatches(batch_size, least=2).repeat(make)
    return found


def batch_norms(model: nn.Module) -> list[Any]:
    """List the batch norms of a network that store statistics, frozen ones too."""
    from torch.nn.modules.instancenorm import _InstanceNorm

    return [
        module
        for module in model.modules()
        if getattr(module, "running_mean", None) is not None
        and getattr(module, "running_var", None) is not None
        and not isinstance(module, _InstanceNorm)
    ]


def statistics_error(norm: Any, inputs: Tensor) -> Tensor:
    """Compare the statistics of what enters a batch norm with the stored ones.

    Args:
        norm: has a running mean and variance ``(channels,)``.
        inputs: ``(images, channels, ...)``.

    Returns:
        The mean over channels of the squared errors of mean and deviation, in units of the stored
        deviation; a scalar, 0 where the statistics are equal.
    """
    import torch

    axes = [axis for axis in range(inputs.ndim) if axis != 1]
    variance, mean = torch.var_mean(inputs, axes, correction=0)
    stored = norm.running_var + norm.eps
    of_mean = (mean - norm.running_mean).square() / stored
    of_deviation = ((variance + norm.eps).div(stored).sqrt() - 1).square()
    return (of_mean + of_deviation).mean()


def _default_size(network: Network) -> tuple[int, int, int]:
    return network.preprocessing.channels, _USUAL, _USUAL


@contextmanager
def _still(model: nn.Module) -> Iterator[None]:
    """Freeze a network in evaluation mode inside the block."""
    was_training = model.training
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        model.eval()
        yield
    finally:
        model.train(was_training)
        for parameter in learning:
            parameter.requires_grad_(True)


def _first_images(network: Network, count: int, shape: Sequence[int], seed: int) -> Tensor:
    """Draw normalised images of noise whose amplitude falls with the frequency."""
    import torch

    height, width = shape[-2:]
    white = torch.randn((count, *shape), generator=torch.Generator().manual_seed(seed))
    rows, columns = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)
    frequency = (rows.square() + columns.square()).sqrt().clamp(min=1 / max(height, width))
    smooth = torch.fft.irfft2(torch.fft.rfft2(white) / frequency, s=(height, width))
    smooth = smooth / smooth.std((-2, -1), keepdim=True).clamp(min=1e-6)
    pixels = (_GREY + _SPREAD * smooth).clamp(0, 1).to(device_of(network.model))
    mean, deviation = _scale(network, pixels)
    return (pixels - mean) / deviation


def _scale(network: Network, images: Tensor) -> tuple[Tensor, Tensor]:
    """Give mean and deviation of the preprocessing, ``(1, channels, 1, 1)``."""
    spec = network.preprocessing
    mean, deviation = (images.new_tensor(each).view(1, -1, 1, 1) for each in (spec.mean, spec.std))
    return mean, deviation


def _fit(
    network: Network,
    norms: Sequence[Any],
    images: Tensor,
    steps: int,
    place: tuple[int, int],
    progress: Progress | None,
) -> Tensor:
    """Change the pixels of one batch until the statistics match."""
    import torch

    mean, deviation = _scale(network, images)
    least, most = (0 - mean) / deviation, (1 - mean) / deviation
    images = images.clone().requires_grad_()
    optimizer = torch.optim.Adam([images], lr=_STEP_SIZE, betas=(0.5, 0.9))
    errors: list[Tensor] = []
    handles = [
        norm.register_forward_pre_hook(
            lambda norm, inputs: errors.append(statistics_error(norm, inputs[0]))
        )
        for norm in norms
    ]
    try:
        for step in range(steps):
            for group in optimizer.param_groups:
                group["lr"] = _STEP_SIZE * (1 + cos(pi * step / steps)) / 2
            errors.clear()
            network.model(images)
            (images.grad,) = torch.autograd.grad(torch.stack(errors).sum(), images)
            optimizer.step()
            with torch.no_grad():
                images.copy_(torch.maximum(torch.minimum(images, most), least))
            if progress is not None:
                progress(place[0] + step + 1, place[1])
    finally:
        for handle in handles:
            handle.remove()
    return images.detach()
