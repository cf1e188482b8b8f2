"""What people are told of a cut: what was used, why nothing went, and what was lost."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import filtersurgeon as fs
from filtersurgeon.cli.prune import _summary
from filtersurgeon.errors import DataError
from filtersurgeon.graph.opened_model import open_model
from filtersurgeon.networks.opened_module import open_module
from filtersurgeon.pruning.exact import still_used
from filtersurgeon.pruning.worth import Comparison, Worth


class Stream(nn.Module):
    """A residual stream of four channels, and six channels inside the block."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, padding=1)
        self.inner = nn.Conv2d(4, 6, 3, padding=1)
        self.outer = nn.Conv2d(6, 4, 3, padding=1)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = x + self.outer(self.inner(x).relu())
        return self.head(x.mean((2, 3)))


def report_of(network: nn.Module, **options):
    found: list[fs.PruneReport] = []
    pruned = fs.prune(network.eval(), (3, 16, 16), observe=found.append, **options)
    return found[0], pruned


def scores(**layers: Tensor) -> fs.KernelScores:
    values = {name: x.double().numpy() for name, x in layers.items()}
    return fs.KernelScores("l2", {}, values)


def of(network: nn.Module, idle: dict[str, list[tuple[int | slice, int | slice]]]):
    """Score every kernel 1 but those that are to be zeroed."""
    found = {}
    for name in ("stem", "inner", "outer"):
        found[name] = torch.ones(network.get_submodule(name).weight.shape[:2])
        for row, column in idle.get(name, ()):
            found[name][row, column] = 0
    zero = sum(int((x == 0).sum()) for x in found.values())
    return scores(**found), zero / sum(x.numel() for x in found.values())


def test_a_channel_of_a_stream_that_others_use_is_counted():
    """The inner layer reads nothing of channel 2, which the head needs."""
    network = Stream()
    known, share = of(network, {"inner": [(slice(None), 2)], "outer": [(slice(None), 5)]})
    report, pruned = report_of(network, sparsity=share, scores=known)
    assert pruned.stem.out_channels == 3
    assert pruned.inner.out_channels == 5
    used = [text for text in report.warnings if "still used" in text]
    assert used == [
        "1 of 2 removed channels were still used by other layers, as in a residual stream; "
        "`mode='exact'` removes only unused ones"
    ]
    report, pruned = report_of(network, sparsity=share, scores=known, mode="exact")
    assert (pruned.stem.out_channels, pruned.inner.out_channels) == (4, 5)
    assert not any("still used" in text for text in report.warnings)
    assert report.compared == "the original with the kernels zeroed"


def test_without_images_the_accuracy_is_unknown_and_with_them_it_is_told():
    report, _ = report_of(Stream(), sparsity=0.4, per_layer=True)
    assert [text.partition(":")[0] for text in report.warnings] == ["accuracy unknown"]
    assert "accuracy unknown" not in "".join(report.notes)
    pixels = torch.rand(40, 3, 16, 16)
    report, _ = report_of(
        Stream(), sparsity=0.4, per_layer=True, method="l2", data=(pixels, torch.arange(40) % 5)
    )
    assert report.worth is not None
    assert report.worth.images == 40
    assert not any("unknown" in text for text in report.warnings)


