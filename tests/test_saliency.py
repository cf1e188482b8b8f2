"""Scores of kernels: Eq. 4 against plain autograd, resuming, files, what is refused."""

import json

import numpy as np
import pytest
import torch
from learning import stripes, tiny_net
from safetensors.numpy import load_file, save_file

import filtersurgeon as fs
from examples.zoo import train
from filtersurgeon.data.data import DataSpec
from filtersurgeon.errors import CheckpointError, DataError, LayerError, OptionError
from filtersurgeon.ranking import resumable_sums as sums_file
from filtersurgeon.ranking.kernel_scores import read_kernel_scores, write_kernel_scores
from filtersurgeon.ranking.saliency import SaliencySettings, saliency

ZOO = "examples/zoo/lenet5_digits.safetensors"
FACTORY = "factory:examples.zoo.networks:lenet5"
WEIGHTS = {"stem": "stem.weight", "depthwise": "depthwise.weight"}


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    path = tmp_path_factory.mktemp("digits") / "digits.npz"
    train.write_digits(path)
    return str(path)


@pytest.fixture
def network():
    with fs.load(ZOO, arch=FACTORY) as checkpoint:
        yield checkpoint


def _total(model, data, settings):
    total = {}
    for _, part in saliency(model, data, WEIGHTS, settings):
        total = {name: total.get(name, 0) + values for name, values in part.items()}
    return total


def _plainly(model, data, settings):
    """Evaluate Eq. 4 as it is written, one derivative per image."""
    total = dict.fromkeys(WEIGHTS, 0.0)
    for begin in range(0, len(data), settings.batch_size):
        inner = dict.fromkeys(WEIGHTS, 0.0)
        for at in range(begin, min(begin + settings.batch_size, len(data))):
            image, label = data[at]
            model.zero_grad()
            output = model(image[None])[0, label]
            (output / output.item() if settings.rescale else output).backward()
            for name, path in WEIGHTS.items():
                weight = model.get_parameter(path)
                factor = 1.0 if settings.gradient else weight.detach()
                inner[name] = inner[name] + (weight.grad * factor).double()
        for name in WEIGHTS:
            total[name] = total[name] + inner[name].abs().sum((2, 3))
    return total


# Eq. 4


@pytest.mark.parametrize("batch_size", [1, 4, 8])
@pytest.mark.parametrize("variant", [{}, {"gradient": True}, {"rescale": False}])
def test_saliency_is_the_paper_s_sum(batch_size, variant):
    model, data = tiny_net().eval(), stripes(18)
    settings = SaliencySettings(batch_size, **variant)
    found, expected = _total(model, data, settings), _plainly(model, data, settings)
    for name, shape in (("stem", (8, 3)), ("depthwise", (8, 1))):
        assert found[name].shape == shape
        np.testing.assert_allclose(found[name], expected[name].numpy(), rtol=2e-5, atol=1e-6)


def test_images_cancel_within_a_minibatch_only():
    model, data = tiny_net().eval(), stripes(16)
    one, four = (_total(model, data, SaliencySettings(n)) for n in (1, 4))
    assert (one["stem"] >= four["stem"] * (1 - 1e-6)).all()
    assert one["stem"].sum() > 1.01 * four["stem"].sum()


def test_rescaled_saliency_does_not_depend_on_the_scale_of_the_outputs():
    model, data = tiny_net().eval(), stripes(8)
    before = _total(model, data, SaliencySettings())
    with torch.no_grad():
        model.head.weight *= 8
        model.head.bias *= 8
    after = _total(model, data, SaliencySettings())
    np.testing.assert_allclose(after["stem"], before["stem"], rtol=1e-5)


def test_an_output_of_zero_is_not_divided():
    model, data = tiny_net().eval(), stripes(8)
    with torch.no_grad():
        model.head.weight.zero_()
        model.head.bias.zero_()
    assert all((values == 0).all() for values in _total(model, data, SaliencySettings()).values())


def test_a_layer_that_the_outputs_do_not_depend_on_has_none():
    model, data = tiny_net().eval(), stripes(8)
    model.forward = lambda x: model.head(torch.relu(model.stem(x)).mean((2, 3)))
    found = _total(model, data, SaliencySettings())
    assert (found["depthwise"] == 0).all()
    assert (found["stem"] > 0).any()


