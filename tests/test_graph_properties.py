"""Random small networks, cut at random: the narrow network computes what the masked one does."""

from __future__ import annotations

from typing import Any

import pytest

torch = pytest.importorskip("torch")

from cutting import check  # noqa: E402
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from torch import Tensor, nn  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

OPERATIONS = (
    "conv", "grouped", "depthwise", "norm", "group norm", "relu", "sigmoid", "add", "gate", "cat",
    "halves", "shuffle", "pool", "excite",
)  # fmt: skip


class Drawn(nn.Module):
    """A network of drawn operations on two tensors, with a linear head on the flattened result."""

    def __init__(self, operations: list[tuple[str, int]]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.operations = operations
        self.parts = nn.ModuleDict()
        widths = [8, 8]
        for number, (name, width) in enumerate(operations):
            part, widths = _part(name, widths, width)
            if part is not None:
                self.parts[str(number)] = part
        self.head = nn.Linear(16 * widths[0], 4)

    def forward(self, x: Tensor) -> Tensor:
        kept = x = self.stem(x)
        for number, (name, _) in enumerate(self.operations):
            held = str(number) in self.parts
            part = self.parts[str(number)] if held else None
            x, kept = _apply(name, part, x, kept)
        return self.head(F.adaptive_avg_pool2d(x, 4).flatten(1))


def _part(name: str, widths: list[int], width: int) -> tuple[nn.Module | None, list[int]]:
    now, kept = widths
    if name == "conv":
        return nn.Conv2d(now, width, 3, padding=1), [width, now]
    if name == "grouped":
        return nn.Conv2d(now, width, 1, groups=2), [width, now]
    if name == "depthwise":
        return nn.Conv2d(now, now, 3, padding=1, groups=now), widths
    if name == "norm":
        return nn.BatchNorm2d(now), widths
    if name == "group norm":
        return nn.GroupNorm(now // 2, now), widths
    if name == "excite":
        return nn.Sequential(nn.Linear(now, 4), nn.ReLU(), nn.Linear(4, now)), widths
    if name in ("add", "gate"):
        return (nn.Conv2d(kept, now, 1) if kept != now else nn.Identity()), [now, now]
    if name == "cat":
        return nn.Conv2d(now + kept, width, 1), [width, now]
    return None, widths


def _apply(name: str, part: Any, x: Tensor, kept: Tensor) -> tuple[Tensor, Tensor]:
    if name in ("conv", "grouped"):
        return part(x), x
    if name in ("depthwise", "norm", "group norm"):
        return part(x), kept
    if name == "excite":
        return x * part(x.mean((2, 3))).sigmoid()[..., None, None], kept
    if name == "add":
        y = x + part(kept)
        return y, y
    if name == "gate":
        y = x * part(kept).sigmoid()
        return y, y
    if name == "cat":
        return part(torch.cat([x, kept], 1)), x
    if name == "halves":
        one, other = x.chunk(2, 1)
        return torch.cat([other.relu(), one], 1), kept
    if name == "shuffle":
        return x.unflatten(1, (2, -1)).transpose(1, 2).flatten(1, 2), kept
    if name == "pool":
        return F.max_pool2d(x, 3, 1, 1), kept
    return (x.relu() if name == "relu" else x.sigmoid()), kept


@settings(max_examples=30)
@given(
    st.lists(
        st.tuples(st.sampled_from(OPERATIONS), st.sampled_from([4, 6, 8, 12])),
        min_size=1,
        max_size=9,
    )
)
def test_any_cut_of_any_network_is_exact(operations: list[tuple[str, int]]) -> None:
    check(Drawn(operations), 3, 6, 6)
