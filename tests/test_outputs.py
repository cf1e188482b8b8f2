"""What networks return: every tensor is found, compared and exported, whatever holds it."""

from __future__ import annotations

import json
from collections import OrderedDict, UserDict, UserList, deque, namedtuple
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
import torch
from learning import stripes, tiny_net
from safetensors.torch import save_file
from torch import Tensor, nn

import filtersurgeon as fs
from filtersurgeon.checkpoint import HistoryEntry
from filtersurgeon.checkpoint.tensor import from_torch
from filtersurgeon.errors import FilterSurgeonError, GraphError, LayerError, OutputError
from filtersurgeon.graph.opened_model import open_model
from filtersurgeon.graph.slim import slim, zero_removed
from filtersurgeon.graph.verify import verify
from filtersurgeon.learn.compare import ComparisonSettings, RandomImages, Subject, compare
from filtersurgeon.learn.evaluate import evaluate
from filtersurgeon.learn.measure import output_difference
from filtersurgeon.networks.outputs import (
    class_scores,
    find_scores,
    find_tensors,
    pair_up,
    relative_difference,
)
from filtersurgeon.networks.outputs import output_difference as agreement
from filtersurgeon.ranking.saliency import saliency

torch.set_num_threads(1)


@dataclass
class Answer:
    logits: Any
    extra: Any = None


@dataclass
class ModelOutput(OrderedDict):
    """An output in the manner of transformers: a dataclass that is a dict as well."""

    logits: Any = None
    hidden: Any = None

    def __post_init__(self) -> None:
        for field in fields(self):
            if getattr(self, field.name) is not None:
                self[field.name] = getattr(self, field.name)


Named = namedtuple("Named", "logits note")

KINDS: dict[str, Callable[[Tensor], Any]] = {
    "tensor": lambda y: y,
    "list": lambda y: [None, [y]],
    "tuple": lambda y: (3, (y, "text")),
    "named_tuple": lambda y: Named(y, None),
    "dict": lambda y: {"width": 4, "out": y},
    "ordered_dict": lambda y: OrderedDict(out=y),
    "user_dict": lambda y: UserDict(out=y),
    "user_list": lambda y: UserList([y]),
    "deque": lambda y: deque([y]),
    "mapping_proxy": lambda y: MappingProxyType({"out": y}),
    "dataclass": lambda y: Answer(y),
    "model_output": lambda y: ModelOutput(y),
    "deep": lambda y: {"a": [Answer({"b": UserDict(c=(y,))})]},
    "per_image": lambda y: [{"scores": each[None], "first": each[:1]} for each in y],
    "complex": lambda y: Answer(torch.complex(torch.zeros_like(y), y)),
}


class Net(nn.Module):
    """A body whose output comes in a container of one kind."""

    def __init__(self, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1)
        )
        self.wrap = wrap
        self.pretrained_cfg = {"input_size": (3, 6, 6)}

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.body(x))


class Classifier(nn.Module):
    """Class scores in a container, with features beside them where there is room."""

    def __init__(self, wrap: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.network, self.wrap = tiny_net(), wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.network(x), x.mean((2, 3)))


def factory(kind: str) -> Callable[[], nn.Module]:
    return lambda: Net(KINDS[kind])


for _kind in KINDS:
    globals()[f"make_{_kind}"] = factory(_kind)


def checkpoint(kind: str, tmp_path: Path, seed: int = 0) -> fs.Checkpoint:
    torch.manual_seed(seed)
    path = tmp_path / f"{kind}{seed}.safetensors"
    save_file(Net(KINDS[kind]).state_dict(), path)
    return fs.load(path, arch=f"factory:tests.test_outputs:make_{kind}")


def spoilt(source: fs.Checkpoint, name: str) -> fs.Checkpoint:
    """Change one value of a tensor by a hundredth of the largest."""
    values = source[name].torch().clone()
    values.view(-1)[0] += 0.01 * values.abs().max()
    return replace(source, tensors={**source.tensors, name: from_torch(values, name)})


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_is_found(kind):
    y = torch.randn(2, 4)
    found = find_tensors(KINDS[kind](y))
    assert sum(tensor.numel() for _, tensor in found) == (10 if kind == "per_image" else 8)
    assert len({place for place, _ in found}) == len(found)


