"""Pruning: what is cut, what stays, and what the narrow network does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import nn

import filtersurgeon as fs
from filtersurgeon.errors import GraphError, LayerError, OptionError
from filtersurgeon.graph.opened_model import open_model
from filtersurgeon.graph.weights import weight_layers
from filtersurgeon.networks.skeleton import skeleton
from filtersurgeon.pruning.plan import keep_alive, percentile_ranks, round_widths, zero_least
from filtersurgeon.pruning.report import PruneReport
from filtersurgeon.pruning.target import read_target
from filtersurgeon.ranking.kernel_scores import KernelScores

SMALL = [
    "timm:resnet10t",
    "timm:test_resnet",
    "timm:test_byobnet",
    "timm:test_efficientnet",
    "timm:test_convnext",
    "timm:test_convnext2",
    "timm:test_nfnet",
    "timm:test_mambaout",
    "torchvision:shufflenet_v2_x0_5",
    "torchvision:squeezenet1_1",
]


def network(architecture: str, seed: int = 0) -> nn.Module:
    """Make a network with random weights, none of them left at a special value such as zero."""
    torch.manual_seed(seed)
    model = skeleton(architecture, on_meta=False)
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and tensor.ndim <= 1:
            low = 0.5 if "var" in name or "weight" in name else -0.5
            tensor.copy_(torch.rand(tensor.shape, generator=generator) + low)
    return model.eval()


def checkpoint(architecture: str, tmp_path: Path) -> fs.Checkpoint:
    """Give a file of such a network, opened."""
    file = tmp_path / f"{architecture.replace(':', '_')}.safetensors"
    if not file.exists():
        save_file(
            {k: v.contiguous() for k, v in network(architecture).state_dict().items()},
            file,
            {"architecture": architecture},
        )
    return fs.load(file)


def pruned(source: fs.Checkpoint, **options: Any) -> tuple[fs.Checkpoint, PruneReport]:
    reports: list[PruneReport] = []
    result = fs.prune(source, observe=reports.append, **options)
    return result, reports[0]


@pytest.mark.parametrize("architecture", SMALL)
def test_a_share_per_layer_of_many_networks(architecture: str, tmp_path: Path) -> None:
    cut, report = pruned(checkpoint(architecture, tmp_path), sparsity=0.3, per_layer=True)
    assert report.difference is not None
    assert report.difference < 1e-4
    assert report.after.parameters < 0.95 * report.before.parameters
    assert report.after.macs < report.before.macs
    assert all(
        after >= 1
        for layer in report.layers
        for _, after in (layer.out_channels, layer.in_channels)
    )
    assert sum(p.numel() for p in fs.build(cut).parameters()) == report.after.parameters


@pytest.mark.parametrize("architecture", SMALL[:4])
def test_a_saved_network_comes_back(architecture: str, tmp_path: Path) -> None:
    cut, _ = pruned(checkpoint(architecture, tmp_path), sparsity=0.4, per_layer=True)
    fs.save(cut, tmp_path / "cut.safetensors")
    again = fs.load(tmp_path / "cut.safetensors")
    first, second = fs.build(cut), fs.build(again)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(first(images), second(images))
    twice, report = pruned(again, sparsity=0.4, per_layer=True)
    assert report.after.parameters < report.before.parameters
    assert [entry.verb for entry in twice.history] == ["prune", "prune"]


@pytest.mark.parametrize("architecture", ["torchvision:mnasnet0_5", "timm:tresnet_m"])
def test_networks_with_manners_of_their_own(architecture: str) -> None:
    """One asks for the version of its file, one folds the image before it reads it."""
    source = fs.untrained(architecture)
    cut, report = pruned(source, sparsity=0.3, per_layer=True)
    assert report.after.parameters < report.before.parameters
    assert next(fs.build(cut).parameters()).ndim >= 1


def test_every_bundle_loses_its_share(tmp_path: Path) -> None:
    """Of 64 channels, 30 % are 19.2: 19 go, the ones whose filters are shortest."""
    source = checkpoint("timm:resnet10t", tmp_path)
    cut, _ = pruned(source, sparsity=0.3, per_layer=True, method="l2")
    name = "layer1.0.conv1.weight"
    before, after = source[name].array(), cut[name].array()
    assert before.shape[0] == 64
    assert after.shape[0] == 45
    norms = np.sqrt(np.square(before.astype(np.float64)).sum((1, 2, 3)))
    kept = np.sort(np.argsort(norms)[19:])
    found = [
        int(
            np.flatnonzero(
                cut["layer1.0.bn1.weight"].array()[i] == source["layer1.0.bn1.weight"].array()
            )[0]
        )
        for i in range(45)
    ]
    assert found == kept.tolist()


def test_channelprune_on_two_layers_by_hand(tmp_path: Path) -> None:
    """Filter 2 of the first layer and input 1 of the second have no kernels left."""
    source = tiny(tmp_path)
    scores = {
        "0": np.array([[5.0], [5.0], [0.1], [5.0]]),
        "2": np.array([[4.0, 0.2, 4.0, 4.0], [4.0, 0.3, 4.0, 4.0]]),
    }
    cut, report = pruned(source, sparsity=3 / 12, scores=KernelScores("given", {}, scores))
    assert report.zeroed == (3, 12)
    assert cut["0.weight"].shape == (2, 1, 3, 3)
    assert cut["2.weight"].shape == (2, 2, 3, 3)
    np.testing.assert_array_equal(cut["0.weight"].array(), source["0.weight"].array()[[0, 3]])
    np.testing.assert_array_equal(cut["0.bias"].array(), source["0.bias"].array()[[0, 3]])
    np.testing.assert_array_equal(cut["2.weight"].array(), source["2.weight"].array()[:, [0, 3]])


def tiny_network() -> nn.Module:
    """Two convolutions and a pooled linear layer."""
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3), nn.AdaptiveAvgPool2d(2),
        nn.Flatten(), nn.Linear(8, 3),
    )  # fmt: skip


def tiny(folder: Path) -> fs.Checkpoint:
    save_file(tiny_network().state_dict(), folder / "tiny.safetensors")
    return fs.load(folder / "tiny.safetensors", arch="factory:tests.test_prune:tiny_network")


def test_kernels_that_stay_are_zeroed_restored_or_filled(tmp_path: Path) -> None:
    source = tiny(tmp_path)
    scores = {"0": np.ones((4, 1)), "2": np.array([[0.1, 2, 2, 2], [2, 2, 2, 2.0]])}
    options: dict[str, Any] = {"sparsity": 1 / 12, "scores": KernelScores("given", {}, scores)}
    before = source["2.weight"].array()
    zero = pruned(source, **options)[0]["2.weight"].array()
    assert not zero[0, 0].any()
    np.testing.assert_array_equal(zero[1], before[1])
    restored = pruned(source, fill="restore", **options)[0]["2.weight"].array()
    np.testing.assert_array_equal(restored, before)
    filled = pruned(source, fill="fillzero", **options)[0]["2.weight"].array()
    assert (filled[0, 0] != 0).all()
    np.testing.assert_array_equal(filled[1], before[1])


@settings(max_examples=50)
@given(
    st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=5),
    st.floats(0, 0.999),
    st.integers(1, 3),
    st.integers(0, 10**6),
)
def test_the_least_kernels_are_zeroed_and_no_layer_is_emptied(
    shapes: list[tuple[int, int]], sparsity: float, least: int, seed: int
) -> None:
    generator = np.random.default_rng(seed)
    scores = {str(i): generator.random(shape) for i, shape in enumerate(shapes)}
    zeroed, emptied = zero_least(scores, sparsity, least)
    flat = np.concatenate([s.ravel() for s in scores.values()])
    mask = np.concatenate([zeroed[name].ravel() for name in scores])
    count = int(np.floor(sparsity * len(flat) + 1e-9))
    spared = sum(min(least, len(scores[name])) for name in emptied)
    assert mask.sum() == count - spared
    threshold = np.sort(flat)[count - 1] if count else -1.0
    assert (flat[mask] <= threshold).all()
    for name, layer in zeroed.items():
        assert not layer.all()
        if name in emptied:
            rows = ~layer.all(axis=1)
            assert rows.sum() == min(least, len(layer))
            assert scores[name][~layer].max() == scores[name].max()


@pytest.mark.parametrize("sparsity", [0.5, 0.9, 0.999])
@pytest.mark.parametrize("mode", ["channelprune", "exact"])
def test_no_layer_is_ever_empty(sparsity: float, mode: str, tmp_path: Path) -> None:
    source = checkpoint("timm:test_resnet", tmp_path)
    _, report = pruned(source, sparsity=sparsity, mode=mode, method="random")
    assert all(
        after >= 1
        for layer in report.layers
        for _, after in (layer.out_channels, layer.in_channels)
    )
    assert report.difference is not None
    assert report.difference <= 1e-5


def test_exact_pruning_leaves_outputs_alone(tmp_path: Path) -> None:
    """Against the network with the same kernels zeroed, built and run without this package."""
    source = checkpoint("timm:test_resnet", tmp_path)
    scores = fs.kernel_scores(source, "random", seed=3)
    cut, report = pruned(source, sparsity=0.8, mode="exact", scores=scores)
    assert report.after.parameters < report.before.parameters
    zeroed, _ = zero_least(scores.layers, 0.8)
    model = network("timm:test_resnet")
    with torch.no_grad():
        for name, mask in zeroed.items():
            model.get_submodule(name).weight[torch.from_numpy(mask)] = 0
        images = torch.randn(3, 3, 64, 64)
        expected, found = model(images), fs.build(cut)(images)
    assert expected.std(0).max() > 3e-4 * expected.abs().max()
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


def test_constants_of_dead_channels_move_on(tmp_path: Path) -> None:
    """A dead filter leaves its bias, which the next layer's bias takes up."""
    with torch.no_grad():
        model = tiny_network()
        model[0].weight[1] = 0
        model[0].bias[1] = 0.7
    save_file(model.state_dict(), tmp_path / "dead.safetensors")
    source = fs.load(tmp_path / "dead.safetensors", arch="factory:tests.test_prune:tiny_network")
    cut, _ = pruned(source, sparsity=0.0, mode="exact")
    assert cut["0.weight"].shape[0] == 3
    taken = 0.7 * model[2].weight[:, 1].sum((1, 2)) + model[2].bias
    np.testing.assert_allclose(cut["2.bias"].array(), taken.detach().numpy(), rtol=1e-6)


