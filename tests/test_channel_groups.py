"""Groups of channels as objects, and shares, scores and frozen parts for pruning."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

import filtersurgeon as fs


class Net(nn.Module):
    """A stem, a block of two convolutions on a residual stream, and a joined branch."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)
        self.inner = nn.Conv2d(8, 6, 3, padding=1)
        self.outer = nn.Conv2d(6, 8, 3, padding=1)
        self.side = nn.Conv2d(8, 4, 1)
        self.head = nn.Linear(12 * 4, 5)

    def forward(self, image):
        """Give scores."""
        x = functional.relu(self.norm(self.stem(image)))
        x = x + self.outer(functional.relu(self.inner(x)))
        x = torch.cat([x, self.side(x)], 1)
        return self.head(functional.adaptive_avg_pool2d(x, 2).flatten(1))


SIZE = (3, 16, 16)


def make():
    torch.manual_seed(0)
    return Net().eval()


def silence(module, name, axis, indices):
    """Zero indices of an axis of a parameter."""
    with torch.no_grad():
        module.get_parameter(name).index_fill_(axis, torch.tensor(indices), 0)


def test_a_group_names_its_members_and_where_its_channels_lie():
    found = fs.channels(make(), SIZE)
    assert [group.made_by for group in found.groups] == [("outer", "stem"), ("inner",), ("side",)]
    side = found.group("side")
    members = {(x.name, x.axis): x for x in side.members}
    assert {k: x.role for k, x in members.items()} == {
        ("side.weight", 0): "makes", ("side.bias", 0): "carries", ("head.weight", 1): "reads",
    }  # fmt: skip
    assert members["head.weight", 1].places.tolist() == [
        list(range(32 + 4 * k, 36 + 4 * k)) for k in range(4)
    ]
    stream = found.group("stem")
    assert stream.read_by == ("head", "inner", "side")
    assert stream is found.group("outer")


def test_rows_hold_the_values_of_a_channel():
    module = make()
    group = fs.channels(module, SIZE).group("side")
    reads = next(x for x in group.members if x.role == "reads")
    expected = module.head.weight.detach()[:, 36:40].t()
    assert torch.equal(reads.rows()[1].reshape(4, 5), expected)
    assert torch.equal(reads.rows(2 * module.head.weight), 2 * reads.rows())
    with pytest.raises(fs.FilterSurgeonError, match="shape"):
        reads.rows(module.side.weight)


def test_a_module_is_pruned_in_place_by_hand():
    module, image = make(), torch.randn(2, *SIZE)
    silent = copy.deepcopy(module)
    found = fs.channels(module, SIZE)
    assert found.group("stem").prune([1, 6]) is module
    assert found.group("inner").prune(torch.tensor([0])) is module
    found.group("stem").prune([0])  # numbers are those of the channels that are left
    for name in ("norm.weight", "norm.bias", "outer.weight", "outer.bias"):
        silence(silent, name, 0, [0, 1, 6])
    silence(silent, "inner.weight", 0, [0])
    silence(silent, "inner.bias", 0, [0])
    assert module.stem.weight.shape == (5, 3, 3, 3)
    assert module.inner.weight.shape == (5, 5, 3, 3)
    assert found.group("stem").size == 5
    torch.testing.assert_close(module(image), silent(image))


def test_a_copy_leaves_the_module_and_the_groups():
    module = make()
    group = fs.channels(module, SIZE).group("inner")
    slim = group.prune([2], copy=True)
    assert (slim.inner.out_channels, module.inner.out_channels, group.size) == (5, 6, 6)


def test_gradients_and_training_between_removals_stay():
    module = make().train()
    found = fs.channels(module, SIZE)
    module(torch.randn(4, *SIZE)).square().sum().backward()
    gradient = module.inner.weight.grad.clone()
    torch.optim.SGD(module.parameters(), 0.1).step()
    mean, weight = module.norm.running_mean.clone(), module.inner.weight.detach().clone()
    found.group("inner").prune([3])
    kept = [0, 1, 2, 4, 5]
    assert torch.equal(module.inner.weight, weight[kept])
    assert torch.equal(module.inner.weight.grad, gradient[kept])
    assert torch.equal(module.norm.running_mean, mean)
    with torch.no_grad():
        module.inner.weight.add_(1)
    found.group("inner").prune([0])
    assert torch.equal(module.inner.weight, weight[kept[1:]] + 1)