def test_places_are_named():
    y = torch.zeros(1)
    nested = {"a": [Answer(y, Named(y, (y,)))], 3: {"b": y}}
    places = [place for place, _ in find_tensors(nested)]
    assert places == ["a.0.logits", "a.0.extra.logits", "a.0.extra.note.0", "3.b"]
    assert find_tensors(y)[0].place == ""


class Opaque:
    def __init__(self, x: Tensor) -> None:
        self.x = x


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        (None, "no tensors"),
        ([1, "a", {}], "no tensors"),
        (Opaque(torch.zeros(1)), "Opaque"),
        ({"out": torch.zeros(1), "more": Opaque(torch.zeros(1))}, "Opaque"),
        ({torch.zeros(1)}, "type set"),
        (iter([torch.zeros(1)]), "type list_iterator"),
        (np.zeros(3), "type ndarray"),
        (Answer, "type type"),
    ],
)
def test_what_may_hide_tensors_is_refused(outputs, words):
    with pytest.raises(OutputError, match=words) as caught:
        find_tensors(outputs)
    assert len(str(caught.value)) < 160


def test_an_endless_container_is_refused():
    loop: list[Any] = [torch.zeros(1)]
    loop.append(loop)
    with pytest.raises(OutputError, match="type list"):
        find_tensors(loop)


