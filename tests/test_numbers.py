"""What is promised about numbers: precision of half types, extreme sizes, threads."""

import io

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.fft import dctn
from scipy.spatial.distance import cdist
from threadpoolctl import threadpool_limits

import filtersurgeon as fs
from filtersurgeon.checkpoint.sinks import write_stream
from filtersurgeon.errors import LayerError

HALF = {"F16": (torch.float16, 2.0**-11), "BF16": (torch.bfloat16, 2.0**-8)}
SINGLE = 1e-6
"""Relative error of what is summed in float32."""


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def _save(dtype: torch.dtype, scale: float = 1.0, filters: int = 60) -> dict[str, torch.Tensor]:
    """Write a standard and a depthwise layer whose weights have sizes over three decades."""
    random = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> torch.Tensor:
        spread = 10 ** (3 * torch.rand((shape[0], 1, 1, 1), generator=random) - 3)
        return (torch.randn(shape, generator=random) * spread * scale).to(dtype)

    tensors = {"a.weight": normal(filters, 8, 3, 3), "dw.weight": normal(filters, 1, 5, 5),
               "mix.weight": torch.ones(filters, 2)}  # fmt: skip
    save_file(tensors, "m.safetensors")
    return tensors


def _rows(tensor: torch.Tensor) -> np.ndarray:
    return tensor.double().numpy().reshape(len(tensor), -1)


@pytest.mark.parametrize("name", HALF)
def test_norms_and_distances_of_half_types_are_those_in_float64(name):
    layer = _rows(_save(HALF[name][0])["a.weight"])
    distances = cdist(layer, layer)
    expected = {
        "l1": np.abs(layer).sum(1),
        "l2": np.sqrt(np.square(layer).sum(1)),
        "distance-sum": distances.sum(1),
    }
    for method, scores in expected.items():
        with fs.load("m.safetensors") as checkpoint:
            found = fs.rank(checkpoint, method).layers["a"].scores
        np.testing.assert_allclose(found, scores, rtol=20 * SINGLE, err_msg=method)


@pytest.mark.parametrize("name", HALF)
def test_replacing_half_types_errs_by_their_own_rounding_and_no_more(name):
    dtype, rounding = HALF[name]
    kernels = _rows(_save(dtype)["dw.weight"])
    with fs.load("m.safetensors") as checkpoint:
        found = _rows(fs.replace(checkpoint, bank="dog8")["dw.weight"].torch())
    members = fs.load_bank("dog8").at((5, 5)).kernels.reshape(8, -1)
    best = np.full_like(kernels, np.inf)
    for member in members:
        design = np.stack([member, np.ones(25)], 1)
        fitted = (design @ np.linalg.lstsq(design, kernels.T, rcond=None)[0]).T
        nearer = np.linalg.norm(fitted - kernels, axis=1) < np.linalg.norm(best - kernels, axis=1)
        best[nearer] = fitted[nearer]
    tiny = 2.0**-24  # spacing of the smallest float16
    allowed = rounding * np.abs(best) + SINGLE * np.abs(best).max(1, keepdims=True) + tiny
    assert (np.abs(found - best) <= allowed).all()


@pytest.mark.parametrize("name", HALF)
def test_spectra_of_half_types_are_those_in_float64(name):
    kernels = _save(HALF[name][0])["dw.weight"].double().numpy()[:, 0]
    with fs.load("m.safetensors") as checkpoint:
        (found,) = fs.explain(checkpoint, layers=["dw"]).to_json()["layers"]
    energy = np.abs(dctn(kernels, axes=(1, 2), norm="ortho")).sum(0).ravel()
    share = np.sort(energy / energy.sum())
    e2 = np.asarray(found["e2"], float).ravel()
    np.testing.assert_allclose(np.sort(e2 / e2.sum()), share, rtol=1e-5, atol=1e-9)


def _written(checkpoint: fs.Checkpoint) -> bytes:
    file = io.BytesIO()
    write_stream(checkpoint, file)
    return file.getvalue()


