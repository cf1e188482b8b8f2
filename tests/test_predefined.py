"""Pre-defined filter modules: what they compute, and networks that are converted to them."""

from __future__ import annotations

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

import filtersurgeon as fs
from filtersurgeon.data.data import DataSpec, open_data
from filtersurgeon.data.generated import dashes
from filtersurgeon.data.preprocess import read_preprocessing
from filtersurgeon.errors import CheckpointError, DataError, LayerError, OptionError
from filtersurgeon.explain.basis import kernel_blocks
from filtersurgeon.filters import layers_to_analyse
from filtersurgeon.networks.modules.predefined import (
    BankConvolution,
    Geometry,
    PredefinedFilterModule,
    SmoothedConvolution,
)
from filtersurgeon.studies.predefined import make_variant, read_variant
from filtersurgeon.transforms.predefined.expressing import express, relative_error
from tests.small_data import ZOO

RESNET20 = "factory:examples.zoo.networks:cifar_resnet20"
SMALL18 = "factory:examples.zoo.networks:resnet18_small_images"
SHARED = Path(__file__).parents[2] / "shared" / "data"
THREE = Geometry((3, 3), (1, 1), (1, 1))


def bank(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 3, 3)).astype(np.float32)


def converted(checkpoint, **options):
    reports = []
    made = fs.convert(checkpoint, observe=reports.append, **options)
    return made, reports[0]


def reloaded(checkpoint, folder, architecture=None):
    fs.save(checkpoint, folder / "converted.safetensors", force=True)
    again = fs.load(folder / "converted.safetensors", arch=architecture)
    assert again.digest == checkpoint.digest
    return again


