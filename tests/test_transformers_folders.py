"""Folders of transformers: what their JSON files tell, and networks made from them."""

import json
import sys

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

import filtersurgeon as fs
from filtersurgeon.checkpoint.transformers_config import (
    is_transformers_config,
    transformers_architecture,
    transformers_preprocessing,
)
from filtersurgeon.checkpoint.vision import import_torchvision

CONFIG = {
    "architectures": ["ResNetForImageClassification"],
    "auto_map": {"AutoModel": "code--of.strangers"},
    "depths": [1, 1],
    "dtype": "float32",
    "embedding_size": 8,
    "hidden_sizes": [8, 12],
    "id2label": {"0": "cat", "1": "dog", "2": "hen"},
    "label2id": {"cat": 0, "dog": 1, "hen": 2},
    "layer_type": "basic",
    "model_type": "resnet",
    "num_channels": 3,
    "out_features": None,
    "transformers_version": "5.0.0",
}


def write_folder(folder, config=CONFIG, **tensors):
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    weights = tensors or {"conv.weight": np.ones((4, 3, 3, 3), np.float32)}
    save_file(weights, folder / "model.safetensors")
    return folder


def save(kind, folder, **config):
    """Let transformers write a folder of a network with random weights."""
    import_torchvision()
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    network = getattr(transformers, kind)
    made = network(network.config_class(num_labels=5, **config)).eval()
    made.save_pretrained(folder)
    return made


def test_the_configuration_becomes_an_architecture():
    assert is_transformers_config(CONFIG)
    assert not is_transformers_config({**CONFIG, "architecture": "resnet18"})
    assert not is_transformers_config({**CONFIG, "architectures": ["os.system"]})
    assert transformers_architecture(CONFIG) == (
        "transformers:ResNetForImageClassification(depths=[1, 1], embedding_size=8, "
        "hidden_sizes=[8, 12], layer_type='basic', num_channels=3, num_labels=3)"
    )


@pytest.mark.parametrize(
    ("preprocessing", "expected"),
    [
        ({}, {}),
        (
            {"size": {"height": 96, "width": 64}, "resample": 3, "image_mean": [0.5, 0.5, 0.5]},
            {
                "input_size": [3, 96, 64], "mean": [0.5, 0.5, 0.5], "interpolation": "bicubic",
                "crop_pct": 1.0, "crop_mode": "squash",
            },
        ),
        (
            {"size": {"shortest_edge": 256}, "crop_size": 224, "do_center_crop": True},
            {"input_size": [3, 224, 224], "crop_pct": 0.875},
        ),
        ({"size": 32, "crop_pct": 0.9}, {"input_size": [3, 32, 32], "crop_pct": 0.9}),
        ({"do_normalize": False}, {"mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}),
        ({"size": {"height": "wide"}, "image_std": "one", "resample": []}, {}),
    ],
)  # fmt: skip
def test_preprocessing_is_told_in_the_words_of_timm(preprocessing, expected):
    assert transformers_preprocessing(CONFIG, preprocessing) == expected


def test_the_size_of_the_network_comes_first():
    found = transformers_preprocessing({"image_size": 48, "num_channels": 1}, {"size": 64})
    assert found["input_size"] == [1, 48, 48]


def test_tensors_are_edited_without_the_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    folder = write_folder(tmp_path / "net")
    with fs.load(folder) as checkpoint:
        assert checkpoint.architecture.startswith("transformers:ResNetForImageClassification(")
        assert list(fs.rank(checkpoint, "l2").layers) == ["conv"]
        with pytest.raises(fs.FilterSurgeonError, match="pip install transformers"):
            fs.build(checkpoint)


def test_a_class_that_is_no_network_is_refused(tmp_path):
    pytest.importorskip("transformers")
    folder = write_folder(tmp_path / "net", {**CONFIG, "architectures": ["AutoConfig"]})
    with pytest.raises(fs.FilterSurgeonError, match="no network called 'AutoConfig'"):
        fs.build(fs.load(folder))


def test_a_configuration_is_not_repeated_in_errors(tmp_path):
    pytest.importorskip("transformers")
    folder = write_folder(tmp_path / "net")
    with pytest.raises(fs.FilterSurgeonError) as raised:
        fs.build(fs.load(folder))
    assert "transformers:ResNetForImageClassification: " in str(raised.value)
    assert "hidden_sizes" not in str(raised.value)


def test_a_folder_is_pruned_and_loads_again(tmp_path, fsurgeon):
    original = save(
        "ResNetForImageClassification", tmp_path / "net", embedding_size=8, hidden_sizes=[8, 12],
        depths=[1, 1], layer_type="basic",
    )  # fmt: skip
    image = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        built = fs.build(fs.load(tmp_path / "net"))
        assert torch.equal(built(image).logits, original(image).logits)
    result = fsurgeon(
        "prune", tmp_path / "net", "--per-layer", "--sparsity", "0.5", "-o", f"{tmp_path}/slim/"
    )
    assert result.returncode == 0, result.stderr
    with fs.load(tmp_path / "slim") as slim:
        assert slim["resnet.embedder.embedder.convolution.weight"].shape == (4, 3, 7, 7)
        assert fs.build(slim)(image).logits.shape == (1, 5)


def test_names_of_older_files_become_those_of_the_network(tmp_path):
    original = save(
        "SegformerForSemanticSegmentation", tmp_path / "net", hidden_sizes=[8, 8, 8, 8],
        depths=[1, 1, 1, 1], num_attention_heads=[1, 1, 1, 1], decoder_hidden_size=8,
    )  # fmt: skip
    with fs.load(tmp_path / "net") as checkpoint:
        assert checkpoint.tensors.keys() == original.state_dict().keys()
        image = torch.randn(1, 3, 64, 64)
        with torch.no_grad():
            assert torch.equal(fs.build(checkpoint)(image).logits, original(image).logits)
