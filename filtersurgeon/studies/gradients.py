"""Measure how leaky ReLUs change gradients, with and without batch normalisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from filtersurgeon.data.data import open_data
from filtersurgeon.errors import LayerError, OptionError
from filtersurgeon.learn.evaluation import student_interval
from filtersurgeon.learn.networks import open_network, running
from filtersurgeon.networks.modules.rectifiers import check_met, rectified
from filtersurgeon.networks.outputs import class_scores
from filtersurgeon.registry import STUDIES
from filtersurgeon.see.layers import choose_layers
from filtersurgeon.studies._lab import Lab, StudyResult, Table, fresh_networks, slopes_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor, nn

Case = tuple[str, float, bool]
Sizes = dict[Case, list[np.ndarray]]
"""Sorted absolute derivatives of each repeat: the mean, then the quantiles."""
KINDS = ("leaky-relu", "proxygrad")
_QUANTILES = np.linspace(0, 1, 101)


def gradients(
    lab: Lab, *, slopes: str = "0.01,0.1,0.2,0.3", repeats: int = 10, batch: int = 32
) -> StudyResult:
    """Measure the derivative of the cross-entropy at a layer's output, by slope.

    The picture shows the mean absolute derivative against the slope and, as Table 5.4, the sorted
    absolute derivatives of all elements.

    Every repeat initialises the network anew and draws other images; the network is in training
    mode. Source: Linse, *Towards Understanding CNNs Through Visualization and Systematic
    Simplification*, 2025, section 5.5 and Table 5.4, with 50 repeats.

    Args:
        lab: the network, whose architecture alone matters, and the images; ``--layers`` may name
            the layer, which is else the second convolution that is wider than one pixel.
        slopes: below zero.
        repeats: at least 2.
        batch: images per repeat.

    Returns:
        The mean absolute derivative of each kind of rectifier and slope, as a multiple of that of
        ReLU in the same repeat (Student's 95 % interval over repeats), with batch normalisation
        and with it left out; and 101 quantiles of the absolute derivatives, mean over repeats.
    """
    if lab.checkpoint is None:
        raise OptionError("this study needs a network: pass INPUT")
    if repeats < 2 or batch < 2:
        raise OptionError("repeats and batch should be at least 2")
    leaks = slopes_of(slopes)
    network = open_network(lab.checkpoint, lab.preprocess)
    images = open_data(lab.images(), network.preprocessing, network.n_classes)
    layer = _layer(network.model, lab.layers)
    cases: list[Case] = [
        (kind, slope, norms)
        for norms in (True, False)
        for kind, slope in [("relu", 0.0), *((k, s) for k in KINDS for s in leaks)]
    ]
    sizes: Sizes = {case: [] for case in cases}
    for fresh, pairs in fresh_networks(lab, lab.checkpoint, images, repeats, batch):
        with running(network.name):
            for case in cases:
                sizes[case].append(_size(fresh, layer, pairs, case))
    return _result({"slopes": slopes, "repeats": repeats, "batch": batch}, layer, sizes)


def _layer(model: nn.Module, globs: Sequence[str] | None) -> str:
    from torch import nn

    spatial = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and max(module.kernel_size) > 1
    ]
    found = choose_layers(model, globs, spatial[1:2] or spatial[:1])
    if len(found) != 1:
        raise LayerError(f"this study looks at one layer, not {len(found)}; name it with `layers`")
    return found[0]


def _size(model: nn.Module, layer: str, pairs: Sequence[Any], case: Case) -> np.ndarray:
    """Give the mean and the quantiles of the absolute derivative of the loss at a layer."""
    from copy import deepcopy

    import torch
    from torch.nn import functional

    kind, slope, norms = case
    device = next(model.parameters()).device
    images = torch.stack([image for image, _ in pairs]).to(device)
    labels = torch.tensor([label for _, label in pairs], device=device)
    own = deepcopy(model).train()
    if not norms:
        _leave_out_norms(own)
    seen: list[Tensor] = []
    own.get_submodule(layer).register_forward_hook(lambda _m, _i, output: seen.append(output))
    torch.manual_seed(0)  # dropout
    with rectified(kind, slope) as mode:
        loss = functional.cross_entropy(class_scores(own(images)), labels)
    check_met(mode, "this network")
    found = torch.autograd.grad(loss, seen[0])[0].abs().double().cpu().numpy()
    return np.concatenate([[found.mean()], np.quantile(found, _QUANTILES)])


def _leave_out_norms(model: nn.Module) -> None:
    from torch import nn

    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            # timm's normalisation with an activation inside must keep the activation.
            if type(child) is nn.BatchNorm2d:
                setattr(module, name, nn.Identity())


def _result(given: Mapping[str, Any], layer: str, sizes: Sizes) -> StudyResult:
    rows, findings = [], []
    for (kind, slope, norms), repeats in sizes.items():
        values, *curve = np.array(repeats).T
        base = np.array(sizes[("relu", 0.0, norms)])[:, 0]
        ratio = student_interval(list(values / np.maximum(base, 1e-300)))
        findings.append(
            {
                "activation": kind, "slope": slope, "batch_norm": norms,
                "mean_absolute": float(np.mean(values)), "ratio": list(ratio),
                "sorted": [float(level.mean()) for level in curve],
            }
        )  # fmt: skip
        words = _words(norms)
        spread = f"{ratio.mean:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"
        rows.append((words, kind, f"{slope:g}", f"{np.mean(values):.3e}", spread))
    columns = [("batch norm", "left"), ("activation", "left"), ("slope", "right"),
               ("mean |gradient|", "right"), ("times ReLU's (95 %)", "right")]  # fmt: skip
    defaults = {k: p.default for k, p in STUDIES.options("gradients").items()}
    return StudyResult(
        "gradients",
        {k: v for k, v in given.items() if v != defaults[k]},
        {"layer": layer, "gradients": findings},
        [Table(f"derivative of the loss after {layer}", columns, rows)],
        [],
        partial(_draw, findings=findings),
    )


def _draw(figure: Figure, findings: Sequence[Mapping[str, Any]]) -> None:
    figure.set_size_inches(8, 9)
    panels = figure.subplots(3, 2)
    for axes, norms in zip(panels[0], (True, False), strict=True):
        for kind in KINDS:
            line = [x for x in findings if x["batch_norm"] == norms and x["activation"] == kind]
            means = np.array([x["ratio"][0] for x in line])
            ends = np.array([x["ratio"][1:] for x in line])
            bars = np.abs(ends - means[:, None]).T
            places = [x["slope"] for x in line]
            axes.errorbar(places, means, bars, marker="o", markersize=4, label=kind)
        axes.axhline(1, color="0.5", linewidth=0.8, linestyle="--", label="relu")
        axes.set(
            title=f"{_words(norms)} batch normalisation",
            xlabel="slope", ylabel="mean |gradient| / that of ReLU",
        )  # fmt: skip
        axes.grid(alpha=0.3)
    panels[0, 0].legend(fontsize=8)
    for line, kind in zip(panels[1:], KINDS, strict=True):
        for axes, norms in zip(line, (True, False), strict=True):
            _draw_sorted(axes, kind, [x for x in findings if x["batch_norm"] == norms])
            axes.set_title(f"{kind}, {_words(norms)} batch normalisation", fontsize=9)


def _draw_sorted(axes: Any, kind: str, findings: Sequence[Mapping[str, Any]]) -> None:
    """Draw the sorted absolute derivatives of each slope, as Table 5.4."""
    import matplotlib

    line = [x for x in findings if x["activation"] in ("relu", kind)]
    colours = matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(line)))
    for found, colour in zip(line, colours, strict=True):
        label = "relu" if found["activation"] == "relu" else f"{found['slope']:g}"
        axes.plot(_QUANTILES, found["sorted"], color=colour, linewidth=1.2, label=label)
    axes.set(xlabel="share of the elements, sorted", ylabel="|gradient|", yscale="log")
    # Powers of ten would be written with markup, which figures show as it is.
    axes.yaxis.set_major_formatter("{x:.0e}")
    axes.yaxis.set_minor_formatter("")
    lowest = min(x["sorted"][len(_QUANTILES) // 10] for x in line)
    if lowest > 0:
        axes.set_ylim(bottom=lowest / 2)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, title="slope", title_fontsize=7)


def _words(norms: bool) -> str:
    return "with" if norms else "without"
