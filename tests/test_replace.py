"""The closest linear transform, against least squares in float64."""

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import load_file, save_file

import filtersurgeon as fs
from filtersurgeon.banks import closest
from filtersurgeon.banks.closest import closest_linear, unit_bank
from filtersurgeon.errors import LayerError


def _least_squares(kernel: np.ndarray, bank: np.ndarray) -> np.ndarray:
    """Fit a kernel by ``a * g + b`` for every member g with lstsq; give the best fit."""
    fits = []
    for member in bank:
        design = np.stack([member.ravel(), np.ones(member.size)], axis=1)
        coefficients = np.linalg.lstsq(design, kernel.ravel().astype(np.float64), rcond=None)[0]
        fits.append(design @ coefficients)
    errors = [np.linalg.norm(fit - kernel.ravel()) for fit in fits]
    return fits[int(np.argmin(errors))].reshape(kernel.shape)


def _error(fit: np.ndarray, kernel: np.ndarray) -> float:
    return float(np.linalg.norm(fit.astype(np.float64) - kernel.astype(np.float64)))


def _flat(kernels: np.ndarray) -> np.ndarray:
    return kernels.reshape(len(kernels), -1)


def _normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


@pytest.fixture(params=["numpy", "compiled"])
def both_paths(request, monkeypatch):
    """Go through both implementations."""
    monkeypatch.setattr(closest, "COMPILED_FROM", 1 if request.param == "compiled" else 10**12)


_values = st.floats(-1e3, 1e3, width=32).map(lambda x: 0.0 if abs(x) < 1e-6 else x)


@settings(max_examples=60)
@given(
    kernels=hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.just(9)), elements=_values),
    bank=hnp.arrays(np.float64, st.tuples(st.integers(1, 5), st.just(9)), elements=_values),
)
@pytest.mark.parametrize("compiled", [False, True])
def test_fits_are_least_squares_fits(kernels, bank, compiled):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(closest, "COMPILED_FROM", 1 if compiled else 10**12)
        fit = closest_linear(kernels, unit_bank(bank))
    for kernel, fitted, choice in zip(kernels, fit.kernels, fit.choice, strict=True):
        scale = np.abs(kernel).max()
        best = _least_squares(kernel, bank)
        # No member does better, and the chosen one is fitted as well as it can be.
        assert _error(fitted, kernel) <= _error(best, kernel) + 1e-6 * scale
        own = _least_squares(kernel, bank[choice : choice + 1])
        np.testing.assert_allclose(fitted, own, atol=1e-6 * scale, rtol=0)


@pytest.mark.usefixtures("both_paths")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("size", [9, 25, 49, 15])
def test_random_kernels_agree_to_a_millionth(dtype, size):
    kernels, bank = _normal(300, size).astype(dtype), _normal(7, size, seed=1)
    fit = closest_linear(kernels, unit_bank(bank))
    expected = np.stack([_least_squares(kernel, bank) for kernel in kernels])
    assert fit.kernels.dtype == dtype
    np.testing.assert_allclose(fit.kernels, expected, atol=1e-6, rtol=0)


@pytest.mark.usefixtures("both_paths")
def test_scale_and_offset_rebuild_the_kernel():
    kernels, unit = _normal(50, 25), unit_bank(_normal(4, 25, seed=1))
    fit = closest_linear(kernels, unit)
    rebuilt = fit.scale[:, None] * unit[fit.choice] + fit.offset[:, None]
    np.testing.assert_allclose(fit.kernels, rebuilt, atol=1e-12)
    np.testing.assert_allclose(fit.offset, kernels.mean(axis=1), atol=1e-12)


@pytest.mark.usefixtures("both_paths")
def test_members_are_their_own_closest_whatever_scale_sign_and_offset():
    bank = _normal(6, 49)
    kernels = np.concatenate([-3 * bank + 2, 1e-3 * bank - 5, bank])
    fit = closest_linear(kernels, unit_bank(bank))
    assert fit.choice.tolist() == list(range(6)) * 3
    np.testing.assert_allclose(fit.kernels, kernels, atol=1e-9)