def unsized() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )  # fmt: skip


@pytest.mark.parametrize("words", [{"per_layer": True, "sparsity": 0.5}, {"target": "macs=0.6x"}])
def test_operations_are_counted_at_the_size_of_the_images(words: Any, tmp_path: Path) -> None:
    torch.manual_seed(0)
    save_file(unsized().state_dict(), tmp_path / "m.safetensors")
    pixels = np.random.default_rng(0).integers(0, 256, (24, 10, 12, 3), np.uint8)
    np.savez(tmp_path / "images.npz", x=pixels)
    reports: list[PruneReport] = []
    fs.prune(
        fs.load(tmp_path / "m.safetensors", arch=f"factory:{__name__}:unsized"),
        data=fs.ImageRun(fs.DataSpec(str(tmp_path / "images.npz"))), observe=reports.append,
        **words,
    )  # fmt: skip
    assert reports[0].before.macs == 10 * 12 * 3 * 9 * 16 + 8 * 10 * 16 * 9 * 8 + 8 * 4


def test_a_target_is_reached(tmp_path: Path) -> None:
    source = checkpoint("timm:resnet10t", tmp_path)
    _, report = pruned(source, target="params=0.4x", per_layer=True)
    share = report.after.parameters / report.before.parameters
    assert 0.37 < share <= 0.4
    _, report = pruned(source, target="macs=0.5x", method="random")
    assert report.after.macs <= 0.5 * report.before.macs
    assert 0 < report.sparsity < 1


