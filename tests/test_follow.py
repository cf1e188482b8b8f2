"""Which layers read which: what a trace tells, compared with hooks on a run with data."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from filtersurgeon.graph.follow import DataFlow, find_convolutions, normalisations
from filtersurgeon.graph.graph import run_trace
from filtersurgeon.networks.skeleton import skeleton


def _trace(model: nn.Module, side: int = 8):
    return run_trace(model.eval(), torch.empty(1, 3, side, side, device="meta"))


def _by_hooks(model: nn.Module, images: torch.Tensor):
    """Find convolutions in their order, readers of the image, and pairs with a batch norm."""
    outputs, called, first, pairs = [], [], set(), {}

    def after(name):
        return lambda _m, _x, output: outputs.append((output, output._version, name))

    def before(name, module):
        def look(_m, inputs):
            if isinstance(module, nn.Conv2d):
                called.append(name)
                first.update({name} if inputs[0] is images else ())
            else:
                pairs.update(
                    {n: module for y, version, n in outputs
                     if y is inputs[0] and y._version == version}
                )  # fmt: skip

        return look

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            module.register_forward_pre_hook(before(name, module))
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(after(name))
    with torch.no_grad():
        model(images)
    return list(dict.fromkeys(called)), first or set(called[:1]), pairs


@pytest.mark.parametrize(
    "name",
    ["timm:resnet18", "timm:tf_efficientnet_lite0", "timm:mobilenetv3_small_050",
     "torchvision:densenet121", "torchvision:shufflenet_v2_x0_5", "timm:dpn48b",
     "timm:convnext_atto"],
)  # fmt: skip
def test_a_trace_tells_what_hooks_see(name):
    model = skeleton(name, on_meta=False).eval()
    trace = _trace(model, 64)
    called, first, pairs = _by_hooks(model, torch.randn(1, 3, 64, 64))
    found = find_convolutions(model, trace)
    assert found.called == called
    assert found.first == first
    assert normalisations(model, trace) == pairs
    assert set(pairs) <= found.normalised


class Cases(nn.Module):
    """Convolutions whose outputs go different ways."""

    def __init__(self) -> None:
        super().__init__()
        for name in ("plain", "copied", "rectified", "twice", "returned", "shared"):
            setattr(self, name, nn.Conv2d(3, 3, 1))
            setattr(self, f"{name}_norm", nn.BatchNorm2d(3))

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        x = x + self.plain_norm(self.plain(x))
        x = x + self.copied_norm(self.copied(x).clone())
        x = x + self.rectified_norm(self.rectified(x).relu_())
        y = self.twice(x)
        x = self.twice_norm(y) + y
        z = self.returned(x)
        x = x + self.returned_norm(z)
        x = x + self.shared_norm(self.shared(x))
        return nn.functional.conv2d(x, self.shared.weight), z


def test_what_comes_between_and_what_else_reads_is_seen():
    model = Cases()
    trace = _trace(model)
    assert set(normalisations(model, trace)) == {"plain", "copied", "twice", "returned", "shared"}
    assert set(normalisations(model, trace, alone=True)) == {"plain", "copied"}
    assert find_convolutions(model, trace).first == {"plain"}
    flow, last = DataFlow(trace), len(trace.records)
    assert [place for place, readers in enumerate(flow.readers) if last in readers] == [
        next(i for i, r in enumerate(trace.records) if r.module == "returned"),
        last - 1,
    ]
