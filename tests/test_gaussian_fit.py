"""Derivatives of Gaussians: fits against planted kernels and SciPy, and one bank for all sizes."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from scipy.optimize import minimize

import filtersurgeon as fs
from filtersurgeon.banks.gaussian_fit import fit_gaussians
from filtersurgeon.banks.scale_space import ORDERS, Derivative, derivative
from filtersurgeon.errors import LayerError, OptionError


def _planted(generator, count, size):
    orders = generator.integers(len(ORDERS), size=count)
    scales = generator.uniform(0.5, 1.2, (count, 2))
    made = [derivative(ORDERS[k], *pair, size) for k, pair in zip(orders, scales, strict=True)]
    return orders, scales, np.stack([kernel.ravel() for kernel in made])


def _norms(rows):
    return np.linalg.norm(rows - rows.mean(axis=1, keepdims=True), axis=1)


@pytest.mark.parametrize("size", [(5, 5), (7, 7), (5, 7)])
def test_planted_derivatives_are_found_again(size):
    generator = np.random.default_rng(3)
    orders, scales, kernels = _planted(generator, 60, size)
    # Scale, sign and offset are those of a linear transform, which the fit leaves open.
    moved = kernels * generator.uniform(0.5, 3, (60, 1)) * generator.choice([-1, 1], (60, 1)) + 0.3
    found = fit_gaussians(moved, size)
    assert found.residual.max() < 0.03
    # At other scales one order can equal another; most keep their own.
    same = found.order == orders
    assert same.mean() > 0.9
    np.testing.assert_allclose(found.sigma_x[same], scales[same, 0], rtol=0.05)
    np.testing.assert_allclose(found.sigma_y[same], scales[same, 1], rtol=0.05)


def test_no_derivative_comes_closer_to_a_kernel():
    generator = np.random.default_rng(5)
    kernels = generator.standard_normal((3, 25)) + _planted(generator, 3, (5, 5))[2] * 4
    found = fit_gaussians(kernels, (5, 5))

    def residual(logs, order, kernel):
        made = derivative(order, *np.exp(np.clip(logs, np.log(0.2), np.log(5.0))), (5, 5)).ravel()
        design = np.stack([made, np.ones(25)], axis=1)
        left = kernel - design @ np.linalg.lstsq(design, kernel, rcond=None)[0]
        return np.linalg.norm(left) / np.linalg.norm(kernel - kernel.mean())

    for row, kernel in enumerate(kernels):
        best = min(
            minimize(residual, start, (order, kernel), method="Nelder-Mead").fun
            for order in ORDERS
            for start in (np.log([0.5, 0.5]), np.log([1.5, 1.0]))
        )
        assert found.residual[row] == pytest.approx(best, abs=2e-3)
        own = np.log([found.sigma_x[row], found.sigma_y[row]])
        again = residual(own, ORDERS[found.order[row]], kernel)
        assert found.residual[row] == pytest.approx(again, abs=1e-6)


def test_a_constant_kernel_has_no_order():
    found = fit_gaussians(np.array([[2.0] * 9, [0.0] * 9, list(range(9))]), (3, 3))
    assert found.order[:2].tolist() == [-1, -1]
    assert np.isnan(found.residual[:2]).all()
    assert found.order[2] >= 0


# One bank for several sizes


def _network(path, derivatives, sizes=(3, 5)):
    """Write depthwise layers made of these derivatives, at every size."""
    generator, tensors = np.random.default_rng(0), {}
    for size in sizes:
        made = np.stack([derivative(*each, (size, size)) for each in derivatives])
        kernels = np.repeat(made, 8, axis=0) * generator.uniform(0.5, 2, (8 * len(made), 1, 1))
        tensors[f"dw{size}.weight"] = kernels[:, None].astype(np.float32)
        count = len(kernels)
        tensors[f"pw{size}.weight"] = np.zeros((count, count, 1, 1), np.float32)
    save_file(tensors, path)
    return path


PLANTED = [Derivative("T", 0.6, 0.6), Derivative("dx", 1.0, 0.7), Derivative("dyy", 0.85, 1.2)]


def test_a_joint_bank_finds_what_all_sizes_share(tmp_path, fsurgeon):
    path = _network(tmp_path / "m.safetensors", PLANTED)
    out = tmp_path / "joint.safetensors"
    done = fsurgeon("bank", "sample", path, "--from", "scale-space", "--count", 3, "-o", out)
    assert done.returncode == 0, done.stderr
    assert b"3 kernels of 5x5" in done.stderr
    assert set(map(tuple, json.loads(_metadata(out)["derivatives"]))) == set(PLANTED)
    source = fs.load_bank(str(out))
    assert source.size is None
    for side in (3, 5, 7, 9):
        bank = source.at((side, side))
        expected = [derivative(*each, (side, side)) for each in bank.derivatives]
        np.testing.assert_allclose(bank.kernels, expected, rtol=1e-12)
    assert source.at((4, 4)) is None
    # Layers of both sizes are made of it, to the precision of their file.
    with fs.load(path) as checkpoint:
        errors = []
        new = fs.replace(
            checkpoint, bank=str(out), observe=lambda x: errors.append(x.relative_error)
        )
        for change in new.changes:
            assert list(new[change.tensor].blocks())
        assert len(errors) == 2
        assert max(errors) < 1e-5


def _metadata(path):
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        return file.metadata()


@pytest.mark.parametrize(
    "text", ['[["T", 0.6]]', '[["up", 1, 1]]', '[["T", -1, 1]]', "[]", "{", '[["T", 1e9, 1]]']
)
def test_a_file_that_names_no_derivatives_is_refused(tmp_path, text):
    bank = tmp_path / "b.safetensors"
    save_file({"kernels": np.ones((1, 3, 3))}, bank, metadata={"derivatives": text})
    with pytest.raises(LayerError, match="does not name derivatives"):
        fs.load_bank(str(bank))


def test_a_file_whose_kernels_are_not_its_derivatives_is_refused(tmp_path):
    path = _network(tmp_path / "m.safetensors", PLANTED)
    bank = fs.sample_bank(fs.load(path), 2, origin="scale-space")
    fs.save_bank(bank, tmp_path / "b.safetensors")
    tensors, words = load_file(tmp_path / "b.safetensors"), _metadata(tmp_path / "b.safetensors")
    tensors["kernels"][0, 0, 0] += 0.1
    save_file(tensors, tmp_path / "b.safetensors", metadata=words)
    with pytest.raises(LayerError, match="kernels are not the derivatives"):
        fs.load_bank(str(tmp_path / "b.safetensors"))


def test_what_a_joint_bank_cannot_be_made_of(tmp_path):
    path = tmp_path / "even.safetensors"
    save_file({"dw.weight": np.random.default_rng(0).standard_normal((30, 1, 4, 4)),
               "pw.weight": np.zeros((30, 30, 1, 1))}, path)  # fmt: skip
    with fs.load(path) as checkpoint, pytest.raises(LayerError, match="4x4 have no middle"):
        fs.sample_bank(checkpoint, 2, origin="scale-space")
    odd = fs.load(_network(tmp_path / "m.safetensors", PLANTED))
    with pytest.raises(OptionError, match="`count` 5000"):
        fs.sample_bank(odd, 5000, origin="scale-space")
