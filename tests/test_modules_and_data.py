"""Modules in memory in the verbs that look, measure, train and export; images in memory."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import filtersurgeon as fs
from filtersurgeon.data.data import as_spec, open_data
from filtersurgeon.data.preprocess import read_preprocessing
from filtersurgeon.errors import OptionError

SIZE = (3, 16, 16)


class Net(nn.Module):
    """Two convolutions and a classifier of three classes."""

    def __init__(self):
        super().__init__()
        self.one = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.two = nn.Conv2d(6, 8, 3, padding=1, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(8, 3)

    def forward(self, image):
        """Give scores."""
        x = torch.relu(self.norm(self.one(image)))
        return self.head(self.pool(torch.relu(self.two(x))).flatten(1))


@pytest.fixture
def module():
    torch.manual_seed(0)
    return Net().eval()


@pytest.fixture(scope="module")
def images():
    return torch.randn(12, *SIZE, generator=torch.Generator().manual_seed(1))


@pytest.fixture
def labels(module, images):
    """Classes of which nine of twelve are what the network says."""
    with torch.no_grad():
        right = module(images).argmax(1)
    return torch.cat([right[:9], (right[9:] + 1) % 3])


def opened(data):
    spec = as_spec(data)
    return open_data(spec, read_preprocessing({"input_size": SIZE}), 3, labelled=False)


def test_real_numbers_go_in_as_they_are(images):
    found = opened(images)
    assert len(found) == 12
    assert torch.equal(found[3][0], images[3])
    assert opened(images.double().numpy()).part.data == found.part.data
    assert opened(images + 1).part.data != found.part.data
    assert found.notes == []


def test_bytes_are_prepared_as_those_of_a_file():
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 16, 16), dtype=np.uint8)
    mean, std = (np.array(x)[:, None, None] for x in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    expected = (pixels[2] / 255 - mean) / std
    for data in (pixels, torch.from_numpy(pixels), pixels.transpose(0, 2, 3, 1)):
        np.testing.assert_allclose(opened(data)[2][0].numpy(), expected, rtol=1e-4, atol=1e-5)


def test_pairs_data_sets_and_loaders_are_the_same(images):
    labels = torch.arange(12) % 3
    pair = TensorDataset(images, labels)
    forms = [
        (images, labels), (images.numpy(), labels.tolist()), pair, [*pair],
        DataLoader(pair, batch_size=5), [(images[:7], labels[:7]), (images[7:], labels[7:])],
    ]  # fmt: skip
    for form in forms:
        found = opened(form)
        assert torch.equal(found[8][0], images[8])
        assert list(found.source.labels) == labels.tolist()
    alone = opened(DataLoader(TensorDataset(images), batch_size=5))
    assert torch.equal(alone[11][0], images[11])


def test_signals_and_volumes():
    for shape in ((5, 2, 40), (5, 2, 6, 7, 8)):
        values = torch.randn(shape)
        assert torch.equal(opened(values)[4][0], values[4])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (3, "int holds no images"),
        ({"x": 1}, "dict holds no images"),
        (torch.zeros(4, 5), "shape"),
        (torch.zeros(4, 3, 8, 8, dtype=torch.int64), "int64"),
        ((torch.zeros(4, 3, 8, 8), torch.zeros(3, dtype=torch.int64)), "4 images"),
        ((torch.zeros(4, 3, 8, 8), torch.zeros(4)), "float32"),
        ([], "no images"),
        ([torch.zeros(3, 8, 8), torch.zeros(3, 9, 9)], "several sizes"),
        ([{"pixel_values": 1}], "dicts"),
    ],
)
def test_what_is_no_images(data, message):
    with pytest.raises(fs.FilterSurgeonError, match=message):
        as_spec(data)


def test_a_module_is_evaluated_and_compared(module, images, labels):
    found = fs.evaluate(module, (images, labels), example_inputs=SIZE)
    assert (found.n_images, found.top1) == (12, 9)
    assert fs.evaluate(module, DataLoader(TensorDataset(images, labels), 4)).top1 == 9
    with pytest.raises(fs.FilterSurgeonError, match="no labels"):
        fs.evaluate(module, images)
    slim = fs.channels(module, SIZE).group("two").prune([0], copy=True)
    settings = fs.ComparisonSettings(latency_runs=0)
    compared = fs.compare([module, slim], (images, labels), settings)
    assert compared.first.evaluation.top1 == 9
    assert compared.second.parameters == compared.first.parameters - 54 - 1 - 3
    with torch.no_grad():
        one, other = module(images), slim(images)
    worst = ((other - one).norm(dim=1) / one.norm(dim=1)).max()
    assert compared.difference.relative_max == pytest.approx(float(worst), rel=1e-4)
    assert fs.compare([module, fs.load(module)], random=2, settings=settings, example_inputs=SIZE)
    with pytest.raises(fs.FilterSurgeonError, match="two to compare"):
        fs.compare(module, random=2)


def test_a_module_is_looked_at(module, images, labels, tmp_path):
    found = fs.gradcam(module, data=(images, labels), example_inputs=SIZE)
    with torch.no_grad():
        assert found.looks[0].predicted == tuple(module(images).argmax(1).tolist())
    assert found.looks[0].maps.shape == (12, 16, 16)
    seen = fs.activations([module], images[:2], layers=["two"], units="0-3")
    with torch.no_grad():
        expected = module.two(torch.relu(module.norm(module.one(images[:2]))))[:, :4]
    np.testing.assert_allclose(seen.layers[0].maps[0], expected, atol=1e-5)
    placed = fs.embed([module, module], (images, labels), "pca", example_inputs=SIZE)
    assert placed.labels.tolist() == labels.tolist()
    assert placed.clouds[1].points.shape == (12, 2)
    [decoded] = fs.decode(
        module,
        fs.DecodeSettings(layers=("two",), units="0"),
        data=(images, labels),
        example_inputs=SIZE,
    )
    assert decoded.filters.shape[:2] == (1, 3)
    assert decoded.fit is not None
    settings = fs.AscentSettings(steps=1)
    [made] = fs.maximize(module, settings, units="1", example_inputs=SIZE)
    assert made.images.shape == (1, *SIZE)
    scene = fs.walk(module, tmp_path / "walk.html", images[:1], module, example_inputs=SIZE)
    assert scene.networks[1].maps("one").shape == (6, 16, 16)


def test_a_module_is_packed_and_exported(module, tmp_path):
    packed = fs.pack(module, archetypes=0.25, layers=["two"])
    assert "two.weight.archetypes" in packed
    done = fs.export(module, tmp_path / "m.pt2", random=1, example_inputs=SIZE)
    assert done.input_shape == (1, *SIZE)
    assert done.difference.relative_max < 1e-5


def test_a_module_is_trained(module, images, labels):
    before = {k: v.clone() for k, v in module.state_dict().items()}
    module.one.requires_grad_(False)
    recipe, run = fs.TrainingRecipe(lr=0.1), fs.RunSettings(epochs=1, batch_size=4)
    given = fs.TrainingImages((images, labels), (images, labels))
    trained, result = fs.tune(module, given, recipe, run, example_inputs=SIZE, teacher=module)
    assert type(trained) is Net
    assert result.history[0].accuracy is not None
    assert torch.equal(trained.one.weight, before["one.weight"])
    assert not trained.one.weight.requires_grad
    assert not torch.equal(trained.head.weight, before["head.weight"])
    assert all(torch.equal(v, before[k]) for k, v in module.state_dict().items())
    fs.tune(module, given, recipe, run, example_inputs=SIZE, teacher=fs.load(module), copy=False)
    assert torch.equal(module.head.weight, trained.head.weight)


def test_images_in_memory_choose_weights(module, images, labels):
    pair = (images, labels)
    scores = fs.kernel_scores(module, data=pair)
    assert scores.images == 12
    assert scores.data["name"].startswith("images-")
    done = []
    slim = fs.prune(module, SIZE, target="macs=0.6x", data=images, observe=done.append)
    assert done[0].worth is not None
    assert slim.two.weight.numel() < module.two.weight.numel()
    report = []
    options = {"sparsity": 0.5, "per_layer": True, "observe": report.append}
    loader = DataLoader(TensorDataset(images, labels), batch_size=6)
    slim = fs.prune(module, SIZE, data=loader, compensate="least-squares", **options)
    assert slim.one.out_channels == 3
    assert report[0].worth.images > 0
    ranking = fs.rank(module, "saliency", data=fs.ImageRun(pair))
    assert ranking.data == scores.data


def test_a_module_is_pruned_to_several_targets(module, images):
    targets = ["macs=0.8x", "macs=0.5x"]
    found = list(fs.prune_sweep(module, targets, example_inputs=SIZE, data=images, verify=False))
    shares = [report.after.macs / report.before.macs for _, report in found]
    assert shares[0] <= 0.8
    assert shares[1] <= 0.5
    assert all(type(slim) is Net for slim, _ in found)
    assert found[1][0].one.out_channels < module.one.out_channels == 6


def test_a_bank_is_searched_for_a_module_by_the_error_alone(module, images):
    options = {"to": 2, "layers": ["one"], "all_spatial": True, "example_inputs": SIZE}
    found = fs.search_bank(module, "dog8", criterion="error", **options)
    assert found.bank.kernels.shape == (2, 3, 3)
    with pytest.raises(OptionError, match="save the module's tensors to a file"):
        fs.search_bank(module, "dog8", fs.SearchData(as_spec(images), "-"), **options)


def test_a_study_counts_the_channels_of_a_module(module):
    found = fs.study("channelprune", fs.Lab(module), {"zeroed": "50", "method": "l1"})
    assert [row["network"] for row in found.findings["rows"]] == ["Net"]
    with pytest.raises(OptionError, match="pass its name as `source`"):
        fs.study("bank-size", fs.Lab(module))
