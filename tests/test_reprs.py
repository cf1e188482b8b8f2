"""What a person sees who types the name of an object: a few lines, with the essentials."""

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

import filtersurgeon as fs
from filtersurgeon.learn.compare import Comparison, Side
from filtersurgeon.learn.measure import Difference


def short(thing):
    text = repr(thing)
    assert text.startswith(f"{type(thing).__name__}(")
    assert len(text.splitlines()) <= 6
    assert len(text) <= 600
    return text


@pytest.fixture(scope="module")
def resnet18():
    return fs.untrained("timm:resnet18")


def test_checkpoint(resnet18):
    text = short(resnet18)
    for word in ("timm:resnet18", "tensors=122", "conv1.weight: F32 (64, 3, 7, 7)", "and 119 more"):
        assert word in text
    assert f"parameters={resnet18.parameters}" in text
    assert "history='replace'" in short(fs.replace(resnet18, bank="dog8", all_spatial=True))


def test_what_is_found_in_a_checkpoint(resnet18):
    ranking = fs.rank(resnet18, "l2")
    first = ", ".join(map(str, ranking.layers["conv1"].order[:5]))
    assert f"conv1: 64 filters, best first {first}, ..." in short(ranking)
    assert f"method='l2', layers={len(ranking.layers)}, filters=" in repr(ranking)
    inspection = short(fs.inspect(resnet18))
    assert "conv1: standard (64, 3, 7, 7)" in inspection
    assert "timm:resnet18" in inspection
    assert "basis='dct'" in short(fs.explain(resnet18))
    scores = fs.kernel_scores(resnet18, "l1")
    assert f"kernels={scores.n_kernels}" in short(scores)
    assert "conv1: (64, 3), " in repr(scores)


def test_bank():
    bank = fs.load_bank("dog8").at((3, 3))
    text = short(bank)
    assert "name='dog8', kernels=8, size='3x3'" in text
    assert bank.labels[0] in text


def test_evaluation_and_comparison():
    many = tuple(range(1000))
    found = fs.Evaluation(1000, 500, 900, 1500.0, many, many, None, 1.0)
    assert short(found) == "Evaluation(images=1000, classes=1000, accuracy=0.5, loss=1.5)"
    assert short(fs.Evaluation(0, 0, 0, 0.0, (), (), None, 0.0))
    side = Side("a.safetensors", 11, 12, None, None, found)
    text = short(Comparison(side, side, Difference()))
    assert "a.safetensors: 11 parameters, 12 MACs, top-1 50.00%" in text


def test_pictures_and_searches():
    checkpoint = fs.untrained("timm:test_resnet", num_classes=2)
    data = fs.DataSpec("dashes", subset=4)
    assert "maps (4, 160, 160)" in short(fs.gradcam([checkpoint], data=data))
    assert "(4, 2, 5, 5)" in short(fs.activations([checkpoint], data=data, units="0,1"))
    assert "points (4, 2)" in short(fs.embed([checkpoint], [data], "pca"))
    [decoded] = fs.decode(checkpoint)
    assert short(decoded) == ("Decoded(layer='fc', units=2, filters=(2, 3, 160, 160), exact=False)")
    [maximised] = fs.maximize(checkpoint, fs.AscentSettings(steps=1))
    assert "layer='fc', units=2, images=(2, 3, 160, 160)" in short(maximised)
    found = fs.search_bank(checkpoint, "dog8", criterion="error", size=3, all_spatial=True)
    assert "criterion='error', start='dog8'" in short(found)


def test_what_was_done_to_a_checkpoint(tmp_path):
    checkpoint = fs.untrained("timm:test_resnet")
    reports = []
    fs.prune(checkpoint, sparsity=0.5, per_layer=True, method="l2", observe=reports.append)
    text = short(reports.pop())
    assert "PruneReport(sparsity=0.5, layers=16" in text
    assert "conv1.0: 16 -> 8 channels" in text
    fs.convert(checkpoint, module="pfm", observe=reports.append)
    assert "conv1.0: (16, 3, 3, 3), 16 filters per channel" in short(reports.pop())
    replaced = fs.replace(
        checkpoint, bank="dct-9", layers=["layer2*"], all_spatial=True, observe=reports.append
    )
    fs.save(replaced, tmp_path / "replaced.safetensors")
    assert reports
    for report in reports:
        assert f"bank='dct-9', kernels={report.n_kernels}" in short(report)
    assert "16 free: conv1.0" in short(fs.channels(checkpoint))


def test_what_is_measured_and_learnt():
    rows = tuple(fs.EpochRow(k, 0.1, 2.0, 1.0, 0.5) for k in range(1, 301))
    layers = tuple(f"layer{k}" for k in range(300))
    result = fs.TrainingResult(rows, layers, 7, stopped_early=True)
    assert "epochs=300, frozen=300, best_epoch=7" in short(result)
    assert "epoch 1: training loss 2, top-1 50.00%" in short(result)
    assert short(fs.find_basis("dct", (7, 7))) == "Basis(name='dct', size='7x7', vectors=(49, 49))"
    first, second = (fs.load_bank(name) for name in ("dog8", "dct-8"))
    assert short(first) == "BankSource(name='dog8')"
    compared = fs.compare_banks(first.at((3, 3)), second.at((3, 3)))
    assert "first='dog8', second='dct-8', cosines=(8, 8)" in short(compared)
    layer = np.ones((4, 9), "f4"), np.ones(4, "f4")
    autoencoder = fs.FilterAutoencoder((3, 3), (layer,), (layer,), {})
    assert short(autoencoder) == "FilterAutoencoder(size='3x3', widths='9-4-4')"
    assert "torch: " in short(fs.diagnose())
    lab = fs.Lab(fs.untrained("timm:test_resnet"), "timm:test_resnet")
    assert "name='storage', findings='rows'" in short(fs.study("storage", lab))


def test_a_walk(tmp_path):
    Image.new("RGB", (160, 160), "grey").save(tmp_path / "grey.png")
    checkpoint = fs.untrained("timm:test_resnet")
    scene = fs.walk(checkpoint, tmp_path / "walk.html", [str(tmp_path / "grey.png")])
    assert "Scene(images=1, networks=1)" in short(scene)


def test_names_from_files_neither_steer_the_terminal_nor_fill_the_screen(tmp_path):
    name = "\x1b[2J" + "x" * 5000
    save_file({f"{name}{k}.weight": np.ones((4, 2, 3, 3), "f4") for k in range(9)}, tmp_path / "m")
    with fs.load(tmp_path / "m") as checkpoint:
        for thing in (checkpoint, fs.inspect(checkpoint), fs.rank(checkpoint, "l1")):
            assert "\x1b" not in short(thing)