def test_what_else_changes_between_removals_stays():
    module = make()
    module.register_buffer("shift", torch.zeros(1), persistent=False)
    module.scale = 1.0
    group = fs.channels(module, SIZE).group("inner")
    group.prune([0])
    module.shift.fill_(2)
    module.scale = 3.0
    seen = []
    module.inner.register_forward_hook(lambda *_: seen.append(1))
    slim = group.prune([0], copy=True)
    group.prune([0])
    for each in (module, slim):
        assert (float(each.shift), each.scale) == (2.0, 3.0)
        assert each.inner.out_channels == 4
    del seen[:]
    slim(torch.randn(1, *SIZE))
    assert seen == [1]


def test_several_groups_at_once_and_a_checkpoint():
    checkpoint = fs.load(make(), example_inputs=SIZE)
    found = fs.channels(checkpoint)
    pruned = found.prune({found.group("inner"): [0, 1], found.group("side"): [3]})
    assert pruned["outer.weight"].shape == (8, 4, 3, 3)
    assert pruned["head.weight"].shape == (5, 44)
    assert pruned.history[-1].options == {"removed": {"inner": [0, 1], "side": [3]}}
    assert checkpoint["outer.weight"].shape == (8, 6, 3, 3)


@pytest.mark.parametrize(
    ("indices", "message"),
    [([6], "no channel 6"), ([-1], "no channel -1"), (range(6), "at least one"), ([0.5], "whole")],
)
def test_indices_that_do_not_go(indices, message):
    with pytest.raises(fs.FilterSurgeonError, match=message):
        fs.channels(make(), SIZE).group("inner").prune(indices)


def test_groups_that_are_not_there():
    found = fs.channels(make(), SIZE, layers=["!outer"])
    assert [group.made_by for group in found.groups] == [("inner",), ("side",)]
    with pytest.raises(fs.FilterSurgeonError, match="leaves the network"):
        found.group("head")
    with pytest.raises(fs.FilterSurgeonError, match="`layers`"):
        found.group("stem")
    with pytest.raises(fs.FilterSurgeonError, match="inner"):
        found.group("iner")
    with pytest.raises(fs.FilterSurgeonError, match="`example_inputs`"):
        fs.channels(fs.load(make(), example_inputs=SIZE), SIZE)


def test_a_module_whose_channels_changed():
    module = make()
    group = fs.channels(module, SIZE).group("side")
    module.side, module.head = nn.Conv2d(8, 2, 1), nn.Linear(10 * 4, 5)
    with pytest.raises(fs.FilterSurgeonError, match="call `channels` again"):
        group.prune([3])


def test_shares_by_layer():
    module = make()
    slim = fs.prune(module, SIZE, ratios={"*": 0.25, "inner": 0.5})
    assert [x.out_channels for x in (slim.stem, slim.inner, slim.side)] == [6, 3, 3]
    slim = fs.prune(module, SIZE, ratios={"side": 0.5})
    assert [x.out_channels for x in (slim.stem, slim.inner, slim.side)] == [8, 6, 2]
    slim = fs.prune(module, SIZE, sparsity=0.5, ratios={"outer": 0.25, "stem": 0.5})
    assert [x.out_channels for x in (slim.stem, slim.inner, slim.side)] == [6, 3, 2]
    assert fs.prune(
        fs.load(module, example_inputs=SIZE), ratios={"side": 0.5}
    ).history[-1].options["ratios"] == {"side": 0.5}  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ratios": {"side": 1}}, "below 1"),
        ({"ratios": {"side": "x"}}, "not a number"),
        ({"ratios": {"nothing": 0.5}}, "nothing"),
        ({"ratios": ["side"]}, "shares by glob"),
        ({"ratios": {"side": 0.5}, "target": "macs=0.5x"}, "`target`"),
        ({"sparsity": 0.5, "method": lambda _: [1.0]}, "6 finite scores|8 finite scores"),
        ({"sparsity": 0.5, "method": lambda _: "no"}, "finite scores"),
        ({"sparsity": 0.5, "method": len, "options": {"x": 1}}, "function"),
    ],
)
def test_shares_and_scores_that_do_not_go(options, message):
    with pytest.raises(fs.FilterSurgeonError, match=message):
        fs.prune(make(), SIZE, **options)


def make_norms(group):
    return sum(x.rows().square().sum(1) for x in group.members if x.role == "makes")