def test_the_network_is_left_as_it_was():
    model, data = tiny_net().eval(), stripes(8)
    model.head.bias.requires_grad_(False)
    _total(model, data, SaliencySettings())
    assert [n for n, p in model.named_parameters() if not p.requires_grad] == ["head.bias"]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_gradient_that_is_not_finite_names_the_layer():
    model, data = tiny_net().eval(), stripes(8)
    with torch.no_grad():
        model.head.weight[0, 0] = float("inf")
    with pytest.raises(LayerError, match="layer stem: the gradient"):
        _total(model, data, SaliencySettings())


def test_outputs_without_the_true_class_are_refused():
    model, data = tiny_net().eval(), stripes(8)
    model.head = torch.nn.Linear(8, 1)
    with pytest.raises(DataError, match="have no class 1"):
        _total(model, data, SaliencySettings())


# The API


def test_scores_of_a_checkpoint(network, digits):
    scores = fs.kernel_scores(network, data=DataSpec(digits, subset=40))
    assert scores.images == 40
    assert scores.options == {"subset": 40}
    assert {name: values.shape for name, values in scores.layers.items()} == {
        layer.name: layer.shape[:2] for layer in fs.find_layers(network)
    }
    assert all((values >= 0).all() and values.any() for values in scores.layers.values())
    again = fs.kernel_scores(network, data=DataSpec(digits, subset=40))
    assert again.to_json() == scores.to_json()


def test_saliency_of_noise_is_that_of_the_drawn_images(network):
    from filtersurgeon.data.images import noise_images
    from filtersurgeon.learn.networks import open_network
    from filtersurgeon.ranking.methods.saliency import saliency_of_noise

    found = saliency_of_noise(network, 6, 64, seed=3)
    ready = open_network(network)
    images = noise_images(6, ready.preprocessing.input_size, 10, 3)
    pixels = torch.stack([image for image, _ in images])
    assert pixels.shape == (6, 1, 28, 28)
    assert abs(float(pixels.mean())) < 0.1
    assert float(pixels.std()) == pytest.approx(1, abs=0.05)
    total = 0.0
    for start in (0, 4):
        part = slice(start, min(start + 4, 6))
        outputs = ready.model(pixels[part])
        labels = torch.tensor([label for _, label in images])[part]
        true = outputs.gather(1, labels[:, None]).squeeze(1)
        weight = ready.model.conv1.weight
        (slope,) = torch.autograd.grad((true / true.detach()).sum(), weight)
        total = total + (slope * weight.detach()).abs().flatten(2).sum(2).double().numpy()
    np.testing.assert_allclose(found.layers["conv1"], total, rtol=1e-4)
    with pytest.raises(OptionError, match="at least one image"):
        saliency_of_noise(network, 0, 64)


def test_minibatches_are_mixed_by_the_seed(network, digits):
    first, second = (fs.kernel_scores(network, data=digits, seed=seed) for seed in (0, 1))
    assert second.options == {"seed": 1}
    name = next(iter(first.layers))
    assert not np.allclose(first.layers[name], second.layers[name], rtol=1e-3)
    alone = {"batch_size": 1}
    first, second = (
        fs.kernel_scores(network, data=digits, seed=seed, options=alone) for seed in (0, 1)
    )
    np.testing.assert_allclose(first.layers[name], second.layers[name], rtol=1e-5)


def test_options_may_be_words(network, digits, fsurgeon):
    data = DataSpec(digits, subset=8)
    typed = fs.kernel_scores(network, data=data, options={"batch_size": "2", "rescale": "no"})
    again = fs.kernel_scores(network, data=data, options={"batch_size": 2, "rescale": False})
    assert typed.to_json() == again.to_json()
    arch = ("--factory", "examples.zoo.networks:lenet5")
    words = ("-s", "0.5", "--data", digits, "--subset", "8", "-p", "batch_size=2")
    ran = fsurgeon("prune", ZOO, *arch, *words, "--dry-run", "--json")
    assert ran.returncode == 0, ran.stderr
    assert json.loads(ran.stdout)["kernels_zeroed"] > 0


@pytest.mark.parametrize("order", [1, 2])
def test_norms_of_kernels(network, order):
    scores = fs.kernel_scores(network, f"l{order}")
    for layer in fs.find_layers(network):
        kernels = layer.stored.array().astype(np.float64)
        expected = np.linalg.norm(kernels.reshape(*layer.shape[:2], -1), order, axis=2)
        np.testing.assert_allclose(scores.layers[layer.name], expected, rtol=1e-12)