@pytest.mark.parametrize(
    ("options", "method"),
    [({}, "lamp"), ({"mode": "exact"}, "lamp"), ({"per_layer": True}, "l2")],
)
def test_images_without_labels_show_what_a_cut_changed(options, method):
    network, pixels = Stream(), torch.rand(40, 3, 16, 16)
    report, _ = report_of(network, sparsity=0.4, data=pixels, **options)
    assert report.worth is not None
    assert report.worth.top1 is None
    assert report.notes[0].startswith("the images have no labels, which saliency needs: ")
    assert report.notes[0].endswith(f" by {method}")
    assert not any("unknown" in text for text in report.warnings)
    # The same cut as without images.
    other, _ = report_of(network, sparsity=0.4, **options)
    assert other.layers == report.layers
    assert not any("no labels" in text for text in other.notes)
    report, _ = report_of(network, sparsity=0.4, data=pixels, method=method, **options)
    assert not any("no labels" in text for text in report.notes)
    with pytest.raises(DataError, match="no labels"):
        report_of(network, sparsity=0.4, data=pixels, method="saliency", **options)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"sparsity": 0.05}, "no channel is removed: a channel goes once a layer has no kernel "),
        ({"sparsity": 0.0}, "no channel is removed: `sparsity` 0 zeroes no kernel"),
        ({"sparsity": 0.0, "mode": "exact"}, "no channel is removed: none is unused or constant"),
        ({"sparsity": 0.1, "per_layer": True}, "is less than one in most layers; `sparsity` 0.2 "),
        ({"sparsity": 0.4, "per_layer": True, "round_to": 8}, "`round_to` keeps 3 that would"),
        ({"sparsity": 0.4, "per_layer": True, "min_channels": 6}, "`min_channels` keeps 3 that"),
    ],
)
def test_that_nothing_was_removed_is_told_with_the_reason(options, said):
    report, _ = report_of(Stream(), **options)
    assert report.after.parameters == report.before.parameters
    assert said in "\n".join(report.notes)


def test_a_share_that_removes_more_does_so():
    network = Stream()
    report, _ = report_of(network, sparsity=0.05)
    note = next(text for text in report.notes if "no channel is removed" in text)
    share = float(note.partition("`sparsity` ")[2].split()[0])
    report, _ = report_of(network, sparsity=share)
    assert report.after.parameters < report.before.parameters


def test_borders_that_keep_constants_are_told():
    """A dead filter leaves its bias, which the padding of the next layer feels."""
    network = Stream()
    with torch.no_grad():
        network.inner.weight[1] = 0
        network.inner.bias[1] = 0.7
    report, _ = report_of(network, sparsity=0.0, mode="exact")
    assert any("zero padding keeps 1 constant channels, which `border='fold'`" in x
               for x in report.notes)  # fmt: skip
    report, pruned = report_of(network, sparsity=0.0, mode="exact", border="fold")
    assert pruned.inner.out_channels == 5


def test_exact_without_zeroing_says_that_nothing_changed():
    network = Stream()
    with torch.no_grad():
        network.inner.weight[1], network.inner.bias[1] = 0, 0
    report, pruned = report_of(network, sparsity=0.0, mode="exact")
    assert pruned.inner.out_channels == 5
    assert report.unchanged
    assert report.compared == "the original"
    assert report.warnings == ()
    assert json.loads(json.dumps(report.to_json()))["warnings"] == []


def test_what_is_used_follows_constants():
    """A depthwise layer without weights passes on a constant, which says nothing of the image."""
    network = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.SiLU(), nn.Conv2d(4, 2, 1)
    )
    opened = open_model(open_module(network.eval(), (3, 8, 8)))
    mask = np.array([[True], [False], [False], [False]])
    used = still_used(opened, {"1": mask})
    of = opened.graph.groups.members(opened.layers[0].out_channels)
    assert used[of].tolist() == [False, True, True, True]


def test_a_cut_that_only_zeroes_is_compared_with_zeroed_kernels():
    network = Stream()
    known, share = of(network, {"outer": [(0, 5)]})
    report, _ = report_of(network, sparsity=share, scores=known)
    assert report.zeroed[0] == 1
    assert report.after == report.before
    assert report.compared == "the original with the kernels zeroed"


# Chance.


def compared(before: Tensor, after: Tensor, labels: Tensor) -> Worth:
    comparison = Comparison()
    comparison.add(before, after, labels)
    return comparison.worth(held_out=False)


