"""``fsurgeon inspect --channels`` and its Python twin."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch")

import filtersurgeon as fs
from filtersurgeon.errors import LayerError


@pytest.fixture(scope="module")
def resnet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-18 with random weights, its architecture stated in the file."""
    from safetensors.torch import save_file

    from filtersurgeon.networks.skeleton import skeleton

    path = tmp_path_factory.mktemp("channels") / "resnet18.safetensors"
    state = skeleton("torchvision:resnet18", on_meta=False).state_dict()
    save_file(state, path, {"architecture": "torchvision:resnet18"})
    return path


def test_bundles_of_a_residual_network(resnet: Path) -> None:
    with fs.load(resnet, arch="torchvision:resnet18") as checkpoint:
        found = fs.channels(checkpoint)
    # Two inner widths per block, of four stages, and one stream per stage.
    assert found.free == 2 * (64 + 128 + 256 + 512) + 64 + 128 + 256 + 512
    image, stream, *_, logits = found.bundles
    assert image.channels == 3
    assert not image.free
    assert image.pins[0].text == "reads the network's input"
    assert stream.made_by == ("conv1", "layer1.0.conv2", "layer1.1.conv2")
    assert stream.read_by[:2] == ("layer1.0.conv1", "layer1.1.conv1")
    assert "bn1" in stream.carried_by
    assert logits.made_by == ("fc",)
    assert logits.pins[0].operator == "output"


def test_layers_choose_bundles_and_near_misses_are_named(resnet: Path) -> None:
    with fs.load(resnet, arch="torchvision:resnet18") as checkpoint:
        found = fs.channels(checkpoint, layers=["layer1.0.*"])
        assert found.layers == ("layer1.0.conv1", "layer1.0.conv2")
        assert [bundle.channels for bundle in found.bundles] == [64, 64]
        with pytest.raises(LayerError, match="layer1"):
            fs.channels(checkpoint, layers=["layer1.0.conv7"])


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "filtersurgeon", "inspect", *words]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_command_writes_json_and_a_picture(resnet: Path, tmp_path: Path) -> None:
    picture = tmp_path / "map.svg"
    words = (str(resnet), "--arch", "torchvision:resnet18", "--channels")
    done = _run(*words, "--picture", str(picture))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["schema"] == "filtersurgeon.channels/1"
    assert found["input_size"] == [3, 224, 224]
    assert sum(b["channels"] for b in found["bundles"] if b["free"]) == found["free_channels"]
    assert picture.read_bytes().startswith(b"<?xml")
    before = picture.read_bytes()
    assert _run(*words, "--picture", str(picture), "--force").returncode == 0
    assert picture.read_bytes() == before


def test_a_picture_without_channels_is_refused(resnet: Path) -> None:
    done = _run(str(resnet), "--picture", "x.png")
    assert done.returncode == 2
    assert "--channels" in done.stderr
