"""ExplainSteer: bases, spectra against Eq. 2 to 6 as written, expectations, pictures, commands."""

import json
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from learning import SHARED, needs_shared
from safetensors.numpy import save_file
from scipy.fft import dctn

import filtersurgeon as fs
from filtersurgeon.errors import LayerError, OptionError
from filtersurgeon.explain.basis import NAMES, SEPARABLE, haar_vectors, separable_basis
from filtersurgeon.explain.explanation import distances, unmet
from filtersurgeon.ranking.kernel_scores import KernelScores, write_kernel_scores

SIZES = [(1, 2), (2, 2), (3, 3), (5, 5), (7, 7), (1, 7), (3, 5), (11, 11)]


@pytest.fixture
def network(tmp_path):
    """Layers of three kernel sizes, one of them not square, and a pointwise one."""
    random = np.random.default_rng(0)
    shapes = {"stem": (8, 3, 3, 3), "a": (12, 8, 3, 3), "b": (6, 12, 5, 5), "c": (4, 6, 1, 7),
              "d": (9, 4, 1, 1)}  # fmt: skip
    tensors = {
        f"{name}.weight": random.normal(0.2, 1, shape).astype(np.float32)
        for name, shape in shapes.items()
    }
    save_file(tensors, tmp_path / "m.safetensors")
    return tmp_path / "m.safetensors"


@pytest.fixture
def scores():
    random = np.random.default_rng(1)
    shapes = {"stem": (8, 3), "a": (12, 8), "b": (6, 12), "c": (4, 6)}
    return KernelScores("saliency", {}, {n: random.random(shape) for n, shape in shapes.items()})


# Bases


@pytest.mark.parametrize("name", SEPARABLE)
@pytest.mark.parametrize("size", SIZES)
def test_bases_are_orthonormal_to_the_last_digits(name, size):
    basis = separable_basis(name, size)
    m = size[0] * size[1]
    np.testing.assert_allclose(basis.vectors @ basis.vectors.T, np.eye(m), atol=1e-12, rtol=0)
    assert basis.frequencies[0] == 0
    assert basis.frequencies[-1] == 1
    np.testing.assert_allclose(basis.vectors[0], m**-0.5, rtol=1e-14)


@pytest.mark.parametrize("size", SIZES)
def test_the_dct_is_scipy_s(size):
    kernel = np.random.default_rng(0).standard_normal(size)
    basis = separable_basis("dct", size)
    expected = dctn(kernel, norm="ortho")[tuple(basis.parts.T)]
    np.testing.assert_allclose(basis.vectors @ kernel.ravel(), expected, atol=1e-12)


def test_filters_are_numbered_as_in_the_paper():
    def raster(n):
        return [int(u * n + v) for u, v in separable_basis("dct", (n, n)).parts]

    assert raster(3) == [0, 1, 3, 2, 6, 4, 5, 7, 8]
    assert raster(2) == [0, 1, 2, 3]
    # By diagonals, their ends before their middles.
    assert raster(4) == [0, 1, 4, 2, 8, 5, 3, 12, 6, 9, 7, 13, 10, 11, 14, 15]


def test_the_haar_basis_of_four_points_is_the_classical_one():
    expected = [[1, 1, 1, 1], [1, 1, -1, -1], [1, -1, 0, 0], [0, 0, 1, -1]]
    found = haar_vectors(4)
    for row, (values, steps) in enumerate(zip(found, expected, strict=True)):
        norm = np.linalg.norm(steps)
        np.testing.assert_allclose(values, np.array(steps) / norm, atol=1e-14, err_msg=str(row))