@given(
    channels=st.integers(1, 5), growth=st.integers(1, 4), count=st.integers(4, 6),
    stride=st.integers(1, 2), dilation=st.integers(1, 2),
)  # fmt: skip
@settings(max_examples=25)
def test_the_bank_step_is_equation_7_1(channels, growth, count, stride, dilation):
    filters = bank(count)
    geometry = Geometry((3, 3), (stride, stride), (1, 1), (dilation, dilation))
    module = BankConvolution(torch.from_numpy(filters), channels, growth, geometry)
    x = torch.randn(2, channels, 9, 8, generator=torch.Generator().manual_seed(0))
    made = module(x)
    for c in range(channels * growth):
        one = functional.conv2d(
            x[:, c // growth, None], torch.from_numpy(filters[c % count])[None, None],
            stride=stride, padding=1, dilation=dilation,
        )  # fmt: skip
        torch.testing.assert_close(made[:, c], one[:, 0])


def test_a_module_is_equation_1_6_between_its_normalisations():
    module = PredefinedFilterModule(BankConvolution(torch.from_numpy(bank(4)), 3, 4, THREE), 5)
    x = torch.randn(2, 3, 6, 6)
    inner = functional.batch_norm(module.bank(x), None, None, training=True)
    wanted = torch.einsum("oc,nchw->nohw", module.pointwise.weight[..., 0, 0], inner.clamp(min=0))
    torch.testing.assert_close(module.train()(x), wanted)


def test_two_weights_tell_horizontal_from_vertical_dashes():
    """Equations 6.1 and 6.2: one module, a trainable weight for each of its two filters."""
    horizontal = torch.tensor([[-1.0, -1, -1], [2, 2, 2], [-1, -1, -1]])
    filters = torch.stack([horizontal, horizontal.T])
    module = PredefinedFilterModule(BankConvolution(filters, 1, 2, THREE), 1, norm=False)
    assert sum(p.numel() for p in module.parameters() if p.requires_grad) == 2
    images, labels = dashes(1024, seed=3)
    x = torch.from_numpy(images)[:, None] / 255.0
    with torch.no_grad():
        module.pointwise.weight.copy_(torch.tensor([1.0, -1.0]).reshape(1, 2, 1, 1))
        total = module(x).sum((1, 2, 3))
    counts = torch.tensor([difference(image) for image in images])
    torch.testing.assert_close(total, 24.0 * counts)
    assert ((total < 0).long() == torch.from_numpy(labels)).all()


def difference(image):
    """Count horizontal dashes less vertical ones: neighbours along rows less along columns."""
    lit = image > 0
    return int((lit[:, 1:] & lit[:, :-1]).sum() - (lit[1:] & lit[:-1]).sum()) // 4


def test_training_finds_the_two_weights():
    horizontal = torch.tensor([[-1.0, -1, -1], [2, 2, 2], [-1, -1, -1]])
    filters = torch.stack([horizontal, horizontal.T]) / 12
    torch.manual_seed(0)
    module = PredefinedFilterModule(BankConvolution(filters, 1, 2, THREE), 1, norm=False)

    def summed(seed, count):
        images, labels = (torch.from_numpy(values) for values in dashes(count, seed=seed))
        rectified = module.act(module.bank(images[:, None] / 255.0))
        # The sum over positions and the pointwise convolution may change places.
        return rectified.sum((2, 3), keepdim=True), labels

    features, labels = summed(seed=1, count=256)
    optimizer = torch.optim.Adam(module.parameters(), lr=0.1)
    for _ in range(300):
        said = module.pointwise(features).flatten()
        loss = functional.binary_cross_entropy_with_logits(-said, labels.float())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tested, answers = summed(seed=2, count=1024)
    assert ((module.pointwise(tested).flatten() < 0).long() == answers).all()


@pytest.mark.parametrize("seed", [0, 7])
def test_dashes_are_apart_and_never_equally_many(seed):
    images, labels = dashes(64, seed=seed)
    assert images.shape == (64, 48, 48)
    assert set(np.unique(images)) <= {0, 255}
    for image, label in zip(images, labels, strict=True):
        assert difference(image) != 0
        assert label == (difference(image) < 0)
        assert (image > 0).sum() % 5 == 0
        assert not image[[0, 1, -2, -1]].any()
        assert not image[:, [0, 1, -2, -1]].any()
    again, _ = dashes(64, seed=seed)
    assert (images == again).all()


def test_dashes_are_data_like_any_other(fsurgeon, tmp_path):
    save_small(tmp_path, 2)
    network = (tmp_path / "small.safetensors", "--factory", SMALL18.removeprefix("factory:"))
    done = fsurgeon("eval", *network, "--data", "dashes:16", "--preprocess", "input_size=3,48,48")
    assert json.loads(done.stdout)["n_images"] == 16, done.stderr.decode()


@pytest.mark.parametrize(
    ("source", "match"), [("dashes:many", "dashes:COUNT"), ("dahses", "did you mean dashes")]
)
def test_names_that_are_no_dashes(source, match):
    preprocessing = read_preprocessing({"input_size": (1, 48, 48)})
    with pytest.raises(DataError, match=match):
        open_data(DataSpec(source), preprocessing, 2)


def save_small(folder, classes=10):
    path = folder / "small.safetensors"
    fs.save(fs.untrained(SMALL18, num_classes=classes), path, force=True)
    return fs.load(path, arch=SMALL18)


def test_smoothing_is_a_gaussian_before_the_stride():
    plain = nn.Conv2d(3, 5, 1, 2, bias=False)
    x = torch.randn(2, 3, 9, 9)
    at = torch.arange(-1.0, 2.0)
    row = torch.exp(-(at**2) / (2 * 0.75**2))
    kernel = torch.outer(row, row) / row.sum() ** 2
    smooth = functional.conv2d(x, kernel.expand(3, 1, 3, 3), padding=1, groups=3)
    torch.testing.assert_close(SmoothedConvolution.of(plain)(x), plain(smooth))


@given(
    out=st.integers(1, 3), channels=st.integers(1, 5), growth=st.integers(1, 6),
    count=st.integers(1, 12), seed=st.integers(0, 99),
)  # fmt: skip
@settings(max_examples=40)
def test_weights_are_found_by_least_squares(out, channels, growth, count, seed):
    random = np.random.default_rng(seed)
    growth = min(growth, count)
    kernels, filters = random.standard_normal((out, channels, 3, 3)), random.random((count, 3, 3))
    which = np.arange(channels * growth) % count
    found = express(kernels, filters, which)
    lost = 0.0
    for o in range(out):
        for c in range(channels):
            places = slice(c * growth, (c + 1) * growth)
            chosen = filters[which[places]].reshape(growth, 9).T
            weights = np.linalg.lstsq(chosen, kernels[o, c].ravel(), rcond=None)[0]
            np.testing.assert_allclose(found[o, places], weights, atol=1e-6)
            lost += float(np.square(chosen @ weights - kernels[o, c].ravel()).sum())
    error = relative_error(kernels, found, filters, which)
    assert error == pytest.approx((lost / np.square(kernels).sum()) ** 0.5, abs=1e-6)


def test_a_bank_that_spans_the_kernels_meets_them_exactly():
    random = np.random.default_rng(0)
    kernels = random.standard_normal((4, 3, 3, 3))
    for name in ("edge-line-9", "edge-line-18", "dct", "translating"):
        filters = fs.load_bank(name).at((3, 3)).kernels
        which = np.arange(3 * len(filters)) % len(filters)
        weights = express(kernels, filters, which)
        assert relative_error(kernels, weights, filters, which) < 1e-12
    eight = fs.load_bank("edge-line-16").at((3, 3)).kernels
    which = np.arange(48) % 16
    error = relative_error(kernels, express(kernels, eight, which), eight, which)
    # Filters free of mean miss the kernels' means, and nothing else.
    means = 9 * np.square(kernels.mean((2, 3))).sum() / np.square(kernels).sum()
    assert error == pytest.approx(means**0.5)


def test_parameters_of_reduced_pfnet18():
    """1.46 million of 102 classes; 0.26 G multiply-adds (Table 7.3)."""
    plain = fs.untrained("timm:resnet18", num_classes=102)
    _, report = converted(plain, module="reduced-pfm")
    assert (report.before.parameters, report.after.parameters) == (11_228_838, 1_464_518)
    assert report.after.fixed == 16 * 9
    assert round(report.after.macs / 1e9, 2) == 0.26
    assert len(report.converted) == 17
    assert report.converted[0].growth == 16
    assert {layer.growth for layer in report.converted[1:]} == {1}
    assert len(report.smoothed) == 3
    assert report.left == ()


@pytest.mark.parametrize(
    ("name", "millions"),
    [("edge-2", 2.7), ("edge-4", 5.2), ("line-8", 10.1), ("edge-line-9", 11.3),
     ("edge-line-13", 16.2), ("edge-line-18", 22.4)],
)  # fmt: skip
def test_parameters_of_table_6_2(name, millions):
    """Of 200 classes, as CUB has: with fewer the last figure would be 22.3."""
    pfms = 10_985_472 + 64 * 27  # 3x3 kernels of ResNet-18, its first layer's also 3x3
    count = int(name.rpartition("-")[2])
    rest = 172_032 + 9_600 + 200 * 513  # skips, normalisations, classifier
    inner = 2 * (3 + 3_392)  # scale and shift of what each filter gives
    learned = pfms * count // 9 + rest + inner * count
    assert round(learned / 1e6, 1) == millions
    if count in (2, 9):
        plain = fs.untrained("timm:resnet18", num_classes=200)
        _, report = converted(plain, module="pfm", bank=name)
        assert report.after.parameters == learned


@pytest.fixture(scope="module")
def resnet20():
    return fs.load(ZOO / "resnet20_cifar10.safetensors", arch=RESNET20)


@pytest.fixture(scope="module")
def reduced(resnet20, tmp_path_factory):
    made, _ = converted(resnet20, module="reduced-pfm")
    return reloaded(made, tmp_path_factory.mktemp("reduced"), RESNET20)


def test_a_trained_network_in_a_bank_that_spans_its_kernels(resnet20, tmp_path):
    made, report = converted(resnet20, module="pfm", bank="edge-line-9", from_weights=True)
    assert max(layer.relative_error for layer in report.converted) < 1e-6
    assert report.output_difference < 1e-5
    x = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        one, two = (fs.build(each)(x) for each in (resnet20, reloaded(made, tmp_path, RESNET20)))
    torch.testing.assert_close(one, two, rtol=1e-4, atol=1e-4)
    assert report.after.parameters == report.before.parameters


def test_a_smaller_bank_says_what_is_lost(resnet20):
    _, report = converted(
        resnet20, module="reduced-pfm", bank="edge-line-9", from_weights=True, layers="layer1"
    )
    assert all(0.5 < layer.relative_error < 1 for layer in report.converted)
    assert report.output_difference > 0.05
    assert {reason for _, reason in report.left} == {"was not chosen"}


def test_the_filters_are_one_tensor_and_do_not_learn(reduced):
    model = fs.build(reduced)
    banks = [m.filters for m in model.modules() if isinstance(m, BankConvolution)]
    assert len(banks) == 19
    assert len({id(filters) for filters in banks}) == 1
    assert not any("bank" in name for name, _ in model.named_parameters())
    wanted = fs.load_bank("edge-line-16").at((3, 3)).kernels
    np.testing.assert_allclose(banks[0].numpy(), wanted, atol=1e-7)


@pytest.mark.parametrize("own", [False, True])
def test_filters_that_learn(resnet20, tmp_path, own):
    made, report = converted(resnet20, module="reduced-pfm", trainable=True, own_filters=own)
    model = fs.build(reloaded(made, tmp_path, RESNET20))
    learned = [name for name, p in model.named_parameters() if name.endswith("bank.filters")]
    assert len(learned) == (19 if own else 1)
    assert report.after.fixed == 0
    model.train()(torch.randn(2, 3, 32, 32)).sum().backward()
    assert model.get_parameter(learned[0]).grad.abs().sum() > 0


def test_he_initialisation_really_applies(reduced):
    """The published weights of a module have the deviation sqrt(2 / inputs)."""
    for name, stored in reduced.tensors.items():
        if name.endswith("pointwise.weight"):
            values = stored.array()
            wanted = (2 / values.shape[1]) ** 0.5
            assert values.std() == pytest.approx(wanted, rel=5 / (2 * values.size) ** 0.5)


def test_the_same_seed_gives_the_same_file(resnet20):
    first, again, other = (
        fs.convert(resnet20, module="reduced-pfm", seed=seed).digest for seed in (1, 1, 2)
    )
    assert first == again != other


def test_tuning_from_scratch_keeps_the_filters(reduced):
    from filtersurgeon.learn.networks import fresh_model

    fresh = fresh_model(reduced, 7, seed=3)
    assert fresh(torch.randn(2, 3, 32, 32)).shape == (2, 7)
    module = fresh.get_submodule("layer1.0.conv1")
    wanted = torch.from_numpy(reduced["layer1.0.conv1.bank.filters"].array())
    assert torch.equal(module.bank.filters, wanted)
    old = torch.from_numpy(reduced["layer1.0.conv1.pointwise.weight"].array())
    assert not torch.equal(module.pointwise.weight, old)


def test_pruned_modules_keep_the_filter_of_every_channel(reduced):
    slim = fs.prune(reduced, sparsity=0.5, per_layer=True)
    which = [name for name in slim.tensors if name.endswith("bank.which")]
    assert any(slim[name].shape != reduced[name].shape for name in which)
    assert slim["layer1.0.conv2.bank.which"].shape == (8,)
    lists = np.frombuffer(slim["layer1.0.conv2.bank.which"].raw(), "<i4").tolist()
    whole = np.frombuffer(reduced["layer1.0.conv2.bank.which"].raw(), "<i4").tolist()
    left = iter(whole)
    assert all(number in left for number in lists)  # a subsequence
    assert fs.build(slim)(torch.randn(1, 3, 32, 32)).shape == (1, 10)


def test_pruning_over_the_whole_network(reduced):
    slim = fs.prune(reduced, sparsity=0.6, method="l2")
    zeroed = [(t.array() == 0).mean() for n, t in slim.tensors.items() if "pointwise" in n]
    assert max(zeroed) > 0.3


def test_spectra_are_of_the_weighted_filters(reduced):
    layer = next(x for x in layers_to_analyse(reduced) if x.name == "layer1.0.conv1.pointwise")
    filters = fs.load_bank("edge-line-16").at((3, 3)).kernels.reshape(16, 9)
    weights = layer.stored.array().reshape(16, 16)
    wanted = weights[:, :, None] * filters[None]
    found = np.concatenate(list(kernel_blocks(layer)))
    np.testing.assert_allclose(found, wanted.reshape(-1, 9), atol=1e-7)
    # Edges and lines have no mean, so nothing is steered by the constant.
    spectrum = fs.explain(reduced, layers="layer1.0.conv1.pointwise").layers[0]
    assert spectrum.e2[0] < 1e-9 < spectrum.energy


def test_other_commands_follow_a_converted_network(fsurgeon, reduced, tmp_path):
    fs.save(reduced, tmp_path / "r.safetensors")
    network = (tmp_path / "r.safetensors", "--factory", RESNET20.removeprefix("factory:"))
    for words in (
        ("eval", "--data", "dashes:8", "--preprocess", "input_size=3,32,32"),
        ("rank", "--method", "l2"),
        ("inspect", "--channels"),
    ):
        done = fsurgeon(words[0], *network, *words[1:])
        assert done.returncode == 0, done.stderr.decode()
        assert json.loads(done.stdout)


class Awkward(nn.Module):
    """Convolutions of every kind that cannot be exchanged, and one that can."""

    def __init__(self, num_classes: int = 4):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.grouped = nn.Conv2d(8, 8, 3, padding=1, groups=4)
        self.even = nn.Conv2d(8, 8, 2, padding=1)
        self.long = nn.Conv2d(8, 8, (1, 5), padding=(0, 2))
        self.unpadded = nn.Conv2d(8, 8, 5)
        self.reflected = nn.Conv2d(8, 8, 3, padding=1, padding_mode="reflect")
        self.functional = nn.Conv2d(8, 8, 3, padding=1)
        self.dilated = nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.fc = nn.Linear(8, num_classes)

    def forward(self, x):
        x = self.unpadded(self.long(self.even(self.grouped(self.first(x)))))
        x = functional.conv2d(self.reflected(x), self.functional.weight, padding=1)
        return self.fc(self.dilated(x).mean((2, 3)))


@pytest.fixture
def awkward(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checkpoint = fs.untrained(f"factory:{__name__}:Awkward")
    return replace(checkpoint, pretrained_cfg={"input_size": [3, 16, 16]})


def test_what_cannot_be_exchanged_is_said(awkward):
    made, report = converted(awkward, module="pfm", bank="edge-line-9")
    assert [layer.name for layer in report.converted] == ["first", "dilated"]
    left = dict(report.left)
    assert "4 groups" in left["grouped"]
    assert "2x2" in left["even"]
    assert "1x5" in left["long"]
    assert "padding" in left["unpadded"]
    assert "padded by other values" in left["reflected"]
    assert "never called" in left["functional"]
    model = fs.build(made)
    assert model(torch.randn(1, 3, 16, 16)).shape == (1, 4)
    # No normalisation follows these, so the modules bring one.
    assert isinstance(model.first.closing, nn.BatchNorm2d)
    assert model.first.pointwise.bias is None


def test_a_linear_module_keeps_the_bias(awkward):
    made, report = converted(awkward, module="pfm", bank="dct", from_weights=True)
    model, old = fs.build(made), fs.build(awkward)
    assert {x.name for x in report.converted} == {"first", "unpadded", "dilated"}
    assert torch.equal(model.first.pointwise.bias, old.first.bias)
    x = torch.randn(1, 3, 16, 16)
    torch.testing.assert_close(model(x), old(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"module": "pmf"}, "did you mean pfm"),
        ({"module": "pfm", "bank": "edge-line-10"}, "9, 13, 16, 18"),
        ({"module": "pfm", "growth": 17}, "more than the bank's 16"),
        ({"module": "pfm", "growth": 0}, "at least 1"),
        ({"module": "pfm", "own_filters": True}, "`trainable`"),
        ({"module": "pfm", "from_weights": True, "relu": True}, "leave one out"),
        ({"module": "pfm", "slope": 0.2}, "`slope` needs"),
        ({"module": "pfm", "activation": "relu"}, "exactly one of"),
        ({"activation": "relu", "trainable": True}, "`trainable` needs `module`"),
        ({}, "exactly one of"),
    ],
)
def test_values_without_meaning_are_refused(resnet20, options, match):
    with pytest.raises(OptionError, match=match):
        fs.convert(resnet20, **options)


