"""Changed networks in plain timm, and the hook that makes timm know them."""

import importlib
import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from hand_pruned import EXAMPLES, Example, pruned_by_hand
from safetensors.torch import load_file, save_file

import filtersurgeon as fs
from filtersurgeon import timm_hook
from filtersurgeon.checkpoint.sources import ENTRY
from filtersurgeon.checkpoint.vision import import_timm
from filtersurgeon.errors import ArchitectureError, CheckpointError

# A narrow last layer, and an edit that shapes do not show.
NARROW = Example(
    "timm:mobilenetv3_small_050",
    [replace(EXAMPLES["mobilenetv3"].cuts[0], removed=[3]),
     replace(EXAMPLES["mobilenetv3"].cuts[0], removed=[0, 9], silenced=["classifier.weight"],
             members={"conv_head.weight": 0, "conv_head.bias": 0, "classifier.weight": 1})],
    [{"edit": "set", "module": "blocks.1.1.conv_dw", "values": {"groups": 55}}],
)  # fmt: skip


def _images(channels: int = 3) -> torch.Tensor:
    return torch.randn((2, channels, 64, 64), generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def narrow(tmp_path_factory):
    """A folder with a pruned network, and the network."""
    folder = tmp_path_factory.mktemp("narrow") / "net"
    _, checkpoint = pruned_by_hand(NARROW)
    fs.save(checkpoint, f"{folder}/")
    return folder, fs.build(checkpoint)


def _create(folder, **options):
    return import_timm().create_model(f"local-dir:{folder}", **{"pretrained": True, **options})


@pytest.mark.parametrize("name", ["resnet18", "resnetblur18", "mixnet", "nf_resnet26"])
def test_plain_timm_loads_a_pruned_network(tmp_path, name):
    _, checkpoint = pruned_by_hand(EXAMPLES[name])
    fs.save(checkpoint, f"{tmp_path}/net/")
    config = json.loads((tmp_path / "net/config.json").read_text())
    assert config["architecture"] == ENTRY
    assert config["model_args"]["base"] == EXAMPLES[name].arch
    theirs = _create(tmp_path / "net")
    assert theirs.training
    with torch.inference_mode():
        assert torch.equal(theirs.eval()(_images()), fs.build(checkpoint)(_images()))


def test_timms_options_mean_what_they_do_elsewhere(narrow):
    folder, built = narrow
    with torch.inference_mode():
        other = _create(folder, num_classes=5, drop_rate=0.5).eval()
        assert other(_images()).shape == (2, 5)
        assert other.drop_rate == 0.5
        features = _create(folder, num_classes=0).eval()
        assert torch.equal(features(_images()), built.forward_head(
            built.forward_features(_images()), pre_logits=True))  # fmt: skip
        grey = _create(folder, in_chans=1).eval()
        # timm sums the stem over colours.
        assert torch.allclose(grey(_images(1)), built(_images(1).expand(2, 3, 64, 64)), atol=1e-4)
        fresh = _create(folder, pretrained=False)
        assert fresh.state_dict().keys() == built.state_dict().keys()
        assert not torch.equal(fresh.conv_stem.weight, built.conv_stem.weight)


def test_features_are_those_of_the_network(narrow):
    folder, built = narrow
    features = _create(folder, features_only=True, out_indices=(0, 2, -1)).eval()
    with torch.inference_mode():
        found = features(_images())
        wanted = built.forward_intermediates(_images(), indices=(0, 2, 4), intermediates_only=True)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert features.feature_info.channels() == [map_.shape[1] for map_ in wanted]
    assert features.feature_info.reduction() == [64 // map_.shape[2] for map_ in wanted]


def test_features_tell_the_channels_that_are_left(tmp_path):
    example = Example(
        "timm:mobilenetv3_small_050",
        [replace(EXAMPLES["mobilenetv3"].cuts[0], removed=[1, 4], silenced=[], members={
            "conv_stem.weight": 0, "bn1.weight": 0, "bn1.bias": 0, "bn1.running_mean": 0,
            "bn1.running_var": 0, "blocks.0.0.conv_dw.weight": 0, "blocks.0.0.bn1.weight": 0,
            "blocks.0.0.bn1.bias": 0, "blocks.0.0.bn1.running_mean": 0,
            "blocks.0.0.bn1.running_var": 0, "blocks.0.0.se.conv_reduce.weight": 1,
            "blocks.0.0.se.conv_expand.weight": 0, "blocks.0.0.se.conv_expand.bias": 0,
            "blocks.0.0.conv_pw.weight": 1,
        })],
    )  # fmt: skip
    _, checkpoint = pruned_by_hand(example)
    fs.save(checkpoint, f"{tmp_path}/net/")
    net = _create(tmp_path / "net", features_only=True, feature_cls=None)
    with torch.inference_mode():
        assert net.feature_info.channels() == [o.shape[1] for o in net.eval()(_images())]


def test_a_changed_head_can_be_reset(narrow):
    folder, _ = narrow
    model = _create(folder)
    assert model.head_hidden_size == model.classifier.in_features == 1022
    model.reset_classifier(7)
    assert model.eval()(_images()).shape == (2, 7)


def test_what_cannot_be_had_is_said(tmp_path):
    timm = import_timm()
    with pytest.raises(ArchitectureError, match="local-dir:FOLDER"):
        timm.create_model(ENTRY)
    with pytest.raises(ArchitectureError, match="local-dir:FOLDER"):
        timm.create_model(ENTRY, base="factory:os:getcwd")
    with pytest.raises(ArchitectureError, match="local-dir:FOLDER"):
        fs.build(pruned_by_hand(NARROW)[1], arch=ENTRY)
    _, checkpoint = pruned_by_hand(EXAMPLES["resnet18"])
    fs.save(checkpoint, f"{tmp_path}/net/")
    with pytest.raises(ArchitectureError, match="forward_intermediates"):
        _create(tmp_path / "net", features_only=True)


def test_a_folder_is_enough_without_the_metadata_of_its_weights(narrow, tmp_path):
    folder, built = narrow
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    save_file(load_file(folder / "model.safetensors"), tmp_path / "model.safetensors")
    checkpoint = fs.load(tmp_path)
    assert checkpoint.architecture == NARROW.arch
    assert checkpoint.structure == tuple(NARROW.structure)
    with torch.inference_mode():
        assert torch.equal(fs.build(checkpoint)(_images()), built(_images()))


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"architecture": ENTRY, "model_args": {"base": 3}}, "architecture must be a name"),
        ({"architecture": ENTRY, "model_args": {"structure": 3}}, "structure must be a list"),
        ({"architecture": ENTRY, "model_args": {"structure": [3]}}, "structure must be a list"),
    ],
)
def test_a_bad_config_is_refused(narrow, tmp_path, config, words):
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file(load_file(narrow[0] / "model.safetensors"), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=words):
        fs.load(tmp_path)