def test_principal_components_diagonalise_the_kernels(network):
    with fs.load(network) as checkpoint:
        basis = fs.find_basis("pca", (3, 3), checkpoint)
        kernels = np.concatenate(
            [checkpoint[f"{n}.weight"].array().reshape(-1, 9) for n in ("stem", "a")]
        ).astype(np.float64)
    np.testing.assert_allclose(basis.vectors @ basis.vectors.T, np.eye(9), atol=1e-12)
    gram = basis.vectors @ kernels.T @ kernels @ basis.vectors.T
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-9 * gram.max())
    assert (np.diff(basis.frequencies) >= 0).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("dcd", (3, 3)), "did you mean dct"),
        (("dct", (1, 1)), "1x1 has no basis"),
        (("dct", (0, 3)), "0x3 has no basis"),
        (("pca", (3, 3)), "pass INPUT"),
    ],
)
def test_bases_that_are_not_there(words, message):
    with pytest.raises(OptionError, match=message):
        fs.find_basis(*words)


def test_a_network_without_kernels_of_a_size_has_no_components(network):
    with fs.load(network) as checkpoint, pytest.raises(LayerError, match="no kernels of 9x9"):
        fs.find_basis("pca", (9, 9), checkpoint)


# Spectra


def _plainly(kernels, weights):
    """Evaluate Eq. 2 to 6 in float64, sum by sum."""
    n, height, width = kernels.shape

    def vector(k, points):
        s = np.sqrt((1 if k == 0 else 2) / points)
        return [s * np.cos(np.pi / points * k * (x + 0.5)) for x in range(points)]

    e2 = np.zeros((height, width))
    for u, v in product(range(height), range(width)):
        filter_ = np.outer(vector(u, height), vector(v, width))
        for w, kernel in zip(weights, kernels.astype(np.float64), strict=True):
            e2[u, v] += w * abs((kernel * filter_).sum())
    vertical = [sum(e2[u, v] ** 0.5 for v in range(width)) for u in range(height)]
    horizontal = [sum(e2[u, v] ** 0.5 for u in range(height)) for v in range(width)]
    e0 = None
    if height == width:
        e0 = [(a + b) / 2 for a, b in zip(vertical, horizontal, strict=True)]
    assert n == len(weights)
    return e2, (vertical, horizontal), e0


@pytest.mark.parametrize("weighted", [False, True])
def test_spectra_are_those_of_the_equations(network, scores, weighted):
    with fs.load(network) as checkpoint:
        found = fs.explain(checkpoint, scores=scores if weighted else None)
        assert found.weights == ("saliency" if weighted else "uniform")
        assert [layer.name for layer in found.layers] == ["stem", "a", "b", "c"]
        for layer in found.layers:
            values = checkpoint[f"{layer.name}.weight"].array()
            kernels = values.reshape(-1, *values.shape[2:])
            n = len(kernels)
            weights = scores.layers[layer.name].ravel() if weighted else np.full(n, 1 / n)
            e2, e1, e0 = _plainly(kernels, weights)
            parts = layer.basis.parts
            np.testing.assert_allclose(layer.e2, e2[parts[:, 0], parts[:, 1]], rtol=1e-10)
            for axis, expected in zip(layer.e1, e1, strict=True):
                np.testing.assert_allclose(axis, expected, rtol=1e-10)
            assert (layer.e0 is None) == (e0 is None)
            if e0 is not None:
                np.testing.assert_allclose(layer.e0, e0, rtol=1e-10)
    assert "no e0 for kernels that are not square, e2 and e1 only: c (1x7)" in found.notes


