"""Why does gradient ascent miss an optimum that is a white image? Solve toy problems."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.errors import OptionError
from filtersurgeon.networks.modules.rectifiers import rectified
from filtersurgeon.registry import STUDIES
from filtersurgeon.studies._lab import Lab, StudyResult, Table, slopes_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

OWN = "own gradient"


@dataclass(frozen=True)
class Problem:
    """A function of an image with values from -1 to 1 that is greatest where the image is white.

    Attributes:
        name: what tables call it.
        issue: what keeps gradient ascent from the optimum.
        value: the sum, from images ``(1, 1, height, width)``.
    """

    name: str
    issue: str
    value: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Solution:
    """What gradient ascent reached.

    Attributes:
        method: ``own gradient``, or ``proxygrad`` with its slope.
        slope: of the backward pass, for ProxyGrad; None for the function's own gradient.
        image: ``(height, width)`` after the last step.
        early: the same after a tenth of the steps.
        value: the function by its value for the white image.
        steps: after so many steps the image was white; None where it never was.
    """

    method: str
    slope: float | None
    image: np.ndarray
    early: np.ndarray
    value: float
    steps: int | None

    def shares(self) -> tuple[float, float]:
        """Give the shares of white and of black pixels."""
        return float((self.image == 1).mean()), float((self.image == -1).mean())


def white_image(
    lab: Lab,
    *,
    slope: float = 0.1,
    weight: float = 0.2,
    proxies: str = "0.1,0.3,1",
    steps: int = 300,
    rate: float = 0.1,
    side: int = 16,
) -> StudyResult:
    """Maximise four functions of rectifiers, by their own gradient and by ProxyGrad's.

    It needs no INPUT and no images. The image starts as noise from -1 to 1 and stays in that
    range. The functions are sums over pixels: f1 of ReLU(x); f2 of LeakyReLU(x); f3 of
    LeakyReLU(x) + LeakyReLU(-p x); and of LeakyReLU after a convolution with the row (1, 0, -p),
    whose image is continued at the borders by its opposite side.
    Source: Linse, *Towards Understanding CNNs Through Visualization and Systematic
    Simplification*, 2025, section 5.1, Table 5.1 and Figure 5.1.

    Args:
        lab: the random seed.
        slope: s, of Leaky ReLU below zero, smaller than p.
        weight: p, of the second term and of the kernel, below 1.
        proxies: slopes of ProxyGrad's backward pass.
        steps: of gradient ascent.
        rate: a step adds so many times the gradient.
        side: pixels of the image's height and width.

    Returns:
        For each function and gradient: the shares of white and of black pixels, the function's
        value by that of the white image, and the number of steps to the white image.
    """
    if not 0 < slope < weight < 1:
        raise OptionError("slope and weight should be 0 < slope < weight < 1")
    if min(steps, side - 2) < 1 or rate <= 0:
        raise OptionError("steps should be at least 1, side at least 3, and rate above 0")
    slopes = slopes_of(proxies, "proxies")
    start = _noise(side, lab.seed)
    cases: list[tuple[str, float | None]] = [(OWN, None), *(("proxygrad", s) for s in slopes)]
    found = {
        problem: [solve(problem, start, method, proxy, steps, rate) for method, proxy in cases]
        for problem in problems(slope, weight)
    }
    if lab.progress:
        lab.progress(len(found), len(found))
    given = {"slope": slope, "weight": weight, "proxies": proxies, "steps": steps, "rate": rate,
             "side": side}  # fmt: skip
    return _result(given, start, found)


def problems(slope: float, weight: float) -> list[Problem]:
    """Give the functions of Table 5.1.

    Args:
        slope: s, of Leaky ReLU below zero.
        weight: p, of the second term and of the kernel.
    """
    from torch.nn import functional

    def leaky(x: Tensor) -> Tensor:
        return functional.leaky_relu(x, slope)

    def convolved(x: Tensor) -> Tensor:
        kernel = x.new_tensor([[[[1.0, 0.0, -weight]]]])
        return leaky(functional.conv2d(functional.pad(x, (1, 1, 0, 0), "circular"), kernel))

    return [
        Problem("f1: ReLU(x)", "sparse gradients", lambda x: functional.relu(x).sum()),
        Problem("f2: LeakyReLU(x)", "race of patterns", lambda x: leaky(x).sum()),
        Problem(f"f3: LeakyReLU(x) + LeakyReLU({-weight:g} x)", "local maxima",
                lambda x: (leaky(x) + leaky(-weight * x)).sum()),
        Problem("convolution", "local maxima", lambda x: convolved(x).sum()),
    ]  # fmt: skip


def solve(
    problem: Problem, start: np.ndarray, method: str, proxy: float | None, steps: int, rate: float
) -> Solution:
    """Maximise a function by gradient ascent within -1 to 1.

    Args:
        problem: the function.
        start: ``(height, width)``, the first image.
        method: what the result is called.
        proxy: slope of ProxyGrad's backward pass; None follows the function's own gradient.
        steps: how many.
        rate: a step adds so many times the gradient.
    """
    import torch

    x = torch.from_numpy(start)[None, None].clone()
    early, white = x, None
    for step in range(1, steps + 1):
        x = x.detach().requires_grad_()
        with rectified("proxygrad", proxy) if proxy is not None else nullcontext():
            gradient = torch.autograd.grad(problem.value(x), x)[0]
        x = (x.detach() + rate * gradient).clamp(-1, 1)
        if white is None and bool((x == 1).all()):
            white = step
        if step == max(1, steps // 10):
            early = x.detach()
    best = float(problem.value(torch.ones_like(x)))
    value = float(problem.value(x)) / best
    return Solution(method, proxy, x[0, 0].numpy(), early[0, 0].numpy(), value, white)


def _noise(side: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (side, side))


Found = Mapping[Problem, Sequence[Solution]]


def _result(given: Mapping[str, Any], start: np.ndarray, found: Found) -> StudyResult:
    findings, cells = [], []
    for problem, solutions in found.items():
        for solution in solutions:
            white, black = solution.shares()
            findings.append(
                {
                    "function": problem.name, "issue": problem.issue, "method": solution.method,
                    "slope": solution.slope, "white": white, "black": black,
                    "value": solution.value, "steps": solution.steps,
                }
            )  # fmt: skip
            cells.append(
                (problem.name, problem.issue, _title(solution), f"{100 * white:.1f} %",
                 f"{100 * black:.1f} %", f"{solution.value:.3f}",
                 "never" if solution.steps is None else solution.steps)
            )  # fmt: skip
    columns = [("function", "left"), ("issue", "left"), ("gradient", "left"), ("white", "right"),
               ("black", "right"), ("value / optimum", "right"),
               ("steps to white", "right")]  # fmt: skip
    defaults = {k: p.default for k, p in STUDIES.options("white-image").items()}
    return StudyResult(
        "white-image",
        {k: v for k, v in given.items() if v != defaults[k]},
        {"solutions": findings},
        [Table("problems whose optimum is a white image", columns, cells)],
        [],
        partial(_draw, start=start, found=found, steps=given["steps"]),
    )


def _title(solution: Solution) -> str:
    return OWN if solution.slope is None else f"{solution.method} {solution.slope:g}"


def _draw(figure: Figure, start: np.ndarray, found: Found, steps: int) -> None:
    """Draw the first image, and below it what each gradient makes of each function."""
    early = max(1, steps // 10)
    columns = 2 + max(len(solutions) for solutions in found.values())
    figure.set_size_inches(1.5 * columns + 0.6, 1.75 * len(found) + 0.3)
    panels = figure.subplots(len(found), columns, squeeze=False)
    for line, (problem, solutions) in zip(panels, found.items(), strict=True):
        own = solutions[0]
        images = [("start", start), (f"{OWN}\n{early} steps", own.early)]
        images += [(f"{_title(x)}\n{steps} steps", x.image) for x in solutions]
        for axes, (title, image) in zip(line, images, strict=True):
            axes.imshow(image, cmap="gray", vmin=-1, vmax=1, interpolation="nearest")
            axes.set(xticks=[], yticks=[])
            if problem is next(iter(found)):
                axes.set_title(title, fontsize=8)
        line[0].set_ylabel(problem.name.replace(" + ", "\n+ "), fontsize=7)