def test_scores_of_the_user():
    module = make()
    wanted = {"stem": [7, 2], "inner": [0, 5, 4], "side": [1]}

    def score(group):
        scores = torch.ones(group.size)
        scores[wanted[group.made_by[-1]]] = 0
        return scores

    slim = fs.prune(module, SIZE, method=score, ratios={"stem": 0.25, "inner": 0.5, "side": 0.25})
    assert torch.equal(slim.stem.weight, module.stem.weight[[0, 1, 3, 4, 5, 6]])
    assert torch.equal(slim.inner.bias, module.inner.bias[[1, 2, 3]])
    assert torch.equal(slim.side.bias, module.side.bias[[0, 2, 3]])
    norms = module.inner.weight.flatten(1).norm(dim=1)
    slim = fs.prune(module, SIZE, method=make_norms, ratios={"inner": 0.5})
    assert torch.equal(slim.inner.weight, module.inner.weight[norms.argsort()[3:].sort().values])
    report = []
    fs.prune(module, SIZE, target="params=0.7x", method=score, observe=report.append)
    assert report[0].after.parameters <= 0.7 * report[0].before.parameters


def test_frozen_parts_are_left_alone_on_request():
    module = make()
    module.stem.requires_grad_(False)
    module.side.bias.requires_grad_(False)
    slim = fs.prune(module, SIZE, sparsity=0.5, per_layer=True)
    assert [x.out_channels for x in (slim.stem, slim.inner, slim.side)] == [4, 3, 2]
    assert not slim.stem.weight.requires_grad
    slim = fs.prune(module, SIZE, sparsity=0.5, per_layer=True, keep_frozen=True)
    assert [x.out_channels for x in (slim.stem, slim.inner, slim.side)] == [8, 3, 4]
    for options in ({"sparsity": 0.9}, {"target": "macs=0.8x"}):
        slim = fs.prune(module, SIZE, keep_frozen=True, **options)
        assert torch.equal(slim.stem.weight, module.stem.weight)
        assert torch.equal(slim.side.bias, module.side.bias)
    with pytest.raises(fs.FilterSurgeonError, match="is frozen, and `keep_frozen` is set"):
        fs.prune(module.requires_grad_(False), SIZE, ratios={"*": 0.5}, keep_frozen=True)
    with pytest.raises(fs.FilterSurgeonError, match="module in memory"):
        fs.prune(fs.untrained("timm:test_resnet"), sparsity=0.5, keep_frozen=True)


def test_shares_on_the_command_line(fsurgeon, tmp_path):
    fs.save(fs.untrained("timm:test_resnet"), tmp_path / "m.safetensors")
    out = tmp_path / "o.safetensors"
    ratios = ["--ratio", "conv1.0=0.5", "--ratio", "conv1.3=0.25"]
    done = fsurgeon("prune", tmp_path / "m.safetensors", *ratios, "-o", out)
    assert done.returncode == 0, done.stderr
    pruned = fs.load(out)
    assert pruned["conv1.0.weight"].shape == (8, 3, 3, 3)
    assert pruned["conv1.3.weight"].shape == (12, 8, 3, 3)
    done = fsurgeon("prune", tmp_path / "m.safetensors", "--ratio", "conv1.0", "--dry-run")
    assert done.returncode == 2
    assert b"--ratio GLOB=SHARE" in done.stderr


class Shared(nn.Module):
    """A block with two owners, which runs twice, and a weight with two owners."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.BatchNorm2d(8))
        self.owner = nn.ModuleDict({"block": self.block})
        self.one, self.other = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.other.weight = self.one.weight
        self.head = nn.Linear(8, 4)

    def forward(self, image):
        """Give scores."""
        x = self.owner["block"](self.block(self.stem(image).relu()).relu()).relu()
        return self.head(self.other(self.one(x)).mean((2, 3)))


@pytest.mark.parametrize("in_place", [False, True])
def test_what_two_owners_share_stays_shared(in_place):
    torch.manual_seed(0)
    module = Shared().eval()
    slim = fs.prune(module, SIZE, ratios={"*": 0.5}, copy=not in_place)
    assert slim.block is slim.owner["block"]
    assert slim.one.weight is slim.other.weight
    assert slim.block[0].weight.shape == (4, 4, 3, 3)
    assert fs.channels(slim, SIZE).groups[0].prune([0]) is slim
    assert slim.block is slim.owner["block"]
    assert slim.one.weight is slim.other.weight
    assert slim(torch.randn(2, *SIZE)).shape == (2, 4)
