"""Numbers of archetypes, the elbow, and what `archetypes` writes and draws."""

import json

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import filtersurgeon as fs
from filtersurgeon.archetypes import archetypal_analysis
from filtersurgeon.archetypes.elbow import ErrorCurve, elbow, error_curve, tried_counts
from filtersurgeon.errors import LayerError, OptionError
from filtersurgeon.plots.archetypes import _mosaic
from filtersurgeon.ranking.archetype_counts import Counts, read_count, read_counts


@pytest.fixture(scope="module")
def weights() -> dict[str, np.ndarray]:
    """Three corners and their mixtures in `planted`, random filters in `stem`."""
    rng = np.random.default_rng(0)
    corners = rng.normal(size=(3, 18))
    mixed = np.concatenate([corners, rng.dirichlet(np.ones(3), 21) @ corners])
    return {
        "planted.weight": mixed.reshape(24, 2, 3, 3).astype(np.float32),
        "stem.weight": rng.normal(size=(12, 1, 3, 3)).astype(np.float32),
    }


@pytest.fixture(scope="module")
def model(weights, tmp_path_factory):
    path = tmp_path_factory.mktemp("archetypes") / "m.safetensors"
    save_file(weights, path)
    return path


@pytest.mark.parametrize(
    ("word", "count"),
    [
        ("16", 16),
        (16, 16),
        ("25%", 0.25),
        (0.25, 0.25),
        ("1.0", 1.0),
        ("1", 1),
        (" elbow", "elbow"),
    ],
)
def test_a_number_a_share_and_the_elbow_are_told_apart(word, count):
    found = read_count(word)
    assert found == count
    assert type(found) is type(count)


@pytest.mark.parametrize("word", ["0", 0, -1, "1.5", 2.0, 0.0, "ellbow", "", True, None, "nan"])
def test_what_is_no_count_is_refused(word):
    with pytest.raises(OptionError, match="a number such as 16"):
        read_count(word)


def test_the_last_glob_that_matches_a_layer_holds(model):
    wanted = {"*": 0.5, "stem": 0.25, "st*": 3}
    layers = fs.find_layers(fs.load(model))
    assert Counts.read(wanted).by_layer(layers) == {"planted": 0.5, "stem": 3}
    assert read_counts(["st*=3", "0.5"]) == {"*": 0.5, "st*": 3}
    assert read_counts(["8"]) == 8
    with pytest.raises(LayerError, match="nothing"):
        Counts.read({"nothing": 3}).by_layer(layers)


def test_a_curve_turns_where_it_is_farthest_from_the_line_of_its_ends():
    assert elbow([1.0, 0.5, 0.45, 0.4, 0.35, 0.3]) == 1
    # The same values farther and farther apart turn elsewhere.
    assert elbow([1.0, 0.5, 0.25, 0.125], [1, 2, 4, 40]) == 2
    assert tried_counts(20) == [1, 2, 3, 4, 6, 9, 13, 19, 20]
    assert tried_counts(1) == [1]


def test_the_elbow_finds_planted_corners(weights):
    curve = error_curve(weights["planted.weight"].reshape(24, -1), 12)
    assert curve.elbow == 3
    assert curve.errors[0] == pytest.approx(1.0)
    assert curve.errors[curve.counts.index(3)] < 1e-3


def test_models_rebuild_the_filters_from_their_sources(model):
    found = fs.find_archetypes(fs.load(model), archetypes={"planted": "elbow", "stem": 5})
    assert {name: x.model.n_archetypes for name, x in found.layers.items()} == {
        "planted": 3, "stem": 5,
    }  # fmt: skip
    planted = found.layers["planted"]
    assert sorted(next(iter(each)) for each in planted.sources()) == [0, 1, 2]
    assert planted.curve is not None
    assert found.layers["stem"].curve is None
    for layer in found.layers.values():
        for number, each in enumerate(layer.sources()):
            mixed = sum(share * layer.filters[n] for n, share in each.items())
            np.testing.assert_allclose(mixed, layer.model.archetypes[number], atol=1e-6)
            assert list(each.values()) == sorted(each.values(), reverse=True)


def test_a_share_is_capped_but_a_number_is_not(model):
    checkpoint = fs.load(model)

    def count(**words) -> int:
        found = fs.find_archetypes(checkpoint, layers=["stem"], **words)
        return found.layers["stem"].model.n_archetypes

    assert count(archetypes=1.0) == 10
    assert count(archetypes=1.0, capped=False) == 12
    assert count(archetypes=11) == 11
    assert count(archetypes=99) == 12


