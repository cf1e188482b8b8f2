"""Gradient ascent on the Fourier coefficients of images that grow.

Sources: Mordvintsev, Olah and Tyka, *Inceptionism*, 2015 (octaves, jitter); Olah, Mordvintsev and
Schubert, *Feature Visualization*, 2017, and Mordvintsev et al., *Differentiable Image
Parameterizations*, 2018 (decorrelated colours, Fourier coefficients, random views, diversity);
Mahendran and Vedaldi, 2016 (total variation, bounded pixels); Yin et al., *Dreaming to Distill*,
2020 (statistics of batch normalisation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import cos, pi
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.errors import FilterSurgeonError
from filtersurgeon.learn.networks import Network
from filtersurgeon.networks.devices import device_of
from filtersurgeon.networks.dry_run import check_runs
from filtersurgeon.see.ascent import AscentSettings, check_leaks, leaking
from filtersurgeon.see.layers import outputs_of
from filtersurgeon.see.objectives import Objective, layers_of
from filtersurgeon.see.priors import StatisticsPrior, saturation, total_variation
from filtersurgeon.see.random_transforms import RandomViews
from filtersurgeon.see.spectral import SpectralForm, low, replace_low

if TYPE_CHECKING:
    from torch import Tensor

_STAGES = ((0.5, 0.64), (0.71, 0.92), (1.0, 1.0))
"""Sides of the images of each stage, and the share of all steps at which it ends."""
_SMALLEST, _ROUND = 64, 8
_STEP, _LAST = 0.017, 0.05
_STATISTICS, _VARIATION, _SATURATION = 3.5, 450.0, 120.0
"""Weights of the priors, of an objective in units of its layer's deviation."""
_MEMORY, _SQUARES = 0.9, 0.99
_SMOOTH = 112
"""Side of the images from which on total variation has its full weight."""
_FAINT = 0.1
"""Factor of the noise that a given image begins with."""


@dataclass(frozen=True)
class Stage:
    """Some steps at one size.

    Attributes:
        size: height and width up to whose frequencies the images are optimised.
        run: height and width at which the network runs.
        end: number of the first step that is no longer of this stage.
    """

    size: tuple[int, int]
    run: tuple[int, int]
    end: int


def plan_stages(network: Network, size: tuple[int, int, int], steps: int) -> list[Stage]:
    """Plan how images grow.

    Args:
        network: one that takes images of one size only is run at that size in every stage.
        size: channels, height and width of the final images; small ones do not grow.
        steps: in all.
    """
    full, found = size[1:], []
    for share, end in _STAGES:
        own = _part(full, share)
        if share < 1 and min(own) < _SMALLEST:
            continue
        run = own if own == full or _runs(network, (size[0], *own)) else full
        found.append(Stage(own, run, round(end * steps)))
    return found


def _part(full: tuple[int, int], share: float) -> tuple[int, int]:
    if share == 1:
        return full
    height, width = (_ROUND * round(share * side / _ROUND) for side in full)
    return height, width


def _runs(network: Network, size: tuple[int, int, int]) -> bool:
    try:
        check_runs(network.model, [size])
    except FilterSurgeonError:
        return False
    return True


def grow(
    network: Network,
    size: tuple[int, int, int],
    objectives: Sequence[Objective],
    first: Tensor,
    settings: AscentSettings,
    seeds: Sequence[int],
    watch: Any = None,
) -> Tensor:
    """Change images so that they excite their objectives, and stay natural.

    Adam climbs on coefficients that are scaled like those of photographs, at low frequencies
    first. Each step sees one random view of every image. An objective is divided by the deviation
    of its layer's activations, so that the priors have one weight for all layers: statistics of
    batch normalisation, total variation, saturation.

    Args:
        network: in evaluation mode, on its device.
        size: channels, height and width of the images.
        objectives: one per image, their layers named.
        first: coefficients that the images begin as, see :class:`SpectralForm`.
        settings: how.
        seeds: of the random views, one per image.
        watch: told the step, counted from 1, and the coefficients after it.

    Returns:
        ``(n, channels, height, width)``, 0 to 1.
    """
    import torch

    form = SpectralForm(size)
    views, climb = RandomViews(seeds), _Climb(network, objectives, form, settings)
    whole, step = first, 0
    for stage in plan_stages(network, form.size, settings.count):
        part = low(whole, stage.size) if stage.size != form.full else whole
        adam = Adam(part)
        while step < stage.end:
            gradient = climb.gradient(part, stage, views, step)
            part = adam.step(part, gradient, climb.length(step))
            step += 1
            if watch is not None:
                watch(step, part)
        whole = replace_low(whole, part)
    with torch.no_grad():
        return form.decode(whole, form.full)


