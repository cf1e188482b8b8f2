"""Targets for the latency, and what it is measured in."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pretended import pretended_gpus
from torch import nn

import filtersurgeon as fs
from filtersurgeon.errors import OptionError
from filtersurgeon.learn.compare import ComparisonSettings
from filtersurgeon.learn.evaluating import compare
from filtersurgeon.learn.latency import measure_latencies, time_in_turn
from filtersurgeon.pruning.reconstruction import reconstruct

BLOCK = 16


def convolutions() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 48, 3, padding=1), nn.ReLU(), nn.Conv2d(48, 48, 3, padding=1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 4),
    )  # fmt: skip


class BlockClock:
    """A processor whose time is that of whole blocks of channels."""

    def __init__(self, *_):
        self.fastest = np.inf

    def time(self, allocation):
        blocks = [-(-width // BLOCK) for width in allocation.keep.values()]
        share = (blocks[0] + blocks[0] * blocks[1]) / 12
        self.fastest = min(self.fastest, share)
        return share, 1.0


@pytest.fixture
def images(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 16, 16, 3), dtype=np.uint8)
    np.savez(tmp_path / "some.npz", x=pixels)
    return str(tmp_path / "some.npz")


def test_widths_are_those_that_the_processor_runs_fast(monkeypatch, images):
    monkeypatch.setattr(reconstruct, "_Clock", BlockClock)
    pruned = fs.prune(convolutions(), (3, 16, 16), target="latency=0.7x", data=images)
    widths = pruned[0].out_channels, pruned[2].out_channels
    # In whole blocks; 48 and 32 channels take three quarters of the time, 32 and 48 two thirds.
    assert widths == (32, 48)


def test_a_multiple_that_is_named_is_kept_to(monkeypatch, images):
    monkeypatch.setattr(reconstruct, "_Clock", BlockClock)
    words = {"target": "latency=0.7x", "data": images, "round_to": 4}
    pruned = fs.prune(convolutions(), (3, 16, 16), **words)
    widths = pruned[0].out_channels, pruned[2].out_channels
    assert all(width % 4 == 0 for width in widths)
    blocks = [-(-width // BLOCK) for width in widths]
    assert blocks[0] * (1 + blocks[1]) <= 0.7 * 12


def test_the_fastest_that_was_tried_is_named(monkeypatch, images):
    monkeypatch.setattr(reconstruct, "_Clock", BlockClock)
    with pytest.raises(OptionError, match=r"the fastest network that was tried takes 0\.\d\d"):
        fs.prune(convolutions(), (3, 16, 16), target="latency=0.01x", data=images)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ({"target": "macs=0.5x", "runtime": "onnxruntime"}, "latency"),
        ({"target": "latency=0.5x", "runtime": "onnx"}, "known: onnxruntime, torch"),
    ],
)
def test_a_runtime_goes_with_a_latency(words, said, images):
    with pytest.raises(OptionError, match=said):
        fs.prune(convolutions(), (3, 16, 16), data=images, **words)


def test_passes_are_timed_in_turn():
    order = []

    def passes(name):
        def once():
            order.append(name)
            return float(len(order))

        return once

    times = time_in_turn([passes("a"), passes("b")], 4)
    assert order == ["a", "b"] * 6
    assert times == [[5.0, 7.0, 9.0, 11.0], [6.0, 8.0, 10.0, 12.0]]  # two rounds warm up
    with pytest.raises(OptionError, match="at least 1 run"):
        time_in_turn([], 0)


def test_a_gpu_tells_the_time_between_events(monkeypatch):
    happened = []

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self, _):
            happened.append(self)

        def elapsed_time(self, other):
            assert happened[-3::2] == [self, other]
            return float(len(happened))

    class Noted(nn.Conv2d):
        def forward(self, x):
            happened.append(x.device.type)
            return super().forward(x)

    with pretended_gpus() as mode:
        monkeypatch.setattr(torch.cuda, "Event", Event)
        found = measure_latencies([Noted(3, 2, 3).to("cuda")], (3, 8, 8), runs=3)[0]
    # An event, a pass, an event; two of five passes warm up.
    assert [type(each) is str for each in happened] == [False, True, False] * 5
    assert set(happened[1::3]) == {"cuda"}
    assert (found.low_ms, found.median_ms, found.high_ms) == (10.5, 12.0, 13.5)
    assert (found.device, mode.counts["waits"]) == ("cuda:0", 10)


def test_onnxruntime_runs_the_networks():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    small, large = nn.Conv2d(3, 2, 3), nn.Conv2d(3, 512, 9)
    small.train()
    found = measure_latencies([small, large], (3, 64, 64), runs=9, runtime="onnxruntime")
    assert [latency.runtime for latency in found] == ["onnxruntime"] * 2
    assert found[0].median_ms < found[1].median_ms
    assert small.training
    sides = compare(
        [fs.untrained("timm:test_resnet")] * 2, None,
        ComparisonSettings(latency_runs=1, runtime="onnxruntime"), random=1,
    )  # fmt: skip
    assert sides.to_dict()["first"]["latency"]["runtime"] == "onnxruntime"


def test_a_network_is_cut_to_a_latency_in_onnxruntime(images):
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    pruned = fs.prune(
        convolutions(), (3, 16, 16), target="latency=0.9x", runtime="onnxruntime", data=images
    )
    assert pruned[0].out_channels * pruned[2].out_channels < 48 * 48
