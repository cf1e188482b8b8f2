"""Pruning by reconstruction on networks of many kinds."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

import filtersurgeon as fs
from filtersurgeon.checkpoint import HistoryEntry
from filtersurgeon.data.kinds import CLASSES
from filtersurgeon.graph.opened_model import OpenedModel, open_model
from filtersurgeon.graph.program import record_program
from filtersurgeon.graph.slim import slim, zero_removed
from filtersurgeon.graph.verify import verify
from filtersurgeon.graph.weights import WeightLayer
from filtersurgeon.pruning.compensation.kinds.sequential import as_network
from filtersurgeon.pruning.reconstruction import reconstruct
from filtersurgeon.pruning.reconstruction.calibration import open_bench
from filtersurgeon.pruning.reconstruction.fitting import RowSums, invert
from filtersurgeon.pruning.reconstruction.layers import ReadingLayer
from filtersurgeon.pruning.reconstruction.measure import refit_known
from filtersurgeon.pruning.reconstruction.rows import Targets, parts_of, sample
from filtersurgeon.pruning.reconstruction.targets import part_rows

IMAGES = 24


class Images:
    """Random images, as a calibration gives them."""

    device = torch.device("cpu")
    seed = 0
    kind = CLASSES
    class_names = ()

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.images = torch.randn(IMAGES, *shape, generator=torch.Generator().manual_seed(0))

    def labelled_batches(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.images.split(8):
            yield batch, torch.full((len(batch),), -1)

    def replica(self, opened: OpenedModel, tensors: object) -> nn.Module:  # noqa: ARG002
        return copy.deepcopy(opened.network).float().eval()


SIZE = (3, 16, 16)


class Network(nn.Module):
    """A network whose images have :data:`SIZE`."""

    def __init__(self) -> None:
        super().__init__()
        self.pretrained_cfg = {"input_size": SIZE}


def block(inputs: int, outputs: int, **options: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False, **options),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class UNet(Network):
    """Transposed convolutions of two kinds, concatenations, a dict of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList([block(3, 16), block(16, 16), block(16, 32)])
        self.up = nn.ModuleList([
            nn.ConvTranspose2d(32, 16, 2, stride=2),
            nn.ConvTranspose2d(16, 16, 3, stride=2, padding=1, output_padding=1, bias=False),
        ])  # fmt: skip
        self.join = nn.ModuleList([block(32, 16), block(32, 16)])
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        seen = []
        for number, part in enumerate(self.down):
            x = part(x)
            if number < 2:
                seen.append(x)
                x = functional.max_pool2d(x, 2)
        for up, join in zip(self.up, self.join, strict=True):
            x = join(torch.cat([up(x), seen.pop()], dim=1))
        return {"out": self.head(x)}


class Dilated(Network):
    """A dilated transposed convolution with groups, strides of two sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.a = block(3, 16)
        self.b = nn.ConvTranspose2d(16, 8, (3, 2), stride=(1, 2), padding=(3, 0), dilation=(2, 3))
        self.head = nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(functional.relu(self.b(self.a(x)))).mean((2, 3))


class Flat(Network):
    """Linear layers behind a flattening, and a mean over one axis of space."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = block(3, 16), block(16, 16)
        self.fc = nn.Sequential(nn.Linear(16 * 16, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 6))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.b(self.a(x)).mean(3).flatten(1))


class ChannelsLast(Network):
    """A linear layer of values that do not lie in a row, whose bias is added by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.a = block(3, 16)
        self.first, self.second = nn.Linear(16, 32), nn.Linear(32, 16)
        self.head = nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).flatten(2).transpose(1, 2)
        return self.head(self.second(functional.gelu(self.first(x))).mean(1))


class Context(Network):
    """Adds one number per channel to all positions, and all positions to a pooled value."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = block(3, 16), block(16, 16)
        self.context = nn.Conv2d(16, 16, 1)
        self.small = nn.Sequential(nn.Conv2d(16, 16, 1), nn.ReLU(), nn.Conv2d(16, 16, 1))
        self.head = nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.b(self.a(x))
        x = self.small(self.context(x).mean((2, 3), keepdim=True)) + x
        return self.head(x.mean((2, 3)))


