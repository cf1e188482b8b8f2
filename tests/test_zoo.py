"""The networks of the zoo are what their README says."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from learning import SHARED, needs_shared
from safetensors import safe_open

from examples.zoo import networks, train
from filtersurgeon.data.data import DataSpec, open_data
from filtersurgeon.data.preprocess import read_preprocessing
from filtersurgeon.learn.evaluate import EvaluationSettings, evaluate
from filtersurgeon.learn.measure import count_parameters

ZOO = Path(train.__file__).parent
README = (ZOO / "README.md").read_text()


def _stated(name):
    """Read factory, parameters, right answers and test images from the README's table."""
    row = next(line for line in README.splitlines() if line.startswith(f"| `{name}"))
    factory, parameters = re.search(r"`(\w+)`, ([\d,]+) parameters", row).groups()
    right, images = re.search(r"([\d,]+) of ([\d,]+)", row).groups()
    return factory, *(int(number.replace(",", "")) for number in (parameters, right, images))


def _right_answers(name, test):
    path = ZOO / f"{name}.safetensors"
    with safe_open(path, "pt") as file:
        preprocessing = read_preprocessing(json.loads(file.metadata()["pretrained_cfg"]))
    factory, parameters, right, images = _stated(name)
    network = networks.load(getattr(networks, factory)(), str(path))
    assert count_parameters(network) == parameters
    assert path.stat().st_size < 2_000_000
    data = open_data(DataSpec(str(test)), preprocessing, 10)
    found = evaluate(network, data, 10, EvaluationSettings(batch_size=128))
    assert found.n_images == images
    return found.top1, right


def test_digits(tmp_path):
    train.write_digits(tmp_path / "digits.npz")
    found, stated = _right_answers("lenet5_digits", tmp_path / "digits.npz")
    assert found == stated


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(train.ZOO) - {"lenet5_digits"}))
def test_larger_networks(name):
    found, stated = _right_answers(name, SHARED / train.ZOO[name].test)
    # A processor that sums in another order may tip an image that lies on the fence.
    assert abs(found - stated) <= 2


@pytest.mark.parametrize("name", sorted(train.ZOO))
def test_every_network_is_listed_and_runs(name):
    factory, *_ = _stated(name)
    member = train.ZOO[name]
    assert member.factory == factory
    network = getattr(networks, factory)().eval()
    with torch.no_grad():
        assert network(torch.zeros(2, *member.cfg["input_size"])).shape == (2, 10)


def test_the_network_of_the_decoding_paper_rectifies_once():
    network = networks.lenet_matconvnet().eval()
    with torch.no_grad(), torch.autograd.profiler.profile() as profile:
        network(torch.zeros(1, 1, 28, 28))
    called = {event.key: event.count for event in profile.key_averages()}
    assert (called["aten::relu"], called["aten::max_pool2d"], called["aten::conv2d"]) == (1, 2, 4)


def test_option_a_shortcut_subsamples_and_pads():
    block = networks.BasicBlock(16, 32, 2).eval()
    for conv in (block.conv1, block.conv2):
        torch.nn.init.zeros_(conv.weight)
    x = torch.rand(1, 16, 8, 8)
    with torch.no_grad():
        out = block(x)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2])
    assert np.count_nonzero(out[:, :8].numpy()) == np.count_nonzero(out[:, 24:].numpy()) == 0
