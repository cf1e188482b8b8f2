"""Every operator's rule on a network small enough to know what must come out."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cutting import (  # noqa: E402
    Between,
    check,
    cuts,
    difference,
    free_channels,
    graph_of,
    randomise,
)
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

import filtersurgeon as fs  # noqa: E402
from filtersurgeon.errors import GraphError, OutputError  # noqa: E402
from filtersurgeon.graph.blame import find_culprits  # noqa: E402
from filtersurgeon.graph.groups import Mask  # noqa: E402
from filtersurgeon.graph.verify import _run_both  # noqa: E402
from filtersurgeon.networks.dry_run import call  # noqa: E402


def _written(x: Tensor) -> Tensor:
    made = torch.zeros(x.shape, dtype=x.dtype, device=x.device)
    made[:, :4] = x[:, 4:]
    return made


def _overwritten(x: Tensor) -> Tensor:
    made, half = x.clone(), x.shape[1] // 2
    made[:, :half] = torch.relu(x[:, :half])
    return made


def _moved(x: Tensor) -> Tensor:
    made = x.new_zeros(x.shape)
    made[:, :, 1:] = x[:, :, :-1]
    return made


def _assembled(x: Tensor) -> Tensor:
    made = x.new_empty(x.shape)
    made[..., :4] = x[..., :4]
    made[..., 4:] = x.flip(1)[..., 4:]
    return made


def _seen_in_part(x: Tensor) -> Tensor:
    made = x.new_zeros(x.shape)
    part = made[:, :4]
    made[:, :, 1:] = x[:, :, 1:]
    part[...] = x[:, 4:]
    return made


def _shuffled_in_space(x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    x = x.view(batch, channels // 4, 2, 2, height, width).permute(0, 1, 4, 2, 5, 3)
    x = x.reshape(batch, channels // 4, 2 * height, 2 * width)
    return torch.cat([F.avg_pool2d(x, 2)] * 4, 1)


def _shuffled_along(x: Tensor) -> Tensor:
    batch, channels, height, width = x.shape
    x = x.view(batch, channels // 2, 2, height, width).transpose(2, 3)
    return torch.cat([F.max_pool2d(x.reshape(batch, channels // 2, 2 * height, width), 2)] * 2, 1)


FREE = {
    "relu": (torch.relu, [8]),
    "sigmoid": (torch.sigmoid, [8]),
    "twice": (lambda x: x + x.tanh(), [8]),
    "halved": (lambda x: x * 0.5 + 1, [8]),
    "flipped": (lambda x: x.flip(1) + 0, [8]),
    # Every channel is added to its mirror image: four pairs.
    "mirrored": (lambda x: x + x.flip(1), [4]),
    "pooled": (lambda x: F.max_pool2d(F.avg_pool2d(x, 2), 2), [8]),
    "resized": (lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"), [8]),
    "padded in space": (lambda x: F.pad(x, (1, 1, 2, 0)), [8]),
    "there and back": (
        lambda x: x.permute(0, 2, 3, 1).flatten(1, 2).transpose(1, 2)[..., None],
        [8],
    ),
    # Channels i, i + 4 swap places when they are dealt out over two axes: four pairs.
    "shuffled": (lambda x: x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2), [4]),
    "gated": (lambda x: x * x.mean((2, 3), keepdim=True).sigmoid(), [8]),
    "gated by a sum": (lambda x: x * torch.relu(x).sum(1, keepdim=True), [8]),
    "gated by a norm": (lambda x: F.normalize(x, dim=1), [8]),
    "written in place": (_overwritten, [4]),
    "ones": (lambda x: x + torch.ones_like(x), [8]),
    "new ones": (lambda x: x * x.new_ones(x.shape), [8]),
    "concatenated and added": (lambda x: torch.cat(x.chunk(2, 1), 1) + x, [4]),
    "stacked": (lambda x: torch.stack([x, x.relu()], 2).sum(2), [8]),
    "softmax in space": (lambda x: x.flatten(2).softmax(-1).view_as(x), [8]),
    # Four channels become four positions of one.
    "positions of channels": (lambda x: F.pixel_unshuffle(F.pixel_shuffle(x, 2), 2), [2]),
    "einsum": (lambda x: torch.einsum("bchw,bchw->bchw", x, x), [8]),
    "one blur for all": (
        lambda x: F.conv2d(
            x, x.new_ones(1, 1, 3, 3).expand(x.shape[1], 1, 3, 3), groups=x.shape[1]
        ),
        [8],
    ),
    "unpooled": (lambda x: F.max_unpool2d(*F.max_pool2d(x, 2, return_indices=True), 2), [8]),
    "unfolded and folded": (lambda x: F.fold(F.unfold(x, 2, stride=2), (8, 8), 2, stride=2), [8]),
    "filtered by frequency": (lambda x: torch.fft.irfft2(torch.fft.rfft2(x) * 2, s=(8, 8)), [8]),
    "read at places": (
        lambda x: F.grid_sample(x, x[:, :2].permute(0, 2, 3, 1).tanh(), align_corners=False),
        [6],
    ),
    "resized in volume": (
        lambda x: F.interpolate(x[:, :, None], scale_factor=2, mode="trilinear")[:, :, 0],
        [8],
    ),
    "padded in volume": (
        lambda x: F.pad(x[:, :, None], (1, 1, 1, 1, 0, 0), mode="replicate")[:, :, 0],
        [8],
    ),
    "padded in a circle": (lambda x: F.pad(x, (1, 2, 2, 0), mode="circular"), [8]),
    "padded in a volume's circle": (
        lambda x: F.pad(x[:, :, None], (1, 1, 1, 0, 0, 1), mode="circular").sum(2),
        [8],
    ),
    "moved in space": (_moved, [8]),
    # Every channel is beside its mirror image: four pairs.
    "assembled": (_assembled, [4]),
    "positions of channels by hand": (_shuffled_in_space, [2]),
    "rows of channels by hand": (_shuffled_along, [4]),
    "gathered in space": (
        lambda x: (
            x.flatten(2)
            .gather(2, torch.arange(9, device=x.device).flip(0).expand(1, x.shape[1], 9))
            .unflatten(2, (3, 3))
        ),
        [8],
    ),
    "mapped over the batch": (
        lambda x: torch.func.vmap(lambda y: y * y.relu().mean((1, 2), keepdim=True))(x),
        [8],
    ),
    "gated by its second half": (lambda x: torch.cat([F.glu(x, 1)] * 2, 1), [4]),
}

PINNED = {
    "softmax": lambda x: x.softmax(1),
    "averaged": lambda x: x * x.mean(1, keepdim=True),
    "maximum": lambda x: x * x.amax(1, keepdim=True),
    # The sigmoid of a silent channel is a half, which would be missing from the sum.
    "sum of sigmoids": lambda x: x * x.sigmoid().sum(1, keepdim=True),
    "sum of shifted": lambda x: x * (x + 1).sum(1, keepdim=True),
    "product with itself": lambda x: (
        (x.sigmoid().flatten(2).transpose(1, 2) @ (x + 1).flatten(2)).mean() * x
    ),
    "counted": lambda x: x / x.shape[1],
    "filled with its count": lambda x: x * torch.full((1,), float(x.shape[1]), device=x.device),
    "sum of ones": lambda x: x * x.new_ones(x.shape[1]).sum(),
    "rolled": lambda x: x.roll(1, 1),
    "picked": lambda x: x[:, torch.tensor([1, 0, 2, 3, 4, 5, 6, 7])],
    "gathered across channels": lambda x: x.gather(
        1, torch.zeros(1, 8, 8, 8, dtype=torch.int64, device=x.device)
    ),
    "gathered by a count": lambda x: (
        x.flatten(2)
        .gather(2, torch.zeros(1, 8, 9, dtype=torch.int64, device=x.device))
        .unflatten(2, (3, 3))
    ),
    "cumulated": lambda x: x.cumsum(1),
    "sorted": lambda x: x.sort(1).values,
    "met by a constant": lambda x: x * torch.arange(8.0, device=x.device).view(1, 8, 1, 1),
    "written into zeros": _written,
    "written into a part that was seen before": _seen_in_part,
    "as batch": lambda x: F.layer_norm(x.flatten(1), (8 * 64,)).view_as(x),
    "hard number": lambda x: x.reshape(-1, 8, 8, 8).contiguous() * 1,
    "normalised over": lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2),
}


@pytest.mark.parametrize("name", FREE)
def test_channels_that_can_go_are_free(name: str) -> None:
    middle, expected = FREE[name]
    assert free_channels(check(Between(middle), 3, 8, 8)) == expected


class Fusing(nn.Module):
    """Sets the weight of a convolution when it runs."""

    def __init__(self, fuse: Callable[[nn.Module], Tensor]) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 2, 1)
        self.one, self.other = (
            nn.Parameter(torch.ones(8, 3, 3, 3)),
            nn.Parameter(torch.ones(8, 3, 3, 3)),
        )
        self.register_buffer("mask", torch.arange(9.0).view(3, 3) % 2)
        self.fuse = fuse

    def forward(self, x: Tensor) -> Tensor:
        self.first.weight.data = self.fuse(self)
        return self.last(self.first(x))


@pytest.mark.parametrize(
    "fuse",
    [
        lambda s: s.one + s.other,
        lambda s: s.first.weight.data.mul_(s.mask),
        lambda s: s.one.sigmoid(),
    ],
)
def test_a_weight_that_is_set_in_forward_is_cut_with_what_it_is_made_of(fuse) -> None:
    graph = check(Fusing(fuse), 3, 8, 8)
    assert free_channels(graph) == [8]


def test_a_bilinear_layer_is_cut_on_all_its_sides() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two, self.last = nn.Linear(5, 8), nn.Linear(5, 7), nn.Linear(6, 2)
            self.pair = nn.Bilinear(8, 7, 6)

        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(1)
            return self.last(self.pair(self.one(x).relu(), self.two(x).relu()).relu())

    assert free_channels(check(Pair(), 1, 1, 5)) == [8, 7, 6]
    slim = fs.prune(Pair(), (1, 1, 5), per_layer=True, sparsity=0.5, method="l2")
    assert slim.pair.weight.shape == (3, 4, 4)
    assert (slim.pair.in1_features, slim.pair.in2_features, slim.pair.out_features) == (4, 4, 3)


@pytest.mark.parametrize("name", PINNED)
def test_channels_that_others_depend_on_are_pinned(name: str) -> None:
    graph = check(Between(PINNED[name]), 3, 8, 8)
    assert free_channels(graph) == []
    made = graph.groups.of[graph.trace.slots["first.weight"][0]]
    assert graph.groups.reasons(made)


class Held(nn.Module):
    """Calls a function of the module and a tensor; holds buffers."""

    def __init__(self, middle: Callable[[Any, Tensor], Tensor], **buffers: Tensor) -> None:
        super().__init__()
        self.middle = middle
        for name, tensor in buffers.items():
            self.register_buffer(name, tensor)

    def forward(self, x: Tensor) -> Tensor:
        return self.middle(self, x)


PERMUTED = torch.tensor([3, 1, 0, 2, 7, 5, 4, 6])
CHOSEN = torch.tensor([True, False, True, True, False, False, True, True])
PICKED: dict[str, tuple[Callable[[Any, Tensor], Tensor], Tensor, list[int]]] = {
    "permuted": (lambda m, x: x[:, m.held], PERMUTED, [8]),
    "selected": (lambda m, x: x.index_select(1, m.held), PERMUTED, [8]),
    # 0, 3, 2 and 4, 7, 6 take each other's places; 1 and 5 stay.
    "permuted and added": (lambda m, x: x + x[:, m.held], PERMUTED, [4]),
    "permuted twice": (lambda m, x: x[:, m.held][:, m.held], PERMUTED, [4]),
    "with repeats": (lambda m, x: x[:, m.held], torch.tensor([3, 3, 1, 0, -1, 5]), [5, 3]),
    "of 32 bits": (lambda m, x: x[:, m.held.long()], torch.tensor([3, 6, 1]).int(), [5, 3]),
    "moved": (lambda m, x: x[:, m.held.to(x.device)], torch.tensor([3, 6, 1]), [5, 3]),
    "last": (lambda m, x: x.movedim(1, -1)[..., m.held].movedim(-1, 1), PERMUTED, [8]),
    "summed": (lambda m, x: x * x.relu()[:, m.held].sum(1, keepdim=True), PERMUTED[:4], [4, 4]),
    "masked": (lambda m, x: x[:, m.held], CHOSEN, [5, 3]),
    "multiplied by a mask": (lambda m, x: x * m.held[:, None, None], CHOSEN, [8]),
    "filled": (lambda m, x: x.masked_fill(m.held.view(1, -1, 1, 1), 0.5), CHOSEN, [8]),
    # The numbers are no positions only, or of other tensors.
    "counted too": (lambda m, x: x[:, m.held] * m.held.view(1, -1, 1, 1), PERMUTED, []),
    "counted before": (lambda m, x: (m.held.view(1, -1, 1, 1) * x)[:, m.held], PERMUTED, []),
    "inverted": (lambda m, x: x[:, m.held][:, m.held.argsort()], PERMUTED, []),
    "shifted": (lambda m, x: torch.cat([x, x], 1)[:, m.held + 4], PERMUTED, []),
    "in pairs": (lambda m, x: x[:, m.held].sum(2), PERMUTED.view(4, 2), []),
    "of two lengths": (lambda m, x: x[:, m.held] + torch.cat([x, x], 1)[:, m.held], PERMUTED, []),
}


@pytest.mark.parametrize("name", PICKED)
def test_channels_that_are_picked_by_buffers(name: str) -> None:
    middle, held, expected = PICKED[name]
    module = Held(middle, held=held)
    channels = module(torch.zeros(1, 8, 8, 8)).shape[1]
    graph = check(Between(module, channels), 3, 8, 8)
    assert free_channels(graph) == expected


def test_a_buffer_that_is_not_stored_cannot_be_renumbered() -> None:
    module = Held(lambda m, x: x[:, m.held])
    module.register_buffer("held", PERMUTED, persistent=False)
    assert free_channels(check(Between(module), 3, 8, 8)) == []


def test_channels_with_noise_of_their_own_are_pinned() -> None:
    graph = graph_of(Between(lambda x: x + torch.randn_like(x)), 3, 8, 8)
    assert free_channels(graph) == []
    texts = {reason.text for _, reason in graph.groups.constraints.pins}
    assert "random values are drawn for every channel" in texts


def test_the_check_draws_the_same_noise_for_both_networks() -> None:
    network = Between(lambda x: x + torch.randn_like(x[:, :1]))
    images = list(torch.randn(2, 1, 3, 8, 8).unbind())
    before = torch.get_rng_state()
    tensors = dict(network.named_parameters())
    expected, found = _run_both(network, tensors, network, images, torch.float32)
    assert all(torch.equal(one, other) for one, other in zip(expected, found, strict=True))
    assert not torch.equal(expected[0], expected[1])
    assert torch.equal(torch.get_rng_state(), before)


def test_halves_of_channels_move_apart_where_they_are_cut() -> None:
    # The second half is dropped, and only the numbers 4 in Python say where.
    graph = check(Between(lambda x: x[:, : x.shape[1] // 2], channels=4), 3, 8, 8)
    assert free_channels(graph) == [4]


def test_concatenated_channels_follow_their_own_layers() -> None:
    graph = check(Between(lambda x: torch.cat([x, x.relu()], 1), channels=16), 3, 8, 8)
    assert free_channels(graph) == [8]


class Flattened(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3)
        self.hidden = nn.Linear(6 * 6 * 6, 5)
        self.last = nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.hidden(self.first(x).relu().flatten(1)).relu())


def test_a_flattened_channel_takes_all_its_columns_along() -> None:
    graph = check(Flattened(), 3, 8, 8)
    assert free_channels(graph) == [6, 5]
    group = graph.groups.of[graph.trace.slots["first.weight"][0][2]]
    columns = graph.groups.of[graph.trace.slots["hidden.weight"][1]] == group
    assert columns.nonzero()[0].tolist() == list(range(2 * 36, 3 * 36))


CONVOLUTIONS: dict[str, tuple[Callable[[], nn.Module], list[int]]] = {
    "1x7": (lambda: nn.Conv2d(8, 6, (1, 7), padding=(0, 3)), [8, 6]),
    "dilated": (lambda: nn.Conv2d(8, 6, 3, dilation=2, padding=2), [8, 6]),
    "depthwise": (lambda: nn.Conv2d(8, 8, 3, groups=8), [8]),
    "depthwise, two outputs each": (lambda: nn.Conv2d(8, 16, 3, groups=8), [8]),
    # Two groups of four: the outputs and inputs at equal places of the groups.
    "grouped": (lambda: nn.Conv2d(8, 12, 3, groups=2), [6, 4]),
    # Four groups of two: as many groups as inputs per group or more go whole.
    "many groups": (lambda: nn.Conv2d(8, 12, 3, groups=4), [4]),
    "transposed": (lambda: nn.ConvTranspose2d(8, 6, 2, stride=2), [8, 6]),
    "transposed depthwise": (lambda: nn.ConvTranspose2d(8, 8, 2, groups=8), [8]),
    "transposed grouped": (lambda: nn.ConvTranspose2d(8, 12, 2, groups=2), [6, 4]),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_of_every_kind(name: str) -> None:
    make, expected = CONVOLUTIONS[name]
    middle = make()
    assert isinstance(middle, nn.Conv2d | nn.ConvTranspose2d)
    network = Between(middle, middle.out_channels)
    assert free_channels(check(network, 3, 8, 8)) == expected


def test_one_and_three_dimensions() -> None:
    line = nn.Sequential(nn.Conv1d(2, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.Conv1d(6, 3, 3))
    assert free_channels(check(line, 2, 20)) == [6]
    volume = nn.Sequential(nn.Conv3d(1, 6, 3), nn.ReLU(), nn.MaxPool3d(2), nn.Conv3d(6, 3, 1))
    assert free_channels(check(volume, 1, 8, 8, 8)) == [6]


NORMALISATIONS: dict[str, tuple[Callable[[], nn.Module], list[int]]] = {
    "batch": (lambda: nn.BatchNorm2d(8), [8]),
    "batch without scale": (lambda: nn.BatchNorm2d(8, affine=False), [8]),
    "instance": (lambda: nn.InstanceNorm2d(8, affine=True), [8]),
    "group": (lambda: nn.GroupNorm(4, 8), [4]),
    "one group": (lambda: nn.GroupNorm(1, 8), []),
    "prelu": (lambda: nn.PReLU(8), [8]),
}


@pytest.mark.parametrize("name", NORMALISATIONS)
def test_normalisations(name: str) -> None:
    make, expected = NORMALISATIONS[name]
    assert free_channels(check(Between(make()), 3, 8, 8)) == expected


class Tied(nn.Module):
    """One convolution called twice, and its weight used by a function as well."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 3)
        self.again = nn.Conv2d(6, 6, 3, padding=1)
        self.last = nn.Conv2d(6, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.again(self.again(self.first(x)).relu()).relu()
        return self.last(F.conv2d(x, self.again.weight, padding=1))


def test_a_convolution_called_twice_ties_its_inputs_to_its_outputs() -> None:
    assert free_channels(check(Tied(), 3, 8, 8)) == [6]


class Shared(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.one = nn.Linear(6, 6, bias=False)
        self.two = nn.Linear(6, 6, bias=False)
        self.two.weight = self.one.weight
        self.last = nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.two(self.one(self.first(x).relu()).relu()).relu())


def test_tied_weights_have_one_set_of_channels() -> None:
    graph = check(Shared(), 4)
    assert free_channels(graph) == [6]
    assert graph.trace.aliases == {"two.weight": "one.weight"}


class Answer:
    def __init__(self, x: Tensor) -> None:
        self.x = x


class Outputs(nn.Module):
    def __init__(self, form: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.last = nn.Conv2d(8, 8, 3)
        self.form = form

    def forward(self, x: Tensor) -> Any:
        x = self.first(x)
        return self.form(x, self.last(x))


@pytest.mark.parametrize(
    "form", [lambda x, y: [x, (y,)], lambda x, y: {"x": x, "deep": {"y": y}}, lambda x, y: (y, x)]
)
def test_all_outputs_are_pinned(form: Callable[[Tensor, Tensor], Any]) -> None:
    assert free_channels(graph_of(Outputs(form), 3, 8, 8)) == []
    only = graph_of(Outputs(lambda _, y: y), 3, 8, 8)
    assert free_channels(only) == [8]


def test_outputs_that_cannot_be_seen_are_refused() -> None:
    with pytest.raises(OutputError, match="Answer"):
        graph_of(Outputs(lambda x, _: Answer(x)), 3, 8, 8)


def _assert(holds: object) -> None:
    assert holds


def _checked(question: Callable[[Tensor], object]) -> Callable[[Any, Tensor], Tensor]:
    """Make a network that asserts something of its channels."""

    def forward(network: Any, x: Tensor) -> Tensor:
        x = network.first(x)
        _assert(question(x))
        return network.last(x)

    return forward


class Reading(nn.Module):
    """Calls a function of the network and an image; has a scale, and two strides."""

    def __init__(self, function: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 2, 1)
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("strides", torch.tensor([8.0, 16.0]))
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(self, x)


def _repaired(network: Any, x: Tensor) -> Tensor:
    x = network.first(x)
    if torch.isinf(x).any() or torch.isnan(x).any():
        x = torch.nan_to_num(x).clamp(-10, 10)
    return network.last(x)


def _anchored(network: Any, x: Tensor) -> Tensor:
    """Adds the places of the anchors, which a detector works out from its strides."""
    x = network.first(x)
    found, places = [], []
    for feature, stride in zip([x, F.max_pool2d(x, 2)], network.strides, strict=True):
        height, width = feature.shape[2:]
        grid = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        places.append((torch.stack(grid).flatten(1) + 0.5) * stride.item())
        found.append(network.last(feature).flatten(2))
    return torch.cat(found, 2) + torch.cat(places, 1).to(x)


FREE_READINGS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "all finite": _checked(lambda x: torch.isfinite(x).all()),
    "one after another": _checked(lambda x: x.isfinite().all(1).all().item()),
    "none is nan": _checked(lambda x: not torch.isnan(x).any()),
    "no nan counted": _checked(lambda x: not torch.is_nonzero(torch.isnan(x).sum())),
    "zero of nan": _checked(lambda x: torch.count_nonzero(torch.isnan(x)).item() == 0),
    "equal to themselves": _checked(lambda x: (x == x).all()),
    "not one infinite": _checked(lambda x: not (torch.isnan(x) | torch.isinf(x)).any()),
    "none that is not finite": _checked(lambda x: not (~torch.isfinite(x.sigmoid())).any()),
    "not negative": _checked(lambda x: (x.relu() >= 0).all()),
    "small": _checked(lambda x: (x.abs() < 1e4).all()),
    "finite sum": _checked(lambda x: torch.isfinite(x.sum())),
    "repaired": _repaired,
    "scaled": lambda n, x: n.last(n.first(x) * n.scale.item()),
    "scaled by a float": lambda n, x: n.last(n.first(x) * float(n.scale.exp())),
    "scaled by a norm": lambda n, x: n.last(n.first(x)) * n.first.weight.pow(2).sum().item(),
    "strided": lambda n, x: n.last(n.first(x)) * n.strides.tolist()[1],
    "anchored": _anchored,
    "normalised image": lambda n, x: n.last(n.first(x / x.abs().max().item())),
    "image of either range": lambda n, x: n.last(n.first(x / 255 if x.max() > 1 else x)),
    "scaled by channels": lambda n, x: n.last(n.first(x)) / (1 + n.first(x).relu().sum().item()),
    "of three colours": lambda n, x: n.last(n.first(x).relu() if x.shape[1] > 3 else n.first(x)),
    "of a list": lambda n, x: n.last(n.first(x) * x.mean((0, 2, 3)).tolist()[1]),
}


@pytest.mark.parametrize("name", FREE_READINGS)
def test_numbers_that_are_read_from_tensors_do_not_pin_channels(name: str) -> None:
    assert free_channels(check(Reading(FREE_READINGS[name]), 3, 8, 8)) == [8]


PINNED_READINGS: dict[str, Callable[[Any, Tensor], Tensor]] = {
    # The values of removed channels would be missing.
    "mean": lambda n, x: n.last(n.first(x)) * n.first(x).mean().item(),
    "maximum": lambda n, x: n.last(n.first(x)) * n.first.weight.max().item(),
    "sum of sigmoids": lambda n, x: n.last(n.first(x)) * n.first(x).sigmoid().sum().item(),
    "all positive": _checked(lambda x: (x + 100 > 0).all()),
    "equal": _checked(lambda x: torch.equal(x, x)),
}


@pytest.mark.parametrize("name", PINNED_READINGS)
def test_numbers_to_which_all_channels_add_pin_them(name: str) -> None:
    assert free_channels(check(Reading(PINNED_READINGS[name]), 3, 8, 8)) == []


def _early(network: Any, x: Tensor) -> Tensor:
    """Gives a result of its own where an image is bright, as no random one is."""
    if x.mean().item() > 1000:
        return x.mean((2, 3))[:, :2] * network.scale
    return network.last(network.first(x))


DECIDING: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "sign": lambda n, x: n.last(n.first(x)) if float(x.mean()) > 0 else n.last(-n.first(x)),
    "early exit": _early,
    "size": lambda n, x: F.interpolate(n.last(n.first(x)), size=4 + int(x.abs().sum().item()) % 5),
    "count": lambda n, x: n.last(sum(n.first(x) for _ in range(1 + int(x.max().item())))),
}