def test_widths_are_rounded_up(tmp_path: Path) -> None:
    source = checkpoint("timm:resnet10t", tmp_path)
    _, report = pruned(source, sparsity=0.3, per_layer=True, round_to=8)
    assert all(layer.out_channels[1] % 8 == 0 for layer in report.layers)
    assert any(layer.out_channels[1] < layer.out_channels[0] for layer in report.layers)


def test_bounds_bring_back_the_best() -> None:
    source = network("timm:test_resnet")
    from filtersurgeon.graph.graph import channel_graph

    groups = channel_graph(source, torch.empty(1, 3, 64, 64, device="meta")).groups
    worth = np.random.default_rng(0).random(len(groups))
    left = groups.pinned.copy()
    assert keep_alive(groups, left, worth, 2)
    for bundle in groups.bundles:
        members = bundle.groups
        if not groups.pinned[members[0]]:
            best = members[np.argsort(-worth[members])[:2]]
            assert left[best].all()
            assert left[members].sum() == 2
    round_widths(groups, left, worth, 4)
    for bundle in groups.bundles:
        assert left[bundle.groups].sum() % 4 == 0 or groups.pinned[bundle.groups[0]]


def test_a_ranking_comes_along_in_a_pipeline(fsurgeon: Any, tmp_path: Path) -> None:
    checkpoint("timm:test_resnet", tmp_path)
    file = tmp_path / "timm_test_resnet.safetensors"
    ranked = fsurgeon("rank", file, "--method", "geometric-median", "--annotate")
    assert ranked.returncode == 0, ranked.stderr.decode()
    done = fsurgeon("prune", "--per-layer", "--sparsity", "0.5", input=ranked.stdout)
    assert done.returncode == 0, done.stderr.decode()
    told = done.stderr.decode()
    assert "parameters" in told
    shown = fsurgeon("inspect", "--json", input=done.stdout)
    verbs = [entry["verb"] for entry in json.loads(shown.stdout)["history"]]
    assert verbs == ["prune"]


