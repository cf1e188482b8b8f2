"""Modules and the integers in which they mirror their shapes."""

import pytest
import torch
from torch import nn

from filtersurgeon.errors import ArchitectureError
from filtersurgeon.networks.resizing import resize


@pytest.mark.parametrize(
    ("made", "shapes", "wanted"),
    [
        (lambda: nn.Conv2d(6, 8, 3), {"weight": (5, 4, 3, 3), "bias": (5,)}, nn.Conv2d(4, 5, 3)),
        (lambda: nn.Conv1d(6, 8, 3), {"weight": (5, 6, 3), "bias": (5,)}, nn.Conv1d(6, 5, 3)),
        (
            lambda: nn.Conv2d(6, 6, 3, groups=6),
            {"weight": (4, 1, 3, 3), "bias": (4,)},
            nn.Conv2d(4, 4, 3, groups=4),
        ),
        (  # two filters per channel
            lambda: nn.Conv2d(6, 12, 3, groups=6),
            {"weight": (8, 1, 3, 3), "bias": (8,)},
            nn.Conv2d(4, 8, 3, groups=4),
        ),
        (  # a whole group of three
            lambda: nn.Conv2d(6, 12, 3, groups=3),
            {"weight": (8, 2, 3, 3), "bias": (8,)},
            nn.Conv2d(4, 8, 3, groups=2),
        ),
        (  # one input and one filter of each group
            lambda: nn.Conv2d(6, 12, 3, groups=3),
            {"weight": (9, 1, 3, 3), "bias": (9,)},
            nn.Conv2d(3, 9, 3, groups=3),
        ),
        (
            lambda: nn.ConvTranspose2d(6, 8, 3),
            {"weight": (5, 7, 3, 3), "bias": (7,)},
            nn.ConvTranspose2d(5, 7, 3),
        ),
        (
            lambda: nn.ConvTranspose2d(6, 6, 3, groups=6),
            {"weight": (4, 1, 3, 3), "bias": (4,)},
            nn.ConvTranspose2d(4, 4, 3, groups=4),
        ),
        (lambda: nn.Linear(6, 8), {"weight": (5, 4), "bias": (5,)}, nn.Linear(4, 5)),
        (lambda: nn.LayerNorm(6), {"weight": (4,), "bias": (4,)}, nn.LayerNorm(4)),
        (lambda: nn.RMSNorm(6), {"weight": (4,)}, nn.RMSNorm(4)),
        (lambda: nn.GroupNorm(2, 6), {"weight": (4,), "bias": (4,)}, nn.GroupNorm(2, 4)),
        (lambda: nn.PReLU(6), {"weight": (4,)}, nn.PReLU(4)),
        (
            lambda: nn.BatchNorm2d(6, affine=False),
            {"running_mean": (4,), "running_var": (4,)},
            nn.BatchNorm2d(4, affine=False),
        ),
    ],
)
def test_a_resized_module_is_like_one_made_so(made, shapes, wanted):
    module = made()
    resize(module, shapes)
    assert {k: v.shape for k, v in module.state_dict().items()} == {
        k: v.shape for k, v in wanted.state_dict().items()
    }
    assert repr(module) == repr(wanted)
    module.load_state_dict(wanted.state_dict())
    sizes = {nn.Linear: (2, 4), nn.Conv1d: (2, 6, 9), nn.LayerNorm: (2, 4), nn.RMSNorm: (2, 4)}
    channels = getattr(wanted, "in_channels", 4)
    image = torch.randn(sizes.get(type(wanted), (2, channels, 9, 9)))
    assert torch.equal(module.eval()(image), wanted.eval()(image))


@pytest.mark.parametrize(
    ("made", "wanted", "inputs"),
    [
        (nn.GRU(6, 4, bias=False), nn.GRU(5, 3, bias=False), [(2, 1, 5)]),
        (nn.LSTM(6, 4, proj_size=3), nn.LSTM(5, 4, proj_size=2), [(2, 1, 5)]),
        (nn.RNNCell(6, 4), nn.RNNCell(5, 3), [(2, 5)]),
        # One head of two channels less.
        (nn.MultiheadAttention(6, 3), nn.MultiheadAttention(4, 2), [(3, 1, 4)] * 3),
        (
            nn.MultiheadAttention(6, 3, kdim=5, vdim=4),
            nn.MultiheadAttention(6, 3, kdim=3, vdim=2),
            [(3, 1, 6), (2, 1, 3), (2, 1, 2)],
        ),
    ],
)
def test_a_resized_recurrent_or_attention_layer_is_like_one_made_so(made, wanted, inputs):
    resize(made, {name: tuple(tensor.shape) for name, tensor in wanted.state_dict().items()})
    for name in ("input_size", "hidden_size", "proj_size", "embed_dim", "kdim", "num_heads"):
        assert getattr(made, name, None) == getattr(wanted, name, None)
    made.load_state_dict(wanted.state_dict())
    tensors = [torch.randn(shape) for shape in inputs]
    found, expected = made(*tensors), wanted(*tensors)
    torch.testing.assert_close(found, expected)


def test_heads_of_attention_are_never_split():
    with pytest.raises(ArchitectureError, match="5 channels do not divide into heads of 2"):
        resize(nn.MultiheadAttention(6, 3), {"in_proj_weight": (15, 5), "in_proj_bias": (15,)})


def test_stated_groups_are_believed():
    """Shapes leave open whether whole groups went or each lost some."""
    module = nn.Conv2d(6, 12, 3, groups=3)
    resize(module, {"weight": (8, 2, 3, 3), "bias": (8,)})
    assert module.groups == 2
    module = nn.Conv2d(6, 12, 3, groups=3)
    module.groups = 4
    resize(module, {"weight": (8, 2, 3, 3), "bias": (8,)}, {("", "groups")})
    assert (module.groups, module.in_channels) == (4, 8)
    with pytest.raises(ArchitectureError, match="9 channels do not divide into 4 groups"):
        resize(module, {"weight": (9, 2, 3, 3), "bias": (9,)}, {("", "groups")})


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ((1, 6, 4, 4), (1, 6, 5, 5)),  # a map
        ((6, 6, 3, 3), (6, 6, 3, 1)),  # a kernel
        ((1, 4, 9, 1), (1, 4, 7, 1)),
        ((6,), (6, 1)),
        ((6,), (0,)),
    ],
)
def test_only_channels_may_change(old, new):
    module = nn.Module()
    module.table = nn.Parameter(torch.ones(old))
    with pytest.raises(ArchitectureError, match="table"):
        resize(module, {"table": new})


@pytest.mark.parametrize(
    ("old", "new"), [((1, 1, 1, 6), (1, 1, 1, 4)), ((1, 6, 1, 1), (1, 4, 1, 1))]
)
def test_a_vector_may_lie_along_any_axis(old, new):
    module = nn.Module()
    module.scale = nn.Parameter(torch.ones(old))
    resize(module, {"scale": new})
    assert tuple(module.scale.shape) == new


def test_the_first_filters_are_kept():
    module = nn.Linear(6, 8)
    weight = module.weight.detach().clone()
    resize(module, {"weight": (3, 4)})
    assert torch.equal(module.weight, weight[:3, :4])
    resize(module, {"weight": (3, 9)})
    assert module.weight.is_meta
