"""Study fixed-filters: what is trained and what is not, and what its tests of significance say."""

import subprocess
import sys

import numpy as np
import pytest
from scipy.stats import wilcoxon

import filtersurgeon as fs
from examples.zoo import train
from filtersurgeon.data.data import DataSpec
from filtersurgeon.errors import DivergedError, OptionError
from filtersurgeon.learn.networks import fresh_model
from filtersurgeon.learn.settings import RunSettings, TrainingRecipe
from filtersurgeon.learn.tuning import TrainingImages, TrainingStart
from filtersurgeon.studies import fixed_filters as study_file
from filtersurgeon.studies._lab import Lab
from filtersurgeon.studies.fixed_filters import p_value

ZOO = "examples/zoo/lenet5_digits.safetensors"
FACTORY = "factory:examples.zoo.networks:lenet5"


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    path = tmp_path_factory.mktemp("digits") / "digits.npz"
    train.write_digits(path)
    return Lab(fs.load(ZOO, arch=FACTORY), ZOO, DataSpec(str(path), subset=60))


def _study(lab, **options):
    small = {"epochs": 1, "repeats": 1, "train_subset": 64, "starts": "scratch"}
    return fs.study("fixed-filters", lab, {**small, **options})


@pytest.fixture
def tuned(monkeypatch):
    """Collect what training was given, and what it gave."""
    calls = []

    def spy(begun, *arguments, **options):
        tensors = {name: begun[name].array().copy() for name in begun}
        trained, result = fs.tune(begun, *arguments, **options)
        calls.append((tensors, trained, arguments[1]))
        return trained, result

    monkeypatch.setattr(study_file, "tune", spy)
    return calls


def test_fixed_filters_stay_and_the_rest_learns(lab, tuned):
    _study(lab, methods="learned,ghaar")
    (_, learned, free), (begun, fixed, held) = tuned
    assert (free.freeze, held.freeze) == ("none", "spatial")
    expected = fs.initialize(lab.checkpoint, method="ghaar")
    for layer in fs.find_layers(lab.checkpoint):
        name = layer.tensor
        np.testing.assert_array_equal(fixed[name].array(), expected[name].array())
        assert (learned[name].array() != begun[name]).any()
    changed = [name for name in begun if (fixed[name].array() != begun[name]).any()]
    assert len(changed) >= 6


def test_from_scratch_all_methods_share_the_other_weights(lab, tuned):
    _study(lab, methods="learned,unchanged,guided-steer")
    fresh = fresh_model(lab.checkpoint, None, 0).state_dict()
    spatial = {layer.tensor for layer in fs.find_layers(lab.checkpoint)}
    for number, (begun, _, _) in enumerate(tuned):
        for name, tensor in fresh.items():
            same = np.array_equal(begun[name], tensor.numpy())
            assert same == (number < 2 or name not in spatial)


def test_a_pretrained_start_keeps_the_other_weights(lab, tuned):
    _study(lab, methods="ones", starts="pretrained", match_scale=True)
    begun = tuned[0][0]
    spatial = {layer.tensor for layer in fs.find_layers(lab.checkpoint)}
    for name in begun:
        assert np.array_equal(begun[name], lab.checkpoint[name].array()) == (name not in spatial)
        if name in spatial:
            assert np.unique(begun[name]).size == 1


def test_a_run_is_that_of_tune(lab):
    found = _study(lab, methods="dct2", starts="pretrained")
    begun = fs.initialize(lab.checkpoint, method="dct2")
    _, result = fs.tune(
        begun,
        TrainingImages(DataSpec(lab.data.source, "train", subset=64), lab.data),
        TrainingRecipe("spatial", "adam", 1e-3, weight_decay=0.0, schedule="none"),
        RunSettings(1, device="cpu"),
        start=TrainingStart(),
    )
    assert found.findings["accuracy"]["pretrained"]["dct2"]["mean"] == result.history[0].accuracy


def test_a_run_that_diverges_is_left_out(lab, monkeypatch):
    def diverge(*_arguments, **_options):
        raise DivergedError("step 1")

    monkeypatch.setattr(study_file, "tune", diverge)
    found = _study(lab, methods="ones,dct2")
    assert found.findings["accuracy"] == {"scratch": {"ones": None, "dct2": None}}
    assert found.findings["p_values"][0]["p"] is None
    assert "2 runs diverged and are left out: dct2 (scratch), ones (scratch)" in found.remarks
    assert found.tables[0].rows == [("ones", "diverged"), ("dct2", "diverged")]


def test_the_study_is_drawn(lab, tmp_path):
    from filtersurgeon.studies._lab import draw_study

    found = _study(lab, methods="unchanged,psine", starts="scratch,pretrained", match_scale=True)
    draw_study(found, tmp_path / "s.svg")
    text = (tmp_path / "s.svg").read_text("utf-8")
    assert all(f"<!-- {word} -->" in text for word in ("scratch", "pretrained", "psine"))


def _runs(first, second):
    lines = {"a": first, "b": second}
    return {
        ("scratch", name, repeat): None if value is None else [0.0, value]
        for name, line in lines.items()
        for repeat, value in enumerate(line)
    }


def test_p_values_are_paired_and_two_tailed():
    random = np.random.default_rng(0)
    first = random.uniform(0.5, 0.9, 8).tolist()
    second = [value - 0.01 * (1 + at) for at, value in enumerate(first)]
    # All eight differences have one sign: 2 of the 2^8 signs are as extreme.
    assert p_value(_runs(first, second), "a", "b") == pytest.approx(2 / 2**8)
    other = random.permutation(second).tolist()
    expected = wilcoxon(first, other).pvalue
    assert p_value(_runs(first, other), "a", "b") == pytest.approx(expected)
    assert p_value(_runs(first, first), "a", "b") == 1.0
    assert p_value(_runs([None, *first[1:]], second), "a", "b") == pytest.approx(2 / 2**7)
    assert p_value(_runs([None], [0.5]), "a", "b") is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"methods": "haar"}, "methods: 'haar' is none of"),
        ({"starts": "imagenet"}, "starts: 'imagenet' is none of"),
        ({"epochs": 0}, "should be at least 1"),
    ],
)
def test_what_the_study_refuses(lab, options, message):
    with pytest.raises(OptionError, match=message):
        _study(lab, **options)


def test_the_example_s_recipe(lab):
    made = fs.apply(lab.checkpoint, "examples/fixed_filters.yaml")
    begun = fs.initialize(lab.checkpoint, method="ghaar", others="reset", match_scale=True)
    assert made.digest == fs.prune(begun, per_layer=True, sparsity=0.2).digest


@pytest.mark.slow
@pytest.mark.parametrize("method", ["ghaar", "guided-steer"])
def test_the_example_trains_around_fixed_filters(lab, tmp_path, monkeypatch, method):
    monkeypatch.setenv("FSURGEON", f"{sys.executable} -m filtersurgeon")
    script = ["sh", "examples/fixed_filters.sh", lab.data.source, method, tmp_path / "out", "2"]
    done = subprocess.run(script, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "top-1" in done.stdout
    guide = lab.checkpoint if method == "guided-steer" else None
    begun = fs.initialize(
        lab.checkpoint, method=method, guide=guide, match_scale=True, others="reset"
    )
    begun = fs.prune(begun, per_layer=True, sparsity=0.2)
    with fs.load(tmp_path / "out" / "fixed.safetensors") as fixed:
        for layer in fs.find_layers(fixed):
            np.testing.assert_array_equal(layer.stored.array(), begun[layer.tensor].array())
    assert (tmp_path / "out" / "steering.png").exists()