class Grouped(Network):
    """Grouped convolutions that read a concatenation and shuffled channels."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = block(3, 16), block(3, 16)
        self.c, self.d = block(32, 16, groups=2), block(16, 16, groups=4)
        self.head = nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.c(torch.cat([self.a(x), self.b(x)], 1))
        x = functional.channel_shuffle(x, 2)
        return self.head(self.d(x).mean((2, 3)))


class Dense(Network):
    """Every layer reads all layers before it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(block(3 + 16 * n, 16) for n in range(6))
        self.last = block(3 + 16 * 6, 16)
        self.head = nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.cat([x, layer(x)], dim=1)
        return self.head(self.last(x).mean((2, 3)))


class Residual(Network):
    """Residual blocks, one of which calls its layers twice."""

    def __init__(self) -> None:
        super().__init__()
        self.a = block(3, 16)
        self.b = nn.Sequential(block(16, 16), nn.Conv2d(16, 16, 3, padding=1, bias=False))
        self.norm = nn.BatchNorm2d(16)
        self.c, self.d = block(16, 16), nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        x = functional.relu(x + self.norm(self.b(x)))
        for _ in range(2):
            x = x + self.d(self.c(x))
        return self.head(x.mean((2, 3)))


NETWORKS = [UNet, Dilated, Flat, ChannelsLast, Context, Grouped, Dense, Residual]


def make(kind: Callable[[], nn.Module], *, pairs: bool = False) -> nn.Module:
    """Make a network with random weights; with pairs, every second channel repeats another one."""
    torch.manual_seed(0)
    network = kind()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                for name, tensor in module.state_dict().items():
                    if tensor.ndim:
                        low = 0.5 if name in ("weight", "running_var") else -0.5
                        tensor.copy_(torch.rand(tensor.shape) + low)
        for tensor in network.state_dict().values() if pairs else ():
            if tensor.ndim and len(tensor) % 16 == 0:
                tensor[1::2] = tensor[::2]
    return network.eval()


def opened(kind: type[nn.Module], tmp_path: Path, *, pairs: bool = False) -> OpenedModel:
    file = tmp_path / "network.safetensors"
    save_file(make(kind, pairs=pairs).state_dict(), file)
    return open_model(fs.load(file, arch=f"factory:{__name__}:{kind.__name__}"))


def cut(model: OpenedModel, target: float, *, streams: bool) -> tuple[float, float]:
    """Cut to a share of the operations; give the error of the check and what the outputs lost."""
    prepared = reconstruct.prepare(open_bench(model, Images(SIZE), streams=streams))
    allocation = reconstruct.choose_widths(prepared, "macs", lambda whole: target * whole)
    assert any(c.candidate.width > allocation.keep[c.candidate.name]
               for c in prepared.statistics.curves)  # fmt: skip
    found = reconstruct.carry_out(prepared, allocation.keep)
    changed = as_network(model, found.changed)
    pruned = slim(model, found.keep, HistoryEntry("prune", {}), changed)
    checked = verify(model, zero_removed(model, found.keep, changed), pruned, 0)
    return checked.difference, reconstruct.held_out_worth(prepared, found.changed).divergence


@pytest.mark.parametrize("streams", [False, True], ids=["keep", "cut"])
@pytest.mark.parametrize("kind", NETWORKS)
def test_every_cut_agrees_with_the_silenced_network(
    kind: type[nn.Module], streams: bool, tmp_path: Path
) -> None:
    difference, divergence = cut(opened(kind, tmp_path), 0.8, streams=streams)
    assert difference < 1e-5
    assert np.isfinite(divergence)