def test_nothing_left_to_convert_is_an_error(reduced):
    with pytest.raises(LayerError, match="no convolution left to convert"):
        fs.convert(reduced, module="pfm")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"count": 0}, "0 filters"),
        ({"count": 10**9}, "filters, not 1 to"),
        ({"kernel": [2, 2]}, "odd numbers"),
        ({"kernel": "3x3"}, "odd numbers"),
        ({"filters": "free"}, "not fixed, shared, own"),
        ({"layers": 3}, "do not state module"),
        ({"layers": [{"module": "conv1"}]}, "do not state module"),
        ({"layers": [{"module": "conv1", "growth": 99, "closing": False}]}, "should be 1 to 16"),
        ({"layers": [{"module": "conv9", "growth": 1, "closing": False}]}, "does not have"),
        ({"layers": [{"module": "bn1", "growth": 1, "closing": False}]}, "no plain convolution"),
        ({"layers": [{"module": ["conv1"], "growth": 1, "closing": False}]}, "other kinds"),
    ],
)
def test_structures_are_not_trusted(reduced, change, match):
    edit = {**reduced.structure[0], **change}
    with pytest.raises(CheckpointError, match=match):
        fs.build(replace(reduced, structure=(edit,)))


def test_convert_on_the_command_line(fsurgeon, refuse, tmp_path):
    save_small(tmp_path)
    network = (tmp_path / "small.safetensors", "--factory", SMALL18.removeprefix("factory:"))
    out = tmp_path / "out.safetensors"
    done = fsurgeon("convert", *network, "--module", "reduced-pfm", "-o", out)
    assert done.returncode == 0, done.stderr.decode()
    assert b"93,290 parameters that learn instead of 701,466" in done.stderr
    assert b"3 strided 1x1 convolutions read a smoothed image" in done.stderr
    shown = fsurgeon("convert", *network, "--module", "pfm", "--bank", "edge-line-9", "--dry-run")
    found = json.loads(shown.stdout)
    assert found["schema"] == "filtersurgeon.predefined/1"
    assert [layer["growth"] for layer in found["layers"]] == [9] * 17
    assert "did you mean reduced-pfm" in refuse(
        "convert", *network, "--module", "reduce-pfm", "-o", tmp_path / "x.safetensors"
    )


