"""What does batch normalisation divide by? Measure its inputs in networks with leaky ReLUs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.data.data import open_data
from filtersurgeon.errors import LayerError, OptionError
from filtersurgeon.learn.evaluation import student_interval
from filtersurgeon.learn.networks import open_network, running
from filtersurgeon.networks.devices import move_like
from filtersurgeon.networks.modules.rectifiers import check_met, rectified
from filtersurgeon.registry import STUDIES
from filtersurgeon.see.layers import choose_layers
from filtersurgeon.studies._lab import Lab, StudyResult, Table, fresh_networks, slopes_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor, nn

Deviations = dict[float, list[list[float]]]
"""By slope, for each repeat the deviation at each layer."""


def norm_inputs(
    lab: Lab,
    *,
    slopes: str = "0.01,0.1,0.2,0.3,0.5",
    repeats: int = 10,
    batch: int = 32,
    shown: int = 6,
) -> StudyResult:
    """Measure the standard deviation of the inputs of batch normalisations, by slope.

    Every repeat initialises the network anew and draws other images; the network is in training
    mode, and its rectifiers are Leaky ReLUs of each slope. The deviation is that of each channel
    over images and positions, by which batch normalisation divides; its mean over channels is
    given. Of one Leaky ReLU and standard normal inputs it is
    ``sqrt((1 + s^2) / 2 - (1 - s)^2 / (2 pi))`` (appendix A.2).
    Source: Linse, *Towards Understanding CNNs Through Visualization and Systematic
    Simplification*, 2025, appendix A.2 and Figure A.1.

    Args:
        lab: the network, whose architecture alone matters, and the images; ``--layers`` may name
            batch normalisations.
        slopes: of Leaky ReLU below zero; 0, ReLU, is always measured.
        repeats: at least 2.
        batch: images per repeat.
        shown: batch normalisations, at equal distances, unless ``--layers`` names them; 0 for all.

    Returns:
        By layer and slope the mean deviation, and as a multiple of ReLU's in the same repeat
        (Student's 95 % interval over repeats).
    """
    import torch

    if lab.checkpoint is None:
        raise OptionError("this study needs a network: pass INPUT")
    if repeats < 2 or batch < 2 or shown < 0:
        raise OptionError("repeats and batch should be at least 2, shown not negative")
    network = open_network(lab.checkpoint, lab.preprocess)
    images = open_data(lab.images(), network.preprocessing, network.n_classes)
    layers = _layers(network.model, lab.layers, shown)
    leaks = [0.0, *slopes_of(slopes)]
    found: Deviations = {slope: [] for slope in leaks}
    for fresh, pairs in fresh_networks(lab, lab.checkpoint, images, repeats, batch):
        pictures = move_like(torch.stack([image for image, _ in pairs]), fresh)
        with running(network.name):
            for slope in leaks:
                found[slope].append(measure_deviations(fresh, layers, pictures, slope))
    given = {"slopes": slopes, "repeats": repeats, "batch": batch, "shown": shown}
    return _result(given, layers, found)


def measure_deviations(
    model: nn.Module, layers: Sequence[str], images: Tensor, slope: float
) -> list[float]:
    """Run a network in training mode, and measure the inputs of layers.

    Args:
        model: is not changed.
        layers: names of its modules.
        images: ``(images, channels, height, width)``.
        slope: of the Leaky ReLUs in place of its rectifiers.

    Returns:
        For each layer the standard deviation of its input, mean over channels.
    """
    from copy import deepcopy

    import torch

    own = deepcopy(model).train()
    seen: dict[str, float] = {}

    def note(name: str) -> Any:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            channels = inputs[0].detach().double().transpose(0, 1).flatten(1)
            seen.setdefault(name, float(channels.std(1, correction=0).mean()))

        return hook

    for name in layers:
        own.get_submodule(name).register_forward_pre_hook(note(name))
    torch.manual_seed(0)  # dropout
    with rectified("leaky-relu" if slope else "relu", slope) as mode, torch.no_grad():
        own(images)
    check_met(mode, "this network")
    missing = [name for name in layers if name not in seen]
    if missing:
        raise LayerError(f"layer {missing[0]} is not run by the network; choose with `layers`")
    return [seen[name] for name in layers]


def expected_deviation(slope: float) -> float:
    """Give the standard deviation of a Leaky ReLU of standard normal inputs (appendix A.2)."""
    variance = (1 + slope**2) / 2 - (1 - slope) ** 2 / (2 * np.pi)
    return float(np.sqrt(variance))


def _layers(model: nn.Module, globs: Sequence[str] | None, shown: int) -> list[str]:
    from torch import nn

    norms = [name for name, x in model.named_modules() if isinstance(x, nn.BatchNorm2d)]
    if globs:
        return choose_layers(model, globs)
    if not norms:
        raise LayerError("the network has no batch normalisation")
    count = min(shown or len(norms), len(norms))
    places = np.linspace(0, len(norms) - 1, count).round().astype(int)
    return [norms[place] for place in places]


def _result(given: Mapping[str, Any], layers: Sequence[str], found: Deviations) -> StudyResult:
    findings = list(_findings(layers, found))
    columns = [("layer", "left"), ("slope", "right"), ("deviation", "right"),
               ("times ReLU's (95 %)", "right")]  # fmt: skip
    cells = [
        (x["layer"], f"{x['slope']:g}", f"{x['deviation']:.4g}",
         "{:.3f} ({:.3f} to {:.3f})".format(*x["ratio"]))
        for x in findings
    ]  # fmt: skip
    defaults = {k: p.default for k, p in STUDIES.options("norm-inputs").items()}
    base = expected_deviation(0.0)
    analytic = [{"slope": slope, "ratio": expected_deviation(slope) / base} for slope in found]
    return StudyResult(
        "norm-inputs",
        {k: v for k, v in given.items() if v != defaults[k]},
        {"deviations": findings, "one_layer": analytic},
        [Table("standard deviation of the inputs of batch normalisations", columns, cells)],
        [],
        partial(_draw, findings=findings, analytic=analytic),
    )


def _findings(layers: Sequence[str], found: Deviations) -> Iterator[dict[str, Any]]:
    for place, layer in enumerate(layers):
        base = np.array([repeat[place] for repeat in found[0.0]])
        for slope, repeats in found.items():
            values = np.array([repeat[place] for repeat in repeats])
            ratio = student_interval(list(values / np.maximum(base, 1e-300)))
            yield {"layer": layer, "slope": slope, "deviation": float(values.mean()),
                   "ratio": list(ratio)}  # fmt: skip


def _draw(
    figure: Figure, findings: Sequence[Mapping[str, Any]], analytic: Sequence[Mapping[str, Any]]
) -> None:
    """Draw the deviation of each layer against the slope, as Figure A.1, and by ReLU's."""
    import matplotlib

    figure.set_size_inches(9, 4.2)
    panels = figure.subplots(1, 2)
    layers = list(dict.fromkeys(x["layer"] for x in findings))
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(layers)))
    for layer, colour in zip(layers, colours, strict=True):
        line = [x for x in findings if x["layer"] == layer]
        slopes = [x["slope"] for x in line]
        panels[0].plot(slopes, [x["deviation"] for x in line], marker="o", markersize=4,
                       color=colour, label=layer)  # fmt: skip
        means = np.array([x["ratio"][0] for x in line])
        bars = np.abs(np.array([x["ratio"][1:] for x in line]) - means[:, None]).T
        panels[1].errorbar(slopes, means, bars, marker="o", markersize=4, color=colour, label=layer)
    panels[1].plot([x["slope"] for x in analytic], [x["ratio"] for x in analytic], color="0.4",
                   linestyle="--", linewidth=1, label="one Leaky ReLU, A.2")  # fmt: skip
    panels[0].set(xlabel="slope", ylabel="standard deviation of the input", ylim=(0, None))
    panels[1].set(xlabel="slope", ylabel="standard deviation / that of ReLU")
    for axes in panels:
        axes.grid(alpha=0.3)
    panels[1].legend(fontsize=7)
