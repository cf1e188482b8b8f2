"""FillZero: what is filled, with what, and what is left alone."""

import numpy as np
import pytest
from scipy import stats

from filtersurgeon.pruning.fill_zero import fill_zero


def _generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def _weight(*shape: int) -> np.ndarray:
    return _generator(9).normal(0.5, 2.0, shape).astype(np.float32)


def test_weights_that_are_not_zero_keep_their_bits():
    weight = _weight(6, 4, 3, 3)
    np.testing.assert_array_equal(fill_zero(weight, _generator()), weight)
    weight[0, 0] = 0
    weight[1, 1, 2, 2] = 0
    kept = weight.copy()
    filled = fill_zero(weight, _generator())
    np.testing.assert_array_equal(weight, kept)
    np.testing.assert_array_equal(filled[weight != 0], weight[weight != 0])
    assert (filled != 0).all()
    assert (filled.dtype, filled.shape) == (weight.dtype, weight.shape)


@pytest.mark.parametrize("shape", [(400, 3, 3, 3), (500, 1, 5, 5), (200, 16, 1, 7)])
def test_a_kernel_of_zeros_gets_kaiming_uniform_values(shape):
    filled = fill_zero(np.zeros(shape, np.float32), _generator())
    bound = np.sqrt(6 / np.prod(shape[1:]))
    assert stats.kstest(filled.ravel(), stats.uniform(-bound, 2 * bound).cdf).pvalue > 0.01
    largest = float(np.abs(filled).max())
    assert 0.97 * bound < largest <= bound * (1 + 1e-6)
    # PyTorch's default for layers, kaiming_uniform_(a=sqrt(5)), is not what the paper's text says.
    assert largest > 2.3 / np.sqrt(np.prod(shape[1:]))
    # The variance that keeps the scale of activations behind a rectifier: 2 / fan-in.
    assert filled.var() == pytest.approx(2 / np.prod(shape[1:]), rel=0.05)


def test_a_zero_in_a_kernel_gets_noise_of_that_kernel():
    kernel = np.array([[3.0, 4, 5], [5, 0, 3], [4, 5, 7]])
    weight = np.repeat(kernel[None, None], 4000, axis=0)
    drawn = fill_zero(weight, _generator())[:, 0, 1, 1]
    assert stats.kstest(drawn, stats.norm(kernel.mean(), kernel.std()).cdf).pvalue > 0.01


def test_a_kernel_s_values_do_not_depend_on_the_others():
    weight = _weight(5, 3, 3, 3)
    weight[2, 1, 0, 0] = 0
    other = weight.copy()
    other[0] = 0
    one, two = fill_zero(weight, _generator(4)), fill_zero(other, _generator(4))
    np.testing.assert_array_equal(one[1:], two[1:])
    assert (fill_zero(weight, _generator(5))[2, 1, 0, 0] != one[2, 1, 0, 0]).all()
