"""Accuracy, counted against closed forms and against published figures."""

import json
import subprocess
import sys
from math import isnan, log, sqrt

import pytest
import torch
from learning import CIFAR_CFG, SHARED, needs_shared, stripes, tiny_net
from torch import nn

from filtersurgeon.checkpoint.vision import require
from filtersurgeon.data.data import DataSpec, open_data
from filtersurgeon.data.preprocess import read_preprocessing
from filtersurgeon.errors import DataError, OptionError, OutOfMemoryError
from filtersurgeon.learn.evaluate import EvaluationSettings, evaluate
from filtersurgeon.learn.evaluation import Counter, Evaluation, merge, wilson_interval


def test_wilson_interval_by_hand():
    # 8 of 10 with z = 2: centre (0.8 + 0.2) / 1.4, half 2 sqrt(0.016 + 0.01) / 1.4.
    low, high = wilson_interval(8, 10, z=2.0)
    assert low == pytest.approx(1 / 1.4 - 2 * sqrt(0.026) / 1.4)
    assert high == pytest.approx(1 / 1.4 + 2 * sqrt(0.026) / 1.4)
    assert wilson_interval(0, 7)[0] == 0.0
    assert wilson_interval(7, 7)[1] == 1.0
    assert wilson_interval(0, 0) == (0.0, 1.0)


def _counted():
    counter = Counter(6, torch.device("cpu"), confusion=True)
    rows = torch.tensor(
        [
            [9.0, 0, 0, 0, 0, 0],
            [9.0, 1, 2, 3, 4, 5],
            [0.0, 9, 1, 2, 3, 4],
            [5.0, 4, 3, 2, 1, 9],
        ]
    )
    counter.update(rows[:3], torch.tensor([0, 1, 2]))
    counter.update(rows[3:], torch.tensor([5]))
    return counter.result(2.0)


def test_counts_from_known_outputs():
    found = _counted()
    # Row 2 has its true class last of six, row 3 has it fifth.
    assert (found.n_images, found.top1, found.top5) == (4, 2, 3)
    assert found.class_images == (1, 1, 1, 0, 0, 1)
    assert found.class_correct == (1, 0, 0, 0, 0, 1)
    assert found.confusion is not None
    assert found.confusion[1] == (1, 0, 0, 0, 0, 0)
    assert found.confusion[2] == (0, 1, 0, 0, 0, 0)
    assert found.accuracy == 0.5
    assert found.images_per_second == 2.0


def test_loss_of_equal_outputs_is_the_log_of_the_number_of_classes():
    class Flat(nn.Module):
        def forward(self, x):
            return x.new_zeros(len(x), 7)

    found = evaluate(Flat(), stripes(6), 7)
    assert found.loss == pytest.approx(log(7))
    assert found.n_images == 6


def test_json_round_trip_and_schema():
    found = _counted()
    document = json.loads(json.dumps(found.to_dict(per_class=True)))
    assert document["schema"] == "filtersurgeon.evaluation/2"
    assert document["interval95"] == list(found.interval())
    assert (document["top1"], document["top1_count"]) == (0.5, 2)
    assert Evaluation.from_dict(document) == found
    short = Evaluation.from_dict(found.to_dict())
    assert (short.top1, short.loss_sum, short.class_images) == (2, found.loss_sum, ())
    former = {**document, "schema": "filtersurgeon.evaluation/1", "top1": 2, "top5": 3}
    assert Evaluation.from_dict(former) == found
    with pytest.raises(DataError, match="evaluation/9"):
        Evaluation.from_dict({**document, "schema": "filtersurgeon.evaluation/9"})


def test_a_loss_that_is_not_finite_is_null_in_json():
    class Broken(nn.Module):
        def forward(self, x):
            return x.new_full((len(x), 2), float("nan"))

    document = json.dumps(evaluate(Broken(), stripes(4), 2).to_dict(), allow_nan=False)
    assert json.loads(document)["loss"] is None
    assert isnan(Evaluation.from_dict(json.loads(document)).loss)


def test_parts_add_up_to_the_whole():
    model, data = tiny_net().eval(), stripes(30)
    settings = EvaluationSettings(batch_size=7, confusion=True)
    whole = evaluate(model, data, 2, settings)
    parts = [evaluate(model, data.shard(number, 4), 2, settings) for number in range(4)]
    total = merge(parts)
    assert total.loss_sum == pytest.approx(whole.loss_sum)
    for name in ("n_images", "top1", "top5", "class_images", "class_correct", "confusion"):
        assert getattr(total, name) == getattr(whole, name), name
    with pytest.raises(DataError, match="nothing to merge"):
        merge([])
    with pytest.raises(DataError, match="2 and 6 classes"):
        merge([whole, _counted()])