def test_one_class_for_all_images_is_chance():
    labels = torch.arange(50) % 5
    right = nn.functional.one_hot(labels, 5).double()
    constant = torch.zeros(50, 5).double()
    constant[:, 3] = 1
    worth = compared(right, constant, labels)
    assert worth.top1 == (1.0, 0.2)
    assert worth.at_chance
    assert worth.collapsed
    assert worth.commonest == (0.2, 1.0)
    assert worth.describe().endswith("top-1 100.0% -> 20.0% (chance)")
    half = right.clone()
    half[::2] = constant[::2]
    worth = compared(right, half, labels)
    assert not worth.at_chance
    assert not worth.collapsed
    few = compared(right[:5], constant[:5], labels[:5])
    assert not few.at_chance


def test_one_class_without_labels_is_told():
    labels = torch.full((30,), -1)
    spread = nn.functional.one_hot(torch.arange(30) % 3, 3).double()
    same = torch.zeros(30, 3).double()
    same[:, 1] = 1
    worth = compared(spread, same, labels)
    assert worth.top1 is None
    assert worth.collapsed


def test_a_score_that_falls_is_told():
    """The output of one label becomes a constant, whose area is 1/2."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                            nn.Linear(2, 2, bias=False)).eval()  # fmt: skip
    with torch.no_grad():
        network[0].weight[:, 0, 0, 0], network[0].bias[:] = torch.tensor([1.0, 0.1]), 0
        # Small beside the other output's variance.
        network[4].weight[:] = torch.tensor([[0.0, 1.0], [100.0, 1.0]])
    pixels = torch.rand(40, 1, 4, 4) * torch.rand(40, 1, 1, 1)
    bright = pixels.mean((1, 2, 3)) > pixels.mean()
    labels = torch.stack([bright, bright], 1).int()
    found: list[fs.PruneReport] = []
    fs.prune(network, (1, 4, 4), ratios={"0": 0.5}, method="l1", data=(pixels, labels),
             observe=found.append)  # fmt: skip
    assert found[0].worth.metric == "mean ROC AUC"
    before, after = found[0].worth.score
    assert after == pytest.approx((before + 0.5) / 2, abs=0.03)
    assert found[0].worth.divergence < 0.1
    [warning] = found[0].warnings
    assert warning.startswith(f"mean ROC AUC falls from {before:.1%} to {after:.1%}; remove less")
    lost = Worth(20, False, None, 0.0, score=(0.9, 0.4), metric="mean ROC AUC")
    assert lost.guesses
    assert not replace(lost, images=5).poor
    masks = Worth(5, False, None, 0.0, score=(0.9, 0.0), metric="mean Dice")
    assert masks.poor
    assert not masks.guesses
    assert not replace(masks, score=(0.9, 0.85)).poor


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("-s", 0.99, "-m", "l2"), "would have been emptied and keep the best"),
        (("--per-layer", "-s", 0.9, "--min-channels", 12), "fewer than --min-channels 12 and keep"),
    ],
)
def test_what_the_least_number_of_channels_keeps_is_said_truly(fsurgeon, tmp_path, words, said):
    fs.save(fs.untrained("timm:test_resnet"), tmp_path / "m.safetensors")
    done = fsurgeon("prune", tmp_path / "m.safetensors", *words, "-o", tmp_path / "o.safetensors")
    assert done.returncode == 0
    assert said in done.stderr.decode()


class Next(nn.Module):
    """A block of ConvNeXt: the layer norm keeps all channels of the stream, but not the hidden."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 2, 2)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.norm = nn.LayerNorm(8)
        self.wide = nn.Linear(8, 20)
        self.back = nn.Linear(20, 8)
        self.head = nn.Linear(8, 5)
        with torch.no_grad():
            self.depthwise.weight[:6] *= 1e-6
            self.wide.weight[::2] *= 1e-6
            self.wide.bias.zero_()

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        hidden = self.wide(self.norm(self.depthwise(x).permute(0, 2, 3, 1)))
        x = x + self.back(nn.functional.gelu(hidden)).permute(0, 3, 1, 2)
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("fill", "said", "compared"),
    [("zero", "zeroed,", "the kernels zeroed and "),
     ("fillzero", "zeroed (those left: noise),", "the kernels zeroed and "),
     ("restore", "zeroed (those left: restored),", "")],
)  # fmt: skip
def test_the_summary_says_what_became_of_zeroed_kernels(fill, said, compared):
    network = Stream()
    known, share = of(network, {"outer": [(slice(None), 5)]})
    report, _ = report_of(network, sparsity=share, scores=known, fill=fill)
    assert f"spatial kernels {said}" in _summary(report)
    assert report.after.parameters < report.before.parameters
    assert report.compared == f"the original with {compared}the removed channels silenced"


