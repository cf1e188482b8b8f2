"""Residual branches that go whole: constants take the places of their convolutions."""

from __future__ import annotations

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import filtersurgeon as fs
from filtersurgeon.checkpoint.tensor import from_torch
from filtersurgeon.errors import CheckpointError, OptionError
from filtersurgeon.learn.measure import count_macs
from filtersurgeon.networks.modules.constant import ConstantConvolution
from filtersurgeon.pruning.reconstruction.allocation import allocate
from filtersurgeon.pruning.reconstruction.plan_file import PlannedBundle

torch.set_num_threads(1)
SIZE = (3, 16, 16)


class Branch(nn.Module):
    """A residual block; with ``depthwise``, an inverted one."""

    def __init__(self, *, depthwise: bool = False) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(16, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()
        )
        self.middle = (
            nn.Sequential(nn.Conv2d(32, 32, 3, padding=1, groups=32, bias=False), nn.ReLU())
            if depthwise
            else nn.Identity()
        )
        self.last = nn.Conv2d(32, 16, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(16)

    def forward(self, x: Tensor) -> Tensor:
        made = self.norm(self.last(self.middle(self.first(x))))
        made += x  # in place, as timm's ResNets add
        return made.relu()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg = {"input_size": SIZE, "mean": (0.5,) * 3, "std": (0.5,) * 3}
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.Sequential(Branch(), Branch(depthwise=True), Branch())
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x).relu()).mean((2, 3)))


FIRST, INVERTED, LAST = (f"blocks.{n}.first.0" for n in range(3))


def network() -> nn.Module:
    """Give a network whose normalisations are no identities."""
    torch.manual_seed(0)
    made = Net().eval()
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight, module.bias, module.running_mean):
                nn.init.normal_(tensor, std=0.5)
            nn.init.uniform_(module.running_var, 0.5, 2)
    return made