def test_random_scores_belong_to_their_layer(network):
    everything, again, other = (fs.kernel_scores(network, "random", seed=s) for s in (3, 3, 4))
    last = list(everything.layers)[-1]
    alone = fs.kernel_scores(network, "random", seed=3, layers=[last])
    assert list(alone.layers) == [last]
    np.testing.assert_array_equal(alone.layers[last], everything.layers[last])
    np.testing.assert_array_equal(again.layers[last], everything.layers[last])
    assert (other.layers[last] != everything.layers[last]).all()
    assert other.options == {"seed": 4}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({}, "saliency needs labelled images: pass them with `data`"),
        ({"method": "salience"}, "did you mean saliency"),
        ({"method": "l1", "data": "x.npz"}, "l1 uses no images"),
        ({"options": {"batchsize": 2}, "data": "x.npz"}, "did you mean batch_size"),
        ({"options": {"batch_size": 0}, "data": "x.npz"}, "should be at least 1"),
    ],
)
def test_what_cannot_be_scored_is_refused(network, words, message):
    with pytest.raises(OptionError, match=message):
        fs.kernel_scores(network, **words)


# Resuming


class _Stopped(BaseException):
    pass


def test_an_interrupted_sum_goes_on_to_the_same_bits(network, digits, tmp_path):
    data, file = DataSpec(digits, subset=30), tmp_path / "sums.safetensors"
    whole = fs.kernel_scores(network, data=data)

    def stop(done, _total):
        if done == 12:
            raise _Stopped

    with pytest.raises(_Stopped):
        fs.kernel_scores(network, data=data, file=file, progress=stop)
    with pytest.raises(CheckpointError, match="was interrupted"):
        read_kernel_scores(file)
    seen = []
    resumed = fs.kernel_scores(
        network, data=data, file=file, progress=lambda done, _: seen.append(done)
    )
    assert seen == [16, 20, 24, 28, 30]
    assert resumed.to_json() == whole.to_json()
    assert read_kernel_scores(file).to_json() == whole.to_json()
    seen.clear()
    before = file.read_bytes()
    fs.kernel_scores(network, data=data, file=file, progress=lambda done, _: seen.append(done))
    assert seen == []
    assert file.read_bytes() == before


def test_sums_are_kept_now_and_then(network, digits, tmp_path, monkeypatch):
    monkeypatch.setattr(sums_file, "SECONDS_BETWEEN_WRITES", 0.0)
    file, seen = tmp_path / "sums.safetensors", []

    def look(done, _total):
        scores, _ = sums_file.read_with_metadata(file)
        seen.append(scores.images == done)

    fs.kernel_scores(network, data=DataSpec(digits, subset=12), file=file, progress=look)
    assert seen == [True, True, True]


@pytest.mark.parametrize(
    ("changed", "word"),
    [({"seed": 1}, "images|options"), ({"options": {"gradient": True}}, "options"),
     ({"layers": ["!conv2"]}, "layers")],
)  # fmt: skip
def test_sums_of_another_run_are_not_added_to(network, digits, tmp_path, changed, word):
    data, file = DataSpec(digits, subset=8), tmp_path / "sums.safetensors"
    fs.kernel_scores(network, data=data, file=file)
    before = file.read_bytes()
    with pytest.raises(OptionError, match=rf"another run \(({word}) differs"):
        fs.kernel_scores(network, data=data, file=file, **changed)
    assert file.read_bytes() == before


# Files


@pytest.mark.parametrize("suffix", [".safetensors", ".json"])
def test_scores_survive_a_file(network, tmp_path, suffix):
    scores = fs.kernel_scores(network, "random", seed=2)
    write_kernel_scores(scores, tmp_path / f"s{suffix}")
    read = read_kernel_scores(tmp_path / f"s{suffix}")
    assert (read.method, read.options, read.images) == ("random", {"seed": 2}, 0)
    for name, values in scores.layers.items():
        np.testing.assert_array_equal(read.layers[name], values)
    if suffix == ".safetensors":
        assert set(load_file(tmp_path / "s.safetensors")) == set(scores.layers)


