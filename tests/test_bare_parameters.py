"""Parameters that a network's own code gives to convolutions and products are pruned as layers."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

import filtersurgeon as fs
from filtersurgeon.errors import LayerError

SIZE = (3, 8, 8)


class Own(nn.Module):
    """Makes 16 channels by a function, and reads them by a linear layer."""

    def __init__(self, make: Callable[[Any, Tensor], Tensor], **parts: Any) -> None:
        super().__init__()
        self.make = make
        for name, part in parts.items():
            setattr(self, name, part)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.make(self, x)).flatten(2).mean(2))


class OwnConvolution(nn.Module):
    """A convolution that is none of torch's."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = _values(outputs, inputs, 3, 3)
        self.bias = _values(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight, self.bias)


def _values(*shape: int) -> nn.Parameter:
    draw = torch.Generator().manual_seed(len(shape))
    return nn.Parameter(torch.randn(shape, generator=draw))


KINDS: dict[str, tuple[str, str, int, Callable[[], Own]]] = {
    "convolution": (
        "w",
        "w",
        0,
        lambda: Own(lambda s, x: F.conv2d(x, s.w, s.b), w=_values(16, 3, 3, 3), b=_values(16)),
    ),
    "own module": (
        "own",
        "own.weight",
        0,
        lambda: Own(lambda s, x: s.own(x), own=OwnConvolution(3, 16)),
    ),
    "transposed": (
        "w",
        "w",
        1,
        lambda: Own(lambda s, x: F.conv_transpose2d(x, s.w), w=_values(3, 16, 3, 3)),
    ),
    "one dimension": (
        "w",
        "w",
        0,
        lambda: Own(lambda s, x: F.conv1d(x.flatten(2), s.w), w=_values(16, 3, 5)),
    ),
    "scaled": (
        "w",
        "w",
        0,
        lambda: Own(
            lambda s, x: F.conv2d(x, s.w * s.g), w=_values(16, 3, 3, 3), g=_values(16, 1, 1, 1)
        ),
    ),
    "mixed": (
        "w",
        "w",
        1,
        lambda: Own(
            lambda s, x: F.conv2d(x, (s.k.view(-1, 1, 1, 1, 1) * s.w).sum(0)),
            k=_values(3),
            w=_values(3, 16, 3, 3, 3),
        ),
    ),
    "linear": (
        "w",
        "w",
        0,
        lambda: Own(lambda s, x: F.linear(x.flatten(2).mT, s.w).mT, w=_values(16, 3)),
    ),
    "product": (
        "w",
        "w",
        1,
        lambda: Own(lambda s, x: (x.flatten(2).mT @ s.w).mT, w=_values(3, 16)),
    ),
    "first factor": ("w", "w", 0, lambda: Own(lambda s, x: s.w @ x.flatten(2), w=_values(16, 3))),
    "einsum": (
        "w",
        "w",
        0,
        lambda: Own(lambda s, x: torch.einsum("nchw,oc->nohw", x, s.w), w=_values(16, 3)),
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_weakest_outputs_of_a_bare_parameter_are_removed(kind):
    name, tensor, axis, make = KINDS[kind]
    torch.manual_seed(0)
    module, image = make().eval(), torch.randn(2, *SIZE)
    reports = []
    slim = fs.prune(module, SIZE, sparsity=0.3, per_layer=True, method="l2", observe=reports.append)
    norms = module.get_parameter(tensor).detach().movedim(axis, 0).flatten(1).norm(dim=1)
    kept = norms.argsort()[4:].sort().values
    assert torch.equal(slim.head.weight, module.head.weight[:, kept])
    assert [x.out_channels for x in reports[0].layers if x.name == name] == [(16, 12)]
    with torch.no_grad():
        removed = torch.isin(torch.arange(16), kept, invert=True)
        module.head.weight[:, removed] = 0
        torch.testing.assert_close(slim(image), module(image))


def _pair() -> Own:
    return Own(
        lambda s, x: s.a(x) + F.conv2d(F.relu(F.conv2d(x, s.inner, padding=1)), s.outer, padding=1),
        a=nn.Conv2d(3, 16, 1), inner=_values(12, 3, 3, 3), outer=_values(16, 12, 3, 3),
    )  # fmt: skip


def test_bare_parameters_are_chosen_by_name_and_shown_as_layers():
    module = _pair()
    channels = fs.channels(module, SIZE)
    assert channels.layers == ("a", "inner", "outer", "head")
    assert [(x.made_by, x.read_by) for x in channels.groups] == [
        (("a", "outer"), ("head",)),
        (("inner",), ("outer",)),
    ]
    assert channels.group("inner").prune([0, 1], copy=True).outer.shape == (16, 10, 3, 3)
    shares = {"inner": 0.5, "outer": 0.25}
    slim = fs.prune(module, SIZE, per_layer=True, sparsity=0, ratios=shares, method="l2")
    assert slim.inner.shape == (6, 3, 3, 3)
    assert slim.outer.shape == (12, 6, 3, 3)
    slim = fs.prune(module, SIZE, per_layer=True, sparsity=0.5, layers=["!outer"], method="l2")
    assert (slim.inner.shape[0], slim.outer.shape[0], slim.a.out_channels) == (6, 16, 16)
    with pytest.raises(LayerError, match="a shares its channels with outer"):
        fs.prune(module, SIZE, per_layer=True, sparsity=0.5, layers=["a"], method="l2")


def test_frozen_bare_parameters_are_kept():
    module = _pair()
    module.inner.requires_grad_(False)
    options = {"per_layer": True, "sparsity": 0.5, "method": "l2", "keep_frozen": True}
    slim = fs.prune(module, SIZE, **options)
    assert (slim.inner.shape, slim.outer.shape) == ((12, 3, 3, 3), (8, 12, 3, 3))