def test_evaluation_equals_a_plain_loop_and_leaves_the_model_as_it_was():
    model, data = tiny_net(dropout=0.5), stripes(20)
    model.train()
    seen = []
    found = evaluate(
        model,
        data,
        2,
        EvaluationSettings(batch_size=8),
        lambda done, total: seen.append((done, total)),
    )
    assert model.training
    assert seen == [(8, 20), (16, 20), (20, 20)]
    model.eval()
    with torch.no_grad():
        right = sum(
            int(model(image[None]).argmax()) == label
            for image, label in (data[i] for i in range(20))
        )
    assert found.top1 == right


def test_outputs_of_another_width_are_refused():
    with pytest.raises(DataError, match=r"\(4, 2\).*\(images, 5\)"):
        evaluate(tiny_net(), stripes(4), 5)


def test_no_images_are_refused():
    with pytest.raises(DataError, match="no images"):
        evaluate(tiny_net(), stripes(4).take([]), 2)


@pytest.mark.filterwarnings("ignore:out of memory")
def test_running_out_of_memory_with_one_image_is_said():
    class Greedy(nn.Module):
        def forward(self, _):
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")

    with pytest.raises(OutOfMemoryError, match="batch size 1; use a smaller input size"):
        evaluate(Greedy(), stripes(4), 2, EvaluationSettings(batch_size=32))


def test_other_errors_of_the_network_pass_through():
    class Broken(nn.Module):
        def forward(self, _):
            raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes do not match"):
        evaluate(Broken(), stripes(4), 2)


def test_importing_the_library_does_not_import_torch():
    code = (
        "import sys, pkgutil, importlib, filtersurgeon.learn as learn\n"
        "for found in pkgutil.iter_modules(learn.__path__):\n"
        "    importlib.import_module(f'filtersurgeon.learn.{found.name}')\n"
        "print([name for name in ('torch', 'timm', 'joblib', 'matplotlib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@needs_shared
@pytest.mark.slow
@pytest.mark.parametrize(
    ("blocks", "name", "right"), [(3, "resnet20", 9173), (9, "resnet56", 9339)]
)
def test_published_accuracy_of_the_cifar_networks(blocks, name, right):
    networks = pytest.importorskip("examples.zoo.networks")
    weights = SHARED / "weights" / f"cifar10_{name}.safetensors"
    model = networks.load(networks.CifarResNet(blocks), str(weights))
    data = open_data(
        DataSpec(str(SHARED / "cifar10" / "test.npz")), read_preprocessing(CIFAR_CFG), 10
    )
    assert evaluate(model, data, 10, EvaluationSettings(batch_size=125)).top1 == right


@needs_shared
@pytest.mark.slow
def test_accuracy_of_efficientnet_lite0_on_real_photographs():
    from safetensors.torch import load_file

    from filtersurgeon.checkpoint.vision import import_timm

    model = import_timm().create_model("tf_efficientnet_lite0")
    model.load_state_dict(load_file(SHARED / "weights" / "tf_efficientnet_lite0.safetensors"))
    preprocessing = read_preprocessing(model.pretrained_cfg)
    data = open_data(DataSpec(str(SHARED / "imagenet_sample")), preprocessing, 1000)
    found = evaluate(model, data, 1000)
    assert (found.top1, found.top5, found.n_images) == (438, 487, 500)


def test_a_missing_optional_package_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "accelerate", None)
    with pytest.raises(OptionError, match=r"pip install 'filtersurgeon\[train\]'"):
        require("accelerate", "train")


def test_counts_of_batches_by_counting_one_image_at_a_time():
    outputs = torch.randn(60, 9, generator=torch.Generator().manual_seed(3))
    labels = torch.arange(60) * 5 % 8
    counter = Counter(9, torch.device("cpu"), confusion=True)
    for rows, names in zip(outputs.split(16), labels.split(16), strict=True):
        counter.update(rows, names)
    found = counter.result(1.0)
    orders = [sorted(range(9), key=row.__getitem__, reverse=True) for row in outputs.tolist()]
    pairs = list(zip(labels.tolist(), orders, strict=True))
    assert found.top1 == sum(order[0] == name for name, order in pairs)
    assert found.top5 == sum(name in order[:5] for name, order in pairs)
    assert found.class_images == tuple(sum(n == name for n, _ in pairs) for name in range(9))
    assert found.class_correct == tuple(
        sum(n == name == order[0] for n, order in pairs) for name in range(9)
    )
    assert found.confusion == tuple(
        tuple(sum(n == i and order[0] == j for n, order in pairs) for j in range(9))
        for i in range(9)
    )