class Adam:
    """Adam's steps (Kingma and Ba, 2015) for images that do not depend on each other.

    Args:
        values: of the form that is optimised.
    """

    def __init__(self, values: Tensor) -> None:
        import torch

        self.mean, self.square = torch.zeros_like(values), torch.zeros_like(values)
        self.count = 0

    def step(self, values: Tensor, gradient: Tensor, length: float) -> Tensor:
        """Give the values after a step against a gradient, each by about ``length``."""
        self.count += 1
        self.mean = _MEMORY * self.mean + (1 - _MEMORY) * gradient
        self.square = _SQUARES * self.square + (1 - _SQUARES) * gradient**2
        mean = self.mean / (1 - _MEMORY**self.count)
        square = self.square / (1 - _SQUARES**self.count)
        # The smallest gradient that counts is small beside that of the same image.
        floor = 1e-6 * square.flatten(1).amax(1).sqrt().view(-1, 1, 1, 1, 1) + 1e-30
        return values - length * mean / (square.sqrt() + floor)


class _Climb:
    """Gradients of one batch of images."""

    def __init__(
        self, network: Network, objectives: Sequence[Objective], form: SpectralForm,
        settings: AscentSettings,
    ) -> None:  # fmt: skip
        self.network, self.objectives = network, objectives
        self.form, self.settings = form, settings
        self.layers = layers_of(objectives)
        self.prior = StatisticsPrior(network.model)
        self.deviations: Tensor | None = None
        same = np.array([[a == b for a in objectives] for b in objectives])
        self.same = same & ~np.eye(len(same), dtype=bool)

    def length(self, step: int) -> float:
        """Give the size of a step, which falls as half a cosine."""
        fall = 0.5 * (1 + cos(pi * step / self.settings.count))
        return (self.settings.step_size or _STEP) * ((1 - _LAST) * fall + _LAST)

    def gradient(self, part: Tensor, stage: Stage, views: RandomViews, step: int) -> Tensor:
        """Give the gradient of the loss at coefficients."""
        import torch

        part = part.detach().requires_grad_()
        images = self.form.decode(part, stage.run)
        self.prior.forget()
        with leaking(self.settings) as mode, self.prior:
            inputs = normalise(self.network, views(images))
            outputs = outputs_of(self.network.model, self.layers, inputs, bool(self.same.any()))
        if mode is not None and step == 0:
            check_leaks(mode, self.layers[-1])
        if self.deviations is None:
            self.deviations = self._deviations(outputs)
        loss = _STATISTICS * self.prior.total(images) - self._values(outputs) / self.deviations
        # The same shape has steeper steps in an image of fewer pixels.
        smooth = _VARIATION * min(1.0, max(stage.run) / _SMOOTH) ** 2
        loss = loss + smooth * total_variation(images) + _SATURATION * saturation(images)
        if self.same.any():
            loss = loss + self.settings.diversity * self._likeness(outputs)
        return torch.autograd.grad(loss.sum(), part)[0]

    def _values(self, outputs: dict[str, Tensor]) -> Tensor:
        import torch

        return torch.stack([each.value(outputs, i) for i, each in enumerate(self.objectives)])

    def _deviations(self, outputs: dict[str, Tensor]) -> Tensor:
        """Give the deviation of the activations that each objective reads, at the first step."""
        import torch

        found = [
            torch.stack([outputs[x.layer or ""][i].std(correction=0) for x in each.terms]).amax()
            for i, each in enumerate(self.objectives)
        ]
        values = torch.stack(found).detach()
        return torch.where((values > 0) & values.isfinite(), values, torch.ones_like(values))

    def _likeness(self, outputs: dict[str, Tensor]) -> Tensor:
        """Give the mean cosine of each image with the others of its objective, ``(n,)``."""
        import torch
        from torch.nn import functional

        read = outputs[f"<{self.layers[0]}"]
        if read.ndim > 2:  # maps: what counts is which channels answer together
            maps = read.flatten(2)
            read = (maps @ maps.transpose(1, 2)).flatten(1)
        unit = functional.normalize(read, dim=1)
        others = torch.from_numpy(self.same).to(unit)
        # Their own cosines count for both images, so each is moved by half.
        return ((unit @ unit.T) * others).sum(1) / others.sum(1).clamp(min=1)


def normalise(network: Network, images: Tensor) -> Tensor:
    """Make images from 0 to 1 what a network expects."""
    spec = network.preprocessing
    mean, std = (images.new_tensor(x).view(1, -1, 1, 1) for x in (spec.mean, spec.std))
    return (images - mean) / std


def first_coefficients(
    network: Network, size: tuple[int, int, int], seeds: Sequence[int], start: np.ndarray | None
) -> Tensor:
    """Give the coefficients that images begin as, on the network's device.

    Args:
        network: whose images they are.
        size: channels, height and width.
        seeds: of the noise, one per image.
        start: ``(n, channels, height, width)`` images, 0 to 1; None for noise.
    """
    form = SpectralForm(size)
    first = form.first(seeds)
    if start is not None:
        first = _FAINT * first + form.encode(start)
    return first.to(device_of(network.model))
