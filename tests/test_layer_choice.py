"""``prune --layers``: a layer that is left out keeps all its filters, whoever shares them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import filtersurgeon as fs
from filtersurgeon.errors import FilterSurgeonError, LayerError, OptionError
from filtersurgeon.pruning.report import PruneReport
from filtersurgeon.ranking import rank
from filtersurgeon.ranking.kernel_scores import KernelScores

torch.set_num_threads(1)


class Residual(nn.Module):
    """A stream of 8 channels that stem and second make; first makes 12 of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first = nn.Conv2d(8, 12, 3, padding=1)
        self.second = nn.Conv2d(12, 8, 3, padding=1)
        self.head = nn.Conv2d(8, 2, 1)
        self.pretrained_cfg = {"input_size": (3, 8, 8)}

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).relu()
        return self.head(x + self.second(self.first(x).relu()))


class Bottleneck(nn.Module):
    """Eight channels that a 1x1 layer makes and a depthwise one carries; a head of ten."""

    def __init__(self) -> None:
        super().__init__()
        self.widen = nn.Conv2d(3, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.project = nn.Conv2d(8, 6, 1)
        self.last = nn.Conv2d(6, 10, 3)
        self.head = nn.Linear(10, 2)
        self.pretrained_cfg = {"input_size": (3, 8, 8)}

    def forward(self, x: Tensor) -> Tensor:
        x = self.depthwise(self.widen(x).relu()).relu()
        return self.head(self.last(self.project(x).relu()).relu().mean((2, 3)))


class Decoder(nn.Module):
    """A transposed convolution between two others."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 8, 3)
        self.out = nn.Conv2d(8, 2, 3)
        self.pretrained_cfg = {"input_size": (3, 8, 8)}

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.up(self.down(x).relu()).relu())


def opened(kind: type[nn.Module], tmp_path: Path) -> fs.Checkpoint:
    torch.manual_seed(0)
    path = tmp_path / f"{kind.__name__}.safetensors"
    save_file(kind().state_dict(), path)
    return fs.load(path, arch=f"factory:tests.test_layer_choice:{kind.__name__}")


def pruned(source: fs.Checkpoint, **words: Any) -> tuple[dict[str, int], PruneReport]:
    """Prune; gives the number of filters that each layer has left, and the report."""
    reports: list[PruneReport] = []
    cut = fs.prune(source, observe=reports.append, **words)
    made = {name.removesuffix(".weight"): x.shape[0] for name, x in cut.tensors.items()}
    return made, reports[0]


WAYS = [
    {"sparsity": 0.5, "per_layer": True, "method": "l2"},
    {"sparsity": 0.95, "method": "l2"},
    {"target": "params=0.5x", "method": "random"},
    {"sparsity": 0.9, "method": "l2", "round_to": 4},
]


@pytest.mark.parametrize("words", WAYS)
def test_a_layer_that_is_left_out_keeps_its_filters_on_a_stream(words, tmp_path):
    source = opened(Residual, tmp_path)
    whole, _ = pruned(source, **words)
    assert whole["stem"] < 8
    made, report = pruned(source, **words, layers=["!stem"])
    assert (made["stem"], made["second"]) == (8, 8)
    assert made["first"] < 12
    (note,) = [text for text in report.notes if "leaves" in text]
    assert note.endswith("which `layers` leaves out: second (with stem)")
    because = {layer.name: layer.kept_because for layer in report.layers}
    assert because["stem"] == because["second"] == "made by stem, which `layers` leaves out"
    assert because["first"] == ""


def test_exact_pruning_keeps_filters_of_layers_that_are_left_out(tmp_path):
    """Nobody reads channel 5 of the stream, nor channel 7 of the block."""
    source = opened(Residual, tmp_path)
    dead = {"first.weight": 5, "head.weight": 5, "second.weight": 7}
    tensors = dict(source.tensors)
    for name, channel in dead.items():
        weight = source[name].torch().clone()
        weight[:, channel] = 0
        tensors[name] = fs.StoredTensor.from_array(weight.numpy(), "F32")
    source = replace(source, tensors=tensors)
    words = {"sparsity": 20 / (24 + 96 + 96), "method": "l2", "mode": "exact"}
    made, _ = pruned(source, **words)
    assert (made["stem"], made["first"], made["second"]) == (7, 11, 7)
    made, _ = pruned(source, **words, layers=["!second"])
    assert (made["stem"], made["first"], made["second"]) == (8, 11, 8)


@pytest.mark.parametrize("words", WAYS[:2])
def test_a_depthwise_layer_that_is_left_out_keeps_its_filters(words, tmp_path):
    source = opened(Bottleneck, tmp_path)
    made, report = pruned(source, **words, layers=["!depthwise"])
    assert (made["widen"], made["depthwise"]) == (8, 8)
    assert made["last"] < 10
    assert "widen (with depthwise)" in report.notes[0]
    made, report = pruned(source, **words, layers=["!last"])
    assert made["last"] == 10
    assert made["depthwise"] == made["widen"] < 8
    assert not any("leaves" in text for text in report.notes)


@pytest.mark.parametrize("words", WAYS[:2])
def test_named_layers_are_the_only_ones_that_are_cut(words, tmp_path):
    source = opened(Bottleneck, tmp_path)
    made, _ = pruned(source, **words, layers=["widen", "depthwise"])
    assert made["widen"] == made["depthwise"] < 8
    assert (made["project"], made["last"]) == (6, 10)


@pytest.mark.parametrize("words", WAYS[:2])
@pytest.mark.parametrize(
    ("kind", "layers", "said"),
    [
        (Residual, ["stem"], "stem shares its channels with second, which is left out"),
        (Residual, ["*", "!second", "!first"], "stem shares its channels with second"),
        (Bottleneck, ["widen"], "widen shares its channels with depthwise"),
        (Residual, ["head"], "head keeps all channels, leaves the network .output.; select others"),
        (Residual, ["layer9"], "no convolution matches 'layer9'"),
    ],
)
def test_nothing_left_to_cut_is_one_line(words, kind, layers, said, tmp_path):
    with pytest.raises(LayerError, match=said) as caught:
        pruned(opened(kind, tmp_path), **words, layers=layers)
    assert "\n" not in str(caught.value)


def test_scores_are_taken_of_selected_layers_only(tmp_path):
    source = opened(Residual, tmp_path)
    shapes = {"stem": (8, 3), "first": (12, 8), "second": (8, 12)}
    scores = KernelScores("given", {}, {k: np.ones(shape) for k, shape in shapes.items()})
    scores.layers["second"][:, 3] = 0.1
    scores.layers["stem"][:] = 0.01
    made, report = pruned(source, sparsity=8 / 192, scores=scores, layers=["!stem"])
    assert report.zeroed == (8, 192)
    assert (made["stem"], made["first"], made["second"]) == (8, 11, 8)
    only = replace(scores, layers={"stem": scores.layers["stem"]})
    with pytest.raises(LayerError, match="none of the selected layers"):
        pruned(source, sparsity=0.5, scores=only, layers=["first"])


def ranked(source: fs.Checkpoint, layers: list[str] | None = None) -> fs.Checkpoint:
    return rank(source, "l2", layers=layers).annotate(source)


ANNOTATED = {"sparsity": 0.5, "per_layer": True}


def test_a_ranking_of_some_layers_cuts_no_others(tmp_path):
    source = opened(Residual, tmp_path)
    made, report = pruned(ranked(source), **ANNOTATED)
    assert (made["stem"], made["first"], made["second"]) == (4, 6, 4)
    assert not any("leaves" in text for text in report.notes)
    for layers in (["first", "second"], ["!stem"]):
        made, report = pruned(ranked(source, layers), **ANNOTATED)
        assert (made["stem"], made["first"], made["second"]) == (8, 6, 8)
        assert "which the ranking leaves out: second (with stem)" in report.notes[0]
    made, _ = pruned(ranked(source), **ANNOTATED, layers=["!stem"])
    assert (made["stem"], made["first"], made["second"]) == (8, 6, 8)
    with pytest.raises(LayerError, match="the ranking leaves no filter to cut: stem shares"):
        pruned(ranked(source, ["stem"]), **ANNOTATED)


def test_a_ranking_of_all_spatial_layers_decides_for_the_others(tmp_path):
    """By default rank leaves 1x1 layers out; their channels go with those of a ranked layer."""
    source = opened(Bottleneck, tmp_path)
    made, _ = pruned(ranked(source), **ANNOTATED)
    assert (made["widen"], made["depthwise"], made["last"]) == (4, 4, 5)
    with pytest.raises(LayerError, match="depthwise shares its channels with widen"):
        pruned(ranked(source, ["depthwise"]), **ANNOTATED)


def test_a_ranking_without_patterns_that_lacks_layers(tmp_path):
    """As another program may have made it."""
    source = opened(Residual, tmp_path)
    ranking = rank(source, "l2", layers=["!stem"])
    made, _ = pruned(replace(ranking, patterns=()).annotate(source), **ANNOTATED)
    assert (made["stem"], made["first"], made["second"]) == (8, 6, 8)


def test_a_ranking_of_a_transposed_convolution_is_refused(tmp_path):
    """Its rows are inputs, which only the architecture tells."""
    source = opened(Decoder, tmp_path)
    with pytest.raises(OptionError, match="layer up is a transposed convolution") as caught:
        pruned(ranked(source), **ANNOTATED)
    assert len(str(caught.value)) < 160
    made, _ = pruned(ranked(source), **ANNOTATED, layers=["!up"])
    assert made["down"] == 4


def test_a_ranking_of_another_network_is_refused(tmp_path):
    source = opened(Residual, tmp_path)
    ranking = rank(source, "l2")
    wrong = replace(ranking.layers["first"], order=np.arange(5), scores=np.ones(5))
    other = replace(ranking, layers={**ranking.layers, "first": wrong}).annotate(source)
    with pytest.raises(FilterSurgeonError, match="the ranking of layer first does not fit"):
        pruned(other, **ANNOTATED)
