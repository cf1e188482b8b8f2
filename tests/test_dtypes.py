"""Decoding and encoding element types, against torch."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from filtersurgeon.checkpoint.tensor import BITS, byte_count, decode, encode
from filtersurgeon.errors import CheckpointError

TORCH = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64}


def _torch_encoded(values: np.ndarray, dtype: str) -> np.ndarray:
    return torch.from_numpy(values).to(TORCH[dtype]).view(torch.uint8).numpy()


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_every_pattern_of_two_bytes_decodes_as_torch_does(dtype):
    patterns = np.arange(1 << 16, dtype=np.uint16)
    ours = decode(patterns.tobytes(), dtype)
    theirs = torch.from_numpy(patterns.view(np.int16)).view(TORCH[dtype]).float().numpy()
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, theirs)  # NaN equals NaN here
    np.testing.assert_array_equal(np.signbit(ours), np.signbit(theirs))


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_every_pattern_of_two_bytes_survives_decoding_and_encoding(dtype):
    patterns = np.arange(1 << 16, dtype=np.uint16)
    back = encode(decode(patterns.tobytes(), dtype), dtype).view(np.uint16)
    nan = np.isnan(decode(patterns.tobytes(), dtype))
    np.testing.assert_array_equal(back[~nan], patterns[~nan])
    assert np.isnan(decode(back[nan].tobytes(), dtype)).all()


@given(hnp.arrays(np.uint32, st.integers(1, 200), elements=st.integers(0, 2**32 - 1)))
def test_bfloat16_rounds_any_float32_as_torch_does(bits):
    values = bits.view(np.float32)
    ours, theirs = encode(values, "BF16").view(np.uint16), _torch_encoded(values, "BF16")
    nan = np.isnan(values)
    np.testing.assert_array_equal(ours[~nan], theirs.view(np.uint16)[~nan])
    assert np.isnan(decode(ours[nan].tobytes(), "BF16")).all()


def test_bfloat16_ties_go_to_even():
    # 1 + 2^-8 lies halfway between 1 and 1 + 2^-7; 1 + 3 * 2^-8 between 1 + 2^-7 and 1 + 2^-6.
    values = np.array([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 3.4e38, -np.inf], np.float32)
    rounded = decode(encode(values, "BF16"), "BF16")
    np.testing.assert_array_equal(rounded, [1.0, 1 + 2**-6, -1.0, np.inf, -np.inf])


@pytest.mark.parametrize("dtype", TORCH)
def test_encoding_agrees_with_torch_over_many_magnitudes(dtype):
    rng = np.random.default_rng(0)
    values = (rng.standard_normal(50_000) * 2.0 ** rng.integers(-140, 120, 50_000)).astype("f4")
    np.testing.assert_array_equal(encode(values, dtype), _torch_encoded(values, dtype))


@pytest.mark.parametrize("dtype", sorted(set(BITS) - set(TORCH)))
def test_other_types_are_not_computed_with(dtype):
    with pytest.raises(CheckpointError, match=dtype):
        decode(bytes(8), dtype)
    with pytest.raises(CheckpointError, match=dtype):
        encode(np.zeros(8, np.float32), dtype)


def test_byte_counts_of_types_smaller_than_a_byte():
    assert byte_count("F4", (3, 2)) == 3
    assert byte_count("F6_E2M3", (4,)) == 3
    assert byte_count("F32", ()) == 4
    assert byte_count("F32", (0, 5)) == 0
    with pytest.raises(ValueError, match="whole bytes"):
        byte_count("F4", (3,))
