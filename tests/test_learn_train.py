"""Training: what stays frozen, what a resumed run gives, what goes wrong in plain words."""

import copy
import csv
import math
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from learning import TinyNet, assert_same, small_cfg, stripes, tensors_of, tiny_net

from filtersurgeon.data.images import EpochOrder
from filtersurgeon.data.preprocess import Augmentation, image_transform, read_preprocessing
from filtersurgeon.errors import OptionError, OutOfMemoryError, TrainingError
from filtersurgeon.learn.evaluate import evaluate
from filtersurgeon.learn.session import TrainingData
from filtersurgeon.learn.settings import RunSettings, TrainingRecipe
from filtersurgeon.learn.train import frozen, frozen_layers, train

RUN = RunSettings(epochs=2, batch_size=8, device="cpu")
RECIPE = TrainingRecipe(lr=1e-2)


def _data(count=32, augment=False):
    images = stripes(count)
    if augment:
        transform = image_transform(read_preprocessing(small_cfg()), Augmentation())
        images = replace(images, transform=transform, direct=False, random_seed=3)
    return TrainingData(images, stripes(16, seed=1), 2)


def _train(model, recipe=RECIPE, run=RUN, data=None, progress=None):
    return train(model, data or _data(), recipe, run, progress)


def test_a_network_learns_and_is_logged(tmp_path):
    model = tiny_net()
    seen = []
    run = replace(RUN, epochs=6, folder=str(tmp_path))
    found = _train(model, run=run, data=_data(64), progress=seen.append)
    assert evaluate(model, stripes(40, seed=2), 2).accuracy > 0.9
    assert [row.epoch for row in found.history] == [1, 2, 3, 4, 5, 6]
    assert found.history[-1].train_loss < 0.7 * found.history[0].train_loss
    assert (len(seen), seen[-1].epoch, seen[-1].step, seen[-1].steps) == (48, 6, 8, 8)
    with (tmp_path / "log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["accuracy"]) for row in rows] == [row.accuracy for row in found.history]
    assert (tmp_path / "log.png").read_bytes().startswith(b"\x89PNG")


def test_spatial_filters_stay_bit_identical():
    model = tiny_net()
    before = tensors_of(model)
    found = _train(model, replace(RECIPE, freeze="spatial", ema_decay=0.9, weight_decay=0.5))
    after = tensors_of(model)
    assert found.frozen == ("stem", "depthwise")
    for name in ("stem.weight", "depthwise.weight"):
        assert torch.equal(before[name], after[name])
    for name in ("stem.bias", "pointwise.weight", "head.weight", "norm.weight"):
        assert not torch.equal(before[name], after[name])
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_depthwise_filters_only_gain_one_number_per_kernel():
    model = tiny_net().eval()
    before = tensors_of(model)
    found = _train(model, replace(RECIPE, freeze="depthwise"))
    assert not model.training
    after = tensors_of(model)
    assert found.frozen == ("depthwise",)
    assert before.keys() == after.keys()
    gained = after["depthwise.weight"] - before["depthwise.weight"]
    assert torch.allclose(gained, gained.mean((2, 3), keepdim=True).expand_as(gained), atol=1e-6)
    assert gained.mean((2, 3)).abs().min() > 1e-4
    assert not torch.equal(before["stem.weight"], after["stem.weight"])


def test_a_depthwise_filter_keeps_its_bits_while_its_bias_learns():
    model = tiny_net()
    before = model.depthwise.weight.detach().clone()
    with frozen(model, "depthwise"):
        kept = dict(model.named_parameters())["depthwise.parametrizations.weight.original"]
        bias = dict(model.named_parameters())["depthwise.parametrizations.weight.0.bias"]
        bias.data.fill_(0.25)
        assert bias.shape == (8, 1, 1, 1)
        assert torch.equal(kept, before)
        assert not kept.requires_grad
        assert torch.equal(model.depthwise.weight, before + 0.25)
    assert torch.equal(model.depthwise.weight, before + 0.25)
    assert isinstance(model.depthwise.weight, torch.nn.Parameter)
    assert model.depthwise.weight.requires_grad


def test_freezing_without_training_changes_nothing():
    model = tiny_net()
    before = tensors_of(model)
    with frozen(model, "depthwise"):
        pass
    assert_same(before, tensors_of(model))


def test_which_layers_are_frozen():
    model = torch.nn.Sequential(
        torch.nn.Conv2d(4, 4, (1, 7)),
        torch.nn.Conv2d(4, 8, 1),
        torch.nn.Conv2d(8, 8, 3, groups=4),
        torch.nn.Conv2d(8, 16, 3, groups=8),
        torch.nn.Conv2d(1, 4, 3),
    )
    assert frozen_layers(model, "spatial") == ["0", "2", "3", "4"]
    assert frozen_layers(model, "depthwise") == ["3"]
    assert frozen_layers(model, "none") == []


def test_nothing_to_freeze_is_an_error():
    with pytest.raises(TrainingError, match="depthwise"):
        _train(torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3)), replace(RECIPE, freeze="depthwise"))