def test_tensors_are_paired_by_their_keys_or_else_in_order():
    a, b = torch.zeros(2), torch.ones(2)
    assert relative_difference({"a": a, "b": b}, {"b": b, "a": a}) == 0
    assert relative_difference({"a": a, "b": b}, [a, b]) == 0
    assert relative_difference({"a": b, "b": a}, [a, b]) > 0


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        ([torch.zeros(2)], [torch.zeros(2)] * 2, r"1 tensor and 2 tensors \(0, 1\)"),
        ({"a": torch.zeros(2)}, {"a": torch.zeros(3)}, r"in shape at a: \(2,\) and \(3,\)"),
        (torch.zeros(2), torch.zeros(2, dtype=torch.int64), "in type: float32 and int64"),
        (torch.zeros(0, 4), torch.zeros(0, 4), "nothing to compare"),
        (None, None, "no tensors"),
    ],
)
def test_what_cannot_be_compared_is_an_error(one, other, words):
    for function in (pair_up, relative_difference):
        with pytest.raises(OutputError, match=words) as caught:
            function(one, other)
        assert len(str(caught.value)) < 160
    with pytest.raises(OutputError, match=words):
        output_difference(one, other, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_a_spoilt_cut_never_passes_the_check(kind, tmp_path):
    subject = open_model(checkpoint(kind, tmp_path))
    graph = subject.graph
    free = next(bundle for bundle in graph.groups.bundles if not bundle.pinned)
    left = np.ones(len(graph.groups), bool)
    left[free.groups[:3]] = False
    narrow = slim(subject, left, HistoryEntry("prune"))
    expected = zero_removed(subject, left)
    proof = verify(subject, expected, narrow)
    assert proof.difference < 1e-12
    assert not proof.blind
    for name in ("body.0.weight", "body.3.weight", "body.3.bias"):
        with pytest.raises(GraphError, match="differ by"):
            verify(subject, expected, spoilt(narrow, name))


@pytest.mark.parametrize("kind", KINDS)
def test_a_network_gone_blind_is_told_from_one_that_sees(kind, tmp_path):
    """Only where no output depends on the image any more, and did before, is there a note."""
    reports: list[Any] = []
    source = checkpoint(kind, tmp_path)
    fs.prune(source, sparsity=0.3, per_layer=True, method="l2", observe=reports.append)
    fs.prune(source, sparsity=0.99, method="l2", observe=reports.append)
    dead = torch.zeros(8, 3, 3, 3)
    blind = replace(
        source,
        tensors={**source.tensors, "body.0.weight": from_torch(dead, "body.0.weight")},
    )
    # A network that never saw anything has lost nothing.
    fs.prune(blind, sparsity=0.3, per_layer=True, method="random", observe=reports.append)
    assert [any("no longer depend" in n for n in r.notes) for r in reports] == [False] * 3
    subject = open_model(source)
    left = np.ones(len(subject.graph.groups), bool)
    changed = {"body.0.weight": dead}
    narrow = slim(subject, left, HistoryEntry("prune"), changed)
    assert verify(subject, changed, narrow).blind


@pytest.mark.parametrize("kind", KINDS)
def test_folding_is_checked_on_every_tensor(kind):
    torch.manual_seed(0)
    one = Net(KINDS[kind]).eval()
    other = Net(KINDS[kind]).eval()
    other.load_state_dict(one.state_dict())
    assert agreement(one, other, (3, 6, 6)) == 0
    with torch.no_grad():
        other.body[3].bias[0] += 1
    assert agreement(one, other, (3, 6, 6)) > 0.01


def test_agreement_of_networks_that_convert_to_float32():
    class Float(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.two(self.one(x).float())

    model = Float()
    assert agreement(model, model, (4,)) == 0


def test_the_worst_tensor_counts_and_the_scores_tell_the_class():
    """By hand: logits differ by a quarter in one of two inputs, the features by a half in both."""
    logits = torch.tensor([[0.0, 4.0], [3.0, 0.0]])
    features = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
    first = {"features": features, "logits": logits}
    second = {"features": features.flip(1) * 1.0, "logits": logits * torch.tensor([[1.25], [1.0]])}
    found = output_difference(first, second, 2)
    assert found.relative_max == pytest.approx(2**0.5)
    assert found.same_class == 2
    second = {"features": features * 1.5, "logits": logits * torch.tensor([[1.75], [1.0]])}
    found = output_difference(first, second, 2)
    assert found.relative_max == pytest.approx(0.75)
    assert found.relative_mean == pytest.approx((0.75 + 0.5) / 2)
    assert found.absolute_max == pytest.approx(3.0)
    # Without a name, any tensor may hold the scores.
    assert output_difference([features], [features.flip(1)], 2).same_class == 0


def test_a_comparison_of_outputs_in_containers():
    one = Net(KINDS["dict"])
    other = Net(KINDS["mapping_proxy"])
    other.load_state_dict(one.state_dict())
    settings = ComparisonSettings(batch_size=4, latency_runs=0)
    inputs = RandomImages(6, (3, 6, 6))
    found = compare((Subject("a", one), Subject("b", other)), inputs, settings)
    assert found.difference.n_inputs == 6
    assert found.difference.relative_max == 0
    with torch.no_grad():
        other.body[3].weight.mul_(1.5)
        other.body[3].bias.mul_(1.5)
    found = compare((Subject("a", one), Subject("b", other)), inputs, settings)
    assert found.difference.relative_max == pytest.approx(0.5)


SCORED: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "logits": lambda y, features: {"features": features, "logits": y},
    "out": lambda y, features: UserDict(aux=features, out=y),
    "one": lambda y, _: Answer(y),
    "deep": lambda y, features: {"classes": Named(y, None), "features": [features]},
}


@pytest.mark.parametrize("kind", SCORED)
def test_class_scores_are_found_by_their_name(kind):
    images = stripes(8)
    model = Classifier(SCORED[kind]).eval()
    plain = model.network
    assert evaluate(model, images, 2).top1 == evaluate(plain, images, 2).top1
    weight = "pointwise.weight"
    own = list(saliency(model, images, {"x": f"network.{weight}"}))
    wanted = list(saliency(plain, images, {"x": weight}))
    for (_, one), (_, other) in zip(own, wanted, strict=True):
        np.testing.assert_array_equal(one["x"], other["x"])


@pytest.mark.parametrize(
    ("outputs", "words"),
    [
        ([torch.zeros(2, 3), torch.zeros(2, 5)], r"2 tensors \(0, 1\), and none is named"),
        ({"a": {"out": torch.zeros(1, 2)}, "b": {"out": torch.zeros(1, 2)}}, "none is named"),
        ({"out": torch.zeros(2, 3, 4, 4)}, r"shape \(2, 3, 4, 4\)"),
        (torch.zeros(2, 3, dtype=torch.int64), "int64"),
        ([torch.zeros(1)] * 9, r"9 tensors \(0, 1, 2, 3, ...\)"),
    ],
)
def test_unclear_class_scores_are_refused(outputs, words):
    with pytest.raises(OutputError, match=words) as caught:
        class_scores(outputs)
    assert len(str(caught.value)) < 170


def test_logits_come_before_out():
    a, b = torch.zeros(1, 2), torch.ones(1, 2)
    assert find_scores({"out": a, "logits": b}) is b
    assert find_scores([a, b]) is None


class Digits(nn.Module):
    """A classifier of digits that returns its scores, and perhaps its features, in some way."""

    def __init__(self, wrap: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        self.conv, self.relu = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU()
        self.more, self.head = nn.Conv2d(4, 6, 3, padding=1), nn.Linear(6, 10)
        self.wrap = wrap
        self.pretrained_cfg = {"input_size": (1, 16, 16), "mean": (0.1,), "std": (0.3,)}

    def forward(self, x: Tensor) -> Any:
        features = self.relu(self.more(self.relu(self.conv(x)))).mean((2, 3))
        return self.wrap(self.head(features), features)


def digits_plain() -> nn.Module:
    return Digits(lambda scores, _: scores)


def digits_dict() -> nn.Module:
    return Digits(SCORED["logits"])


def digits_unclear() -> nn.Module:
    return Digits(lambda scores, features: (scores, features))


@pytest.fixture
def verb(tmp_path, monkeypatch, capfd):
    """Run a verb on the digits, in this process, by a network that returns scores in some way."""
    from examples.zoo.train import write_digits
    from filtersurgeon.cli.application import app

    monkeypatch.chdir(tmp_path)
    write_digits(tmp_path / "digits.npz")
    torch.manual_seed(0)
    save_file(digits_plain().state_dict(), tmp_path / "m.safetensors")

    def run(words: tuple[Any, ...], kind: str) -> tuple[str, str]:
        words = (*map(str, words), "--factory", f"tests.test_outputs:digits_{kind}")
        app(list(words), standalone_mode=False)
        return capfd.readouterr()

    return run


DATA = ("--data", "digits.npz", "--subset", "16")
COMMANDS = {
    "eval": ("eval", "m.safetensors", *DATA, "--json"),
    "gradcam": ("gradcam", "m.safetensors", *DATA, "--json"),
    "embed": ("embed", "m.safetensors", *DATA, "--method", "pca", "--json"),
    "rank": ("rank", "m.safetensors", *DATA, "--method", "saliency", "--json"),
    "compare": ("compare", "m.safetensors", "m.safetensors", *DATA, "--latency-runs", 0, "--json"),
    "tune": ("tune", "m.safetensors", *DATA, "--epochs", 1, "-o", "t.safetensors", "--force"),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_verbs_take_the_class_scores_out_of_a_dict(name, verb, tmp_path):
    results = []
    for kind in ("plain", "dict"):
        printed, _ = verb(COMMANDS[name], kind)
        if name == "tune":
            with fs.load(tmp_path / "t.safetensors") as tuned:
                results.append({k: x.array().tolist() for k, x in tuned.tensors.items()})
        else:
            results.append(_without_times(json.loads(printed)))
    assert results[0] == results[1]
    with pytest.raises(OutputError, match=r"2 tensors \(0, 1\), and none is named"):
        verb(COMMANDS[name], "unclear")


def _without_times(value: Any) -> Any:
    if isinstance(value, dict):
        timed = ("seconds", "images_per_second")
        return {key: _without_times(item) for key, item in value.items() if key not in timed}
    return [_without_times(item) for item in value] if isinstance(value, list) else value


def test_a_page_about_a_network_with_several_outputs(verb, tmp_path):
    _, notes = verb(("report", "m.safetensors", "-o", "r.html", *DATA), "unclear")
    assert "none is named" in notes
    assert (tmp_path / "r.html").exists()


@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        *((kind, "pt2") for kind in ("dataclass", "named_tuple", "user_dict", "dict", "deep")),
        *((kind, "onnx") for kind in ("mapping_proxy", "tuple")),
    ],
)
def test_exports_hold_every_tensor(kind, ending, tmp_path):
    pytest.importorskip("onnxruntime")
    made = fs.export(checkpoint(kind, tmp_path), tmp_path / f"m.{ending}", random=2)
    assert made.difference.n_inputs == 2
    assert made.difference.relative_max < 1e-5


AXES = {1: (nn.Conv1d, (3, 20)), 3: (nn.Conv3d, (3, 4, 6, 8))}


def axes_net(axes: int, wrap: Callable[[Tensor], Any] = lambda y: y) -> nn.Module:
    kind, size = AXES[axes]
    model = Net(wrap)
    model.body = nn.Sequential(kind(3, 6, 3, padding=1), nn.ReLU(), kind(6, 4, 1))
    model.pretrained_cfg = {"input_size": size}
    return model


def axes_1() -> nn.Module:
    return axes_net(1)


def axes_3() -> nn.Module:
    return axes_net(3, lambda y: {"mean": y.mean((2, 3, 4)), "whole": y})


@pytest.mark.parametrize("axes", AXES)
@pytest.mark.parametrize("ending", ["onnx", "pt2"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_networks_of_one_and_three_axes_are_exported(axes, ending, dynamic, tmp_path):
    pytest.importorskip("onnxruntime")
    save_file((axes_1, axes_3)[axes == 3]().state_dict(), tmp_path / "m.safetensors")
    source = fs.load(tmp_path / "m.safetensors", arch=f"factory:tests.test_outputs:axes_{axes}")
    made = fs.export(source, tmp_path / f"m.{ending}", random=3, dynamic_batch=dynamic)
    assert made.input_shape == (None if dynamic else 1, *AXES[axes][1])
    assert made.difference.relative_max < 1e-5


def test_sizes_of_likely_inputs_have_the_axes_of_the_network():
    from filtersurgeon.networks.dry_run import likely_sizes

    for axes in (1, 3):
        model = axes_net(axes)
        model.pretrained_cfg = None
        assert {len(size) for size in likely_sizes(model, fs.Checkpoint({}, "it"))} == {axes + 1}


def test_a_network_without_outputs_is_not_cut(tmp_path):
    torch.manual_seed(0)
    save_file(Net(KINDS["tensor"]).state_dict(), tmp_path / "m.safetensors")
    source = fs.load(tmp_path / "m.safetensors", arch="factory:tests.test_outputs:silent")
    for verify_it in (True, False):
        with pytest.raises(FilterSurgeonError, match="returns no tensors"):
            fs.prune(source, sparsity=0.3, per_layer=True, verify=verify_it)


def silent() -> nn.Module:
    return Net(lambda _: None)


class OneByOne(nn.Module):
    """Runs its layers on one image after the other, and joins the scores."""

    def __init__(self) -> None:
        super().__init__()
        self.network = digits_plain()
        self.pretrained_cfg = self.network.pretrained_cfg

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.network(image[None]) for image in x])


@pytest.mark.parametrize("name", ["gradcam", "embed", "activations"])
def test_layers_that_see_one_image_at_a_time_are_refused(name, verb, tmp_path):
    state = {f"network.{key}": value for key, value in digits_plain().state_dict().items()}
    save_file(state, tmp_path / "m.safetensors")
    words = COMMANDS.get(name, ("activations", "m.safetensors", *DATA, "--json"))
    with pytest.raises(LayerError, match="runs on parts of the batch"):
        verb(words, "apart")


def digits_apart() -> nn.Module:
    return OneByOne()
