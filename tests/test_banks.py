"""Built-in banks, finding banks, and comparing them."""

import json

import numpy as np
import pytest
from scipy.fft import idctn

import filtersurgeon as fs
from filtersurgeon.banks.closest import unit_bank
from filtersurgeon.banks.matching import degenerate_members
from filtersurgeon.errors import LayerError, OptionError


def _at(name: str, height: int, width: int) -> np.ndarray:
    return fs.load_bank(name).at((height, width)).kernels


def _random(members: int, size: int, seed: int = 0, name: str = "random") -> fs.FilterBank:
    kernels = np.random.default_rng(seed).standard_normal((members, size, size))
    return fs.FilterBank(name, kernels, tuple(f"m{k}" for k in range(members)))


@pytest.mark.parametrize(("height", "width"), [(3, 3), (5, 5), (1, 7), (4, 3)])
def test_cosines_are_those_of_the_inverse_transform(height, width):
    bank = fs.load_bank("dct").at((height, width))
    rows = bank.kernels.reshape(len(bank), -1)
    np.testing.assert_allclose(rows @ rows.T, np.eye(height * width), atol=1e-12)
    for label, kernel in zip(bank.labels, bank.kernels, strict=True):
        spectrum = np.zeros((height, width))
        spectrum[tuple(int(n) for n in label.split(","))] = 1
        np.testing.assert_allclose(kernel, idctn(spectrum, norm="ortho"), atol=1e-12)


def test_cosines_come_in_the_order_of_the_paper():
    labels = fs.load_bank("dct").at((3, 3)).labels
    raster = [3 * int(v) + int(u) for v, u in (label.split(",") for label in labels)]
    assert raster == [0, 1, 3, 2, 6, 4, 5, 7, 8]
    np.testing.assert_array_equal(_at("dct-4", 3, 3), _at("dct", 3, 3)[:4])