@pytest.mark.parametrize("weighted", [False, True])
def test_the_network_s_spectrum_is_that_of_all_its_kernels(network, scores, weighted):
    with fs.load(network) as checkpoint:
        found = fs.explain(checkpoint, scores=scores if weighted else None)
        kernels = [checkpoint[f"{n}.weight"].array().reshape(-1, 9) for n in ("stem", "a")]
    whole = next(part for part in found.network if part.basis.size == (3, 3))
    coefficients = np.abs(np.concatenate(kernels).astype(np.float64) @ whole.basis.vectors.T)
    n = len(coefficients)
    assert whole.n_kernels == n
    if weighted:
        weights = np.concatenate([scores.layers[x].ravel() for x in ("stem", "a")])
        np.testing.assert_allclose(whole.e2, weights @ coefficients, rtol=1e-12)
        assert whole.error is None
    else:
        np.testing.assert_allclose(whole.e2, coefficients.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(whole.error, coefficients.std(axis=0) / n**0.5, rtol=1e-9)


@given(st.integers(0, 2**32 - 1), st.sampled_from([(2, 2), (3, 3), (5, 5)]))
@settings(max_examples=30)
def test_a_basis_filter_s_energy_is_its_own(seed, size):
    from filtersurgeon.explain.spectrum import spectrum

    basis = separable_basis("dct", size)
    m = len(basis.vectors)
    at = seed % m
    found = spectrum("x", [-2.5 * basis.vectors[at : at + 1]], basis)
    np.testing.assert_allclose(found.e2, 2.5 * np.eye(m)[at], atol=1e-12)
    frequency = basis.frequencies[at]
    expected = 0.5 if np.isclose(frequency, 0.5) else float(frequency < 0.5)
    assert found.low_share == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("basis", NAMES)
def test_white_noise_is_flat_in_every_basis(tmp_path, basis):
    noise = np.random.default_rng(3).standard_normal((64, 64, 3, 3)).astype(np.float32)
    save_file({"a.weight": noise}, tmp_path / "m.safetensors")
    with fs.load(tmp_path / "m.safetensors") as checkpoint:
        found = fs.explain(checkpoint, basis=basis)
    assert unmet(found, "flat") == []
    np.testing.assert_allclose(found.layers[0].e2, (2 / np.pi) ** 0.5, rtol=0.05)


def test_layers_without_energy(tmp_path):
    noise = np.random.default_rng(3).standard_normal((8, 4, 3, 3)).astype(np.float32)
    zeros = np.zeros((4, 8, 3, 3), np.float32)
    save_file({"a.weight": noise, "b.weight": zeros}, tmp_path / "m.safetensors")
    with fs.load(tmp_path / "m.safetensors") as checkpoint:
        found = fs.explain(checkpoint)
    assert found.silent == ["b"]
    assert found.layers[1].low_share == 0
    assert distances(found, found) == {"a": 0.0}
    json.dumps(found.to_json(), allow_nan=False)


def test_scores_of_another_network_are_refused(network, scores):
    with fs.load(network) as checkpoint:
        for layers, message in (
            ({"stem": scores.layers["stem"]}, "layer a has no scores"),
            ({**scores.layers, "a": np.ones((2, 2))}, "a has 12x8 kernels, its scores are of 2x2"),
            ({**scores.layers, "a": -np.ones((12, 8))}, "a has scores that are negative"),
        ):
            with pytest.raises(LayerError, match=message):
                fs.explain(checkpoint, scores=KernelScores("saliency", {}, layers))


def test_weights_that_are_not_finite_name_the_layer(tmp_path):
    values = np.ones((4, 4, 3, 3), np.float32)
    values[1, 2, 0, 0] = np.nan
    save_file({"bad.weight": values}, tmp_path / "m.safetensors")
    with (
        fs.load(tmp_path / "m.safetensors") as checkpoint,
        pytest.raises(LayerError, match="layer bad: 1 of its"),
    ):
        fs.explain(checkpoint)


# Expectations


@needs_shared
def test_real_networks_prefer_low_frequencies():
    for name in ("cifar10_resnet20", "cifar10_resnet56"):
        with fs.load(SHARED / "weights" / f"{name}.safetensors") as checkpoint:
            found = fs.explain(checkpoint)
        assert unmet(found, "low-pass") == []
        assert unmet(found, "flat") != []
        assert list(np.diff(found.network[0].e0) < 0) == [True, True]


def test_expectations_are_about_uniform_weights(network, scores):
    with fs.load(network) as checkpoint:
        weighted, alike = fs.explain(checkpoint, scores=scores), fs.explain(checkpoint)
    with pytest.raises(OptionError, match="about the kernels by themselves"):
        unmet(weighted, "flat")
    with pytest.raises(OptionError, match="did you mean low-pass"):
        unmet(alike, "lowpass")


def test_distances_of_spectra(network):
    with fs.load(network) as checkpoint:
        first = fs.explain(checkpoint)
        ones = fs.explain(fs.initialize(checkpoint, method="ones"))
    assert distances(first, first) == dict.fromkeys(("stem", "a", "b", "c"), 0.0)
    for layer, apart in zip(first.layers, distances(first, ones).values(), strict=True):
        assert apart == pytest.approx(1 - layer.e2[0] / layer.energy)


# Pictures and commands


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_heat_maps_are_the_same_every_time(network, tmp_path, suffix):
    with fs.load(network) as checkpoint:
        found = fs.explain(checkpoint)
    paths = [tmp_path / f"{n}.{suffix}" for n in (1, 2)]
    for path in paths:
        fs.draw_explanation([found, found], path, scale="share")
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].stat().st_size > 5000
    if suffix == "svg":
        text = paths[0].read_text("utf-8")
        assert all(f"<!-- {layer.name} -->" in text for layer in found.layers)


