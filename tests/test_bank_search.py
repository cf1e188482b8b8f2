"""Learning, sampling and searching banks."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file
from small_data import digits as digits  # a fixture
from small_data import write_network

import filtersurgeon as fs
from filtersurgeon.archetypes.elbow import elbow
from filtersurgeon.banks.autoencoder import LearningSettings
from filtersurgeon.banks.closest import closest_linear, unit_bank
from filtersurgeon.banks.collection import KernelCollection
from filtersurgeon.banks.search import SearchData, by_accuracy
from filtersurgeon.banks.search.result import Elimination
from filtersurgeon.data.data import DataSpec
from filtersurgeon.errors import CheckpointError, LayerError, OptionError
from filtersurgeon.learn.evaluate import EvaluationSettings
from filtersurgeon.learn.jobs import JobSettings
from filtersurgeon.learn.resuming import ResumingNetwork, fuse_norms
from filtersurgeon.networks.skeleton import skeleton
from filtersurgeon.studies import frozen as frozen_file
from filtersurgeon.studies._lab import Lab

QUICK = LearningSettings(epochs=40, patience=40, seed=3)


def _line(count: int = 400, size: int = 3) -> fs.Checkpoint:
    """Kernels on a line: a blend of two, scaled and shifted at random."""
    rng = np.random.default_rng(0)
    one, two = rng.standard_normal((2, size * size))
    share = rng.uniform(size=(count, 1))
    kernels = share * one + (1 - share) * two
    kernels = rng.uniform(0.5, 2, (count, 1)) * kernels + rng.standard_normal((count, 1))
    tensors = {
        "dw.weight": fs.StoredTensor.from_array(kernels.reshape(count, 1, size, size), "F32"),
        "pw.weight": fs.StoredTensor.from_array(np.ones((count, 4)), "F32"),
    }
    return fs.Checkpoint(tensors)


def _error(checkpoint: fs.Checkpoint, bank: fs.FilterBank) -> float:
    kernels = checkpoint["dw.weight"].array().reshape(-1, bank.kernels[0].size)
    fit = closest_linear(kernels, unit_bank(bank.kernels.reshape(len(bank), -1)))
    return float(np.linalg.norm(fit.kernels - kernels) / np.linalg.norm(kernels))


@pytest.fixture(scope="module")
def learnt():
    return fs.learn_bank(_line(), QUICK)


def test_a_line_of_kernels_fits_into_one_number(learnt):
    assert learnt.recipe["validation_loss"] < 0.05  # 1 is what a constant leaves
    errors = [_error(_line(), fs.sample_bank(learnt, count)) for count in (2, 8, 32)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.1


def test_the_same_seed_learns_the_same(learnt, tmp_path):
    fs.save_autoencoder(learnt, tmp_path / "a.safetensors")
    fs.save_autoencoder(fs.learn_bank(_line(), QUICK), tmp_path / "b.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()
    again = fs.read_autoencoder(tmp_path / "a.safetensors")
    assert again.recipe == learnt.recipe
    codes = np.linspace(0, 1, 7)
    np.testing.assert_array_equal(again.decode(codes), learnt.decode(codes))


def test_the_autoencoder_is_the_one_that_was_trained(learnt):
    """NumPy runs it; torch trained it."""
    from torch import nn

    def chain(layers: tuple, last: nn.Module) -> nn.Sequential:
        parts = []
        for weight, bias in layers:
            linear = nn.Linear(weight.shape[1], weight.shape[0])
            linear.load_state_dict(
                {"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)}
            )
            parts += [linear, nn.LeakyReLU()]
        return nn.Sequential(*parts[:-1], last)

    assert len(learnt.encoder) == len(learnt.decoder) == 5  # four intermediate layers
    kernels = KernelCollection((3, 3), np.random.default_rng(1).standard_normal((9, 9)), 1, ())
    unit = kernels.normalised()
    with torch.no_grad():
        codes = chain(learnt.encoder, nn.Sigmoid())(torch.from_numpy(unit).float())
        decoded = chain(learnt.decoder, nn.Tanh())(codes)
    np.testing.assert_allclose(learnt.encode(unit), codes[:, 0], atol=1e-6)
    np.testing.assert_allclose(
        learnt.decode(codes[:, 0].double().numpy()), decoded.reshape(-1, 3, 3), atol=1e-5
    )


@pytest.mark.parametrize("origin", ["archetypes", "kmeans"])
def test_rivals_find_planted_directions(origin):
    rng = np.random.default_rng(0)
    planted = np.linalg.qr(rng.standard_normal((9, 9)))[0][:4]
    planted = planted - planted.mean(axis=1, keepdims=True)
    which, signs = rng.integers(0, 4, 300), rng.choice([-1, 1], (300, 1))
    kernels = signs * planted[which] + 0.01 * rng.standard_normal((300, 9))
    tensors = {
        "dw.weight": fs.StoredTensor.from_array(kernels.reshape(300, 1, 3, 3), "F32"),
        "pw.weight": fs.StoredTensor.from_array(np.ones((300, 2)), "F32"),
    }
    bank = fs.sample_bank(fs.Checkpoint(tensors), 4, origin=origin)
    truth = fs.FilterBank("truth", planted.reshape(4, 3, 3), tuple("abcd"))
    assert fs.compare_banks(bank, truth).mean_cosine > 0.98
    with pytest.raises(OptionError, match="301 is more"):
        fs.sample_bank(fs.Checkpoint(tensors), 301, origin=origin)


def test_cosines_leave_out_the_constant():
    bank = fs.sample_bank(None, 8, origin="dct", size=3)
    np.testing.assert_allclose(bank.kernels.sum(axis=(1, 2)), 0, atol=1e-12)
    with pytest.raises(OptionError, match="8 cosines"):
        fs.sample_bank(None, 9, origin="dct", size=3)


@pytest.mark.parametrize(
    ("words", "match"),
    [({"size": 5}, "no kernels of 5x5, only 3x3"), ({"layers": ["nowhere"]}, "nowhere")],
)
def test_kernels_that_are_not_there(words, match):
    with pytest.raises(LayerError, match=match):
        fs.learn_bank(_line(), QUICK, **words)


def test_unusable_things_to_learn_from(model):
    with pytest.raises(LayerError, match="3x3, 5x5; choose one with `size`"):
        fs.learn_bank(fs.load(model), QUICK)
    with pytest.raises(LayerError, match="8 kernels are too few"):
        fs.learn_bank(fs.load(model), QUICK, size=3)
    with pytest.raises(CheckpointError, match="not a filter autoencoder"):
        fs.sample_bank(model, 5)


def test_learning_and_sampling_on_the_command_line(fsurgeon, refuse, tmp_path):
    network, auto, bank = (tmp_path / f"{name}.safetensors" for name in ("n", "a", "b"))
    fs.save(_line(), network)
    done = fsurgeon("bank", "learn", network, "--epochs", 3, "-o", auto)
    assert json.loads(done.stdout)["kernels"] == 400
    assert fsurgeon("bank", "sample", auto, "--count", 5, "-o", bank).returncode == 0
    assert len(fs.load_bank(bank).at((3, 3))) == 5
    message = refuse("bank", "search", network, "-b", bank, "--to", 2)
    assert "--criterion error" in message
    assert "5 members" in refuse(
        "bank", "search", network, "-b", bank, "--to", 5, "--criterion", "error"
    )


# Search


def _slow_path(kernels: np.ndarray, bank: np.ndarray, to: int) -> list[int]:
    """Remove members by the definition: least squares of all kernels, for every candidate."""
    left, gone = list(range(len(bank))), []
    while len(left) > to:
        errors = []
        for k in left:
            fit = closest_linear(kernels, unit_bank(bank[[n for n in left if n != k]]))
            errors.append(np.square(fit.kernels - kernels).sum())
        gone.append(left.pop(int(np.argmin(errors))))
    return gone


@pytest.mark.parametrize("seed", range(5))
def test_elimination_goes_the_path_of_the_definition(seed):
    rng = np.random.default_rng(seed)
    kernels, bank = rng.standard_normal((200, 9)), rng.standard_normal((12, 9))
    elimination, gone = Elimination(kernels, unit_bank(bank)), []
    while len(elimination.left) > 1:
        member = int(elimination.left[elimination.costs().argmin()])
        before, cost = elimination.relative_error, elimination.costs().min()
        orphans = elimination.choice == member
        assert elimination.remove(member).tolist() == np.flatnonzero(orphans).tolist()
        grown = (elimination.relative_error**2 - before**2) * elimination.energy
        assert grown == pytest.approx(cost)
        fit = closest_linear(kernels, unit_bank(bank[elimination.left]))
        np.testing.assert_array_equal(elimination.left[fit.choice], elimination.choice)
        gone.append(member)
    assert gone == _slow_path(kernels, bank, 1)


def test_search_by_error_is_the_same_in_plain():
    rng = np.random.default_rng(0)
    bank = fs.FilterBank("b", rng.standard_normal((10, 3, 3)), tuple("abcdefghij"))
    fast = fs.search_bank(_line(), bank, to=3, criterion="error")
    slow = fs.search_bank(_line(), bank, to=3, criterion="error", plain=True)
    assert [step.removed for step in fast.steps] == [step.removed for step in slow.steps]
    assert len(fast.bank) == 3
    assert set(fast.bank.labels) | {step.removed for step in fast.steps[1:]} == set("abcdefghij")
    assert _error(_line(), fast.bank) == pytest.approx(fast.steps[-1].relative_error, rel=1e-5)


def test_banks_that_cannot_be_searched():
    kernels = np.random.default_rng(0).standard_normal((4, 3, 3))
    kernels[2] = 1.0
    with pytest.raises(LayerError, match="member c is constant"):
        fs.search_bank(_line(), fs.FilterBank("b", kernels, tuple("abcd")), criterion="error")
    kernels[2] = -3 * kernels[0] + 1
    with pytest.raises(LayerError, match="member c is a multiple of member a"):
        fs.search_bank(_line(), fs.FilterBank("b", kernels, tuple("abcd")), criterion="error")
    with pytest.raises(LayerError, match="no kernels of 5x5"):
        fs.search_bank(_line(), "dog8", criterion="error", size=5)


def test_the_elbow_is_farthest_from_the_line_of_the_ends():
    assert elbow([90, 90, 89, 88, 40, 10]) == 3
    assert elbow([5.0]) == 0


def _data(**options: object) -> SearchData:
    return SearchData(
        DataSpec("digits.npz", subset=60), "net.safetensors",
        {"mean": [0.5], "std": [0.5]}, EvaluationSettings(batch_size=8), **options,
    )  # fmt: skip


def test_search_by_accuracy_goes_the_plain_path(digits):
    write_network(digits / "net.safetensors", "depthwise")
    network = fs.load("net.safetensors", arch="factory:mine:depthwise")
    rng = np.random.default_rng(2)
    bank = fs.FilterBank("b", rng.standard_normal((7, 5, 5)), tuple("abcdefg"))
    fast = fs.search_bank(network, bank, _data(), all_spatial=False)
    slow = fs.search_bank(network, bank, _data(), plain=True)
    assert fast.steps == slow.steps
    assert fast.original_wrong == slow.original_wrong
    last = fs.evaluate(
        fs.replace(network, bank=fast.bank), DataSpec("digits.npz", subset=60),
        preprocess={"mean": [0.5], "std": [0.5]},
    )  # fmt: skip
    assert last.n_images - last.top1 == fast.steps[-1].wrong
    kept = _data(jobs=JobSettings(cache=str(digits / "cache")))
    one = fs.search_bank(network, bank, kept)
    files = sorted((digits / "cache").iterdir())
    for path in files[::2]:
        path.unlink()  # an interruption
    assert fs.search_bank(network, bank, kept).steps == one.steps == fast.steps
    assert sorted((digits / "cache").iterdir()) == files
    fs.draw_search(fast, digits / "search.png")
    assert (digits / "search.png").read_bytes().startswith(b"\x89PNG")


def test_a_resumed_run_has_the_same_bits():
    from torch import nn

    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Conv2d(8, 8, 3), nn.ReLU(inplace=True),
              nn.Conv2d(8, 4, 3), nn.Flatten(), nn.LazyLinear(5)]  # fmt: skip
    model = nn.Sequential(*layers).eval()
    images = torch.randn(2, 3, 12, 12)
    model(images)
    network = ResumingNetwork(model, ["0", "2", "4"])
    assert network.order == ["0", "2", "4"]
    with torch.inference_mode():
        assert torch.equal(network.run(0, images, 2), model(images))
        for first in (2, 1, 0, 2):
            for name in network.order[first:]:
                model.get_submodule(name).weight.mul_(1.1)
            network.changed(first)
            assert torch.equal(network.run(0, images, first), model(images))
            assert torch.equal(network.run(0, images, 2), model(images))


@pytest.mark.parametrize(
    ("name", "least"),
    # Factors of networks whose normalisations all follow plain convolutions, some or none.
    [("timm:resnet18", 20), ("timm:tf_efficientnet_lite0", 44), ("timm:nf_resnet26", 0),
     ("torchvision:densenet121", 59), ("timm:mobilenetv3_small_050", 30)],
)  # fmt: skip
def test_fused_normalisations_change_no_output(name, least):
    torch.manual_seed(0)
    model = skeleton(name, on_meta=False).eval()
    for module in model.modules():
        if getattr(module, "running_var", None) is not None:
            module.running_var.uniform_(0.5, 2)
            module.running_mean.normal_(std=0.1)
    images = torch.randn(1, 3, 96, 96)
    with torch.inference_mode():
        before = model(images)
        factors = fuse_norms(model, images.to("meta"))
        after = model(images)
    assert len(factors) >= least
    assert (len(factors) > 0) == (least > 0)
    assert torch.allclose(after, before, rtol=0, atol=1e-5 * before.abs().max())


def test_close_images_are_judged_as_eval_does(digits, monkeypatch):
    """With an endless margin every image is judged so, and nothing changes."""
    write_network(digits / "net.safetensors", "depthwise")
    network = fs.load("net.safetensors", arch="factory:mine:depthwise")
    bank = fs.FilterBank("b", np.random.default_rng(2).standard_normal((5, 5, 5)), tuple("abcde"))
    usual = fs.search_bank(network, bank, _data())
    judged = []
    in_eval = by_accuracy.Trial._wrong_in_eval
    monkeypatch.setattr(by_accuracy, "CLOSE", float("inf"))
    monkeypatch.setattr(
        by_accuracy.Trial, "_wrong_in_eval",
        lambda self, image: judged.append(image) or in_eval(self, image),
    )  # fmt: skip
    by_accuracy._trial.cache_clear()
    assert fs.search_bank(network, bank, _data()).steps == usual.steps
    assert set(judged) == set(range(60))


# Studies


def test_studies_of_banks(digits):
    write_network(digits / "net.safetensors", "depthwise")
    network = fs.load("net.safetensors", arch="factory:mine:depthwise")
    lab = Lab(
        network, "net.safetensors", DataSpec("digits.npz", subset=40),
        {"mean": [0.5], "std": [0.5]}, evaluation=EvaluationSettings(batch_size=20),
    )  # fmt: skip
    options = {"counts": "4,2", "origin": "kmeans", "start": 4, "searched": 2}
    found = fs.study("bank-size", lab, options)
    rows = {row["bank"]: row for row in found.findings["rows"]}
    assert list(rows) == ["original", "4 kmeans", "2 kmeans", "2 greedy of 4 kmeans", "dog8"]
    assert rows["original"]["relative_error"] == 0
    assert rows["4 kmeans"]["relative_error"] < 1e-6  # of four kernels
    assert rows["4 kmeans"]["accuracy"] == rows["original"]["accuracy"]
    assert rows["2 kmeans"]["relative_error"] > 0.1
    trained = fs.study(
        "frozen", lab, {"epochs": 1, "repeats": 1, "train_subset": 40, "ways": "tuned,bank,random"}
    )
    assert trained.findings["original"] == rows["original"]["accuracy"]
    assert trained.findings["replaced"] == rows["dog8"]["accuracy"]
    assert set(trained.findings["accuracy"]) == {"tuned", "bank", "random"}


def test_frozen_kernels_train_by_the_recipe_of_convnext(digits, monkeypatch):
    """Table 5 of *A ConvNet for the 2020s*: 300 epochs, of which 20 warm up."""
    write_network(digits / "net.safetensors", "depthwise")
    network = fs.load("net.safetensors", arch="factory:mine:depthwise")
    data = DataSpec("digits.npz", subset=40)
    lab = Lab(network, "net.safetensors", data, {"mean": [0.5], "std": [0.5]},
              evaluation=EvaluationSettings(batch_size=10))  # fmt: skip
    calls = []

    def watch(begun, images, recipe, run, **how):
        calls.append((images.augmentation, recipe, run))
        return fs.tune(begun, images, recipe, run, **how)

    monkeypatch.setattr(frozen_file, "tune", watch)
    small = {"epochs": 1, "repeats": 1, "train_subset": 40, "ways": "scratch,bank", "lr": 4e-3}
    found = fs.study("frozen", lab, {**small, "recipe": "convnext", "accumulate": 2})
    assert found.options["recipe"] == "convnext"
    for augmentation, recipe, run in calls:
        assert (augmentation.auto_augment, augmentation.re_prob) == ("rand-m9-mstd0.5-inc1", 0.25)
        assert (recipe.optimizer, recipe.lr, recipe.weight_decay) == ("adamw", 4e-3, 0.05)
        assert (recipe.schedule, recipe.warmup_epochs) == ("cosine", 0)
        assert (recipe.mixup, recipe.cutmix, recipe.label_smoothing) == (0.8, 1.0, 0.1)
        assert recipe.ema_decay == 0.9999
        assert (run.batch_size, run.accumulate) == (10, 2)
    assert [recipe.freeze for _, recipe, _ in calls] == ["none", "depthwise"]
    assert frozen_file.convnext_recipe(4e-3, 300)["recipe"]["warmup_epochs"] == 20
    calls.clear()
    fs.study("frozen", lab, {**small, "ways": "scratch"})
    augmentation, recipe, run = calls[0]
    assert (augmentation, recipe.optimizer, recipe.schedule) == (None, "adam", "none")
    assert run.accumulate == 1
    for wrong in ({"recipe": "sgd"}, {"accumulate": 0}):
        with pytest.raises(OptionError):
            fs.study("frozen", lab, {**small, **wrong})


def _kernels_of_two_kinds(path, seed):
    """Write a depthwise layer of noisy slopes, along either axis."""
    generator = np.random.default_rng(seed)
    slope = np.array([[-1.0, 0, 1]] * 3)
    kernels = np.stack([slope, slope.T] * 40) * generator.choice([-1, 1], (80, 1, 1))
    kernels += 0.1 * generator.standard_normal(kernels.shape)
    save_file({"dw.weight": kernels[:, None].astype(np.float32),
               "pw.weight": np.zeros((80, 80, 1, 1), np.float32)}, path)  # fmt: skip
    return path


def test_networks_with_the_same_kernels_have_the_same_filters(tmp_path):
    first = _kernels_of_two_kinds(tmp_path / "one.safetensors", 0)
    second = _kernels_of_two_kinds(tmp_path / "two.safetensors", 1)
    lab = Lab(fs.load(first), str(first))
    options = {"start": 6, "searched": 2, "repeats": 2, "epochs": 60, "other": str(second)}
    found = fs.study("universality", lab, options)
    pairs = found.findings["pairs"]
    assert list(pairs) == ["one and two", "one, two seeds", "two, two seeds", "one and dog8",
                           "two and dog8", "one and drawn", "one and noise"]  # fmt: skip
    assert pairs["one and two"]["mean"] > 0.9
    assert pairs["one and noise"]["mean"] < 0.75
    assert pairs["one and two"]["least"] <= pairs["one and two"]["mean"]
    # Slopes over three rows are close to the centred differences, which weigh the middle row more.
    assert {len(values) for values in pairs["one and dog8"]["cosines"]} == {2}
    assert 0.7 < pairs["one and dog8"]["mean"] < 0.95
    assert [row["member"] for row in found.findings["members"]][4:6] == ["dx", "dy"]
    # A network beside itself, with the same seeds: the same eights.
    itself = fs.study("universality", lab, {**options, "other": str(first)})
    row = itself.findings["pairs"]["one and one (other)"]
    assert (row["mean"], row["deviation"], row["alike"]) == pytest.approx((1, 0, 2))


def test_what_universality_needs(tmp_path):
    first = _kernels_of_two_kinds(tmp_path / "one.safetensors", 0)
    lab = Lab(fs.load(first), str(first))
    large = tmp_path / "large.safetensors"
    save_file({"dw.weight": np.random.default_rng(0).standard_normal((30, 1, 5, 5)),
               "pw.weight": np.zeros((30, 30, 1, 1))}, large)  # fmt: skip
    with pytest.raises(OptionError, match="needs a second network"):
        fs.study("universality", lab)
    with pytest.raises(LayerError, match="3x3 and 5x5; choose a common side"):
        fs.study("universality", lab, {"other": str(large)})
    with pytest.raises(OptionError, match="repeats should be at least 2"):
        fs.study("universality", lab, {"other": str(large), "repeats": 1})