def test_a_grey_network_in_a_folder_is_timms_again(tmp_path):
    import timm

    plain = fs.untrained("timm:test_resnet", num_classes=5, in_chans=1)
    made = fs.convert(plain, module="reduced-pfm")
    fs.save(made, f"{tmp_path}/grey/")
    model = timm.create_model(f"local-dir:{tmp_path}/grey", pretrained=True).eval()
    x = torch.randn(1, 1, 64, 64)
    torch.testing.assert_close(model(x), fs.build(fs.load(f"{tmp_path}/grey"))(x))


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("timm:densenet121", []),
        # Its 7x7 convolution is a linear layer of the whole map, without padding.
        pytest.param("timm:vgg11_bn", ["pre_logits.fc1"], marks=pytest.mark.slow),
    ],
)
def test_other_families(name, left, tmp_path):
    plain = fs.untrained(name, num_classes=3)
    made, report = converted(plain, module="reduced-pfm")
    assert [name for name, _ in report.left] == left
    assert report.after.parameters < report.before.parameters
    fs.build(reloaded(made, tmp_path))


def test_study_of_variants(fsurgeon, tmp_path):
    save_small(tmp_path, classes=2)
    words = (
        "study", "predefined", tmp_path / "small.safetensors",
        "--factory", SMALL18.removeprefix("factory:"), "--data", "dashes:8",
        "--preprocess", "input_size=3,48,48",
    )  # fmt: skip
    small = ("-p", "train=dashes:16", "-p", "epochs=1", "-p", "repeats=2")
    variants = "variants=network+no-skips,pfm+random-4+aliasing,reduced-pfm+no-relu+trainable"
    done = fsurgeon(*words, *small, "-p", variants)
    assert done.returncode == 0, done.stderr.decode()
    found = {row["variant"]: row for row in json.loads(done.stdout)["variants"]}
    assert found["network+no-skips"]["parameters"] < 701_466
    assert all(len(row["runs"]) == 2 and 0 <= row["accuracy"] <= 1 for row in found.values())


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ("pfn", "did you mean pfm"),
        ("network+no-relu", "goes with pfm"),
        ("pfm+edge-4+line-4", "one bank"),
        ("pfm+smooth", "anyway"),
        ("pfm+edge-5", "there are 2, 4, 8 only"),
    ],
)
def test_variants_that_are_none(words, match):
    with pytest.raises(OptionError, match=match):
        read_variant(words)


