"""Rankings: a contract for every method found, brute force for each, order, JSON, pipes."""

import inspect
import json
from itertools import pairwise
from types import NoneType
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from scipy.optimize import minimize
from scipy.stats import kendalltau

import filtersurgeon as fs
from filtersurgeon.errors import LayerError, OptionError
from filtersurgeon.ranking import Scores
from filtersurgeon.ranking.distances import geometric_median, pairwise_distances
from filtersurgeon.ranking.method import descending
from filtersurgeon.ranking.methods.archetype import _distance_to_nearest
from filtersurgeon.ranking.ranking import kendall_tau
from filtersurgeon.registry import RANKING_METHODS

# The others run the network, and have tests of their own.
METHODS = [name for name in RANKING_METHODS.names() if "data" not in RANKING_METHODS.inputs(name)]


def _normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def _scores(method: str, filters: np.ndarray, **options: object) -> Scores:
    result = RANKING_METHODS.function(method)(filters, **options)
    return result if isinstance(result, Scores) else Scores(result)


def _keys(method: str, filters: np.ndarray) -> np.ndarray:
    """Give scores and tie breakers as the columns of one array."""
    found = _scores(method, filters)
    return np.stack([found.scores, *found.tie_breakers], axis=1)


# The contract


def test_the_methods_of_the_issue_are_found():
    assert {"l1", "l2", "geometric-median", "distance-sum", "random"} <= set(METHODS)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", [(32, 27), (64, 9), (5, 40), (2, 3), (1, 9)])
def test_scores_are_one_finite_number_per_filter(method, shape):
    for dtype in (np.float32, np.float64):
        found = _scores(method, _normal(*shape).astype(dtype))
        for scores in (found.scores, *found.tie_breakers):
            assert np.shape(scores) == (shape[0],)
            assert np.isfinite(scores).all()
        assert all(np.isfinite(value) for value in found.statistics.values())


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "filters",
    [
        np.zeros((6, 9)),
        np.ones((6, 9)),
        np.repeat(_normal(3, 9), 4, axis=0),
        np.vstack([_normal(5, 9), np.zeros((3, 9))]),
        1e-30 * _normal(6, 9),
        1e4 + _normal(6, 9),
        np.eye(6, 9),
    ],
    ids=["zeros", "constant", "copies", "some zeros", "tiny", "far", "unit"],
)
def test_degenerate_layers_have_scores_or_a_clear_error(method, filters):
    try:
        found = _scores(method, filters.astype(np.float32))
    except LayerError:
        return
    assert np.isfinite(found.scores).all()
    assert all(np.isfinite(breaker).all() for breaker in found.tie_breakers)


@pytest.mark.parametrize("method", METHODS)
def test_scores_are_the_same_every_time_and_filters_stay(method):
    filters = _normal(24, 27).astype(np.float32)
    filters.setflags(write=False)
    np.testing.assert_array_equal(_keys(method, filters), _keys(method, filters))