def test_both_paths_choose_alike_over_many_kernels(monkeypatch):
    kernels, unit = _normal(20_000, 49).astype(np.float32), unit_bank(_normal(100, 49, seed=1))
    found = []
    for threshold in (1, 10**12):
        monkeypatch.setattr(closest, "COMPILED_FROM", threshold)
        found.append(closest_linear(kernels, unit))
    np.testing.assert_array_equal(found[0].choice, found[1].choice)
    np.testing.assert_allclose(found[0].scale, found[1].scale, atol=1e-9)
    np.testing.assert_allclose(found[0].kernels, found[1].kernels, atol=1e-6)


@pytest.mark.usefixtures("both_paths")
def test_nearly_equal_members_are_told_apart_exactly():
    """The compiled path narrows the choice in float32, where these two are one.

    Their products with a kernel differ by half the square of their distance, 5e-9 of the product:
    less than float32 rounds, and ten million times what float64 does.
    """
    member = _normal(25)
    bank = np.stack([member, member + 1e-4 * _normal(25, seed=2)])
    kernels = np.stack([member, bank[1]] * 4).astype(np.float32)
    assert closest_linear(kernels, unit_bank(bank)).choice.tolist() == [0, 1] * 4


@pytest.mark.usefixtures("both_paths")
def test_of_members_that_are_one_to_rounding_either_may_be_chosen():
    member = _normal(25)
    bank = np.stack([member, member + 1e-9 * _normal(25, seed=2), -member, _normal(25, seed=3)])
    kernels = np.stack([member, bank[1]] * 4)
    fit = closest_linear(kernels, unit_bank(bank))
    assert set(fit.choice.tolist()) <= {0, 1, 2}
    np.testing.assert_allclose(fit.kernels, kernels, rtol=1e-6)


@pytest.mark.usefixtures("both_paths")
def test_constant_kernels_and_zeros_stay_what_they_are():
    kernels = np.repeat(np.array([[0.0], [3.0], [-1e-20], [0.1], [1e20]], np.float32), 9, axis=1)
    fit = closest_linear(kernels, unit_bank(_normal(5, 9)))
    np.testing.assert_array_equal(fit.kernels, kernels)
    assert fit.choice.tolist() == [0] * 5
    assert fit.scale.tolist() == [0.0] * 5


@pytest.mark.usefixtures("both_paths")
def test_a_constant_member_gives_means():
    bank = np.stack([np.full(9, 0.3), _normal(9)])
    unit = unit_bank(bank)
    assert not unit[0].any()
    kernels = _normal(20, 9, seed=3)
    assert (closest_linear(kernels, unit).choice == 1).all()
    fit = closest_linear(kernels, unit[:1])
    np.testing.assert_allclose(fit.kernels, np.repeat(kernels.mean(1, keepdims=True), 9, 1))


def test_unit_members_are_free_of_mean_and_of_unit_norm():
    unit = unit_bank(1e6 + _normal(8, 49))
    np.testing.assert_allclose(unit.mean(axis=1), 0, atol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(unit, axis=1), 1)


# The verb


def _bank(size: int, members: int = 5) -> fs.FilterBank:
    labels = tuple(f"m{k}" for k in range(members))
    return fs.FilterBank("mine", _normal(members, size, size, seed=9), labels)


def test_every_depthwise_kernel_is_replaced_and_nothing_else(model, tensors, tmp_path):
    reports = []
    edited = fs.replace(fs.load(model), bank="dog8", observe=reports.append)
    assert reports == []  # nothing is computed before it is read
    fs.save(edited, tmp_path / "out.safetensors")
    after = load_file(tmp_path / "out.safetensors")
    assert after.keys() == tensors.keys()
    for name, before in tensors.items():
        if ".dw." not in name:
            assert after[name].tobytes() == before.tobytes()
            assert after[name].dtype == before.dtype
            continue
        bank = fs.load_bank("dog8").at(before.shape[2:]).kernels
        expected = [_least_squares(kernel, bank) for kernel in before[:, 0]]
        np.testing.assert_allclose(after[name][:, 0], expected, atol=1e-6, rtol=0)
    for report in reports:
        name = f"{report.name}.weight"
        assert report.usage.sum() == report.n_kernels == len(tensors[name])
        relative = _error(after[name], tensors[name]) / np.linalg.norm(tensors[name])
        assert report.relative_error == pytest.approx(relative, rel=1e-6)
    assert {report.name for report in reports} == {"blocks.2.dw", "blocks.10.dw"}