def test_the_same_words_give_the_same_bytes(fsurgeon: Any, tmp_path: Path) -> None:
    checkpoint("timm:test_resnet", tmp_path)
    file = tmp_path / "timm_test_resnet.safetensors"
    words = ("prune", file, "--sparsity", "0.6", "--method", "random", "--fill", "fillzero")
    first, second = fsurgeon(*words), fsurgeon(*words)
    assert first.returncode == 0, first.stderr.decode()
    assert first.stdout == second.stdout
    other = fsurgeon(*words, "--seed", "1")
    assert other.stdout != first.stdout


def test_a_recipe_prunes_as_the_command_does(fsurgeon: Any, refuse: Any, tmp_path: Path) -> None:
    checkpoint("timm:test_resnet", tmp_path)
    file = tmp_path / "timm_test_resnet.safetensors"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("steps: [{prune: {sparsity: '0.5', per_layer: true, method: l1}}]")
    done = fsurgeon("apply", recipe, file)
    assert done.returncode == 0, done.stderr.decode()
    typed = fsurgeon("prune", file, "--sparsity", "0.5", "--per-layer", "--method", "l1")
    assert done.stdout == typed.stdout
    recipe.write_text("steps: [{prune: {sparsity: much}}]")
    assert "sparsity=much is not a number" in refuse("apply", recipe, file)


def test_a_dry_run_tells_what_cannot_be_cut(fsurgeon: Any, tmp_path: Path) -> None:
    checkpoint("timm:test_resnet", tmp_path)
    file = tmp_path / "timm_test_resnet.safetensors"
    done = fsurgeon("prune", file, "--sparsity", "0.5", "--per-layer", "--dry-run", "--json")
    content = json.loads(done.stdout)
    assert content["schema"] == "filtersurgeon.prune/1"
    head = content["layers"][-1]
    assert head["made"][0] == head["made"][1]
    assert "leaves the network" in head["kept_because"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), "exactly one of --sparsity and --target"),
        (("--sparsity", "1.0"), "below 1"),
        (("--sparsity", "-0.1"), "at least 0"),
        (("--sparsity", "nan"), "at least 0"),
        (("--sparsity", "0.5", "--target", "params=0.5x"), "exactly one of"),
        (("--target", "params=2x"), "params=0.2x"),
        (("--target", "macs=0.000001x"), "cannot be reached"),
        (("--sparsity", "0.5", "--mode", "exakt"), "did you mean exact?"),
        (("--sparsity", "0.5", "--method", "saliency"), "--data"),
        (("--sparsity", "0.5", "--method", "archetype"), "add --per-layer"),
        (("--sparsity", "0.5", "--per-layer", "--method", "l3"), "known: archetype"),
        (("--sparsity", "0.5", "--per-layer", "--layers", "layer9"), "layer9"),
        (("--sparsity", "0.5", "--round-to", "0"), "at least 1"),
        (("--sparsity", "0.5", "--border", "fold"), "--mode exact"),
        (("--sparsity", "0.5", "--arch", "timm:resnet10t"), "does not fit"),
    ],
)
def test_bad_words_are_refused(
    words: tuple[str, ...], said: str, refuse: Any, tmp_path: Path
) -> None:
    checkpoint("timm:test_resnet", tmp_path)
    file = tmp_path / "timm_test_resnet.safetensors"
    assert said in refuse("prune", file, *words, "-o", tmp_path / "out.safetensors")