CASES = {
    "plain": (RECIPE, {}),
    "sgd with augmentation": (replace(RECIPE, optimizer="sgd"), {"augment": True}),
    "lamb with mixup": (replace(RECIPE, optimizer="lamb", mixup=0.4, cutmix=0.4), {}),
    "moving average, clipped": (replace(RECIPE, ema_decay=0.9, clip_grad=0.5, warmup_epochs=1), {}),
    "smoothed, depthwise": (replace(RECIPE, label_smoothing=0.1, freeze="depthwise"), {}),
}


class _Killed(Exception):  # noqa: N818 (stands for a signal)
    pass


def _killed_and_resumed(folder, recipe, run, data, at):
    """Stop after some steps, then go on with a network that knows nothing of the first run."""

    def stop(step):
        if (step.epoch, step.step) == at:
            raise _Killed

    run = replace(run, folder=str(folder))
    with pytest.raises(_Killed):
        _train(tiny_net(dropout=0.3), recipe, run, data, stop)
    model = tiny_net(seed=9, dropout=0.3)
    found = _train(model, recipe, replace(run, resume=True), data)
    return tensors_of(model), found


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("accumulate", [1, 3])
def test_a_resumed_run_ends_with_the_same_bits(tmp_path, case, accumulate):
    recipe, options = CASES[case]
    data = _data(40, **options)
    run = replace(RUN, epochs=3, accumulate=accumulate, checkpoint_steps=3)
    model = tiny_net(dropout=0.3)
    whole = _train(model, recipe, run, data)
    tensors, resumed = _killed_and_resumed(tmp_path, recipe, run, data, at=(2, 4))
    assert_same(tensors_of(model), tensors)
    assert resumed.history == whole.history


def test_a_finished_run_resumes_to_its_result(tmp_path):
    model = tiny_net()
    run = replace(RUN, folder=str(tmp_path))
    _train(model, run=run)
    again = tiny_net(seed=5)
    _train(again, run=replace(run, resume=True))
    assert_same(tensors_of(model), tensors_of(again))


SCRIPT = """
import os, signal, sys
sys.path.insert(0, {tests!r})
import torch
from test_learn_train import RECIPE, RUN, _data, replace, tensors_of, tiny_net, train
kill, folder, result, world = sys.argv[1:]

def progress(step):
    if kill == "kill" and (step.epoch, step.step) == (2, 3):
        os.kill(os.getpid(), signal.SIGKILL)

run = replace(RUN, epochs=3, folder=folder, resume=kill == "resume", checkpoint_steps=2)
model = tiny_net()
train(model, _data(40), replace(RECIPE, optimizer="sgd", lr=0.1, ema_decay=0.9), run, progress)
if os.environ.get("RANK", "0") == "0":
    torch.save(model.state_dict(), result)
"""


