"""Channels planted to be dead, in every kind of convolution: exactly these go.

The tests know the weights and look at the values that are left in the result, so that they do not
depend on how the package follows channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

import filtersurgeon as fs
from filtersurgeon.graph.cost import CostModel
from filtersurgeon.graph.opened_model import open_model
from filtersurgeon.learn.measure import count_macs
from filtersurgeon.pruning.fill_zero import fill_zero

torch.set_num_threads(1)

TINY = 1e-6
SIDES = {1: (14,), 2: (8, 9), 3: (5, 6, 7)}
PLAIN = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


class Kind(NamedTuple):
    """A convolution, and which of its channels live together.

    Attributes:
        read: channels that it reads.
        made: channels that it makes.
        groups: its groups.
        outputs: outputs that are planted to be dead.
        inputs: inputs that are planted to be dead.
        tied: inputs and outputs live together, so that either goes with the other.
    """

    read: int
    made: int
    groups: int
    outputs: tuple[int, ...]
    inputs: tuple[int, ...]
    tied: bool = False


KINDS = {
    "standard": Kind(6, 8, 1, (3,), (4,)),
    "one": Kind(6, 8, 1, (0, 7), (5,)),
    # Few large groups lose equal positions.
    "grouped": Kind(8, 12, 2, (1, 7), (2, 6)),
    # Many small groups go as a whole, with their inputs.
    "groups": Kind(8, 12, 4, (3, 4, 5), (2, 3), True),
    "depthwise": Kind(6, 6, 6, (2,), (2,), True),
    "doubled": Kind(6, 12, 6, (4, 5), (2,), True),
}


def make(axes: int, transposed: bool, kind: str, bias: bool = False) -> nn.Module:
    """A convolution between two plain ones, for an image of its own number of axes."""
    plain, own = PLAIN[axes], (TRANSPOSED if transposed else PLAIN)[axes]
    read, made, groups, *_ = KINDS[kind]
    network = nn.Sequential(
        plain(3, read, 3, padding=1),
        nn.ReLU(),
        own(read, made, 3, padding=1, groups=groups, bias=bias),
        nn.ReLU(),
        plain(made, 2, 3, padding=1),
    )
    network.pretrained_cfg = {"input_size": (3, *SIDES[axes])}
    return network


CASES = [
    (axes, transposed, kind) for axes in SIDES for transposed in (False, True) for kind in KINDS
]
for _case in CASES:
    globals()["make_{}_{}_{}".format(*_case)] = lambda case=_case: make(*case)

every_kind = pytest.mark.parametrize(("axes", "transposed", "kind"), CASES)


def filled(case: tuple[int, bool, str], seed: int = 0) -> nn.Module:
    """Give every weight a value of its own, none of them small."""
    network = make(*case)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in network.parameters():
            count = tensor.numel()
            values = 0.5 + torch.randperm(count, generator=draw) / count
            sign = torch.randint(2, (count,), generator=draw) * 2 - 1
            tensor.copy_((values * sign).reshape(tensor.shape) / 10)
    return network


def opened(network: nn.Module, case: tuple[int, bool, str], tmp_path: Path) -> fs.Checkpoint:
    save_file(network.state_dict(), tmp_path / "m.safetensors")
    name = "make_{}_{}_{}".format(*case)
    return fs.load(tmp_path / "m.safetensors", arch=f"factory:tests.test_planted_channels:{name}")


def kernels_of(weight: torch.Tensor, case: tuple[int, bool, str]) -> list[list[torch.Tensor]]:
    """List the kernels of every output by the input that they read; None where there is none."""
    _, transposed, kind = case
    read, made, groups, *_ = KINDS[kind]
    into, out_of = read // groups, made // groups
    found: list[list[Any]] = [[None] * read for _ in range(made)]
    for group in range(groups):
        for o in range(out_of):
            for i in range(into):
                output, source = group * out_of + o, group * into + i
                kernel = weight[source, o] if transposed else weight[output, i]
                found[output][source] = kernel
    return found


def total(network: nn.Module) -> int:
    weights = [m.weight for m in network if hasattr(m, "weight")]
    return sum(weight.shape[0] * weight.shape[1] for weight in weights)


def without(values: np.ndarray, axis: int, gone: tuple[int, ...]) -> np.ndarray:
    return np.delete(values, gone, axis)


def expected(network: nn.Module, case: tuple[int, bool, str], side: str) -> dict[str, np.ndarray]:
    """Cut the planted channels by hand."""
    _, transposed, name = case
    kind = KINDS[name]
    own = {k: v.numpy().copy() for k, v in network.state_dict().items()}
    outputs = kind.outputs if side == "outputs" or kind.tied else ()
    inputs = kind.inputs if side == "inputs" or kind.tied else ()
    own["0.weight"] = without(own["0.weight"], 0, inputs)
    own["0.bias"] = without(own["0.bias"], 0, inputs)
    own["4.weight"] = without(own["4.weight"], 1, outputs)
    rows, columns = (inputs, outputs) if transposed else (outputs, inputs)
    own["2.weight"] = without(own["2.weight"], 0, rows)
    if not kind.tied:
        each = own["2.weight"].shape[1]
        own["2.weight"] = without(own["2.weight"], 1, tuple({c % each for c in columns}))
    return own


def assert_equal(found: fs.Checkpoint, wanted: dict[str, np.ndarray]) -> None:
    assert set(found) == set(wanted)
    for name, values in wanted.items():
        np.testing.assert_array_equal(found[name].torch().numpy(), values, name)


@every_kind
@pytest.mark.parametrize(
    # A filter of zeros still makes its bias, so that only a channel that nobody reads goes exactly.
    ("side", "mode"),
    [("outputs", "channelprune"), ("inputs", "channelprune"), ("inputs", "exact")],
)
def test_exactly_the_dead_channel_goes(axes, transposed, kind, side, mode, tmp_path):
    case, own = (axes, transposed, kind), KINDS[kind]
    network = filled(case)
    wanted = expected(network, case, side)
    planted = 0
    with torch.no_grad():
        for output, row in enumerate(kernels_of(network[2].weight, case)):
            for source, kernel in enumerate(row):
                dead = output in own.outputs if side == "outputs" else source in own.inputs
                if kernel is not None and dead:
                    kernel.fill_(TINY)
                    planted += 1
    reports: list[Any] = []
    cut = fs.prune(
        opened(network, case, tmp_path), sparsity=planted / total(network), method="l2", mode=mode,
        observe=reports.append,
    )  # fmt: skip
    assert reports[0].zeroed == (planted, total(network))
    assert planted > 0
    assert_equal(cut, wanted)


@every_kind
def test_the_least_filter_goes_per_layer(axes, transposed, kind, tmp_path):
    case = axes, transposed, kind
    network, own = filled(case), KINDS[kind]
    with torch.no_grad():
        for output, row in enumerate(kernels_of(network[2].weight, case)):
            for kernel in row:
                if kernel is not None and output in own.outputs:
                    kernel.mul_(0.1)
        if own.tied:  # the filters of both layers have a say
            network[0].weight[list(own.inputs)] *= 0.1
            network[0].bias[list(own.inputs)] *= 0.1
    wanted = expected(network, case, "outputs")
    share = len(own.outputs) / own.made
    only = [] if own.tied else ["2"]
    cut = fs.prune(
        opened(network, case, tmp_path), sparsity=share, per_layer=True, method="l2", layers=only
    )
    assert_equal(cut, wanted)


@pytest.mark.parametrize(
    # A depthwise filter has one kernel, and goes with it.
    ("axes", "transposed", "kind"),
    [case for case in CASES if case[2] not in ("depthwise", "doubled")],
)
@pytest.mark.parametrize("fill", ["zero", "fillzero", "restore"])
def test_the_right_kernels_are_zeroed_and_filled(axes, transposed, kind, fill, tmp_path):
    case = axes, transposed, kind
    network, own = filled(case), KINDS[kind]
    weight = network[2].weight
    rows = kernels_of(weight, case)
    # One kernel of one output: no channel is without kernels.
    output, source = next(
        (o, i)
        for o, row in enumerate(rows)
        for i, kernel in enumerate(row)
        if kernel is not None and o > 0 and (i > 0 or own.tied)
    )
    with torch.no_grad():
        rows[output][source].fill_(TINY)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    cut = fs.prune(
        opened(network, case, tmp_path), sparsity=1 / total(network), method="l2", fill=fill
    )
    for name, tensor in before.items():
        found = cut[name].torch()
        if name != "2.weight" or fill == "restore":
            assert torch.equal(found, tensor), name
            continue
        kernel = kernels_of(found, case)[output][source]
        assert (kernel == 0).all() if fill == "zero" else (kernel.abs() > TINY).all()
        kernel.copy_(rows[output][source])
        assert torch.equal(found, tensor)


@pytest.mark.parametrize("axes", SIDES)
def test_filled_kernels_are_as_large_as_those_of_as_many_inputs(axes, tmp_path):
    """A transposed convolution sums over its first axis: 6 inputs here, and 8 outputs."""
    case = axes, True, "standard"
    network = filled(case)
    with torch.no_grad():
        network[2].weight[:, 1:] = TINY
        network[2].weight[0, 1:] = 1.0
    cut = fs.prune(
        opened(network, case, tmp_path), sparsity=35 / total(network), method="l2", fill="fillzero"
    )
    values = cut["2.weight"].torch()[1:, 1:]
    shape = (8, 6, *(3 for _ in SIDES[axes]))
    bound = np.abs(fill_zero(np.zeros(shape), np.random.default_rng(0))).max()
    assert 0.9 * bound < float(values.abs().max()) < 1.02 * bound


@pytest.mark.parametrize("kind", ["grouped", "groups"])
def test_what_is_left_of_grouped_layers_is_filled(kind, tmp_path):
    case = 2, True, kind
    network = filled(case)
    planted = 0
    with torch.no_grad():
        for output, row in enumerate(kernels_of(network[2].weight, case)):
            for kernel in (x for x in row if x is not None):
                if output in KINDS[kind].outputs:
                    kernel.fill_(TINY)
                    planted += 1
        kernels_of(network[2].weight, case)[0][0].fill_(TINY)
    cut = fs.prune(
        opened(network, case, tmp_path), sparsity=(planted + 1) / total(network), method="l2",
        fill="fillzero",
    )  # fmt: skip
    before, after = network[2].weight.detach(), cut["2.weight"].torch()
    assert after.numel() < before.numel()
    assert (after[0, 0].abs() > TINY).all()
    others = after.flatten()[after[0, 0].numel() :]
    assert torch.isin(others, before).all()


def constant_net(kernel: int, stride: int) -> nn.Module:
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1),
        nn.ReLU(),
        nn.ConvTranspose2d(6, 4, kernel, stride),
        nn.ReLU(),
        nn.Conv2d(4, 2, 1),
    )
    network.pretrained_cfg = {"input_size": (3, 8, 8)}
    return network


def constant_4_2() -> nn.Module:
    return constant_net(4, 2)


def constant_3_1() -> nn.Module:
    return constant_net(3, 1)


def constant_1_1() -> nn.Module:
    return constant_net(1, 1)


@pytest.mark.parametrize("border", ["keep", "fold"])
@pytest.mark.parametrize(("name", "folds"), [("4_2", False), ("3_1", False), ("1_1", True)])
@pytest.mark.parametrize("bias", [0.0, 0.5])
def test_a_constant_is_not_folded_into_a_transposed_layer_that_spreads_it(
    border, name, folds, bias, tmp_path
):
    """Filter 4 is a constant: one that is zero goes, another only where it is read at a place."""
    torch.manual_seed(0)
    network = globals()[f"constant_{name}"]()
    with torch.no_grad():
        network[0].weight[4] = TINY
        network[0].bias[4] = bias
    save_file(network.state_dict(), tmp_path / "m.safetensors")
    source = fs.load(
        tmp_path / "m.safetensors", arch=f"factory:tests.test_planted_channels:constant_{name}"
    )
    reports: list[Any] = []
    # The kernels of a 1x1 layer are not counted, unless they are named.
    spatial = [m.weight for m in network if hasattr(m, "weight") and m.kernel_size[0] > 1]
    count = sum(w.shape[0] * w.shape[1] for w in spatial)
    cut = fs.prune(
        source, sparsity=3 / count, method="l2", mode="exact", border=border,
        observe=reports.append,
    )  # fmt: skip
    if bias == 0 or folds:
        wanted = np.delete(network[0].weight.detach().numpy(), 4, axis=0)
    else:
        wanted = network[0].weight.detach().numpy().copy()
        wanted[4] = 0
    np.testing.assert_array_equal(cut["0.weight"].torch().numpy(), wanted)
    assert reports[0].difference < 1e-9


@every_kind
def test_multiplications_are_those_that_torch_counts(axes, transposed, kind, tmp_path):
    case = axes, transposed, kind
    source = opened(filled(case), case, tmp_path)
    subject = open_model(source)
    groups = subject.graph.groups
    cost = CostModel(subject.graph).cost(np.ones(len(groups), bool))
    assert cost.macs == count_macs(make(*case), (3, *SIDES[axes]))


def test_saliency_of_filters_of_a_transposed_convolution(tmp_path, monkeypatch):
    """The head does not read output 2, so nothing depends on that filter."""
    torch.manual_seed(0)
    network = classifier()
    with torch.no_grad():
        network[6].weight[:, 2] = 0
    save_file(network.state_dict(), tmp_path / "m.safetensors")
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", x_test=images, y_test=np.arange(8) % 2)
    monkeypatch.chdir(tmp_path)
    source = fs.load("m.safetensors", arch="factory:tests.test_planted_channels:classifier")
    cut = fs.prune(
        source, sparsity=1 / 6, per_layer=True, method="saliency", data="data.npz", layers=["2"]
    )
    wanted = np.delete(network[2].weight.detach().numpy(), 2, axis=1)
    np.testing.assert_array_equal(cut["2.weight"].torch().numpy(), wanted)


def classifier() -> nn.Module:
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(4, 6, 3), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2),
    )  # fmt: skip
    network.pretrained_cfg = {"input_size": (3, 8, 8)}
    return network
