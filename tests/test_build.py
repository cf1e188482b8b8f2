"""Architectures found from names and shapes, and networks built from checkpoints."""

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import filtersurgeon as fs
from filtersurgeon.checkpoint.vision import import_timm, import_torchvision
from filtersurgeon.errors import ArchitectureError
from filtersurgeon.networks import architecture as finder
from filtersurgeon.networks.architecture import candidates, find_plainest, resolve
from filtersurgeon.networks.build import convolution_groups
from filtersurgeon.networks.evidence import best_by_statistics
from filtersurgeon.networks.skeleton import skeleton


def _randomised(network: torch.nn.Module) -> torch.nn.Module:
    """Give every parameter and statistic a value that no initialisation gives."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(tensor + 0.05 * (noise.abs() if name.endswith("var") else noise))
    return network.eval()


def _timm(name: str, **options: object) -> torch.nn.Module:
    return _randomised(import_timm().create_model(name, **options))


def _torchvision(name: str, **options: object) -> torch.nn.Module:
    return _randomised(import_torchvision().models.get_model(name, weights=None, **options))


def _saved(network: torch.nn.Module, path: Path) -> fs.Checkpoint:
    save_file(network.state_dict(), path)
    return fs.load(path)


def _assert_same_outputs(one: torch.nn.Module, other: torch.nn.Module, channels: int = 3) -> None:
    image = torch.randn((2, channels, 64, 64), generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        assert torch.equal(one(image), other(image))


@pytest.mark.parametrize(
    ("name", "options"),
    [
        pytest.param("vgg11_bn", {"num_classes": 10, "in_chans": 1}, marks=pytest.mark.slow),
        ("mobilenetv3_small_050", {}),
        ("mobilenetv3_small_050", {"num_classes": 10}),
        ("convnextv2_atto", {}),
        ("convnextv2_atto", {"in_chans": 1}),
        ("lcnet_050", {"num_classes": 7, "in_chans": 5}),
    ],
)
def test_a_network_of_timm_is_found_and_computes_the_same(tmp_path, name, options):
    network = _timm(name, **options)
    checkpoint = _saved(network, tmp_path / "m.safetensors")
    assert checkpoint.architecture is None
    assert resolve(checkpoint) == f"timm:{name}"
    built = fs.build(checkpoint)
    assert not built.training
    assert not any(tensor.is_meta for tensor in (*built.parameters(), *built.buffers()))
    _assert_same_outputs(built, network, options.get("in_chans", 3))


@pytest.mark.parametrize(
    ("name", "options", "found"),
    [
        # Computes what timm's does.
        pytest.param("resnext50_32x4d", {}, "timm:resnext50_32x4d", marks=pytest.mark.slow),
        ("squeezenet1_1", {}, "torchvision:squeezenet1_1"),
        ("mobilenet_v3_small", {"num_classes": 10}, "torchvision:mobilenet_v3_small"),
        pytest.param("vgg11", {}, "torchvision:vgg11", marks=pytest.mark.slow),
    ],
)
def test_a_network_of_torchvision_is_found_and_computes_the_same(tmp_path, name, options, found):
    network = _torchvision(name, **options)
    checkpoint = _saved(network, tmp_path / "m.safetensors")
    assert resolve(checkpoint) == found
    _assert_same_outputs(fs.build(checkpoint), network)
    if name != "vgg11":
        _assert_same_outputs(fs.build(checkpoint, arch=f"torchvision:{name}"), network)


def test_of_several_networks_the_commonest_is_taken_and_the_others_are_named(tmp_path):
    """The two pad differently, which no tensor of an untrained network shows."""
    network = _timm("tf_efficientnet_lite0")
    checkpoint = _saved(network, tmp_path / "m.safetensors")
    with pytest.warns(fs.FilterSurgeonWarning, match="also fit timm:tf_efficientnet_lite0"):
        built = fs.build(checkpoint)
    plain = skeleton("timm:efficientnet_lite0", on_meta=False)
    plain.load_state_dict(network.state_dict())
    _assert_same_outputs(built, plain.eval())
    _assert_same_outputs(fs.build(checkpoint, arch="tf_efficientnet_lite0"), network)


def test_statistics_tell_the_padding_that_a_network_was_trained_with(shared_data):
    file = shared_data / "weights" / "tf_efficientnet_lite0.safetensors"
    with fs.load(file) as checkpoint:
        plain = replace(checkpoint, architecture=None)
        with pytest.warns(fs.FilterSurgeonWarning, match="batch-norm statistics"):
            assert resolve(plain) == "timm:tf_efficientnet_lite0"
        names = ["timm:efficientnet_lite0", "timm:tf_efficientnet_lite0"]
        assert best_by_statistics(plain, names) == names[1]
        assert best_by_statistics(plain, names[::-1]) == names[1]


def test_networks_of_which_none_is_the_common_one_are_all_named(tmp_path):
    network = _timm("test_efficientnet_gn")
    checkpoint = _saved(network, tmp_path / "m.safetensors")
    with pytest.raises(ArchitectureError) as caught:
        fs.build(checkpoint)
    words = "`arch` timm:test_efficientnet_gn or `arch` timm:test_efficientnet_ln"
    assert str(caught.value).endswith(words)
    _assert_same_outputs(fs.build(checkpoint, arch="test_efficientnet_gn"), network)


@pytest.mark.parametrize(
    ("names", "plain"),
    [
        (["timm:resnetblur18", "timm:resnet18"], "timm:resnet18"),
        (["timm:resnet50", "torchvision:resnet50"], "timm:resnet50"),
        (["timm:tf_mixnet_s", "timm:mixnet_s"], "timm:mixnet_s"),
        (["timm:test_efficientnet_gn", "timm:test_efficientnet_ln"], None),
        (["timm:deit_tiny_patch16_224", "timm:vit_tiny_patch16_224"], None),
    ],
)
def test_the_plain_name_is_the_one_that_the_others_extend(names, plain):
    assert find_plainest(names) == plain


@pytest.mark.parametrize("options", [{}, {"num_classes": 10, "in_chans": 1}])
def test_resnet18_might_blur(tmp_path, options):
    """Blurring has no weights, so only the name tells; torchvision's twin counts as timm's."""
    network = _timm("resnet18", **options)
    checkpoint = _saved(network, tmp_path / "m.safetensors")
    assert candidates(checkpoint) == [
        ["timm:resnet18"] if "in_chans" in options else ["timm:resnet18", "torchvision:resnet18"],
        ["timm:resnetblur18"],
    ]
    with pytest.warns(fs.FilterSurgeonWarning, match="also fit timm:resnetblur18"):
        assert resolve(checkpoint) == "timm:resnet18"
    _assert_same_outputs(fs.build(checkpoint, arch="resnet18"), network, options.get("in_chans", 3))
    if not options:
        _assert_same_outputs(fs.build(checkpoint, arch="torchvision:resnet18"), network)


def test_an_unknown_network_is_refused(tmp_path):
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.Conv2d(8, 8, 3))
    checkpoint = _saved(network, tmp_path / "m.safetensors")
    with pytest.raises(ArchitectureError, match="fits no network"):
        fs.build(checkpoint)
    assert candidates(checkpoint) == []


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda state: state.pop("layer1.0.conv1.weight"), "layer1.0.conv1.weight"),
        (lambda state: state.update(extra=torch.ones(1)), "extra"),
        (lambda state: state.update({"layer1.0.bn1.weight": torch.ones(63)}), r"\[63\].*\[64\]"),
    ],
)
def test_a_checkpoint_that_does_not_fit_names_the_tensor(tmp_path, change, word):
    state = _timm("resnet18").state_dict()
    change(state)
    save_file(state, tmp_path / "m.safetensors")
    with pytest.raises(ArchitectureError, match=word):
        fs.build(fs.load(tmp_path / "m.safetensors", arch="timm:resnet18"))
    with pytest.raises(ArchitectureError, match="fits no network"):
        resolve(fs.load(tmp_path / "m.safetensors"))


def test_the_stored_architecture_is_believed_and_arch_overrules_it(tmp_path, monkeypatch):
    network = _timm("lcnet_050")
    checkpoint = _saved(network, tmp_path / "m.safetensors")
    named = fs.load(tmp_path / "m.safetensors", arch="lcnet_050")
    fs.save(named, tmp_path / "named.safetensors")
    monkeypatch.setattr(finder, "candidates", lambda _: pytest.fail("searched"))
    assert resolve(fs.load(tmp_path / "named.safetensors")) == "timm:lcnet_050"
    wrong = fs.load(tmp_path / "named.safetensors", arch="resnet18")
    with pytest.raises(ArchitectureError, match="timm:resnet18"):
        fs.build(wrong)
    _assert_same_outputs(fs.build(checkpoint, arch="lcnet_050"), network)


def test_old_checkpoints_without_counters_are_found_and_built(tmp_path):
    network = _timm("lcnet_050")
    state = {k: v for k, v in network.state_dict().items() if "num_batches" not in k}
    save_file(state, tmp_path / "m.safetensors")
    _assert_same_outputs(fs.build(fs.load(tmp_path / "m.safetensors")), network)


def test_a_half_precision_network_keeps_its_type(tmp_path):
    network = _timm("lcnet_050").to(torch.bfloat16)
    built = fs.build(_saved(network, tmp_path / "m.safetensors"))
    assert {p.dtype for p in built.parameters()} == {torch.bfloat16}
    image = torch.ones((1, 3, 64, 64), dtype=torch.bfloat16)
    with torch.inference_mode():
        assert torch.equal(built(image), network(image))


def test_an_answer_is_remembered(tmp_path, monkeypatch):
    monkeypatch.setenv("FSURGEON_CACHE", str(tmp_path / "cache"))
    checkpoint = _saved(_timm("lcnet_050"), tmp_path / "m.safetensors")
    assert candidates(checkpoint) == [["timm:lcnet_050"]]
    files = list((tmp_path / "cache").rglob("*.json"))
    assert [json.loads(file.read_text()) for file in files] == [[["timm:lcnet_050"]]]
    with monkeypatch.context() as patch:
        patch.setattr(finder, "_find_fitting", lambda _: pytest.fail("searched again"))
        assert candidates(checkpoint) == [["timm:lcnet_050"]]
    # A damaged memory is no hindrance, nor is one that cannot be written.
    files[0].write_text("{")
    assert candidates(checkpoint) == [["timm:lcnet_050"]]
    monkeypatch.setenv("FSURGEON_CACHE", os.devnull)
    assert candidates(checkpoint) == [["timm:lcnet_050"]]


def test_groups_are_asked_of_the_network(tmp_path):
    checkpoint = _saved(_timm("regnetx_002"), tmp_path / "m.safetensors")
    groups = convolution_groups(checkpoint)
    network = skeleton("timm:regnetx_002")
    expected = {n: m.groups for n, m in network.named_modules() if isinstance(m, torch.nn.Conv2d)}
    assert groups == expected
    assert max(groups.values()) > 1
    kinds = {layer.kind for layer in fs.inspect(checkpoint, exact=True).layers}
    assert "grouped" in kinds


def test_the_index_names_all_networks_of_its_libraries():
    from importlib.metadata import version

    from filtersurgeon.networks.signature import read_index

    index = read_index()
    names = [entry.architecture for entry in index.entries]
    assert len(set(names)) == len(names) > 1000
    assert index.versions.keys() == {"timm", "torchvision"}
    if index.versions["timm"] == version("timm"):
        listed = {f"timm:{name}" for name in import_timm().list_models()}
        assert {name for name in names if name.startswith("timm:")} <= listed
        assert len(listed) - sum(name.startswith("timm:") for name in names) < 0.02 * len(listed)


# Folders


@pytest.mark.parametrize("options", [{}, {"num_classes": 10}, {"in_chans": 1}, {"in_chans": 5}])
def test_a_written_folder_loads_in_plain_timm(tmp_path, options):
    network = _timm("mobilenetv3_small_050", **options)
    checkpoint = _saved(network, tmp_path / "m.safetensors")
    fs.save(fs.load(tmp_path / "m.safetensors", arch=resolve(checkpoint)), f"{tmp_path}/net/")
    assert sorted(os.listdir(tmp_path / "net")) == [
        "config.json",
        "model.safetensors",
        "recipe.yaml",
    ]
    theirs = import_timm().create_model(f"local-dir:{tmp_path}/net", pretrained=True).eval()
    _assert_same_outputs(theirs, network, options.get("in_chans", 3))
    _assert_same_outputs(fs.build(fs.load(tmp_path / "net")), network, options.get("in_chans", 3))


def test_an_edited_folder_loads_in_plain_timm_and_remembers_its_recipe(tmp_path, fsurgeon):
    _saved(_timm("mobilenetv3_small_050"), tmp_path / "m.safetensors")
    words = ["--arch", "mobilenetv3_small_050", "-o", f"{tmp_path}/net/"]
    done = fsurgeon("replace", tmp_path / "m.safetensors", *words)
    assert done.returncode == 0, done.stderr
    theirs = import_timm().create_model(f"local-dir:{tmp_path}/net", pretrained=True).eval()
    edited = fs.replace(fs.load(tmp_path / "m.safetensors", arch="mobilenetv3_small_050"))
    _assert_same_outputs(theirs, fs.build(edited))
    done = fsurgeon("apply", tmp_path / "net/recipe.yaml", tmp_path / "m.safetensors", *words[:2])
    assert done.stdout == (tmp_path / "net/model.safetensors").read_bytes()


def test_folders_of_other_programs(tmp_path):
    network = _timm("lcnet_050")
    state = network.state_dict()
    folder = tmp_path / "net"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps(
            {"architecture": "lcnet_050", "num_classes": 1000, "pretrained_cfg": {"mean": [0.5]}}
        )
    )
    torch.save(state, folder / "pytorch_model.bin")
    checkpoint = fs.load(folder)
    assert checkpoint.architecture == "timm:lcnet_050"
    assert checkpoint.pretrained_cfg == {"mean": [0.5], "num_classes": 1000}
    _assert_same_outputs(fs.build(checkpoint), network)
    (folder / "pytorch_model.bin").unlink()
    # In shards, with an index.
    names = list(state)
    halves = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for file, part in halves.items():
        save_file({name: state[name] for name in part}, folder / file)
    table = {name: file for file, part in halves.items() for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": table}))
    with fs.load(folder) as checkpoint:
        assert set(checkpoint) == set(names)
        _assert_same_outputs(fs.build(checkpoint), network)


@pytest.mark.parametrize(
    "file", ["../m.safetensors", "/etc/passwd", "..", "", "absent.safetensors"]
)
def test_an_index_may_not_lead_out_of_its_folder(tmp_path, file, model):
    assert model.exists()
    (tmp_path / "net").mkdir()
    (tmp_path / "net/model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"stem.weight": file}})
    )
    with pytest.raises(fs.FilterSurgeonError):
        fs.load(tmp_path / "net")


@pytest.mark.parametrize("files", [["a.safetensors", "b.safetensors"], []])
def test_a_folder_without_one_file_of_weights_is_refused(tmp_path, files, tensors):
    from safetensors.numpy import save_file as save_arrays

    for file in files:
        save_arrays(tensors, tmp_path / file)
    with pytest.raises(fs.FilterSurgeonError, match="several" if files else "none"):
        fs.load(tmp_path)


# Names of libraries


def test_pretrained_networks_of_timm_come_with_their_description(monkeypatch):
    timm = import_timm()
    create = timm.create_model
    network = _timm("lcnet_050")

    def without_download(name: str, pretrained: bool = False) -> torch.nn.Module:
        assert (name, pretrained) == ("lcnet_050", True)
        return network

    monkeypatch.setattr(timm, "create_model", without_download)
    checkpoint = fs.load("timm:lcnet_050")
    monkeypatch.setattr(timm, "create_model", create)
    assert checkpoint.architecture == "timm:lcnet_050"
    assert checkpoint.pretrained_cfg["num_classes"] == 1000
    _assert_same_outputs(fs.build(checkpoint), network)


def test_a_failed_download_is_one_line(monkeypatch):
    def no_network(*_words: object, **_options: object) -> None:
        raise ConnectionError("Name or service not known\nmuch\nmore")

    monkeypatch.setattr(import_timm(), "create_model", no_network)
    with pytest.raises(
        fs.FilterSurgeonError, match="cannot get timm:lcnet_050: no network"
    ) as caught:
        fs.load("timm:lcnet_050")
    assert "\n" not in str(caught.value)