@pytest.mark.parametrize("kind", [UNet, Dilated, Flat, ChannelsLast, Context, Dense])
def test_channels_that_repeat_others_go_without_a_loss(
    kind: type[nn.Module], tmp_path: Path
) -> None:
    _, divergence = cut(opened(kind, tmp_path, pairs=True), 0.6, streams=False)
    assert divergence < 1e-4


@pytest.mark.parametrize(
    ("stride", "padding", "dilation", "groups", "extra"),
    [(1, 0, 1, 1, 0), (2, 0, 1, 1, 0), (2, 1, 1, 2, 1), (3, 4, 2, 1, 1), (1, 3, 1, 4, 0)],
)
def test_rows_of_a_transposed_convolution_times_its_map_are_its_outputs(
    stride: int, padding: int, dilation: int, groups: int, extra: int
) -> None:
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(
        8, 12, (3, 2), stride, padding, extra, groups=groups, bias=False, dilation=dilation
    )
    images = torch.randn(4, 8, 9, 7)
    made = layer(images).detach()
    geometry = ((stride,) * 2, (padding,) * 2, (dilation,) * 2)
    own = WeightLayer("up", "up.weight", None, np.arange(8), groups, (3, 2), True)
    reader = ReadingLayer(own, 1, 0, None, geometry, np.arange(8), None, 4)
    rows, found = sample(reader, images, made, 3, 0)
    assert found is not None
    weight = layer.weight.detach()
    taken = [part_rows(part, rows) @ part.map_of(weight).T for part in parts_of(reader, weight)]
    torch.testing.assert_close(torch.cat(taken, 1), found, atol=1e-5, rtol=1e-5)


def test_a_fit_to_fewer_inputs_follows_from_the_fit_to_all() -> None:
    draw = torch.Generator().manual_seed(0)
    x, y, prior = (torch.randn(*shape, generator=draw) for shape in ((200, 12), (200, 5), (5, 12)))
    sums = RowSums(12, 5, x.device)
    sums.add(x, y + x[:, :5] + 3)
    columns = torch.tensor([0, 1, 2, 4, 7, 8, 11])
    weight, constant = refit_known(*invert(sums, prior, 1e-2), sums, columns)
    gram, cross = sums.centred()
    amount = 1e-2 * gram.diagonal().mean()
    kept = gram[columns][:, columns] + amount * torch.eye(len(columns), dtype=gram.dtype)
    wanted = torch.linalg.solve(kept, (cross + amount * prior)[:, columns].T).T
    torch.testing.assert_close(weight.double(), wanted, atol=1e-5, rtol=1e-5)
    inputs, outputs = sums.means()
    torch.testing.assert_close(constant.double(), outputs - wanted @ inputs[columns],
                               atol=1e-5, rtol=1e-5)  # fmt: skip


def test_what_the_original_makes_is_computed_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = opened(Residual, tmp_path)
    prepared = reconstruct.prepare(open_bench(model, Images(SIZE)))
    names = {c.candidate.name: c.candidate.width // 2 for c in prepared.statistics.curves}
    once = reconstruct.carry_out(prepared, names)
    monkeypatch.setattr(prepared.bench, "targets", Targets())
    again = reconstruct.carry_out(prepared, names)
    assert np.array_equal(once.keep, again.keep)
    for name, tensor in once.changed.items():
        torch.testing.assert_close(tensor, again.changed[name], atol=1e-5, rtol=1e-5)


def test_a_run_lets_go_of_its_values_at_once() -> None:
    network = make(Flat)
    images = torch.randn(4, *SIZE)
    program = record_program(network, images)
    tensors = {**dict(network.named_parameters()), **dict(network.named_buffers())}
    gc.collect()
    gc.disable()
    try:
        values: dict[int, Any] = {0: images}
        with torch.no_grad():
            program.run(values, tensors, keep=program.order)
        seen = [
            weakref.ref(x) for x in values.values() if isinstance(x, Tensor) and x is not images
        ]
        del values
        assert len(seen) > 4
        assert all(ref() is None for ref in seen)
    finally:
        gc.enable()