class _Stubborn(nn.Module):
    """Works its width out in a way that no attribute tells."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.head = nn.Linear(8, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        seen = self.first(image)
        mixed = seen.flatten(2).sort(1).values.view(seen.shape)
        result: torch.Tensor = self.head(self.last(mixed).mean((2, 3)).cumsum(1))
        return result


def stubborn() -> nn.Module:
    """A network all of whose channels are pinned."""
    torch.manual_seed(0)
    return _Stubborn()


def test_a_network_that_is_pinned_everywhere_is_refused_with_the_operator(tmp_path: Path) -> None:
    save_file(stubborn().state_dict(), tmp_path / "m.safetensors")
    source = fs.load(tmp_path / "m.safetensors", arch="factory:tests.test_prune:stubborn")
    with pytest.raises(LayerError, match="no channel can be cut"):
        fs.prune(source, sparsity=0.5, per_layer=True)


def test_scores_of_another_network_are_refused(tmp_path: Path) -> None:
    scores = KernelScores("given", {}, {"0": np.ones((3, 1)), "2": np.ones((2, 4))})
    with pytest.raises(OptionError, match="another network"):
        fs.prune(tiny(tmp_path), sparsity=0.5, scores=scores)


def test_differences_are_relative_and_never_hidden() -> None:
    from filtersurgeon.networks.outputs import relative_difference

    one = torch.tensor([4.0, -2.0])
    assert relative_difference([one], [one + 1]) == 0.25
    assert relative_difference([one], [torch.tensor([4.0, torch.nan])]) == float("inf")


def test_standing_orders() -> None:
    np.testing.assert_allclose(percentile_ranks(np.array([2, 0, 1])), [0.5, 0.0, 1.0])
    np.testing.assert_allclose(percentile_ranks(np.array([0])), [1.0])


def test_targets_are_read() -> None:
    assert read_target("params=0.2x").share == 0.2
    assert read_target("macs=0.5").quantity == "macs"
    for words in ("0.2", "params", "params=x", "flops=0.1x", "params=0x", "params=nanx"):
        with pytest.raises(OptionError):
            read_target(words)


def test_a_wrong_cut_is_caught(tmp_path: Path) -> None:
    """The comparison does not pass a network whose weights are not the ones promised."""
    from filtersurgeon.checkpoint import HistoryEntry
    from filtersurgeon.graph.slim import slim, zero_removed
    from filtersurgeon.graph.verify import verify

    subject = open_model(checkpoint("timm:test_resnet", tmp_path))
    left = np.ones(len(subject.graph.groups), bool)
    bundle = next(
        b for b in subject.graph.groups.bundles if not subject.graph.groups.pinned[b.groups[0]]
    )
    left[bundle.groups[0]] = False
    narrow = slim(subject, left, HistoryEntry("prune"))
    assert verify(subject, zero_removed(subject, left), narrow).difference < 1e-5
    left[bundle.groups[0]], left[bundle.groups[1]] = True, False
    with pytest.raises(GraphError, match="differ by"):
        verify(subject, zero_removed(subject, left), narrow)


def test_layers_know_what_they_make_and_read() -> None:
    from filtersurgeon.graph.graph import channel_graph

    graph = channel_graph(tiny_network().eval(), torch.empty(1, 1, 8, 8, device="meta"))
    first, second, head = weight_layers(graph)
    assert first.in_channels is None
    of = graph.groups.of
    np.testing.assert_array_equal(of[first.out_channels], of[second.in_channels])
    np.testing.assert_array_equal(np.repeat(of[second.out_channels], 4), of[head.in_channels])
    assert graph.groups.pinned[of[head.out_channels]].all()