@pytest.mark.parametrize("basis", NAMES)
def test_basis_sheets(network, tmp_path, basis):
    with fs.load(network) as checkpoint:
        fs.draw_basis(fs.find_basis(basis, (5, 5), checkpoint), tmp_path / "sheet.png")
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_explain_as_a_command(fsurgeon, network, tmp_path):
    picture = tmp_path / "map.svg"
    ran = fsurgeon("explain", network, network, "--picture", picture)
    assert ran.returncode == 0, ran.stderr
    content = json.loads(ran.stdout)
    with fs.load(network) as checkpoint:
        expected = fs.explain(checkpoint).to_json()
    assert content["first"] == content["second"] == json.loads(json.dumps(expected))
    assert set(content["distances"].values()) == {0.0}
    assert picture.exists()
    assert b"note: no e0 for kernels that are not square" in ran.stderr
    shown = fsurgeon("explain", network, "--table").stdout.decode()
    assert "of the energy in low frequencies" in shown


def test_an_expectation_is_an_exit_code(fsurgeon, network):
    ran = fsurgeon("explain", "-", "--expect", "low-pass", input=network.read_bytes())
    assert ran.returncode == 1
    assert b"is not low-pass" in ran.stderr
    assert json.loads(ran.stdout)["schema"] == "filtersurgeon.explanation/1"


def test_explain_with_scores_of_a_file(fsurgeon, network, scores, tmp_path):
    write_kernel_scores(scores, tmp_path / "s.safetensors")
    ran = fsurgeon("explain", network, "--saliency", tmp_path / "s.safetensors")
    with fs.load(network) as checkpoint:
        expected = fs.explain(checkpoint, scores=scores).to_json()
    assert json.loads(ran.stdout) == json.loads(json.dumps(expected))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--basis", "dkt"), "did you mean dct"),
        (("--scale", "log", "--picture", "x.png"), "no scale called 'log'"),
        (("--expect", "flatt"), "did you mean flat"),
        (("--sheet", "3"), "pass its file with -o FILE.png"),
        (("--sheet", "3by3", "--picture", "x.png"), "should be a kernel size"),
        (("--picture", "x.bmp"), "pictures end in"),
        (("--subset", "3"), "--subset needs --data"),
        (("--batch-size", "8"), "set the saliency, which needs --data"),
        (("--saliency-b", "x.json"), "--saliency-against needs --against"),
        (("--saliency", "none.safetensors"), "none.safetensors"),
    ],
)
def test_what_explain_refuses(refuse, network, words, message):
    assert message in refuse("explain", network, *words, cwd=network.parent)


def test_a_network_without_spatial_kernels_is_refused(refuse, tmp_path):
    save_file({"a.weight": np.ones((8, 4, 1, 1), np.float32)}, tmp_path / "p.safetensors")
    assert "no spatial convolution" in refuse("explain", tmp_path / "p.safetensors")