def test_the_command_writes_archetypes_with_names(model, weights, tmp_path, fsurgeon):
    path = tmp_path / "a.safetensors"
    words = "--archetypes", "elbow", "--archetypes", "stem=4", "-o", path
    noted = fsurgeon("archetypes", model, *words).stderr.decode()
    assert "found 7 archetypes of 36 filters in 2 layers" in noted
    stored = load_file(path)
    assert {name: values.shape for name, values in stored.items()} == {
        "planted.archetypes": (3, 2, 3, 3), "planted.coefficients": (3, 24),
        "planted.weights": (24, 3), "stem.archetypes": (4, 1, 3, 3),
        "stem.coefficients": (4, 12), "stem.weights": (12, 4),
    }  # fmt: skip
    X = weights["planted.weight"].reshape(24, -1).T
    D, A, B = (stored[f"planted.{part}"] for part in ("archetypes", "coefficients", "weights"))
    np.testing.assert_allclose(X @ B, D.reshape(3, -1).T, atol=1e-6)
    np.testing.assert_allclose(D.reshape(3, -1).T @ A, X, atol=1e-3)
    np.testing.assert_allclose(A.sum(axis=0), 1.0)
    with safe_open(path, "np") as file:
        metadata = file.metadata()
    text = next(value for key, value in metadata.items() if key.endswith("archetypes"))
    assert [x["name"] for x in json.loads(text)["layers"]] == ["planted", "stem"]


def test_pictures_are_drawn(model, tmp_path):
    found = fs.find_archetypes(fs.load(model), archetypes="elbow")
    sheet = fs.draw_archetypes(found, tmp_path / "a.png")
    assert sheet.width > 100
    assert fs.draw_sorted_filters(found).height > sheet.height
    simplex = fs.draw_simplex(found, tmp_path / "s.svg")
    panel = simplex.axes[0]
    assert panel.get_title() == "planted"
    assert len(panel.collections[0].get_offsets()) == 24
    assert len(panel.collections[1].get_offsets()) == 3
    curve = fs.draw_elbow(found, tmp_path / "e.png").axes[0]
    assert curve.lines[1].get_xdata()[0] == 3
    plain = fs.find_archetypes(fs.load(model), archetypes=2)
    with pytest.raises(OptionError, match="elbow"):
        fs.draw_elbow(plain)


def test_kernels_of_a_filter_stand_side_by_side():
    values = np.arange(27.0) - 13.0
    page = _mosaic(values, (1, 3, 3, 3))
    block = (page.shape[0] - 1) // 6
    assert page.shape[0] == page.shape[1] == 6 * block + 1
    assert (page[-block:, -block:] == 255).all()  # three kernels, and an empty place
    assert tuple(page[0, 0]) != (255, 255, 255)


def test_one_start_and_few_sweeps_reach_the_solver(model):
    checkpoint = fs.load(model)
    good = fs.find_archetypes(checkpoint, archetypes=5).layers["stem"].model
    few = fs.find_archetypes(checkpoint, archetypes=5, n_init=1, max_iter=1).layers["stem"].model
    assert few.n_iter == 1
    assert good.objective < few.objective
    made = fs.fabricate(checkpoint, archetypes=5, max_iter=1, n_init=2)
    assert made.history[-1].options["max_iter"] == 1
    assert made.history[-1].options["n_init"] == 2
    with pytest.raises(OptionError, match="at least one start"):
        fs.fabricate(checkpoint, n_init=0)


def test_fabricate_and_pack_take_numbers_by_layer(model):
    checkpoint = fs.load(model)
    told = []
    counts = {"*": 0.5, "stem": 2}
    made = fs.fabricate(checkpoint, archetypes=counts, observe=told.append)
    for change in made.changes:
        made[change.tensor].raw()
    assert {x.name: x.archetypes for x in told} == {"planted": 12, "stem": 2}
    packed = fs.pack(checkpoint, archetypes=counts, coefficients="random")
    assert packed["stem.weight.archetypes"].shape == (2, 1, 3, 3)
    again = fs.unpack(packed)
    assert np.array_equal(again["stem.weight"].array(), made["stem.weight"].array())


def test_rank_takes_a_number_of_archetypes(model):
    by_number = fs.rank(fs.load(model), options={"archetypes": "3"}).layers["stem"]
    assert by_number.statistics["archetypes"] == 3
    by_elbow = fs.rank(fs.load(model), options={"archetypes": "elbow"}).layers["planted"]
    assert by_elbow.statistics["archetypes"] == 3


def test_a_curve_of_one_count_has_an_elbow():
    assert ErrorCurve((1,), (1.0,)).elbow == 1


def test_elimination_finds_better_archetypes_of_narrow_layers_than_starts_alone():
    filters = [np.random.default_rng(seed).normal(size=(24, 30)) for seed in range(8)]
    ratios = [
        archetypal_analysis(X, 6).objective / archetypal_analysis(X, 6, n_init=4).objective
        for X in filters
    ]
    assert max(ratios) <= 1 + 1e-6
    assert min(ratios) < 0.995