def test_replacing_twice_changes_nothing_more(model, tmp_path):
    once = fs.replace(fs.load(model), bank="dog8")
    fs.save(once, tmp_path / "once.safetensors")
    fs.save(fs.replace(once, bank="dog8"), tmp_path / "twice.safetensors")
    once, twice = (
        load_file(tmp_path / "once.safetensors"),
        load_file(tmp_path / "twice.safetensors"),
    )
    for name, tensor in once.items():
        np.testing.assert_allclose(twice[name], tensor, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_results_are_rounded_once_to_the_type_of_the_input(tmp_path, dtype):
    weights = torch.from_numpy(_normal(40, 1, 3, 3)).to(dtype)
    safetensors.torch.save_file(
        {"dw.weight": weights, "in.weight": torch.ones(40, 2)}, tmp_path / "m.safetensors"
    )
    bank = _bank(3)
    after = fs.replace(fs.load(tmp_path / "m.safetensors"), bank=bank)["dw.weight"].torch()
    exact = [_least_squares(kernel, bank.kernels) for kernel in weights[:, 0].double().numpy()]
    assert after.dtype == dtype
    expected = torch.from_numpy(np.stack(exact)).float().to(dtype)
    if dtype == torch.float64:
        expected = torch.from_numpy(np.stack(exact))
    # One unit in the last place, where float32 and float64 fall on two sides of a rounding edge;
    # the coefficients are rounded to float32 too, which shows in float32 kernels.
    gap = (after[:, 0].double() - expected.double()).abs()
    edge = torch.finfo(dtype).eps * expected.double().abs().clamp(min=1e-3)
    if dtype == torch.float32:
        edge = torch.finfo(dtype).eps * expected.double().abs().amax((1, 2), keepdim=True)
    assert (gap <= (edge if dtype != torch.float64 else 1e-14)).all()
    assert (gap == 0).double().mean() > (0.95 if dtype.itemsize < 4 else 0)


def test_standard_convolutions_kernel_by_kernel(model, tensors):
    edited = fs.replace(fs.load(model), bank=_bank(3), all_spatial=True)
    assert [change.tensor for change in edited.changes] == ["blocks.2.dw.weight", "stem.weight"]
    expected = [
        _least_squares(kernel, _bank(3).kernels)
        for kernel in tensors["stem.weight"].reshape(-1, 3, 3)
    ]
    after = edited["stem.weight"].array()
    np.testing.assert_allclose(after.reshape(-1, 3, 3), expected, atol=1e-6, rtol=0)
    assert any("5x5" in note for note in edited.notes)


@pytest.mark.parametrize(
    ("layers", "changed"),
    [
        (["blocks.2.dw"], ["blocks.2.dw.weight"]),
        ("blocks.2.dw", ["blocks.2.dw.weight"]),
        (["blocks.*"], ["blocks.2.dw.weight", "blocks.10.dw.weight"]),
        (["blocks"], ["blocks.2.dw.weight", "blocks.10.dw.weight"]),
        (["!blocks.2"], ["blocks.10.dw.weight"]),
        (["blocks", "!*.10.*"], ["blocks.2.dw.weight"]),
        (["blocks.10.dw.weight"], ["blocks.10.dw.weight"]),
    ],
)
def test_layers_are_chosen_by_pattern(model, layers, changed):
    edited = fs.replace(fs.load(model), bank="dog8", layers=layers)
    assert [change.tensor for change in edited.changes] == changed


def test_a_bank_of_one_size_leaves_other_layers_and_says_so(model):
    edited = fs.replace(fs.load(model), bank=_bank(5))
    assert [change.tensor for change in edited.changes] == ["blocks.10.dw.weight"]
    assert "1 layers left" in edited.notes[-1]
    with pytest.raises(LayerError, match="3x3, 5x5"):
        fs.replace(fs.load(model), bank=_bank(7))


def test_kernels_that_are_not_square(tmp_path):
    weights = _normal(6, 1, 1, 7).astype(np.float32)
    save_file({"dw.weight": weights, "a.weight": np.ones((6, 2), "f4")}, tmp_path / "m.safetensors")
    bank = fs.FilterBank("row", _normal(3, 1, 7), ("a", "b", "c"))
    after = fs.replace(fs.load(tmp_path / "m.safetensors"), bank=bank)["dw.weight"].array()
    expected = [_least_squares(kernel, bank.kernels) for kernel in weights[:, 0]]
    np.testing.assert_allclose(after[:, 0], expected, atol=1e-6)
    with pytest.raises(LayerError, match="1x7"):
        fs.replace(fs.load(tmp_path / "m.safetensors"), bank="dog8")


def test_a_layer_read_in_blocks_equals_one_read_whole(tmp_path, monkeypatch):
    weights = _normal(999, 1, 7, 7).astype(np.float32)
    save_file(
        {"dw.weight": weights, "b.weight": weights[:, 0, 0].copy()}, tmp_path / "m.safetensors"
    )
    edited = fs.replace(fs.load(tmp_path / "m.safetensors"), bank="dog8")
    whole = bytes(edited["dw.weight"].raw())
    monkeypatch.setattr("filtersurgeon.checkpoint.tensor.BLOCK_BYTES", 10_000)
    blocks = [bytes(block) for block in edited["dw.weight"].blocks()]
    assert len(blocks) > 10
    assert b"".join(blocks) == whole


def test_the_bank_file_of_a_bank_gives_the_same_result(model, tmp_path):
    bank = fs.load_bank("dog8").at((3, 3))
    fs.save_bank(bank, tmp_path / "copy.safetensors")
    again = fs.load_bank(tmp_path / "copy.safetensors").at((3, 3))
    assert again.labels == bank.labels
    np.testing.assert_array_equal(again.kernels, bank.kernels)
    for layers in (["blocks.2.dw"],):
        one = fs.replace(fs.load(model), bank="dog8", layers=layers)
        two = fs.replace(fs.load(model), bank=str(tmp_path / "copy.safetensors"), layers=layers)
        np.testing.assert_array_equal(
            one["blocks.2.dw.weight"].array(), two["blocks.2.dw.weight"].array()
        )
    assert two.history[-1].resources == {"copy": bank.digest}
    assert one.history[-1].resources == {}


def test_history_names_only_what_differs_from_the_defaults(model):
    edited = fs.replace(fs.load(model), bank="dog8")
    assert edited.history[-1].to_json() == {
        "verb": "replace", "options": {"bank": "dog8"}, "version": fs.__version__
    }  # fmt: skip
    edited = fs.replace(edited, bank="dog8", layers=["blocks"], all_spatial=True)
    assert edited.history[-1].options == {
        "bank": "dog8", "layers": ["blocks"], "all_spatial": True
    }  # fmt: skip
    assert len(edited.history) == 2


def test_a_fit_too_large_for_half_precision_is_refused() -> None:
    # Slope and intercept of the regression of (m, m, 0, ...) on (1, 0.2, 0, ...) give 1.14 m at
    # the first place, and m is the largest float16.
    kernels = np.zeros((2, 1, 3, 3))
    kernels[:, 0, 0, :2] = 65504
    member = np.zeros((1, 3, 3))
    member[0, 0, :2] = 1.0, 0.2
    tensors = {
        "dw.weight": fs.StoredTensor.from_array(kernels, "F16"),
        "pw.weight": fs.StoredTensor.from_array(np.ones((2, 3, 1, 1)), "F16"),
    }
    edited = fs.replace(fs.Checkpoint(tensors), bank=fs.FilterBank("two", member, ("two",)))
    with pytest.raises(LayerError, match=r"layer dw: .*float16"):
        edited["dw.weight"].raw()