@pytest.mark.parametrize("content", ["{}", "[]", "no", '{"schema": "other/1", "layers": {}}'])
def test_json_that_holds_no_scores_is_refused(tmp_path, content):
    (tmp_path / "s.json").write_text(content)
    with pytest.raises(CheckpointError, match="holds no kernel scores"):
        read_kernel_scores(tmp_path / "s.json")


def test_files_that_hold_no_scores_are_refused(tmp_path):
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "s.safetensors")
    with pytest.raises(CheckpointError, match="holds no kernel scores"):
        read_kernel_scores(tmp_path / "s.safetensors")
    with pytest.raises(CheckpointError, match=r"end in \.safetensors or \.json"):
        read_kernel_scores(tmp_path / "s.csv")


# Ranking


def test_a_filter_s_saliency_is_the_sum_over_its_kernels(network, digits):
    data = DataSpec(digits, subset=20)
    ranking = fs.rank(network, "saliency", data=data, options={"batch_size": "2"}, seed=5)
    scores = fs.kernel_scores(network, data=data, options={"batch_size": 2}, seed=5)
    assert ranking.options == {"batch_size": 2, "seed": 5}
    for name, layer in ranking.layers.items():
        np.testing.assert_array_equal(layer.scores, scores.layers[name].sum(axis=1))
        assert sorted(layer.order) == list(range(len(layer.scores)))


def test_rank_by_saliency_as_a_command(fsurgeon, digits):
    arch = ("--factory", "examples.zoo.networks:lenet5")
    ran = fsurgeon("rank", ZOO, *arch, "-m", "saliency", "--data", digits, "--subset", "8")
    assert ran.returncode == 0, ran.stderr
    content = json.loads(ran.stdout)
    assert content["method"] == "saliency"
    assert all(min(layer["scores"]) >= 0 for layer in content["layers"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-m", "saliency"), "saliency needs labelled images: pass them with --data"),
        (("-m", "l2", "--data", "x.npz"), "l2 uses no images; leave --data out"),
        (("-m", "l2", "--subset", "3"), "--subset needs --data"),
        (("-m", "l2", "--batch-size", "3"), "ranking method l2 has no option 'batch_size'"),
    ],
)
def test_rank_refuses_images_missing_or_in_vain(refuse, words, message):
    assert message in refuse("rank", ZOO, *words)


def test_explain_by_saliency_as_a_command(fsurgeon, network, digits, tmp_path):
    arch, file = ("--factory", "examples.zoo.networks:lenet5"), tmp_path / "s.safetensors"
    words = ("--data", digits, "--subset", "8", "-p", "gradient=true", "--saliency", file)
    ran = fsurgeon("explain", ZOO, *arch, *words)
    assert ran.returncode == 0, ran.stderr
    data, options = DataSpec(digits, subset=8), {"gradient": True}
    scores = fs.kernel_scores(network, data=data, options=options)
    kept = read_kernel_scores(file)
    assert kept.description() == scores.description()
    for name, values in scores.layers.items():  # sums depend on the number of threads
        np.testing.assert_allclose(kept.layers[name], values, rtol=1e-5)
    expected = json.loads(json.dumps(fs.explain(network, scores=kept).to_json()))
    assert json.loads(ran.stdout) == expected
    # The finished file serves without images, and without a network that runs.
    assert json.loads(fsurgeon("explain", ZOO, "--saliency", file).stdout) == expected


@pytest.mark.parametrize("origin", ["[]", "null", "[" * 100_000, "{", '"a"', "9" * 5000])
def test_sums_of_a_stranger_are_refused(tmp_path, origin):
    path = tmp_path / "sums.safetensors"
    scores = fs.KernelScores("saliency", layers={"a": np.ones((2, 3))})
    write_kernel_scores(scores, path, {"origin": origin})
    with pytest.raises(OptionError, match=r"sums\.safetensors holds no sums"):
        sums_file.ResumableSums({"data": "x"}, "saliency", {}, path)


def test_sums_of_other_shapes_are_not_added_to(tmp_path):
    path = tmp_path / "sums.safetensors"
    scores = fs.KernelScores("saliency", layers={"a": np.ones((1, 1))})
    write_kernel_scores(scores, path, {"origin": '{"data": "x"}'})
    sums = sums_file.ResumableSums({"data": "x"}, "saliency", {}, path)
    with pytest.raises(OptionError, match="layer a has another shape"):
        sums.add(1, {"a": np.ones((2, 3))})