@pytest.mark.parametrize("wrap", [lambda a: {"architecture": a}, lambda a: {
    "architecture": ENTRY, "model_args": {"base": a}}])  # fmt: skip
@pytest.mark.usefixtures("model")
def test_a_config_runs_nobodys_function(tmp_path, wrap):
    (tmp_path / "config.json").write_text(json.dumps(wrap("factory:os:getcwd")))
    assert fs.load(tmp_path).architecture is None


def test_the_hub_gives_a_changed_network_too(narrow, monkeypatch):
    timm, (folder, built) = import_timm(), narrow
    create = timm.create_model
    monkeypatch.setattr(
        timm,
        "create_model",
        lambda name, **options: create(
            name.replace("hf-hub:me/pruned", f"local-dir:{folder}"), **options
        ),
    )
    checkpoint = fs.load("hf-hub:me/pruned")
    monkeypatch.undo()
    assert (checkpoint.architecture, checkpoint.structure) == (NARROW.arch, tuple(NARROW.structure))
    with torch.inference_mode():
        assert torch.equal(fs.build(checkpoint)(_images()), built(_images()))


# The hook


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    """A package in timm's place, and how often it was announced."""
    (tmp_path / "stand_in.py").write_text("def create_model(): ...\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(timm_hook, "TIMM", "stand_in")
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.delitem(sys.modules, "stand_in", raising=False)
    calls = []
    monkeypatch.setattr(timm_hook, "_register", lambda: calls.append(1))
    return calls


def _hooks():
    return [finder for finder in sys.meta_path if isinstance(finder, timm_hook._Finder)]


def test_the_entry_is_made_after_timm_is_imported(stand_in):
    timm_hook.announce()
    timm_hook.announce()
    assert len(_hooks()) == 1
    # Looking for it, as other packages do, is not importing it.
    assert importlib.util.find_spec("stand_in") is not None
    importlib.import_module("json.decoder")
    assert stand_in == []
    module = importlib.import_module("stand_in")
    assert stand_in == [1]
    assert not _hooks()
    assert "exec_module" not in vars(module.__loader__)


def test_the_entry_is_made_at_once_if_timm_is_there(stand_in):
    importlib.import_module("stand_in")
    timm_hook.announce()
    assert stand_in == [1]
    assert not _hooks()


def test_a_failing_entry_does_not_keep_timm_from_being_imported(monkeypatch):
    from filtersurgeon.networks import timm_entry

    monkeypatch.setattr(timm_entry, "register", lambda: 1 / 0)
    with pytest.warns(UserWarning, match="timm will not load .* division by zero"):
        timm_hook._register()


def test_importing_the_package_is_enough():
    code = (
        "import sys, filtersurgeon\n"
        "assert 'timm' not in sys.modules and 'torch' not in sys.modules\n"
        "from filtersurgeon.checkpoint.vision import import_torchvision\n"
        "import_torchvision()\n"
        "import timm\n"
        f"assert timm.is_model({ENTRY!r})\n"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True)


def test_the_entry_s_own_file_may_be_imported_first():
    code = (
        f"import filtersurgeon.networks.timm_entry\nimport timm\nassert timm.is_model({ENTRY!r})\n"
    )
    words = ("-W", "error:timm will not load:UserWarning")
    subprocess.run([sys.executable, *words, "-c", code], check=True)
