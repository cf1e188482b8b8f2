"""Does a leaky-ReLU gradient help activation maximisation? Compare slopes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.errors import OptionError
from filtersurgeon.learn.evaluation import Estimate, student_interval
from filtersurgeon.learn.networks import Network, classifier, open_network, running
from filtersurgeon.networks.devices import FittingBatches, find_device
from filtersurgeon.registry import STUDIES
from filtersurgeon.see.ascent import AscentSettings, ascend, objective
from filtersurgeon.see.layers import choose_layers
from filtersurgeon.see.maximizing import count_units, starting_images
from filtersurgeon.studies._lab import Lab, StudyResult, Table, words

if TYPE_CHECKING:
    from matplotlib.figure import Figure

METHODS = ("leaky-relu", "proxygrad")
Scores = dict[tuple[str, float], np.ndarray]


def proxygrad(
    lab: Lab,
    *,
    slopes: str = "0.025,0.05,0.075,0.1,0.2,0.3",
    methods: str = "leaky-relu,proxygrad",
    steps: str = "10,100",
    units: int = 50,
    regularize: str = "none",
) -> StudyResult:
    """Maximise units with several slopes, and measure the images by the network as it is.

    Every method starts from the same noise. The units are the first ones of the layer that
    ``--layers`` names, else the classes. Source: Linse, *Towards Understanding CNNs Through
    Visualization and Systematic Simplification*, 2025, section 5.3, Eq. 5.2 and Figure 5.2.

    Args:
        lab: the network; ``--layers`` may name one layer of it.
        slopes: below zero; 0 is the network's own gradient and always measured.
        methods: ``leaky-relu`` leaks in both passes, ``proxygrad`` backwards only.
        steps: after so many steps scores are measured.
        units: at most so many; 0 for all.
        regularize: ``none``, ``weak`` or ``full``.

    Returns:
        The mean score of each method, slope and number of steps, with its paired difference from
        the network's own gradient (Student's 95 % interval over units).
    """
    leaks, marks = _numbers(slopes, "slopes"), [int(n) for n in _numbers(steps, "steps")]
    chosen = words(methods, METHODS, "methods")
    if not all(0 < slope <= 1 for slope in leaks) or not marks or marks[0] < 1:
        raise OptionError(f"slopes={slopes} should lie above 0 to 1, and steps={steps} above 0")
    if regularize == "natural":
        raise OptionError("this study optimises pixels: `regularize` is none, weak or full")
    checkpoint = lab.checkpoint
    if checkpoint is None:
        raise OptionError("this study needs a network: pass INPUT")
    network = open_network(checkpoint, lab.preprocess)
    network.model.to(find_device(lab.evaluation.device)).requires_grad_(False)
    layer = choose_layers(network.model, lab.layers, [classifier(network.model)[0]])
    if len(layer) != 1:
        raise OptionError(f"this study looks at one layer; `layers` names {len(layer)}")
    count = count_units(network, layer[0])
    cases = [("relu", 0.0), *((kind, slope) for kind in chosen for slope in leaks)]
    settings = [
        AscentSettings(marks[-1], None, kind, slope, regularize, lab.seed) for kind, slope in cases
    ]
    with running(network.name):
        scores: Scores = {}
        for done, (case, how) in enumerate(zip(cases, settings, strict=True), 1):
            scores[case] = _scores(
                network, layer[0], range(min(units or count, count)), how, marks,
                lab.evaluation.batch_size,
            )  # fmt: skip
            if lab.progress:
                lab.progress(done, len(cases))
    given = {"slopes": slopes, "methods": methods, "steps": steps, "units": units,
             "regularize": regularize}  # fmt: skip
    return _result(given, layer[0], marks, scores)


def _numbers(text: str, option: str) -> list[float]:
    try:
        return sorted({float(word) for word in text.split(",")})
    except ValueError:
        raise OptionError(f"{option}={text} should be numbers, such as 0.1,0.2") from None


def _scores(
    network: Network, layer: str, units: Sequence[int], settings: AscentSettings,
    marks: Sequence[int], batch_size: int,
) -> np.ndarray:  # fmt: skip
    """Measure every unit's activation ``(marks, units)`` after so many steps."""
    import torch

    def climb(numbers: torch.Tensor) -> np.ndarray:
        part, found = numbers.tolist(), []

        def look(step: int, images: Any) -> None:
            if step in marks:
                found.append(objective(network.model, layer, part, images).cpu().numpy())

        noise = starting_images(network, part, settings.seed)
        ascend(network.model, layer, part, noise, settings, look)
        return np.array(found)

    parts = FittingBatches(batch_size).run(climb, torch.tensor(units))
    return np.concatenate([part for part, _ in parts], axis=1)


def _result(
    given: Mapping[str, Any], layer: str, marks: Sequence[int], scores: Scores
) -> StudyResult:
    rows, findings = [], []
    base = scores[("relu", 0.0)]
    for (kind, slope), values in scores.items():
        for place, mark in enumerate(marks):
            gain = student_interval(values[place] - base[place])
            higher = int((values[place] > base[place]).sum())
            findings.append(
                {
                    "method": kind, "slope": slope, "steps": mark,
                    "score": float(values[place].mean()), "units": values[place].tolist(),
                    "gain": [gain.mean, gain.low, gain.high], "higher": higher,
                }
            )  # fmt: skip
            rows.append(
                (kind, f"{slope:g}", mark, float(values[place].mean()), _interval(gain, kind),
                 "" if kind == "relu" else f"{higher} of {values.shape[1]}")
            )  # fmt: skip
    columns = [("gradient", "left"), ("slope", "right"), ("steps", "right"), ("score", "right"),
               ("gain over relu (95 %)", "right"), ("units that gain", "right")]  # fmt: skip
    title = f"mean activation of {base.shape[1]} units of {layer or 'output'}"
    defaults = {k: p.default for k, p in STUDIES.options("proxygrad").items()}
    return StudyResult(
        "proxygrad",
        {k: v for k, v in given.items() if v != defaults[k]},
        {"layer": layer, "scores": findings},
        [Table(title, columns, rows)],
        [_remark(marks[-1], scores)],
        partial(_draw, marks=marks, scores=scores),
    )


def _interval(gain: Estimate, kind: str) -> str:
    return "" if kind == "relu" else f"{gain.mean:+.2f} ({gain.low:+.2f} to {gain.high:+.2f})"


def _remark(mark: int, scores: Scores) -> str:
    (kind, slope), values = max(scores.items(), key=lambda item: float(item[1][-1].mean()))
    name = "the network's own gradient" if kind == "relu" else f"{kind} with slope {slope:g}"
    return f"after {mark} steps the highest mean activation is {values[-1].mean():.2f}, of {name}"


def _draw(figure: Figure, marks: Sequence[int], scores: Scores) -> None:
    """Draw score against slope, one panel per number of steps."""
    panels = figure.subplots(1, len(marks), squeeze=False)[0]
    base = scores[("relu", 0.0)]
    for place, (axes, mark) in enumerate(zip(panels, marks, strict=True)):
        for kind in dict.fromkeys(kind for kind, _ in scores if kind != "relu"):
            line = [(0.0, base)] + [(s, v) for (k, s), v in scores.items() if k == kind]
            means = [values[place].mean() for _, values in line]
            axes.plot([s for s, _ in line], means, marker="o", markersize=4, label=kind)
        axes.axhline(base[place].mean(), color="0.5", linewidth=0.8, linestyle="--", label="relu")
        axes.set(title=f"{mark} steps", xlabel="slope", ylabel="mean activation")
        axes.grid(alpha=0.3)
    panels[0].legend(fontsize=8)