@pytest.mark.parametrize("sparsity", [0.15, 0.05])
def test_what_keeps_channels_without_kernels_is_named(sparsity):
    reports: list[fs.PruneReport] = []
    fs.prune(Next(), sparsity=sparsity, example_inputs=(3, 8, 8), observe=reports.append)
    (note,) = [text for text in reports[0].notes if "no channel is removed" in text]
    assert "stem and depthwise keep all channels" in note
    assert "layer_norm" in note
    assert "`per_layer` removes channels of other layers" in note
    assert "a channel goes once" not in note


def test_what_keeps_most_layers_whole_is_named():
    reports: list[fs.PruneReport] = []
    fs.prune(Next(), sparsity=0.05, per_layer=True, example_inputs=(3, 8, 8),
             observe=reports.append)  # fmt: skip
    assert reports[0].after.parameters < reports[0].before.parameters
    assert not any("keep all channels" in text for text in reports[0].notes)
    network = Next()
    network.wide, network.back = nn.Linear(8, 2), nn.Linear(2, 8)
    fs.prune(network, sparsity=0.05, per_layer=True, example_inputs=(3, 8, 8),
             observe=reports.append)  # fmt: skip
    (note,) = reports[1].notes
    assert note.startswith("no channel is removed: ")
    assert "2 more layers keep all channels" in note


def test_saliency_ranks_the_filters_of_linear_layers_too():
    images = torch.rand(12, 3, 8, 8), torch.arange(12) % 5
    given = {"per_layer": True, "sparsity": 0.5, "data": images, "example_inputs": (3, 8, 8)}
    network = Next()
    pruned = fs.prune(network, **given)
    assert pruned.wide.out_features == 10
    assert torch.equal(pruned.wide.weight, network.wide.weight[1::2])


class Depthwise(nn.Module):
    """Two of eight depthwise kernels are small, and their normalisation makes up for it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Conv2d(3, 8, 1)
        self.depthwise = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False)
        self.norm = nn.BatchNorm2d(8, momentum=None)
        self.head = nn.Linear(8, 4)
        with torch.no_grad():
            self.depthwise.weight[:2] = 0.001
            self.stem.bias[:2] = 5
            self.norm.weight[:2] = -1
            self.head.weight *= 3
            self.head.weight[:, :2] = torch.tensor([[0.3], [0], [0], [0]])

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.depthwise(self.stem(x))).relu().mean((2, 3)))


def test_constants_that_zeroed_depthwise_kernels_leave_are_told():
    """The normalisation behind a zeroed kernel gives its mean over its deviation, here far off."""
    network, pixels = Depthwise(), torch.rand(40, 3, 1, 1) + 0.1 * torch.rand(40, 3, 16, 16)
    with torch.no_grad():
        network.train()(pixels)
        labels = network.eval()(pixels).argmax(1)
    options = {"sparsity": 0.25, "method": "l2", "data": (pixels, labels)}
    exact, one = report_of(network, mode="exact", **options)
    plain, other = report_of(network, **options)
    assert one.depthwise.weight.shape == other.depthwise.weight.shape == (6, 1, 3, 3)
    assert exact.worth.agreement < plain.worth.agreement
    (said,) = exact.warnings
    assert "zeroed kernels leave constants, which `mode='channelprune'` removes here" in said
    assert not any("constants" in text for text in plain.warnings)
