"""Files as people have them: a state dict without a name, a folder that timm wrote."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import filtersurgeon as fs
from filtersurgeon.checkpoint.naming import add_prefix, split_arguments, with_arguments
from filtersurgeon.checkpoint.vision import import_timm, import_torchvision
from filtersurgeon.errors import ArchitectureError
from filtersurgeon.networks.architecture import resolve


def _timm(name: str, **options: object) -> torch.nn.Module:
    torch.manual_seed(0)
    return _unlike_initial(import_timm().create_model(name, **options))


def _unlike_initial(network: torch.nn.Module) -> torch.nn.Module:
    """Give normalisations values that no initialisation gives."""
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point() and tensor.dim() == 1:
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.copy_(0.5 + noise if name.endswith(("weight", "var")) else 0.4 * noise - 0.2)
    return network.eval()


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / one.abs().max())


# Names with arguments


@pytest.mark.parametrize(
    ("text", "name", "arguments"),
    [
        ("timm:resnet18", "timm:resnet18", {}),
        ("timm:resnet18(output_stride=8)", "timm:resnet18", {"output_stride": 8}),
        (
            "timm:r(act_layer='gelu', block_args={'attn_layer': 'eca'}, layers=[2, 1], x=None)",
            "timm:r",
            {"act_layer": "gelu", "block_args": {"attn_layer": "eca"}, "layers": [2, 1], "x": None},
        ),
        ("torchvision:mobilenet_v2(width_mult=0.5)", "torchvision:mobilenet_v2",
         {"width_mult": 0.5}),
        ("factory:nets:make(width=8)", "factory:nets:make", {"width": 8}),
    ],
)  # fmt: skip
def test_arguments_are_part_of_an_architectures_name(text, name, arguments):
    assert split_arguments(text) == (name, arguments)
    assert split_arguments(with_arguments(name, arguments)) == (name, arguments)


@pytest.mark.parametrize(
    "text",
    [
        "timm:resnet18(", "timm:resnet18(8)", "timm:resnet18(**{'a': 1})", "timm:resnet18(a=b)",
        "timm:resnet18(a=__import__('os'))", "timm:resnet18(a=1)(b=2)", "timm:resnet18(a=1",
        "timm:resnet18(pretrained=True)", "timm:resnet18(checkpoint_path='x.pt')",
        "timm:resnet18(pretrained_cfg={})", "torchvision:resnet18(weights='DEFAULT')",
        "timm:x(a=" + "[" * 5000 + ")", "timm:x(a='" + "x" * 20_000 + "')",
    ],
)  # fmt: skip
def test_arguments_that_are_no_literals_or_load_files_are_refused(text):
    with pytest.raises(ArchitectureError) as caught:
        split_arguments(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 200


def test_a_name_without_a_library_is_timms():
    assert add_prefix("resnet18(a='b:c')") == "timm:resnet18(a='b:c')"
    assert add_prefix("torchvision:resnet18") == "torchvision:resnet18"
    assert add_prefix(None) is None


def test_arguments_can_be_given_on_the_command_line(fsurgeon, tmp_path):
    network = _timm("test_resnet", output_stride=8, act_layer="gelu", num_classes=5)
    save_file(network.state_dict(), tmp_path / "m.safetensors")
    done = fsurgeon(
        "prune", "m.safetensors", "--per-layer", "--sparsity", "0", "-o", "o.safetensors",
        "--arch", "timm:test_resnet(output_stride=8, act_layer='gelu')", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    slim = fs.build(fs.load(tmp_path / "o.safetensors"))
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        assert torch.equal(slim(image), network(image))


# Folders that timm wrote


FOLDERS = [
    ("test_resnet", {}),
    ("test_resnet", {"output_stride": 8}),
    ("test_efficientnet", {"act_layer": "gelu"}),
    ("test_resnet", {"global_pool": "max"}),
    ("test_resnet", {"global_pool": "catavgmax"}),
    ("test_resnet", {"block_args": {"attn_layer": "eca"}}),
    ("test_resnet", {"layers": [2, 1, 1, 1]}),
    ("test_resnet", {"in_chans": 1}),
    ("test_resnet", {"num_classes": 0}),
]


def _folder(network: torch.nn.Module, folder, arguments) -> None:
    folder.mkdir()
    import_timm().models.save_for_hf(
        network, str(folder), model_args=arguments, safe_serialization=True
    )
    (folder / "pytorch_model.bin").unlink(missing_ok=True)


@pytest.mark.parametrize(("name", "arguments"), FOLDERS)
def test_a_folders_model_arguments_are_part_of_its_architecture(tmp_path, name, arguments):
    network = _timm(name, **{"num_classes": 10, **arguments})
    _folder(network, tmp_path / "in", arguments)
    image = torch.randn(1, arguments.get("in_chans", 3), 64, 64)
    with fs.load(tmp_path / "in") as checkpoint, torch.inference_mode():
        expected = network(image)
        assert _difference(expected, fs.build(checkpoint)(image)) < 1e-6
        # Kept by a transform of tensors, in a folder and in a file.
        same = fs.replace(checkpoint, bank="dct", all_spatial=True)
        fs.save(same, f"{tmp_path}/same/")
        fs.save(same, tmp_path / "same.safetensors")
        wanted = fs.build(same)(image)
        for kept in ("same", "same.safetensors"):
            with fs.load(tmp_path / kept) as again:
                assert _difference(wanted, fs.build(again)(image)) < 1e-6
        theirs = import_timm().create_model(f"local-dir:{tmp_path}/same", pretrained=True).eval()
        assert _difference(wanted, theirs(image)) < 1e-6


@pytest.mark.parametrize(("name", "arguments"), FOLDERS[1:5])
def test_a_pruned_folder_keeps_its_model_arguments(tmp_path, name, arguments):
    """A channel that is silent and that nobody reads can go without a trace."""
    network = _timm(name, **{"num_classes": 10, **arguments})
    _folder(network, tmp_path / "in", arguments)
    with fs.load(tmp_path / "in") as checkpoint:
        slim = fs.prune(checkpoint, sparsity=0.0, per_layer=True)
        reports = []
        cut = fs.prune(checkpoint, sparsity=0.3, per_layer=True, observe=reports.append)
        fs.save(cut, f"{tmp_path}/out/")
        fs.save(cut, tmp_path / "out.safetensors")
        expected_network = fs.build(cut)
    assert reports[0].after.parameters < reports[0].before.parameters
    assert slim.architecture == cut.architecture
    assert split_arguments(cut.architecture)[1].items() >= arguments.items()
    image = torch.randn(1, 3, 64, 64)
    with torch.inference_mode():
        expected = expected_network(image)
        theirs = import_timm().create_model(f"local-dir:{tmp_path}/out", pretrained=True).eval()
        assert _difference(expected, theirs(image)) < 1e-6
        with fs.load(tmp_path / "out.safetensors") as again:
            assert _difference(expected, fs.build(again)(image)) < 1e-6


def test_pooling_in_the_description_of_the_weights_counts(tmp_path):
    """timm takes it from there, too."""
    network = _timm("test_resnet", global_pool="max", num_classes=10)
    _folder(network, tmp_path / "in", {"global_pool": "max"})
    config = json.loads((tmp_path / "in/config.json").read_text())
    config.pop("model_args")
    config["pretrained_cfg"]["global_pool"] = "max"
    (tmp_path / "in/config.json").write_text(json.dumps(config))
    image = torch.randn(1, 3, 64, 64)
    with fs.load(tmp_path / "in") as checkpoint, torch.inference_mode():
        assert _difference(network(image), fs.build(checkpoint)(image)) < 1e-6


def test_a_folder_cannot_have_other_files_loaded(tmp_path, refuse):
    network = _timm("test_resnet")
    _folder(network, tmp_path / "in", {})
    config = json.loads((tmp_path / "in/config.json").read_text())
    config["model_args"] = {"checkpoint_path": "elsewhere.pt"}
    (tmp_path / "in/config.json").write_text(json.dumps(config))
    message = refuse(
        "prune", tmp_path / "in", "--per-layer", "--sparsity", "0.3", "-o", "o.safetensors"
    )
    assert "checkpoint_path" in message


# Plain files


def _plain(library: str, name: str) -> torch.nn.Module:
    torch.manual_seed(0)
    if library == "timm":
        return import_timm().create_model(name)
    return import_torchvision().models.get_model(name, weights=None)


@pytest.mark.parametrize(
    ("library", "name", "ways"),
    [
        ("timm", "mobilenetv3_small_050", ("--sparsity 0.99", "--per-layer --sparsity 0.3")),
        ("timm", "resnet18", ("--sparsity 0.5", "--per-layer --sparsity 0.3 --no-verify")),
        ("torchvision", "shufflenet_v2_x0_5", ("--sparsity 0.5", "--per-layer --sparsity 0.3")),
    ],
)
def test_a_plain_file_is_pruned_and_its_result_opens_by_itself(
    fsurgeon, tmp_path, library, name, ways
):
    network = _plain(library, name)
    torch.save(network.state_dict(), tmp_path / "m.pt")
    for way in ways:
        words = ("prune", "m.pt", *way.split(), "-o", "o.safetensors", "--force")
        done = fsurgeon(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        notes = done.stderr.decode()
        assert ("also fit" in notes) == (name == "resnet18")
        with fs.load(tmp_path / "o.safetensors") as slim:
            assert slim.architecture == f"{library}:{name}"
            built = fs.build(slim).eval()
        state = load_file(tmp_path / "o.safetensors")
        assert {n: t.shape for n, t in built.state_dict().items()} == {
            n: t.shape for n, t in state.items()
        }
    assert sum(t.numel() for t in state.values()) < sum(
        t.numel() for t in network.state_dict().values()
    )
    images = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), np.uint8)
    np.savez(tmp_path / "images.npz", x=images, y=[0, 999])
    for words in (
        ("eval", "o.safetensors", "--data", "images.npz"),
        ("compare", "m.pt", "o.safetensors", "--random", "1", "--latency-runs", "1"),
        ("export", "o.safetensors", "-o", "o.pt2", "--random", "1"),
    ):
        done = fsurgeon(*words, cwd=tmp_path)
        assert done.returncode == 0, done.stderr


def test_an_architecture_that_was_found_is_recorded_by_every_verb_that_looks(tmp_path):
    network = _timm("test_resnet")
    save_file(network.state_dict(), tmp_path / "m.safetensors")
    with fs.load(tmp_path / "m.safetensors") as checkpoint:
        for changed in (
            fs.prune(checkpoint, sparsity=0.2, per_layer=True, verify=False),
            fs.convert(checkpoint, activation="relu"),
            fs.initialize(checkpoint, method="ones", others="reset"),
        ):
            assert changed.architecture == "timm:test_resnet"


def test_what_tells_the_architecture_is_read_before_the_values_change(shared_data, tmp_path):
    """Kernels of a bank give other statistics than those that tell the padding."""
    state = load_file(shared_data / "weights" / "tf_efficientnet_lite0.safetensors")
    save_file(state, tmp_path / "m.safetensors")  # without metadata
    told = pytest.warns(fs.FilterSurgeonWarning, match="batch-norm statistics")
    with fs.load(tmp_path / "m.safetensors") as checkpoint, told:
        fs.save(fs.replace(checkpoint, bank="dog8"), tmp_path / "o.safetensors")
    with fs.load(tmp_path / "o.safetensors") as replaced:
        assert replaced.architecture == "timm:tf_efficientnet_lite0"


def test_edited_tensors_do_not_tell_the_architecture(shared_data, tmp_path):
    """A replaced network that runs before it is written is the one that was loaded."""
    state = load_file(shared_data / "weights" / "tf_efficientnet_lite0.safetensors")
    save_file(state, tmp_path / "m.safetensors")  # without metadata
    told = pytest.warns(fs.FilterSurgeonWarning, match="batch-norm statistics")
    with fs.load(tmp_path / "m.safetensors") as checkpoint, told:
        assert resolve(fs.replace(checkpoint, bank="dog8")) == "timm:tf_efficientnet_lite0"