@pytest.mark.parametrize("count", [9, 16, 18])
def test_edge_and_line_detectors(count):
    bank = fs.load_bank(f"edge-line-{count}").at((3, 3))
    assert len(bank) == len(set(bank.labels)) == count
    np.testing.assert_allclose(np.abs(bank.kernels).sum(axis=(1, 2)), 1, atol=3e-6)
    gaussian = np.array(["gaussian" in label for label in bank.labels])
    np.testing.assert_allclose(bank.kernels[~gaussian].sum(axis=(1, 2)), 0, atol=1e-12)
    rank = np.linalg.matrix_rank(bank.kernels.reshape(count, 9), tol=1e-5)
    assert rank == (8 if count == 16 else 9)
    np.testing.assert_allclose(bank.kernels[0], [[-1 / 6, 0, 1 / 6]] * 3)
    np.testing.assert_array_equal(bank.kernels[2], bank.kernels[0].T)
    np.testing.assert_array_equal(bank.kernels[7], bank.kernels[5][:, ::-1])
    if count > 9:
        np.testing.assert_array_equal(bank.kernels[count // 2 :], -bank.kernels[: count // 2])


def test_edges_and_lines_are_those_of_the_figure():
    """Linse (2025), Fig. 6.2: the printed digits of filters 1 to 8; 10 to 17 are the negatives."""
    a, b = 0.285868, 0.107066
    c, d, e = 0.166667, 0.053905, 0.142189
    f = 0.083333
    published = [
        [[-c, 0, c], [-c, 0, c], [-c, 0, c]],
        [[-a, -b, 0], [-b, 0, b], [0, b, a]],
        [[-c, -c, -c], [0, 0, 0], [c, c, c]],
        [[0, -b, -a], [b, 0, -b], [a, b, 0]],
        [[-f, c, -f], [-f, c, -f], [-f, c, -f]],
        [[-e, -d, c], [-d, c, -d], [c, -d, -e]],
        [[-f, -f, -f], [c, c, c], [-f, -f, -f]],
        [[c, -d, -e], [-d, c, -d], [-e, -d, c]],
    ]
    kernels = fs.load_bank("edge-line-18").at((3, 3)).kernels
    np.testing.assert_allclose(kernels[:8], published, atol=1e-6, rtol=0)
    np.testing.assert_allclose(kernels[9:17], -np.array(published), atol=1e-6, rtol=0)


def test_angles_turn_from_columns_to_rows():
    """The response to a ramp in the direction of an edge's angle is the greatest of all edges."""
    kernels = fs.load_bank("edge-4").at((3, 3)).kernels
    edges = fs.load_bank("edge-line-9").at((3, 3)).kernels[:4]
    np.testing.assert_array_equal(kernels[:2], edges[[0, 2]])
    rows, columns = np.mgrid[-1:2, -1:2]
    for number, angle in enumerate(np.deg2rad([0, 45, 90, 135])):
        ramp = np.cos(angle) * columns + np.sin(angle) * rows
        response = (edges * ramp).sum(axis=(1, 2))
        assert response.argmax() == number


@pytest.mark.parametrize(
    ("name", "numbers"),
    [
        ("line-2", [5, 7]),
        ("line-4", [5, 7, 14, 16]),
        ("line-8", [5, 6, 7, 8, 14, 15, 16, 17]),
        ("edge-2", [1, 3]),
        ("edge-4", [1, 3, 10, 12]),
        ("edge-8", [1, 2, 3, 4, 10, 11, 12, 13]),
        ("edge-line-9", list(range(1, 10))),
        ("edge-line-13", [*range(1, 10), 11, 13, 15, 17]),
        ("edge-line-16", [*range(1, 9), *range(10, 18)]),
    ],
)
def test_subsets_of_the_eighteen_filters(name, numbers):
    """Linse (2025), Table 6.7, by the numbers of Fig. 6.2."""
    every = fs.load_bank("edge-line-18").at((3, 3))
    found = fs.load_bank(name).at((3, 3))
    np.testing.assert_array_equal(found.kernels, every.kernels[np.array(numbers) - 1])
    assert found.labels == tuple(every.labels[number - 1] for number in numbers)


def test_random_and_translating_kernels():
    drawn = fs.load_bank("random-16").at((5, 5)).kernels
    assert drawn.shape == (16, 5, 5)
    assert 0.4 < np.abs(drawn).mean() < 0.6
    np.testing.assert_array_equal(fs.load_bank("random-4").at((5, 5)).kernels, drawn[:4])
    shifts = fs.load_bank("translating").at((3, 3)).kernels
    np.testing.assert_array_equal(shifts.reshape(9, 9), np.eye(9))


def test_sizes_that_banks_have():
    assert fs.load_bank("edge-line-9").at((5, 5)) is None
    assert fs.load_bank("identity").at((4, 4)) is None
    assert fs.load_bank("haar").at((1, 3)) is None
    np.testing.assert_array_equal(
        _at("identity", 5, 5), np.pad([[[1.0]]], ((0, 0), (2, 2), (2, 2)))
    )
    np.testing.assert_array_equal(_at("ones", 2, 3), np.ones((1, 2, 3)))


@pytest.mark.parametrize("size", [2, 3, 4, 7])
def test_haar_kernels_are_orthonormal(size):
    rows = _at("haar", size, size).reshape(4, -1)
    np.testing.assert_allclose(rows @ rows.T, np.eye(4), atol=1e-12)


@pytest.mark.parametrize(
    ("name", "match"),
    [("edge-line-10", "9, 13, 16, 18"), ("dog8-3", "fixed number"), ("dog9", "did you mean dog8"),
     ("dct-0", "no bank called")],
)  # fmt: skip
def test_names_that_are_no_banks(name, match):
    with pytest.raises(OptionError, match=match):
        fs.load_bank(name).at((3, 3))


def test_more_cosines_than_there_are():
    with pytest.raises(OptionError, match="9 cosines"):
        fs.load_bank("dct-10").at((3, 3))


def test_a_numpy_archive_is_a_bank(tmp_path):
    bank = _random(3, 5)
    np.savez(tmp_path / "b.npz", filters=bank.kernels, other=np.ones(3))
    np.testing.assert_array_equal(fs.load_bank(tmp_path / "b.npz").at((5, 5)).kernels, bank.kernels)
    np.savez(tmp_path / "c.npz", words=np.array(["a"]))
    with pytest.raises(LayerError, match="not a filter bank"):
        fs.load_bank(tmp_path / "c.npz")


def test_degenerate_members_are_named():
    kernels = _random(3, 3).kernels
    kernels = np.concatenate([kernels, [np.full((3, 3), 2.0), -2 * kernels[1] + 5]])
    bank = fs.FilterBank("b", kernels, ("a", "b", "c", "d", "e"))
    assert degenerate_members(bank) == [
        "member d is constant",
        "member e is a multiple of member b",
    ]
    assert degenerate_members(bank, bias=False) == []
    assert degenerate_members(_random(8, 3)) == []


def test_a_matching_finds_what_was_shuffled():
    first = _random(6, 5)
    order = [3, 0, 5, 1, 4, 2]
    scale = np.array([-1, 2, 0.1, -3, 1, 5])[:, None, None]
    second = fs.FilterBank(
        "other", scale * first.kernels[order] + 7, tuple(f"n{k}" for k in range(6))
    )
    found = fs.compare_banks(first, second)
    assert [order[n] for _, n in found.pairs] == list(range(6))
    assert found.mean_cosine == pytest.approx(1)


def test_a_matching_is_the_best_of_all():
    from itertools import permutations

    first, second = _random(4, 3), _random(6, 3, seed=1)
    one, two = (unit_bank(bank.kernels.reshape(len(bank), -1)) for bank in (first, second))
    cosines = np.abs(one @ two.T)
    best = max(sum(cosines[k, n] for k, n in enumerate(way)) for way in permutations(range(6), 4))
    assert fs.compare_banks(first, second).mean_cosine == pytest.approx(best / 4)


def test_banks_of_two_sizes_are_compared_at_their_centres():
    large = _random(3, 7)
    small = fs.FilterBank("small", large.kernels[:, 1:-1, 1:-1], large.labels)
    with pytest.raises(OptionError, match="`crop`"):
        fs.compare_banks(large, small)
    assert fs.compare_banks(large, small, crop=True).mean_cosine == pytest.approx(1)
    with pytest.raises(OptionError, match="no centre"):
        fs.compare_banks(_random(2, 4), small, crop=True)


def test_compare_on_the_command_line(fsurgeon, refuse, tmp_path):
    fs.save_bank(_random(3, 5), tmp_path / "b.safetensors")
    found = json.loads(fsurgeon("bank", "compare", "dog8", tmp_path / "b.safetensors").stdout)
    assert found["size"] == [5, 5]
    assert sum(member["match"] is not None for member in found["members"]) == 3
    shown = fsurgeon("bank", "compare", "dct-4", "haar", "--size", 2, "--table").stdout.decode()
    assert "mean |cosine| of the 4 pairs: 0.750" in shown  # the constants have no direction
    refuse("bank", "compare", "dog8", tmp_path / "b.safetensors", "--size", 3)
    assert "9 cosines" in refuse("bank", "show", "dct-10", "--size", 3)


def test_a_3x3_bank_is_shown_at_its_size(fsurgeon):
    shown = json.loads(fsurgeon("bank", "show", "edge-line-9").stdout)
    assert np.array(shown["kernels"]).shape == (9, 3, 3)


def test_dog8_and_the_published_filters(shared_data):
    published = fs.load_bank(shared_data / "weights" / "eight_filters_learned.npz").at((7, 7))
    found = fs.compare_banks(fs.load_bank("dog8").at((7, 7)), published)
    assert [pair[0] for pair in found.pairs] == [pair[1] for pair in found.pairs] == list(range(8))
    assert 0.83 < min(found.cosines.diagonal()) < max(found.cosines.diagonal()) < 0.998