@pytest.mark.parametrize("method", sorted(set(METHODS) - {"random"}))
def test_scores_go_with_their_filters_when_these_change_places(method):
    filters, order = _normal(24, 27), np.random.default_rng(1).permutation(24)
    expected, found = _keys(method, filters)[order], _keys(method, filters[order])
    np.testing.assert_allclose(found[:, 0], expected[:, 0], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_documented_with_its_source(method):
    function = RANKING_METHODS.function(method)
    text = inspect.getdoc(function)
    assert "(N, l)" in text
    assert "Returns:" in text
    assert "Source" in text or method == "random"
    summary = RANKING_METHODS.summary(method)
    assert summary.endswith(".")
    assert len(summary) <= 100
    parameters = inspect.signature(function).parameters.values()
    assert [p.kind for p in parameters][1:] == [inspect.Parameter.KEYWORD_ONLY] * (
        len(parameters) - 1
    )
    options = RANKING_METHODS.options(method)
    for option in options.values():
        kinds = get_args(option.annotation) or (option.annotation,)
        assert set(kinds) <= {bool, int, float, str, NoneType}
        assert type(option.default) in kinds
        assert f"{option.name}:" in text or option.name == "seed"


@pytest.mark.parametrize("method", METHODS)
def test_a_method_ranks_a_checkpoint(method, model, tensors):
    ranking = fs.rank(fs.load(model), method)
    assert list(ranking.layers) == ["blocks.2.dw", "blocks.10.dw", "stem"]
    for layer in ranking.layers.values():
        n = len(tensors[f"{layer.name}.weight"])
        assert sorted(layer.order) == list(range(n))
        in_order = layer.scores[layer.order]
        assert all(a >= b for a, b in pairwise(in_order))
        assert -1 <= layer.statistics["tau_l2"] <= 1
    again = fs.rank(fs.load(model), method)
    assert again.to_json() == ranking.to_json()
    json.dumps(ranking.to_json(), allow_nan=False)


# Each method by brute force


def test_norms():
    filters = _normal(20, 27).astype(np.float32)
    rows = [[float(value) for value in row] for row in filters]
    np.testing.assert_allclose(_scores("l1", filters).scores, [sum(map(abs, row)) for row in rows])
    np.testing.assert_allclose(
        _scores("l2", filters).scores, [sum(x * x for x in row) ** 0.5 for row in rows]
    )


@pytest.mark.parametrize("shift", [0, 1e4])
def test_distance_sum(shift):
    filters = shift + _normal(20, 27)
    expected = [sum(np.sqrt(((a - b) ** 2).sum()) for b in filters) for a in filters]
    np.testing.assert_allclose(_scores("distance-sum", filters).scores, expected, rtol=1e-9)


def test_pairwise_distances_of_copies_are_nothing():
    filters = np.repeat(_normal(3, 9), 2, axis=0)
    distances = pairwise_distances(filters)
    np.testing.assert_array_equal(distances, distances.T)
    np.testing.assert_array_equal(np.diagonal(distances), 0)
    assert distances[0, 1] < 1e-7


@pytest.mark.parametrize("shape", [(20, 3), (9, 27), (50, 9)])
def test_the_geometric_median_minimises_the_summed_distance(shape):
    X = _normal(*shape)
    found = geometric_median(X)

    def cost(point: np.ndarray) -> float:
        return np.linalg.norm(X - point, axis=1).sum()

    theirs = minimize(cost, X.mean(axis=0), method="BFGS", options={"gtol": 1e-9})
    assert cost(found) <= cost(theirs.x) * (1 + 1e-10)
    np.testing.assert_allclose(found, theirs.x, atol=1e-4)
    np.testing.assert_allclose(
        _scores("geometric-median", X).scores, np.linalg.norm(X - found, axis=1), rtol=1e-9
    )
    # The pulls of all points cancel there.
    directions = (X - found) / np.linalg.norm(X - found, axis=1, keepdims=True)
    assert np.linalg.norm(directions.sum(axis=0)) < 1e-6


def test_the_geometric_median_may_be_a_point_of_the_data():
    # A star whose rays cancel, and three copies in one place, which hold it there.
    star = np.array([[1, 0], [-1, 0], [0, 2], [0, -2], [0, 0]], float)
    np.testing.assert_allclose(geometric_median(star), [0, 0], atol=1e-9)
    heap = np.vstack([np.full((3, 2), 5.0), [[0, 0], [9, 1]]])
    np.testing.assert_allclose(geometric_median(heap), [5, 5], atol=1e-9)
    # Of a triangle with an angle above 120 degrees it is that corner (Fermat's point).
    np.testing.assert_allclose(
        geometric_median(np.array([[0, 0], [10, 1], [-10, 1]], float)), [0, 0], atol=1e-6
    )


def test_the_median_filter_has_the_least_summed_distance():
    filters = _normal(15, 9)
    sums = [sum(np.linalg.norm(a - b) for b in filters) for a in filters]
    centre = filters[int(np.argmin(sums))]
    found = _scores("geometric-median", filters, centre="filter").scores
    np.testing.assert_allclose(found, np.linalg.norm(filters - centre, axis=1), atol=1e-9)
    assert found.min() == 0


# Order


@given(st.permutations(range(12)), st.permutations(range(12)))
def test_kendall_tau_is_that_of_scipy(first, second):
    ranks = [np.argsort(order) for order in (first, second)]
    expected = kendalltau(*ranks).statistic
    assert kendall_tau(np.array(first), np.array(second)) == pytest.approx(expected)


def test_kendall_tau_of_equal_reversed_and_single():
    order = np.arange(7)
    assert kendall_tau(order, order) == 1
    assert kendall_tau(order, order[::-1]) == -1
    assert kendall_tau(order[:1], order[:1]) == 1


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=15))
def test_ties_are_broken_in_turn_then_by_place(pairs):
    scores, breaker = np.array(pairs).T
    expected = sorted(range(len(pairs)), key=lambda i: (-scores[i], -breaker[i], i))
    assert descending(scores, breaker).tolist() == expected


@pytest.mark.parametrize("shape", [(12, 9), (200, 147), (7, 300)])
def test_filters_that_are_archetypes_are_no_distance_from_one(shape):
    """Rounding, another one on every processor, would put them in an order of its own."""
    filters = 100 + _normal(*shape)
    archetypes = filters[:5] + 1e-15 * _normal(5, shape[1], seed=1)
    found = _distance_to_nearest(filters, archetypes)
    np.testing.assert_array_equal(found[:5], 0.0)
    direct = np.linalg.norm(filters[:, None] - archetypes, axis=2).min(axis=1)
    np.testing.assert_allclose(found[5:], direct[5:], rtol=1e-9)