@pytest.mark.parametrize(
    "verb",
    [
        lambda x: _written(fs.replace(x, bank="dog8", all_spatial=True)),
        lambda x: _written(fs.fabricate(x)),
        lambda x: _written(fs.initialize(x, method="ghaar")),
        lambda x: _written(fs.pack(x)),
        lambda x: fs.rank(x, "l2").to_json(),
        lambda x: fs.rank(x, "geometric-median").to_json(),
        lambda x: fs.rank(x, "distance-sum").to_json(),
        lambda x: fs.rank(x, "archetype").to_json(),
        lambda x: fs.explain(x).to_json(),
    ],
    ids=["replace", "fabricate", "initialize", "pack", "l2", "median", "distances", "archetype",
         "explain"],
)  # fmt: skip
def test_tensor_verbs_give_the_same_bytes_whatever_the_number_of_threads(verb):
    _save(torch.float32, filters=200)
    found, before = [], torch.get_num_threads()
    for threads in (1, 2):
        torch.set_num_threads(threads)
        with threadpool_limits(threads), fs.load("m.safetensors") as checkpoint:
            found.append(verb(checkpoint))
    torch.set_num_threads(before)
    assert found[0] == found[1]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("scale", [1e30, 1e-36, 1e-41])
def test_extreme_sizes_are_ranked_replaced_and_explained_like_others(scale):
    """Powers of two change no digit, so what does not depend on size must not change at all."""
    power = 2.0 ** round(np.log2(scale))
    _save(torch.float32)
    with fs.load("m.safetensors") as plain:
        orders = {m: fs.rank(plain, m).layers["a"].order for m in ("l1", "l2", "distance-sum")}
        errors: list[float] = []
        edited = fs.replace(plain, observe=lambda x: errors.append(x.relative_error))
        _written(edited)
        kernels = _rows(edited["dw.weight"].torch())
        spectra = fs.explain(plain).to_json()["layers"]
    _save(torch.float32, power)
    subnormal = scale < 1e-38
    with fs.load("m.safetensors") as scaled:
        for method, order in orders.items():
            found = fs.rank(scaled, method)
            assert np.isfinite(found.layers["a"].scores).all()
            if not subnormal:
                np.testing.assert_array_equal(found.layers["a"].order, order, err_msg=method)
        for method in ("archetype", "geometric-median"):
            assert np.isfinite(fs.rank(scaled, method).layers["a"].scores).all()
        edited = fs.replace(scaled, observe=lambda x: errors.append(x.relative_error))
        _written(edited)
        replaced = _rows(edited["dw.weight"].torch())
        assert errors[1] == pytest.approx(errors[0], rel=0.1 if subnormal else 1e-5)
        assert np.isfinite(replaced).all()
        share = fs.explain(scaled).to_json()["layers"]
    error = np.linalg.norm(replaced / power - kernels) / np.linalg.norm(kernels)
    assert error < (0.1 if subnormal else 1e-5)
    for one, other in zip(spectra, share, strict=True):
        e2, scaled_e2 = np.asarray(one["e2"], float), np.asarray(other["e2"], float)
        assert np.isfinite(scaled_e2).all()
        np.testing.assert_allclose(scaled_e2 / scaled_e2.sum(), e2 / e2.sum(), rtol=0.1, atol=1e-3)


@pytest.mark.parametrize("verb", ["rank", "replace", "explain", "fabricate"])
def test_infinite_weights_are_refused_with_the_layers_name(verb):
    """A checkpoint whose values were too large for float16 holds infinities."""
    tensors = _save(torch.float32, 1e6)
    save_file({k: v.half() for k, v in tensors.items()}, "m.safetensors")
    act = {
        "rank": lambda x: fs.rank(x, "l1"),
        "explain": fs.explain,
        "replace": lambda x: _written(fs.replace(x)),
        "fabricate": lambda x: _written(fs.fabricate(x)),
    }[verb]
    with fs.load("m.safetensors") as checkpoint, pytest.raises(LayerError, match=r"layer (a|dw)"):
        act(checkpoint)
