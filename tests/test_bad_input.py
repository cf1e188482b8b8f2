"""Modules, inputs and files that do not go together: one line with the remedy, and no output."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file, save_model
from torch import Tensor, nn
from torch.nn import functional

import filtersurgeon as fs
from filtersurgeon.networks.arguments import describe_mismatch
from tests import odd_networks

IMAGE = torch.zeros(1, 3, 16, 16)
CUT = {"sparsity": 0.5, "per_layer": True, "method": "l2"}


class Net(nn.Module):
    """Two convolutions and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.two = nn.Conv2d(8, 8, 3, padding=1)
        self.head = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = functional.relu(self.norm(self.one(image)))
        scores: Tensor = self.head(functional.relu(self.two(x)).mean((2, 3)))
        return scores


class Needy(Net):
    """A network that needs more than an image."""

    def forward(self, image: Tensor, scale: Tensor, *, mask: Any) -> Tensor:  # type: ignore[override]  # noqa: ARG002
        return super().forward(image) * scale


class Batch(Net):
    """A network that takes a dict."""

    def forward(self, batch: dict[str, Tensor]) -> Tensor:  # type: ignore[override]
        return super().forward(batch["image"]) * batch["scale"]


class Owners(nn.Module):
    """A convolution that stands in three places, and a weight in two."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 1)
        self.shared = nn.Conv2d(8, 8, 1)
        self.left = nn.Sequential(self.shared, nn.ReLU())
        self.right = nn.Sequential(self.shared)
        self.tied = nn.Conv2d(8, 8, 1)
        self.tied.weight = self.shared.weight
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.head(self.tied(self.right(self.left(self.stem(x)))))
        return scores


def net() -> nn.Module:
    return Net()


def owners() -> nn.Module:
    return Owners()


def said(call: Callable[[], Any]) -> str:
    """Give the line of an error, which is short beside the names of files and factories."""
    with pytest.raises(fs.FilterSurgeonError) as caught:
        call()
    line = str(caught.value)
    assert "\n" not in line
    assert len(line) <= 170
    return line


def test_what_a_function_lacks_and_does_not_take():
    def plain(image, scale, *, mask, flag=0): ...
    def open_(*images, **others): ...
    def one(image, /, size=1): ...
    def many(a, b, c, d, e, f): ...

    assert describe_mismatch(plain, 1, ()) == "needs 'scale' and 'mask'"
    assert describe_mismatch(plain, 2, ("mask", "flag")) == ""
    assert describe_mismatch(plain, 3, ("mask",)) == "takes 2 positional arguments, not 3"
    assert describe_mismatch(plain, 2, ("mask", "image")) == "gets 'image' twice"
    assert describe_mismatch(open_, 3, ("a",)) == ""
    assert describe_mismatch(one, 1, ("b",)) == "takes no 'b' (it takes 'size')"
    assert describe_mismatch(one, 0, ("image",)) == "needs 'image' and takes no 'image'"
    assert describe_mismatch(many, 0, ()).endswith("'d' and 2 more")


@pytest.mark.parametrize(
    ("inputs", "problem"),
    [
        (IMAGE, "needs 'scale' and 'mask'"),
        (None, "needs 'scale' and 'mask'"),
        ((3, 16, 16), "needs 'scale' and 'mask'"),
        ({"image": IMAGE, "scale": IMAGE}, "needs 'mask'"),
        ({"picture": IMAGE, "scale": IMAGE, "mask": 1}, "needs 'image' and takes no 'picture'"),
    ],
)
def test_arguments_that_were_not_given_are_named(inputs, problem):
    expected = f"forward of Needy {problem}; give all its arguments in `example_inputs`"
    for call in (
        lambda: fs.prune(Needy(), inputs, **CUT),
        lambda: fs.load(Needy(), example_inputs=inputs),
        lambda: fs.channels(Needy(), example_inputs=inputs),
    ):
        assert said(call).startswith(expected)


def test_a_dict_that_lacks_a_key():
    line = said(lambda: fs.prune(Batch(), ({"image": IMAGE},), **CUT))
    assert "KeyError: 'scale'" in line
    assert line.endswith("check `example_inputs`")
    scale = torch.ones(1, 5)
    assert fs.prune(Batch(), ({"image": IMAGE, "scale": scale},), **CUT).one.out_channels == 4


def test_inputs_on_another_device():
    elsewhere = torch.empty(1, 5, device="meta")
    both = ({"image": IMAGE, "scale": elsewhere},)
    for module, inputs in ((Net(), IMAGE.to("meta")), (Batch(), both)):
        name = type(module).__name__
        assert said(lambda: fs.prune(module, inputs, **CUT)) == (  # noqa: B023
            f"`example_inputs` are on meta, and {name} is on cpu; move both to one device"
        )


def test_a_module_without_data_is_not_blamed_on_its_inputs():
    module = Net()
    module.two.to("meta")
    for each, layer in ((module, "two"), (Net().to("meta"), "one")):
        line = said(lambda: fs.prune(each, IMAGE, **CUT))  # noqa: B023
        assert line.startswith(f"{layer}.weight of Net has a shape but no data")


@pytest.mark.parametrize("copy", [True, False])
def test_a_module_with_several_owners_stays_one(copy):
    torch.manual_seed(0)
    slim = fs.prune(Owners(), IMAGE, copy=copy, **CUT)
    assert slim.left[0] is slim.right[0] is slim.shared
    assert slim.tied.weight is slim.shared.weight
    assert slim.shared.weight.shape == (4, 4, 1, 1)
    assert slim(IMAGE).shape == (1, 3, 16, 16)


@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_file_may_hold_one_name_of_a_tensor_with_several(prefix, tmp_path):
    torch.manual_seed(0)
    module = Owners().eval()
    save_model(module, str(tmp_path / "one.safetensors"))
    state = load_file(tmp_path / "one.safetensors")
    assert len(state) < len(module.state_dict())
    path = tmp_path / "named.safetensors"
    save_file({prefix + name: tensor for name, tensor in state.items()}, path)
    image = torch.randn(1, 3, 8, 8)
    for checkpoint in (
        fs.load(path, arch="factory:tests.test_bad_input:owners"),
        fs.load(load_file(path), module=Owners()),
    ):
        network = fs.build(checkpoint)
        assert torch.equal(network(image), module(image))
        slim = fs.build(fs.prune(checkpoint, **CUT))
        assert slim.tied.weight is slim.right[0].weight
        assert slim.shared.out_channels == 4


STATE = Net().state_dict()
TWICE = {**STATE, **{f"module.{name}": tensor + 1 for name, tensor in STATE.items()}}
BOTH = {f"{prefix}.{name}": tensor for prefix in "ab" for name, tensor in STATE.items()}


@pytest.mark.parametrize(
    ("state", "problem", "remedy"),
    [
        ({k: v for k, v in STATE.items() if "norm" not in k}, "4 tensors are missing",
         "pass all that state_dict() of such a module gives"),
        ({**STATE, "aux.weight": torch.ones(2)}, "it has no tensor aux.weight", "and no more"),
        ({**STATE, "epoch": 3}, "'epoch' of the state dict is of type int", "leave out"),
        ({"state_dict": STATE, "epoch": 3}, "this dict holds no tensors", "entry 'state_dict'"),
        (TWICE, "holds several networks like Net", "pass the tensors of one"),
        (BOTH, "holds several networks like Net", "pass the tensors of one"),
        ({}, "10 tensors are missing", "pass all"),
    ],
)  # fmt: skip
def test_a_state_dict_that_does_not_fit(state, problem, remedy):
    line = said(lambda: fs.load(state, module=Net()))
    assert problem in line
    assert remedy in line


@pytest.mark.parametrize("prefix", ["module.", "model.net."])
def test_a_state_dict_gets_the_names_of_its_module(prefix):
    state = {prefix + name: tensor for name, tensor in STATE.items()}
    checkpoint = fs.load(state, module=Net())
    assert set(checkpoint) == set(STATE)
    assert checkpoint.notes == (f"Net: removed {prefix!r} from the names of tensors",)


def test_shapes_that_a_module_cannot_have_name_no_architecture():
    checkpoint = fs.load({**STATE, "two.weight": torch.ones(8, 8, 1, 1)}, module=Net())
    with pytest.raises(fs.FilterSurgeonError) as caught:
        fs.build(checkpoint)
    assert "two.weight has shape [8, 8, 1, 1] instead of [8, 8, 3, 3]" in str(caught.value)
    assert str(caught.value).endswith("; check the tensors and `example_inputs`")


@pytest.mark.parametrize(
    ("state", "problem", "remedy"),
    [
        ({k: v for k, v in STATE.items() if "norm" not in k}, "4 tensors are missing",
         "save its whole state_dict(), or choose another `arch`"),
        (TWICE, "holds the network twice, with and without 'module.' before its names",
         "take the former with `prefix='module.'`, or save one of them"),
        (BOTH, "holds several networks, under 'a.' and 'b.'", "choose one with `prefix`"),
    ],
    ids=["lacks", "twice", "both"],
)  # fmt: skip
def test_files_that_do_not_fit_the_factory(state, problem, remedy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_file({k: v.clone() for k, v in state.items()}, "in.safetensors")
    arch = "factory:tests.test_bad_input:net"
    line = said(lambda: fs.prune(fs.load("in.safetensors", arch=arch), **CUT))
    assert problem in line
    assert line.endswith(remedy)


def test_the_command_names_its_option(refuse, tmp_path):
    save_file({k: v.clone() for k, v in TWICE.items()}, tmp_path / "in.safetensors")
    words = (tmp_path / "in.safetensors", "--factory", "tests.test_bad_input:net", "--per-layer")
    line = refuse("prune", *words, "-s", "0.5", "-o", tmp_path / "out.safetensors")
    assert line.endswith("take the former with --prefix module., or save one of them\n")


def test_two_architectures_in_one_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parts = {
        "old": fs.untrained("timm:test_resnet").state_dict(),
        "new": fs.untrained("timm:test_vit").state_dict(),
    }
    both = {f"{part}.{k}": v.contiguous() for part, d in parts.items() for k, v in d.items()}
    path = "both.safetensors"
    save_file(both, path)
    assert said(lambda: fs.channels(fs.load(path))) == (
        "both.safetensors holds timm:test_resnet under 'old.' and timm:test_vit under 'new.'; "
        "choose one with `prefix`"
    )
    with fs.load(path, prefix="old.") as checkpoint:
        assert fs.channels(checkpoint).layers[0] == "conv1.0"
    save_file({"aux.weight": torch.ones(3), **both}, path)
    del both["new.cls_token"]
    save_file(both, path)
    line = said(lambda: fs.channels(fs.load(path)))
    assert "holds timm:test_resnet under 'old.' beside other tensors; choose one" in line


def test_a_network_that_needs_more_than_an_image_is_refused_by_the_command(refuse, tmp_path):
    torch.save(odd_networks.two_inputs().state_dict(), tmp_path / "in.pt")
    words = (tmp_path / "in.pt", "--factory", "tests.odd_networks:two_inputs", "--per-layer")
    line = refuse("prune", *words, "-s", "0.5", "-o", tmp_path / "out.safetensors")
    assert "its forward needs 'mask': name inputs in --input-size" in line
