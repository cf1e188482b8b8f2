"""Running a network on other tensors than its own."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from filtersurgeon.networks.dry_run import call


class _Shared(nn.Module):
    """One layer in two places, and one weight in two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.second = nn.Linear(2, 2, bias=False)
        self.third = nn.Linear(2, 2, bias=False)
        self.third.weight = self.first.weight
        self.register_buffer("shift", torch.zeros(2))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.third(self.second(self.first(x))) + self.shift
        return result


def test_a_tensor_is_exchanged_under_all_its_names_and_put_back() -> None:
    model = _Shared()
    before = {name: id(p) for name, p in model.named_parameters(remove_duplicate=False)}
    other = {"second.weight": 2 * torch.eye(2), "shift": torch.ones(2)}
    torch.testing.assert_close(call(model, other, torch.ones(1, 2)), torch.full((1, 2), 9.0))
    assert {n: id(p) for n, p in model.named_parameters(remove_duplicate=False)} == before
    assert isinstance(model.second.weight, nn.Parameter)
    assert not model.shift.any()


def test_a_failure_puts_everything_back_too() -> None:
    model = _Shared()
    weight = model.first.weight
    with pytest.raises(RuntimeError):
        call(model, {"first.weight": torch.eye(2)}, torch.ones(1, 3))
    assert model.third.weight is weight