def _script(tmp_path, kill, folder, result, launcher=()):
    path = tmp_path / "run.py"
    path.write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
    arguments = [str(path), kill, str(tmp_path / folder), str(tmp_path / result), ""]
    return subprocess.run(
        [sys.executable, *launcher, *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_a_run_killed_by_a_signal_resumes_to_the_same_bits(tmp_path):
    assert _script(tmp_path, "kill", "a", "none").returncode == -signal.SIGKILL
    assert not (tmp_path / "none").exists()
    done = _script(tmp_path, "resume", "a", "resumed")
    assert done.returncode == 0, done.stderr
    done = _script(tmp_path, "run", "b", "whole")
    assert done.returncode == 0, done.stderr
    assert_same(torch.load(tmp_path / "whole"), torch.load(tmp_path / "resumed"))


@pytest.mark.slow
def test_two_processes_train_as_one_does(tmp_path):
    # On CPUs accelerate's own launcher would start one process.
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    done = _script(tmp_path, "run", "a", "two", launcher)
    assert done.returncode == 0, done.stderr
    done = _script(tmp_path, "run", "b", "one")
    assert done.returncode == 0, done.stderr
    one, two = torch.load(tmp_path / "one"), torch.load(tmp_path / "two")
    start = tiny_net().state_dict()
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.allclose(tensor, two[name], rtol=1e-3, atol=1e-5), name
        # A bias before a batch norm has no gradient.
        assert name == "stem.bias" or not torch.allclose(tensor, start[name], atol=1e-4), name
    rows = [list(csv.reader((tmp_path / name / "log.csv").open())) for name in ("a", "b")]
    assert [row[-1] for row in rows[0]] == [row[-1] for row in rows[1]]


def test_accumulated_steps_equal_one_larger_batch():
    large, small = tiny_net(norm=False), tiny_net(norm=False)
    recipe = replace(RECIPE, optimizer="sgd", schedule="none")
    data = _data(32)
    _train(large, recipe, replace(RUN, batch_size=16), data)
    _train(small, recipe, replace(RUN, batch_size=8, accumulate=2), data)
    for name, tensor in large.state_dict().items():
        assert torch.allclose(tensor, small.state_dict()[name], atol=1e-5), name


def test_workers_do_not_change_the_result():
    alone, helped = tiny_net(), tiny_net()
    _train(alone, data=_data(16, augment=True))
    _train(helped, run=replace(RUN, workers=2), data=_data(16, augment=True))
    assert_same(tensors_of(alone), tensors_of(helped))


def test_a_moving_average_lags_behind():
    last, average = tiny_net(), tiny_net()
    start = tensors_of(last)["head.weight"]
    _train(last)
    _train(average, replace(RECIPE, ema_decay=0.99))
    moved = (tensors_of(last)["head.weight"] - start).norm()
    assert 0 < (tensors_of(average)["head.weight"] - start).norm() < moved


def test_mixed_precision_trains_and_leaves_plain_weights():
    model, plain = tiny_net(), tiny_net()
    forward = model.forward.__func__
    _train(model, run=replace(RUN, precision="bf16"))
    _train(plain)
    assert {tensor.dtype for tensor in model.parameters()} == {torch.float32}
    assert not torch.equal(model.head.weight, plain.head.weight)
    assert torch.allclose(model.head.weight, plain.head.weight, atol=0.05)
    assert model.forward.__func__ is forward
    copy.deepcopy(model)


class Exploding(TinyNet):
    """Gives NaN from the given call in training on."""

    def __init__(self, at):
        super().__init__()
        self.at, self.calls = at, 0

    def forward(self, x):
        self.calls += self.training
        out = super().forward(x)
        return out * float("nan") if self.training and self.calls >= self.at else out


def test_a_loss_that_is_not_finite_names_the_step_and_keeps_the_last_good_state(tmp_path):
    torch.manual_seed(0)
    model = Exploding(at=7)
    run = replace(RUN, epochs=3, folder=str(tmp_path))
    with pytest.raises(TrainingError, match="nan at epoch 2, step 3") as caught:
        _train(model, run=run)
    assert str(tmp_path) in str(caught.value)
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert (state["epoch"], state["step"]) == (1, 0)
    assert_same(tensors_of(model), state["model"])
    one_epoch = tiny_net()
    with pytest.raises(_Killed):
        _train(one_epoch, run=replace(RUN, epochs=3), progress=_stop_after_one_epoch)
    # The weights of the kept state are those after the first epoch's four updates.
    assert_same(tensors_of(model), tensors_of(one_epoch))


def _stop_after_one_epoch(step):
    if (step.epoch, step.step) == (1, 4):
        raise _Killed


def test_early_stop_gives_the_best_epoch_back(monkeypatch, tmp_path):
    from filtersurgeon.learn import session as training

    accuracies = iter([0.5, 0.75, 0.75, 0.25, 1.0])
    real = training.evaluate
    seen = []

    def pretend(model, data, n_classes, settings):
        seen.append(tensors_of(model))
        wanted = round(next(accuracies) * len(data))
        return replace(real(model, data, n_classes, settings), top1=wanted)

    monkeypatch.setattr(training, "evaluate", pretend)
    model = tiny_net()
    found = _train(model, run=replace(RUN, epochs=5, patience=2, folder=str(tmp_path)))
    assert found.stopped_early
    assert (found.best_epoch, len(found.history)) == (2, 4)
    assert_same(tensors_of(model), seen[1])


@pytest.mark.filterwarnings("ignore:out of memory with")
def test_running_out_of_memory_suggests_a_smaller_image():
    class Greedy(TinyNet):
        def forward(self, _):
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(OutOfMemoryError, match="batch size 2; use a smaller input size"):
        _train(Greedy())


def test_a_folder_with_a_run_is_not_overwritten(tmp_path):
    run = replace(RUN, epochs=1, folder=str(tmp_path))
    _train(tiny_net(), run=run)
    with pytest.raises(TrainingError, match="already holds a run"):
        _train(tiny_net(), run=run)
    with pytest.raises(TrainingError, match=r"lr 0.01, not 0.5"):
        _train(tiny_net(), replace(RECIPE, lr=0.5), replace(run, resume=True))
    with pytest.raises(TrainingError, match="no run to resume"):
        _train(tiny_net(), run=replace(run, folder=str(tmp_path / "other"), resume=True))
    (tmp_path / "state.pt").write_bytes(b"broken")
    with pytest.raises(TrainingError, match="not the state"):
        _train(tiny_net(), run=replace(run, resume=True))


@pytest.mark.parametrize(
    ("recipe", "run", "words"),
    [
        ({"freeze": "depthwize"}, {}, "did you mean depthwise"),
        ({"optimizer": "adamv"}, {}, "did you mean"),
        ({"lr": -1.0}, {}, "lr must be positive"),
        ({"schedule": "cosin"}, {}, "did you mean cosine"),
        ({"mixup": 0.2}, {"batch_size": 7}, "even batch size"),
        ({"warmup_epochs": 1, "schedule": "none"}, {}, "needs a schedule"),
        ({"ema_decay": 1.5}, {}, "ema_decay"),
        ({}, {"resume": True}, "needs the directory"),
        ({}, {"precision": "fp16"}, "fp16.* needs a GPU"),
        ({}, {"epochs": 0}, "epochs must be at least 1"),
        ({}, {"precision": "fp8"}, "precision"),
    ],
)
def test_unusable_settings_are_refused(recipe, run, words):
    with pytest.raises(OptionError, match=words):
        _train(tiny_net(), replace(RECIPE, **recipe), replace(RUN, **run))


def test_a_network_with_every_parameter_frozen_cannot_train():
    model = tiny_net().requires_grad_(False)
    with pytest.raises(TrainingError, match="nothing to train"):
        _train(model)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_processes_share_the_batches_of_one():
    whole = EpochOrder(22, 8, seed=3)
    whole.begin(4)
    batches = torch.tensor(list(whole)).view(2, 8)
    shares = [EpochOrder(22, 8, seed=3, rank=rank, world=2) for rank in (0, 1)]
    for share in shares:
        share.begin(4)
    halves = [torch.tensor(list(share)).view(2, 4) for share in shares]
    assert torch.equal(torch.cat(halves, 1), batches)
    shares[1].begin(4, first_step=1)
    assert list(shares[1]) == batches[1, 4:].tolist()
    assert len(shares[1]) == 4
    whole.begin(5)
    assert list(whole) != batches.view(-1).tolist()
    with pytest.raises(OptionError, match="shared among 2"):
        EpochOrder(22, 7, seed=3, world=2)


def test_less_data_than_a_batch_is_one_smaller_batch():
    found = _train(tiny_net(), data=_data(4))
    assert len(found.history) == 2


@pytest.mark.parametrize(
    "change",
    [
        {"lr": 5e-3}, {"weight_decay": 0.9}, {"schedule": "none"}, {"schedule": "step"},
        {"schedule": "poly"}, {"schedule": "tanh"}, {"warmup_epochs": 1}, {"min_lr": 5e-3},
        {"label_smoothing": 0.2}, {"mixup": 1.0}, {"cutmix": 1.0}, {"clip_grad": 1e-3},
        {"ema_decay": 0.5}, {"optimizer": "sgd"}, {"optimizer": "adam"}, {"optimizer": "lamb"},
        {"freeze": "spatial"}, {"freeze": "depthwise"},
    ],
    ids=str,
)  # fmt: skip
def test_every_word_of_a_recipe_changes_what_is_learnt(change):
    plain, changed = tiny_net(), tiny_net()
    run = replace(RUN, epochs=3)
    _train(plain, run=run, data=_data(16))
    _train(changed, replace(RECIPE, **change), run, _data(16))
    assert not torch.equal(plain.head.weight, changed.head.weight)


def test_momentum_of_sgd():
    heads = []
    for momentum in (0.5, 0.9):
        model = tiny_net()
        _train(model, replace(RECIPE, optimizer="sgd", momentum=momentum))
        heads.append(model.head.weight)
    assert not torch.equal(*heads)


def test_the_cosine_schedule_by_hand():
    found = _train(tiny_net(), run=replace(RUN, epochs=4), data=_data(32))
    # After update n of 16 the rate is lr (1 + cos(pi n / 16)) / 2.
    wanted = [0.01 * (1 + math.cos(math.pi * 4 * epoch / 16)) / 2 for epoch in (1, 2, 3, 4)]
    assert [row.lr for row in found.history] == pytest.approx(wanted, abs=1e-9)


def test_one_step_of_plain_gradient_descent_by_hand():
    model, reference = tiny_net(), tiny_net()
    recipe = TrainingRecipe(
        optimizer="momentum", momentum=0.0, lr=0.1, weight_decay=0.0, schedule="none"
    )
    data = _data(8)
    _train(model, recipe, replace(RUN, epochs=1), data)
    images = torch.stack([data.train[i][0] for i in range(8)])
    labels = torch.tensor([data.train[i][1] for i in range(8)])
    torch.nn.functional.cross_entropy(reference.train()(images), labels).backward()
    for name, parameter in reference.named_parameters():
        wanted = parameter - 0.1 * parameter.grad
        assert torch.allclose(wanted, dict(model.named_parameters())[name], atol=1e-6), name


def test_channels_last_changes_the_layout_only():
    plain, last = tiny_net(), tiny_net()
    seen = []
    last.stem.register_forward_hook(lambda *at: seen.append(at[1][0].stride()))
    recipe = replace(RECIPE, optimizer="sgd")
    _train(plain, recipe, replace(RUN, epochs=1))
    _train(last, recipe, replace(RUN, epochs=1, channels_last=True))
    assert seen[0] == (192, 1, 24, 3)
    assert last.stem.weight.is_contiguous()
    for name, tensor in plain.state_dict().items():
        assert torch.allclose(tensor, last.state_dict()[name], atol=1e-4), name