@pytest.mark.parametrize("name", DECIDING)
def test_networks_that_decide_by_values_are_refused_in_a_sentence(name: str) -> None:
    words = "cannot follow the channels of this network: .*looks at the values of a tensor"
    with pytest.raises(GraphError, match=words):
        graph_of(Reading(DECIDING[name]), 3, 8, 8)


class Padded(nn.Module):
    """A shortcut that is padded to the width of its block, as in the first residual networks."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.block = nn.Conv2d(4, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        wide = self.block(x)
        spare = wide.shape[1] - x.shape[1]
        return self.last(wide + F.pad(x, (0, 0, 0, 0, spare // 2, spare - spare // 2)))


def test_a_padded_shortcut_is_never_shifted() -> None:
    check(Padded(), 3, 8, 8, count=4)


class Remembering(nn.Module):
    """Works out a bias once, as timm's attention does, and keeps it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.bias = nn.Parameter(torch.ones(8))
        self.last = nn.Conv2d(8, 2, 1)
        self.cache: dict[str, Tensor] = {}

    def forward(self, x: Tensor) -> Tensor:
        if str(x.device) not in self.cache:
            self.cache[str(x.device)] = self.bias[:, None, None] * 2
        return self.last(self.first(x) * self.cache[str(x.device)])


def test_what_a_network_remembers_is_forgotten_after_each_run() -> None:
    network = Remembering()
    graph = graph_of(network, 3, 8, 8)
    assert network.cache == {}
    assert free_channels(graph) == [8]