def test_equal_filters_keep_their_order(tmp_path):
    save_file({"conv.weight": np.ones((5, 2, 3, 3), np.float32)}, tmp_path / "m.safetensors")
    layer = fs.rank(fs.load(tmp_path / "m.safetensors"), "l2").layers["conv"]
    assert layer.order.tolist() == [0, 1, 2, 3, 4]


# Seeds and options


def test_random_depends_on_the_seed_and_on_the_layer_alone(model):
    def orders(seed: int, layers: list[str] | None = None) -> dict[str, list[int]]:
        ranking = fs.rank(fs.load(model), "random", seed=seed, layers=layers)
        return {name: layer.order.tolist() for name, layer in ranking.layers.items()}

    assert orders(1) == orders(1)
    assert orders(1) != orders(2)
    assert orders(1, ["stem"])["stem"] == orders(1)["stem"]
    assert orders(1)["stem"] != orders(1)["blocks.2.dw"]
    assert fs.rank(fs.load(model), "random").options == {}
    assert fs.rank(fs.load(model), "random", seed=3).options == {"seed": 3}


def test_options_are_words_or_values(model):
    as_word = fs.rank(fs.load(model), "geometric-median", options={"centre": "filter"})
    assert as_word.options == {"centre": "filter"}
    with pytest.raises(OptionError, match="centre"):
        fs.rank(fs.load(model), "geometric-median", options={"center": "filter"})


def test_pointwise_layers_are_ranked_when_they_are_named(model):
    everything = fs.rank(fs.load(model), "l2", layers=["*"])
    assert list(everything.layers) == [
        "blocks.2.dw", "blocks.2.pw", "blocks.10.dw", "blocks.10.pw", "stem"
    ]  # fmt: skip
    assert list(fs.rank(fs.load(model), "l2", layers=["!blocks"]).layers) == ["stem"]


# JSON and pipes


def test_the_json_of_a_ranking(model, tensors, fsurgeon):
    done = fsurgeon("rank", model, "-m", "l2")
    content = json.loads(done.stdout)
    assert content == fs.rank(fs.load(model), "l2").to_json()
    assert content["schema"] == "filtersurgeon.ranking/1"
    assert content.keys() == {"schema", "method", "options", "layers"}
    for layer in content["layers"]:
        assert layer.keys() == {"name", "kind", "filters", "scores", "order", "statistics"}
        weights = tensors[f"{layer['name']}.weight"].astype(np.float64)
        norms = np.linalg.norm(weights.reshape(len(weights), -1), axis=1)
        np.testing.assert_allclose(layer["scores"], norms)
        assert layer["order"] == np.argsort(-norms, kind="stable").tolist()
        assert layer["statistics"]["tau_l2"] == 1


def test_an_annotated_checkpoint_goes_on_with_its_ranking(model, tensors, fsurgeon, tmp_path):
    annotated = fsurgeon("rank", model, "-m", "l1", "--annotate").stdout
    (tmp_path / "a.safetensors").write_bytes(annotated)
    with fs.load(tmp_path / "a.safetensors") as checkpoint:
        stored = json.loads(checkpoint.annotations["ranking"])
    assert stored == json.loads(fsurgeon("rank", model, "-m", "l1").stdout)
    after = load_file(tmp_path / "a.safetensors")
    for name, tensor in tensors.items():
        assert after[name].tobytes() == tensor.tobytes()
    # Through a pipe, the same; and surgery outdates a ranking.
    piped = fsurgeon("rank", "-m", "l1", "--annotate", input=model.read_bytes())
    assert piped.stdout == annotated
    (tmp_path / "r.safetensors").write_bytes(fsurgeon("replace", input=annotated).stdout)
    with fs.load(tmp_path / "r.safetensors") as checkpoint:
        assert "ranking" not in checkpoint.annotations


def test_listing_the_methods(fsurgeon):
    listed = json.loads(fsurgeon("rank", "--list").stdout)["methods"]
    assert [method["name"] for method in listed] == RANKING_METHODS.names()
    parameters = {method["name"]: method["parameters"] for method in listed}
    assert parameters["geometric-median"] == {"centre": "point"}
    assert parameters["random"] == {}


def test_lamp_by_hand():
    """Energies 1, 9, 4: the smallest over all, the middle over itself and the largest."""
    from filtersurgeon.ranking.methods.lamp import lamp

    filters = np.array([[1.0, 0.0], [0.0, 3.0], [2.0, 0.0]], np.float32)
    np.testing.assert_allclose(lamp(filters), [1 / 14, 1.0, 4 / 13])
    np.testing.assert_array_equal(lamp(np.zeros((2, 3), np.float32)), [0.0, 0.0])
    np.testing.assert_allclose(lamp(np.ones((2, 1), np.float32)), [0.5, 1.0])
