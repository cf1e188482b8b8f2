"""Frozen kernels: no gradient is computed for them, and nothing is kept for one."""

from copy import deepcopy

import pytest
import torch
from learning import stripes
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import filtersurgeon as fs
from filtersurgeon.learn.session import TrainingData
from filtersurgeon.learn.settings import RunSettings, TrainingRecipe
from filtersurgeon.learn.train import frozen, train
from filtersurgeon.networks.build import build


class Backwards(TorchDispatchMode):
    """Collect the kernel size of every convolution run backwards, and what was computed for it."""

    def __init__(self) -> None:
        super().__init__()
        self.masks: list[tuple[int, tuple[bool, ...]]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution_backward.default:
            self.masks.append((args[2].shape[-1], tuple(args[-1])))
        return func(*args, **(kwargs or {}))

    def gradients(self, of: str, *, spatial: bool) -> int:
        place = ("input", "weight", "bias").index(of)
        return sum(mask[place] for size, mask in self.masks if (size > 1) is spatial)


class Blocks(nn.Module):
    """A stem, and depthwise, standard and pointwise layers, each with a bias."""

    def __init__(self, bias: bool = True) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=bias)
        self.expand = nn.Conv2d(8, 12, 1, bias=bias)
        self.depthwise = nn.Conv2d(12, 12, 3, padding=1, groups=12, bias=bias)
        self.wide = nn.Conv2d(12, 8, (5, 3), stride=2, bias=bias)
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.relu6(self.expand(self.stem(x)))
        x = nn.functional.silu(self.wide(nn.functional.relu6(self.depthwise(x))))
        return self.head(x.mean((2, 3)))


def _blocks(bias: bool = True) -> Blocks:
    torch.manual_seed(0)
    return Blocks(bias)


def _train(model: nn.Module, freeze: str, **recipe) -> Backwards:
    data = TrainingData(stripes(16), None, 2)
    counted = Backwards()
    with counted:
        train(model, data, TrainingRecipe(freeze, **recipe), RunSettings(1, 8, device="cpu"))
    return counted


@pytest.mark.parametrize("bias", [True, False])
def test_training_computes_no_gradient_of_frozen_kernels(bias):
    """Two steps; nothing below the stem trains but its bias, which needs no convolution."""
    free, held = _train(_blocks(bias), "none"), _train(_blocks(bias), "spatial")
    assert free.gradients("weight", spatial=True) == 2 * 3
    assert free.gradients("bias", spatial=True) == 2 * 3 * bias
    assert held.gradients("weight", spatial=True) == 0
    assert held.gradients("bias", spatial=True) == 0
    # The gradient still flows through the frozen layers to those below, the stem's input apart.
    assert held.gradients("input", spatial=True) == free.gradients("input", spatial=True) == 2 * 2
    assert held.gradients("weight", spatial=False) == free.gradients("weight", spatial=False) == 2


def test_offsets_of_frozen_depthwise_kernels_need_their_gradient():
    counted = _train(_blocks(), "depthwise")
    assert counted.gradients("weight", spatial=True) == 2 * 3


def test_a_moving_average_of_a_frozen_network_trains():
    counted = _train(_blocks(), "spatial", ema_decay=0.5)
    assert counted.gradients("weight", spatial=True) == 0


def test_gradients_are_those_of_a_plain_network():
    x = torch.randn(4, 3, 9, 11, generator=torch.Generator().manual_seed(1))
    plain, lean = _blocks(), _blocks()
    (plain(x) ** 2).sum().backward()
    with frozen(lean, "spatial") as names:
        assert names == ["stem", "depthwise", "wide"]
        (lean(x) ** 2).sum().backward()
    for (name, parameter), same in zip(plain.named_parameters(), lean.parameters(), strict=True):
        if name in ("stem.weight", "depthwise.weight", "wide.weight"):
            assert same.grad is None
        else:
            torch.testing.assert_close(same.grad, parameter.grad)
    assert {type(module) for module in lean.children()} == {nn.Conv2d, nn.Linear}
    assert all(parameter.requires_grad for parameter in lean.parameters())


def _kept(model: nn.Module, x: torch.Tensor) -> int:
    """Count bytes that the forward pass keeps for the backward pass, parameters apart."""
    own, kept = {p.data_ptr() for p in model.parameters()}, {}

    def keep(tensor):
        if tensor.data_ptr() not in own:
            kept[tensor.data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(x)
    return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())


def test_the_input_of_a_frozen_convolution_is_not_kept():
    """ReLU6 and SiLU keep their own input, so that a convolution alone keeps what they give."""
    x = torch.randn(2, 3, 8, 8)
    free = _blocks()
    before = _kept(free, x)
    with frozen(free, "spatial"):
        held = _kept(free, x)
    # The inputs of the depthwise and the 5x3 layer, 12 channels each, and of the stem.
    assert before - held == 4 * (2 * 2 * 12 * 64 + 2 * 3 * 64)


def test_layers_with_a_forward_pass_of_their_own_stay():
    class Doubled(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return 2 * super().forward(x)

    model = nn.Sequential(Doubled(3, 4, 3), nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect"))
    x = torch.randn(1, 3, 6, 6, requires_grad=True)
    expected = deepcopy(model)(x)
    with frozen(model, "spatial"):
        assert type(model[0]) is Doubled
        found = model(x)
        found.sum().backward()
    assert torch.equal(found, expected)
    assert model[0].weight.grad is None


@pytest.mark.parametrize("module", ["pfm", "reduced-pfm"])
def test_predefined_filters_get_no_gradient(module):
    checkpoint = fs.convert(fs.untrained("timm:test_resnet", num_classes=2), module=module)
    model = build(checkpoint).train()
    counted = Backwards()
    with counted:
        model(torch.randn(2, 3, 32, 32)).sum().backward()
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d) and m.kernel_size == (1, 1)]
    assert counted.gradients("weight", spatial=True) == 0
    assert counted.gradients("input", spatial=True) > 0
    assert counted.gradients("weight", spatial=False) == len(layers)
