"""The built-in bank, against formulas that share nothing with its code."""

from math import exp, factorial

import numpy as np
import pytest

import filtersurgeon as fs
from filtersurgeon.banks.builtin.dog8 import SCALES
from filtersurgeon.banks.scale_space import gaussian


def _gaussian(sigma_x: float, sigma_y: float, radius: int) -> np.ndarray:
    return np.outer(gaussian(sigma_y, radius), gaussian(sigma_x, radius))


def _bank(size: int) -> np.ndarray:
    return fs.load_bank("dog8").at((size, size)).kernels


def _discrete_gaussian(n: int, s: float) -> float:
    """Give exp(-s) I_n(s) by the power series of the modified Bessel function."""
    return exp(-s) * sum(
        (s / 2) ** (2 * k + abs(n)) / (factorial(k) * factorial(k + abs(n))) for k in range(40)
    )


@pytest.mark.parametrize(("sigma_x", "sigma_y"), SCALES)
def test_the_discrete_gaussian_is_that_of_the_power_series(sigma_x, sigma_y):
    T = _gaussian(sigma_x, sigma_y, 4)
    expected = [
        [
            _discrete_gaussian(x, sigma_x**2) * _discrete_gaussian(y, sigma_y**2)
            for x in range(-4, 5)
        ]
        for y in range(-4, 5)
    ]
    np.testing.assert_allclose(T, expected, rtol=1e-10)


def test_the_discrete_gaussian_has_its_moments():
    """It sums to one and has the variances sigma squared, as a diffused pixel must."""
    T, n = _gaussian(1.107, 0.945, 15), np.arange(-15, 16)
    assert T.sum() == pytest.approx(1)
    assert (T * n**2).sum() == pytest.approx(1.107**2)
    assert (T.T * n**2).sum() == pytest.approx(0.945**2)


def test_the_discrete_gaussian_solves_the_diffusion_equation():
    """d/ds of T(n; s) is half its second difference."""
    s, h, n = 0.5, 1e-5, 3
    slope = (_gaussian((s + h) ** 0.5, 1, 6) - _gaussian((s - h) ** 0.5, 1, 6)) / (2 * h)
    T = _gaussian(s**0.5, 1, 6)
    half = (T[:, n - 1] - 2 * T[:, n] + T[:, n + 1]) / 2
    np.testing.assert_allclose(slope[:, n], half, atol=1e-9)


@pytest.mark.parametrize(("size", "cut_off"), [(7, 3e-3), (9, 3e-4), (15, 1e-7)])
def test_derivatives_sum_to_nothing(size, cut_off):
    kernels = _bank(size)
    np.testing.assert_allclose(kernels[:6].sum(axis=(1, 2)), 0, atol=cut_off)
    # A Gaussian less half its Laplacian sums to one as the Gaussian does.
    np.testing.assert_allclose(kernels[6:].sum(axis=(1, 2)), 1, atol=cut_off)


def test_symmetries():
    kernels = _bank(7)
    for k in (4, 5):
        np.testing.assert_allclose(kernels[k], -kernels[k][::-1, ::-1], atol=1e-15)
    for k in (6, 7):
        np.testing.assert_allclose(kernels[k], kernels[k][::-1, ::-1], atol=1e-15)
    for k in (1, 3, 4):  # along x: alike when turned upside down
        np.testing.assert_allclose(kernels[k], kernels[k][::-1], atol=1e-15)
    for k in (0, 2, 5):  # along y
        np.testing.assert_allclose(kernels[k], kernels[k][:, ::-1], atol=1e-15)


def test_differences_are_centred_half_a_pixel_off():
    """The first moment of the absolute kernel lies halfway between two pixels."""
    n = np.arange(-7, 8)
    for k, axis, where in ((0, 1, 0.5), (1, 0, 0.5), (2, 1, -0.5), (3, 0, -0.5)):
        weight = np.abs(_bank(15)[k]).sum(axis=axis)
        assert (weight * n).sum() / weight.sum() == pytest.approx(where, abs=1e-6)


@pytest.mark.parametrize("size", [3, 5])
def test_smaller_sizes_are_the_middle_of_larger_ones(size):
    cut = (7 - size) // 2
    np.testing.assert_allclose(_bank(size), _bank(7)[:, cut:-cut, cut:-cut], rtol=1e-14)


@pytest.mark.parametrize("size", [(3, 3), (5, 5), (7, 7), (9, 9), (31, 31)])
def test_members_differ_and_are_finite(size):
    bank = fs.load_bank("dog8").at(size)
    assert bank.kernels.shape == (8, *size)
    assert np.isfinite(bank.kernels).all()
    assert len(set(bank.labels)) == 8
    centred = bank.kernels.reshape(8, -1) - bank.kernels.mean(axis=(1, 2))[:, None]
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    cosines = np.abs(unit @ unit.T) - np.eye(8)
    assert cosines.max() < 0.999


@pytest.mark.parametrize("size", [(1, 1), (4, 4), (3, 5), (1, 7), (0, 0), (-3, -3)])
def test_other_sizes_have_no_bank(size):
    assert fs.load_bank("dog8").at(size) is None


def test_the_bank_resembles_the_filters_that_a_search_found(shared_data):
    learned = np.load(shared_data / "weights/eight_filters_learned.npz")["filters"]
    ours = _bank(7).reshape(8, -1)
    ours = ours - ours.mean(axis=1, keepdims=True)
    ours = ours / np.linalg.norm(ours, axis=1, keepdims=True)
    cosines = np.abs((ours * learned.reshape(8, -1)).sum(axis=1))
    assert cosines.min() > 0.83
    assert cosines.max() <= 1
    # Each is closest to its own.
    assert np.abs(ours @ learned.reshape(8, -1).T).argmax(axis=1).tolist() == list(range(8))