class Recording(nn.Module):
    """Installs a hook in its first run, and notes that, as transformers does."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3)
        self.second = nn.Conv2d(8, 8, 1)
        self.last = nn.Conv2d(16, 2, 1)
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        if not getattr(self, "installed", False):
            for layer in (self.first, self.second):
                layer.register_forward_hook(lambda _layer, _given, made: self.seen.append(made))
            self.installed = True
        self.seen.clear()
        self.second(self.first(x))
        return self.last(torch.cat(self.seen, 1))


def test_hooks_that_a_run_installs_are_removed_after_it() -> None:
    network = Recording()
    graph = graph_of(network, 3, 8, 8)
    assert free_channels(graph) == [8, 8]
    assert not network.first._forward_hooks


def test_the_check_forgets_what_a_network_worked_out_from_other_weights() -> None:
    network = Remembering().eval()
    image = torch.randn(1, 3, 8, 8)
    doubled = {"bias": torch.full((8,), 2.0)}
    with torch.no_grad():
        before = call(network, {}, image)
        assert not torch.equal(call(network, doubled, image), before)
        assert network.cache == {}
        slim = fs.prune(network, image, sparsity=0.5, per_layer=True, method="l2")
        assert slim(image).shape == before.shape


class OwnGRN(nn.Module):
    """Normalises by the global response, under names of its own."""

    def __init__(self, scale: str) -> None:
        super().__init__()
        self.name = scale
        self.register_parameter(scale, nn.Parameter(torch.rand(1, 8, 1, 1) + 0.5))
        self.shift = nn.Parameter(torch.rand(1, 8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        energy = x.norm(2, dim=(2, 3), keepdim=True)
        share = energy / (energy.mean(1, keepdim=True) + 1e-6)
        return getattr(self, self.name) * (x * share) + self.shift + x


def test_global_responses_are_known_by_their_class_names() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), OwnGRN("gamma"), nn.Conv2d(8, 2, 1))
    assert free_channels(graph_of(network, 3, 8, 8)) == [8]
    slim = fs.prune(network, (3, 8, 8), sparsity=0.5, per_layer=True, method="l2")
    factors = (slim[1].gamma.flatten()[:, None] / network[1].gamma.flatten()).detach()
    assert bool(torch.isclose(factors, torch.tensor(2.0)).any(1).all())


def test_a_global_response_whose_scale_is_unknown_is_refused() -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), OwnGRN("stretch"), nn.Conv2d(8, 2, 1))
    with pytest.raises(GraphError, match="weight, gamma, scale or alpha"):
        fs.prune(network, (3, 8, 8), sparsity=0.5, per_layer=True, method="l2")


class Divided(nn.Module):
    """Holds the widths of its parts as numbers."""

    def __init__(self, *, one_number: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 12, 3)
        self.a = nn.Conv2d(4, 4, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 3, padding=1)
        self.last = nn.Conv2d(12, 2, 1)
        self.cut = 4 if one_number else [4, 8]

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        sizes = [self.cut, x.shape[1] - self.cut] if isinstance(self.cut, int) else self.cut
        a, b = x.split(sizes, 1)
        return self.last(torch.cat([self.a(a), self.b(b)], 1))


@pytest.mark.parametrize("one_number", [True, False])
def test_widths_held_in_python_are_found_and_set(one_number: bool) -> None:
    network = Divided(one_number=one_number)
    graph = check(network, 3, 8, 8, count=4)
    assert free_channels(graph) == [8, 8, 4, 4]
    assert network.cut == (4 if one_number else [4, 8])


class Heads(nn.Module):
    """Attention; fused or by hand."""

    def __init__(self, *, fused: bool) -> None:
        super().__init__()
        self.qkv = nn.Linear(6, 24)
        self.proj = nn.Linear(8, 6)
        self.fc1 = nn.Linear(6, 10)
        self.fc2 = nn.Linear(10, 6)
        self.fused = fused

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 2, 4)).permute(2, 0, 3, 1, 4)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1) @ v
        x = x + self.proj(y.transpose(1, 2).flatten(2))
        return self.fc2(F.gelu(self.fc1(x)))


@pytest.mark.parametrize("fused", [True, False])
def test_attention_keeps_its_heads_and_the_hidden_layer_is_free(fused: bool) -> None:
    assert free_channels(check(Heads(fused=fused), 5, 6)) == [10]


class Sequence(nn.Module):
    """A convolution whose output something reads as a sequence of channels."""

    def __init__(
        self,
        layer: nn.Module,
        read: Callable[[Any, Tensor], Tensor],
        channels: int = 8,
        features: int = 6,
    ) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, channels, 3)
        self.layer = layer
        self.last = nn.Linear(features, 4)
        self.read = read
        self.hidden = 6

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.read(self.layer, self.first(x).relu().flatten(2).transpose(1, 2)))


def _steps(layer: Any, x: Tensor) -> Tensor:
    """Call a cell for every step."""
    state = None
    for step in x.unbind(1):
        state = layer(step, state)
    return state[0] if isinstance(state, tuple) else state


def _time_first(layer: Any, x: Tensor) -> Tensor:
    return layer(x.transpose(0, 1))[0].transpose(0, 1)


def _states(layer: Any, x: Tensor) -> Tensor:
    states = layer(x)[1]
    return torch.cat([state[-1] for state in states], 1)


RECURRENT: dict[str, tuple[Callable[[], nn.Module], list[int]]] = {
    "two layers of two directions": (
        lambda: Sequence(
            nn.LSTM(8, 6, num_layers=2, bidirectional=True, batch_first=True),
            lambda layer, x: layer(x)[0],
            features=12,
        ),
        [8, 6],
    ),
    "time first, no biases": (lambda: Sequence(nn.GRU(8, 6, bias=False), _time_first), [8, 6]),
    "relu": (
        lambda: Sequence(
            nn.RNN(8, 6, 2, nonlinearity="relu", batch_first=True), lambda layer, x: layer(x)[0]
        ),
        [8, 6],
    ),
    # PyTorch knows a projection by its being narrower than the units, which stay.
    "projected": (
        lambda: Sequence(
            nn.LSTM(8, 6, proj_size=4, num_layers=2, batch_first=True),
            lambda layer, x: layer(x)[0],
            features=4,
        ),
        [8, 4],
    ),
    "last states": (
        lambda: Sequence(nn.LSTM(8, 6, batch_first=True), _states, features=12),
        [8, 6],
    ),
    "flattened image": (
        lambda: Sequence(
            nn.GRU(16, 6, batch_first=True),
            lambda layer, x: layer(x.unflatten(1, (2, 2)).transpose(2, 3).flatten(2))[0][:, -1],
        ),
        [8, 6],
    ),
    "lstm cell": (lambda: Sequence(nn.LSTMCell(8, 6), _steps), [8, 6]),
    "gru cell": (lambda: Sequence(nn.GRUCell(8, 6, bias=False), _steps), [8, 6]),
    "rnn cell": (lambda: Sequence(nn.RNNCell(8, 6), _steps), [8, 6]),
}


@pytest.mark.parametrize("name", RECURRENT)
def test_recurrent_layers_lose_channels_and_units(name: str) -> None:
    make, expected = RECURRENT[name]
    assert free_channels(check(make(), 3, 4, 4)) == expected


class OwnState(Sequence):
    """Starts a recurrent layer from a state whose width stands in Python, or that is computed."""

    def __init__(self, state: Callable[[Sequence, Tensor], Tensor]) -> None:
        super().__init__(nn.GRU(8, 6, batch_first=True), lambda _, x: x)
        self.state = state
        self.make = nn.Linear(8, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu().flatten(2).transpose(1, 2)
        return self.last(self.layer(x, self.state(self, x))[0])


STATES: dict[str, tuple[Callable[[Any, Tensor], Tensor], list[int]]] = {
    "zeros": (lambda net, x: torch.zeros(1, len(x), net.hidden, dtype=x.dtype), [8, 6]),
    "computed": (lambda net, x: net.make(x.mean(1)).tanh()[None], [8, 6]),
    # A unit that is removed would start from a half.
    "not zero without a unit": (lambda net, x: net.make(x.mean(1)).sigmoid()[None], [8]),
}


@pytest.mark.parametrize("name", STATES)
def test_units_go_where_their_state_starts_at_zero(name: str) -> None:
    state, expected = STATES[name]
    assert free_channels(check(OwnState(state), 3, 4, 4)) == expected


def _attend(layer: Any, x: Tensor, **options: Any) -> Tensor:
    y = x if layer.batch_first else x.transpose(0, 1)
    found = layer(y, y, y, **options)[0]
    return found if layer.batch_first else found.transpose(0, 1)


def _heads(read: Callable[[Any, Tensor], Tensor] = _attend, **options: Any) -> Sequence:
    return Sequence(nn.MultiheadAttention(16, 4, **options), read, 16, 16)


def _masked(layer: Any, x: Tensor) -> Tensor:
    mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1)
    return _attend(layer, x, attn_mask=mask)


def _mask_each(layer: Any, x: Tensor) -> Tensor:
    mask = torch.zeros(len(x) * 4, x.shape[1], x.shape[1], dtype=x.dtype)
    return _attend(layer, x, attn_mask=mask)


def _use_weights(layer: Any, x: Tensor) -> Tensor:
    y, weights = layer(x, x, x)
    return weights @ y


# A head of attention goes with as many channels of its queries as it has: four heads of four.
ATTENTION: dict[str, tuple[Callable[[], nn.Module], list[int]]] = {
    "time first": (_heads, [16, 4]),
    "batch first, without biases": (lambda: _heads(batch_first=True, bias=False), [16, 4]),
    "residual": (lambda: _heads(lambda layer, x: x + _attend(layer, x), batch_first=True), [4]),
    "without weights": (lambda: _heads(lambda m, x: _attend(m, x, need_weights=False)), [16, 4]),
    "learnt keys": (lambda: _heads(add_bias_kv=True), [16, 4]),
    "a zero key": (lambda: _heads(add_zero_attn=True), [16, 4]),
    "masked": (lambda: _heads(_masked, batch_first=True), [16, 4]),
    "a mask for every head": (lambda: _heads(_mask_each, batch_first=True), [16]),
    "weights averaged over heads": (lambda: _heads(_use_weights, batch_first=True), [16]),
}


@pytest.mark.parametrize("name", ATTENTION)
def test_heads_of_attention_go_with_their_channels(name: str) -> None:
    make, expected = ATTENTION[name]
    assert free_channels(check(make(), 3, 4, 4)) == expected


class Cross(nn.Module):
    """Attention of one map to another, with keys and values of their own widths."""

    def __init__(self, *widths: int) -> None:
        super().__init__()
        self.maps = nn.ModuleList(nn.Conv2d(3, width, 3) for width in (16, *widths))
        self.layer = nn.MultiheadAttention(16, 4, kdim=widths[0], vdim=widths[1], batch_first=True)
        self.last = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (layer(x).flatten(2).transpose(1, 2) for layer in self.maps)
        return self.last(self.layer(query, key, value)[0])


@pytest.mark.parametrize(("widths", "expected"), [((10, 6), [16, 10, 6, 4]), ((16, 16), [16, 4])])
def test_keys_and_values_of_attention_have_channels_of_their_own(
    widths: tuple[int, int], expected: list[int]
) -> None:
    assert free_channels(check(Cross(*widths), 3, 4, 4)) == expected


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("norm_first", [True, False])
def test_layers_of_a_transformer_lose_their_hidden_channels(norm_first: bool, fast: bool) -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 10, batch_first=True, norm_first=norm_first)
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
    network = Sequence(
        nn.ModuleList([nn.Linear(8, 16), encoder]), lambda m, x: m[1](m[0](x)), features=16
    )
    was = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(fast)
    try:
        # What leaves the encoder is normalised over.
        assert free_channels(check(network, 3, 4, 4)) == [10, 10, 8]
    finally:
        torch.backends.mha.set_fastpath_enabled(was)


def test_one_channel_left_is_followed_as_well_as_many() -> None:
    graph = graph_of(randomise(Flattened()), 3, 8, 8)
    left = next(cuts(graph))
    left[:] = True
    for bundle in graph.groups.bundles:
        if not bundle.pinned:
            left[bundle.groups[:-1]] = False
    assert graph.first_mismatch(left) is None
    assert difference(graph, left) < 1e-8


class Chain(nn.Module):
    """Five convolutions, of which the code holds the width of the second."""

    def __init__(self, middle: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        widths = (3, 8, 16, 12, 10)
        self.layers = nn.ModuleList(map(partial(nn.Conv2d, kernel_size=1), widths, widths[1:]))
        self.last = nn.Conv2d(10, 2, 1)
        self.middle = middle

    def forward(self, x: Tensor) -> Tensor:
        first, second, third, fourth = self.layers
        x = self.middle(third, second(first(x).relu()).relu()).relu()
        return self.last(fourth(x).relu())


def _demanding(third: Any, x: Tensor) -> Tensor:
    assert x.shape[1] == 16
    return third(x)


def _repeated(third: Any, x: Tensor) -> Tensor:
    return sum((third(x).tanh() for _ in range(x.shape[1] // 4)), torch.zeros(()))


HELD: dict[str, Callable[[Any, Tensor], Tensor]] = {
    "an assertion": _demanding,
    "a view": lambda third, x: third(x.view(len(x), 16, -1).view(len(x), 16, 8, 8)),
    "a split": lambda third, x: third(torch.cat(x.split([9, 7], 1), 1)),
    "a factor": lambda third, x: third(x * x.shape[1] ** -0.5),
    "a branch": lambda third, x: third(x.sigmoid() if x.shape[1] == 16 else x),
    "a loop": _repeated,
}


@pytest.mark.parametrize("name", HELD)
def test_a_width_in_the_code_pins_only_the_channels_that_it_counts(name: str) -> None:
    graph = check(Chain(HELD[name]), 3, 8, 8)
    assert free_channels(graph) == [12, 10, 8]
    pinned = graph.groups.of[graph.trace.slots["layers.1.weight"][0]]
    assert graph.groups.pinned[pinned].all()
    assert len(graph.groups.reasons(pinned)) == 1


class Alike(nn.Module):
    """Demands that two maps have as many channels."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)
        self.a, self.b = nn.Conv2d(8, 12, 1), nn.Conv2d(8, 12, 1)
        self.last = nn.Conv2d(12, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        one, two = self.one(x), self.two(x)
        if one.shape != two.shape:
            raise ValueError("the maps differ")
        return self.last(self.a(one) + self.b(two))


def test_what_the_code_compares_is_pinned_and_nothing_else() -> None:
    assert free_channels(check(Alike(), 3, 8, 8)) == [12]


def test_of_bundles_that_fail_together_the_smallest_set_is_blamed() -> None:
    graph = graph_of(Chain(lambda third, x: third(x)), 3, 8, 8)
    keep = next(cuts(graph))
    bundles = [bundle for bundle in graph.groups.bundles if not bundle.pinned]
    assert len(bundles) == 4
    for bundle in bundles:
        keep[bundle.groups[0]] = False
    guilty = bundles[1], bundles[3]
    trials = []

    def mismatch(left: Mask) -> int | None:
        trials.append(left)
        return 2 if all(not left[bundle.groups].all() for bundle in guilty) else None

    record = graph.trace.records[2]
    assert tuple(find_culprits(graph.groups, record, 2, keep, mismatch)) == guilty
    assert len(trials) <= 8


class Weighed(nn.Module):
    """Two heads with a weight each, and four channels in each."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Linear(6, 8)
        self.weight = nn.Parameter(torch.ones(2, 1))
        self.last = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.last((self.value(x).unflatten(-1, (2, -1)) * self.weight).flatten(-2))


def test_heads_with_one_channel_left_are_not_mistaken_for_their_channels() -> None:
    graph = graph_of(randomise(Weighed()), 5, 6)
    assert free_channels(graph) == [4]
    (bundle,) = (bundle for bundle in graph.groups.bundles if not bundle.pinned)
    left = np.ones(len(graph.groups), bool)
    left[bundle.groups[1:]] = False
    assert graph.first_mismatch(left) is None
    assert difference(graph, left) < 1e-8


def test_a_wrong_cut_is_found_out() -> None:
    # A number that nothing patches, and that two widths have to share, stands against this cut.
    network = Divided(one_number=False)
    graph = graph_of(randomise(network), 3, 8, 8)
    graph.knowledge.fixes.clear()
    assert any(graph.first_mismatch(left) is not None for left in cuts(graph, 3))
