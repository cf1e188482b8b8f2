"""Every operator's rule on a network small enough to know what must come out."""

from __future__ import annotations

from collections.abc import Callable
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
    "cumulated": lambda x: x.cumsum(1),
    "sorted": lambda x: x.sort(1).values,
    "met by a constant": lambda x: x * torch.arange(8.0, device=x.device).view(1, 8, 1, 1),
    "written into zeros": _written,
    "as batch": lambda x: F.layer_norm(x.flatten(1), (8 * 64,)).view_as(x),
    "hard number": lambda x: x.reshape(-1, 8, 8, 8).contiguous() * 1,
    "normalised over": lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (8,)).permute(0, 3, 1, 2),
}


@pytest.mark.parametrize("name", FREE)
def test_channels_that_can_go_are_free(name: str) -> None:
    middle, expected = FREE[name]
    assert free_channels(check(Between(middle), 3, 8, 8)) == expected


@pytest.mark.parametrize("name", PINNED)
def test_channels_that_others_depend_on_are_pinned(name: str) -> None:
    graph = check(Between(PINNED[name]), 3, 8, 8)
    assert free_channels(graph) == []
    made = graph.groups.of[graph.trace.slots["first.weight"][0]]
    assert graph.groups.reasons(made)


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


def test_data_dependent_networks_are_refused_in_a_sentence() -> None:
    network = Between(lambda x: x if float(x.mean()) > 0 else -x)
    with pytest.raises(GraphError, match="cannot follow the channels of this network"):
        graph_of(network, 3, 8, 8)


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


def test_one_channel_left_is_followed_as_well_as_many() -> None:
    graph = graph_of(randomise(Flattened()), 3, 8, 8)
    left = next(cuts(graph))
    left[:] = True
    for bundle in graph.groups.bundles:
        if not bundle.pinned:
            left[bundle.groups[:-1]] = False
    assert graph.first_mismatch(left) is None
    assert difference(graph, left) < 1e-8


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