@pytest.fixture(scope="module")
def photographs(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("images") / "some.npz"
    np.savez(path, x=np.random.default_rng(0).integers(0, 256, (48, 16, 16, 3), dtype=np.uint8))
    return str(path)


@pytest.fixture(scope="module")
def plan(photographs):
    """What is known of the network after an ordinary cut."""
    return cut(network(), photographs, target="macs=0.9x")[1].plan


def cut(module, photographs, **options):
    seen: list[fs.PruneReport] = []
    made = fs.prune(
        module, data=photographs, example_inputs=torch.zeros(1, *SIZE), observe=seen.append,
        **options,
    )  # fmt: skip
    return made, seen[0]


def without(plan, *names: str):
    bundles = {
        name: replace(bundle, keep=0 if name in names else bundle.width)
        for name, bundle in plan.bundles.items()
    }
    return replace(plan, bundles=bundles)


@pytest.mark.parametrize("name", [FIRST, INVERTED])
def test_a_branch_that_goes_whole_gives_a_constant(name, plan, photographs):
    original = network()
    made, report = cut(original, photographs, plan=without(plan, name))
    assert report.difference < 1e-6
    assert any("gives a constant now" in note and name in note for note in report.notes)
    block = made.get_submodule(name.removesuffix(".first.0"))
    convolutions = [m for m in block.modules() if isinstance(m, nn.Conv2d)]
    assert not convolutions
    # What the branch adds is one value per channel, in every place and of every image.
    seen: list[Tensor] = []
    block.norm.register_forward_hook(lambda _, __, out: seen.append(out.detach().clone()))
    made(torch.randn(3, *SIZE))
    assert torch.allclose(seen[0], seen[0][:1, :, :1, :1].expand_as(seen[0]), atol=1e-6)
    # What is counted is what is there.
    assert report.after.parameters == sum(p.numel() for p in made.parameters())
    assert report.after.macs == count_macs(made, SIZE)
    assert report.after.macs < report.before.macs - 32 * 16 * 9 * 256


def test_the_constant_is_what_the_branch_made_on_average(plan, photographs):
    """With the last branch gone, its constant is fitted to the mean of its outputs."""
    original = network()
    made, _ = cut(original, photographs, plan=without(plan, LAST))
    pixels = torch.from_numpy(np.load(photographs)["x"]).permute(0, 3, 1, 2) / 255
    images = (pixels - 0.5) / 0.5
    means = []
    for each in (original, made):
        seen: list[Tensor] = []
        hook = each.blocks[2].norm.register_forward_hook(
            lambda _, __, out, seen=seen: seen.append(out.detach().clone())
        )
        with torch.no_grad():
            each(images)
        hook.remove()
        means.append(seen[0].mean((0, 2, 3)))
    spread = means[0].std()
    # Fitted to a sample of positions of four fifths of the images.
    assert (means[0] - means[1]).abs().max() < 0.1 * spread


def test_files_of_such_networks_are_read_and_cut_again(plan, photographs):
    made, report = cut(network(), photographs, plan=without(plan, FIRST, INVERTED))
    assert sum("residual branches give a constant" in note for note in report.notes) == 1
    again, second = cut(made, photographs, target="macs=0.8x")
    assert second.difference < 1e-6
    assert second.after.macs == count_macs(again, SIZE)
    streams = fs.prune(
        made, per_layer=True, sparsity=0.25, method="l2", example_inputs=torch.zeros(1, *SIZE)
    )
    assert len(streams.blocks[0].last.bias) == 12  # the constant follows the residual stream
    assert streams(torch.zeros(2, *SIZE)).shape == (2, 5)


def test_a_file_of_a_real_architecture(photographs, tmp_path):
    checkpoint = fs.untrained("timm:test_resnet")
    plans: list[fs.PruneReport] = []
    fs.prune(checkpoint, target="macs=0.9x", data=photographs, observe=plans.append)
    pruned = fs.prune(checkpoint, plan=without(plans[0].plan, "layer1.0.conv1"), data=photographs)
    [edit] = [x for x in pruned.structure if x["edit"] == "constant"]
    assert edit["modules"] == ["layer1.0.conv1", "layer1.0.conv2"]
    assert "layer1.0.conv1.weight" not in pruned.tensors
    fs.save(pruned, tmp_path / "m.safetensors")
    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    before, after = (fs.build(x)(images) for x in (pruned, fs.load(tmp_path / "m.safetensors")))
    assert torch.equal(before, after)
    done = fs.export(pruned, tmp_path / "m.pt2", input_size=(3, 32, 32))
    assert done.difference.relative_max < 1e-5


def test_only_branches_go_whole(plan, photographs):
    stream = replace(plan, bundles={**plan.bundles, "stem": PlannedBundle(16, 0)})
    with pytest.raises(OptionError, match="keeps 0 of stem; 2 is the least"):
        cut(network(), photographs, plan=stream, streams="cut")


@pytest.mark.parametrize(
    ("options", "side"),
    [
        ({"kernel_size": 3, "padding": 1}, 9),
        ({"kernel_size": 3, "stride": 2}, 10),
        ({"kernel_size": (5, 3), "stride": (2, 3), "padding": (2, 0), "dilation": (1, 2)}, 16),
        ({"kernel_size": 4, "padding": "same"}, 7),
        ({"kernel_size": 3, "padding": "valid", "bias": False}, 7),
    ],
)
def test_constants_have_the_size_of_the_convolution(options, side):
    convolution = nn.Conv2d(4, 6, **options)
    nn.init.zeros_(convolution.weight)
    images = torch.randn(2, 4, side, side + 1)
    constant = ConstantConvolution.of(convolution)
    assert torch.equal(constant(images), convolution(images))
    assert torch.equal(constant(images[0]), convolution(images[0]))


def test_constants_have_the_size_of_timms_convolution():
    from filtersurgeon.checkpoint.vision import import_timm

    import_timm()
    from timm.layers import Conv2dSame

    for stride, side in ((2, 9), (2, 10), (3, 7)):
        convolution = Conv2dSame(4, 6, 3, stride=stride)
        nn.init.zeros_(convolution.weight)
        images = torch.randn(1, 4, side, side)
        assert torch.equal(ConstantConvolution.of(convolution)(images), convolution(images))


@pytest.mark.parametrize(
    ("modules", "words"),
    [
        ("layer1", "no list of names"),
        (["layer1.0.bn1"], "is a .*Norm.*no ordinary convolution"),
        (["nowhere"], "does not have"),
    ],
)
def test_edits_are_not_trusted(modules, words):
    checkpoint = fs.untrained("timm:test_resnet")
    edited = replace(checkpoint, structure=({"edit": "constant", "modules": modules},))
    with pytest.raises(CheckpointError, match=words):
        fs.build(edited)


class Equal:
    """Two bundles of four groups; every group counts one."""

    full = np.array([4, 4])

    def __call__(self, widths):
        return float(widths.sum())

    def slopes(self, widths):
        return np.ones(len(widths))


def test_a_whole_branch_is_preferred_by_what_it_saves():
    losses = [np.array([0.0, 1, 2, 3, 6]), np.array([0.0, 1.2, 2.4, 3.6, 4.8])]
    allowed = [np.arange(5), np.array([0, 4])]
    alone = allocate(Equal(), losses, allowed, 5.0)
    assert alone.kept.tolist() == [1, 4]
    # The second costs 4.8 for what saves as much as eight groups.
    double = allocate(Equal(), losses, allowed, 5.0, whole=2.0)
    assert double.kept.tolist() == [4, 0]


def test_a_branch_that_does_nothing_is_found(photographs):
    """Its loss as a whole is none, that of the others is some."""
    from filtersurgeon.pruning.settings import PruneSettings
    from filtersurgeon.pruning.target import read_target
    from filtersurgeon.transforms._cut_to_target import prepare_cuts

    checkpoint = fs.untrained("timm:test_resnet")
    module = fs.build(checkpoint)
    for each in module.modules():
        if isinstance(each, nn.BatchNorm2d):
            nn.init.ones_(each.weight)
    tensors = copy.deepcopy(module.state_dict())
    tensors["layer2.0.conv2.weight"].zero_()
    stored = {name: from_torch(tensor, name) for name, tensor in tensors.items()}
    planted = replace(checkpoint, tensors=stored)
    settings = PruneSettings(
        target=read_target("latency=0.5x"), compensate="sequential", allocate="measured"
    )
    prepared = prepare_cuts(planted, settings, photographs).prepared
    known = {c.candidate.name: c.whole for c in prepared.statistics.curves}
    assert known["layer2.0.conv1"] < 1e-6 < known["layer1.0.conv1"]