def test_random_variants_follow_the_seed(tmp_path):
    own, variant = save_small(tmp_path), read_variant("reduced-pfm+random-4")
    first, again, other = (
        make_variant(own, variant, seed)["conv1.bank.filters"].array() for seed in (1, 1, 2)
    )
    assert np.abs(first).max() <= 1
    assert (first == again).all()
    assert (first != other).all()


def test_skips_can_be_taken_out(tmp_path):
    made = make_variant(save_small(tmp_path), read_variant("network+no-skips"), 0)
    model = fs.build(reloaded(made, tmp_path, SMALL18))
    block, x = model.layers[1][0], torch.randn(2, 16, 8, 8)
    inner = block.bn1(block.conv1(x)).relu()
    assert torch.equal(block(x), block.bn2(block.conv2(inner)).relu())
    assert not any("downsample" in name for name in made.tensors)


@pytest.mark.skipif(not SHARED.exists(), reason="no shared data")
@pytest.mark.slow
def test_a_published_network_computes_the_same_in_the_bank():
    source = SHARED / "weights" / "cifar10_resnet20.safetensors"
    own = fs.load(source, arch=RESNET20)
    made, report = converted(own, module="pfm", bank="dct", from_weights=True)
    assert report.output_difference < 1e-5
    images = np.load(SHARED / "cifar10" / "test.npz")["x"][:64]
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    with torch.no_grad():
        one, two = (fs.build(each)(x) for each in (own, made))
    assert torch.equal(one.argmax(1), two.argmax(1))


@pytest.mark.slow
def test_the_example_trains_around_the_filters(tmp_path, monkeypatch, command):
    monkeypatch.setenv("FSURGEON", " ".join(command))
    words = ("dashes:32", SMALL18, tmp_path / "out", "1", "--classes", "2", "--device", "cpu")
    done = subprocess.run(
        ["sh", "examples/predefined.sh", *words, "--preprocess", "input_size=3,48,48"],
        cwd=Path(__file__).parents[1], capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    begun, trained = (
        fs.load(tmp_path / "out" / f"{name}.safetensors") for name in ("untrained", "trained")
    )
    for name in begun.tensors:
        same = begun[name].raw().tobytes() == trained[name].raw().tobytes()
        assert same == (".bank." in name), name
