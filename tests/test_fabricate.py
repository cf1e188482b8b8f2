"""Fabricated filters: where they lie, how they are drawn, and what the command does with them."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch
from scipy.optimize import nnls

import filtersurgeon as fs
from filtersurgeon.archetypes import archetypal_analysis
from filtersurgeon.errors import LayerError, OptionError
from filtersurgeon.transforms._fabrication import Draw, match_norms


def _normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def _rows(tensor: np.ndarray) -> np.ndarray:
    return tensor.reshape(len(tensor), -1).astype(np.float64)


def _distance_to_hull(point: np.ndarray, corners: np.ndarray) -> float:
    """Solve for the closest convex mixture of the rows of corners, by NNLS."""
    weight = 1e3 * np.abs(corners).max()
    design = np.vstack([corners.T, np.full(len(corners), weight)])
    return nnls(design, np.append(point, weight))[1]


def _file(tmp_path, **tensors: np.ndarray):
    path = tmp_path / "own.safetensors"
    save_file({name.replace("_", "."): t.astype(np.float32) for name, t in tensors.items()}, path)
    return fs.load(path)


# Where they lie


@pytest.mark.parametrize("name", ["stem", "blocks.2.dw", "blocks.10.dw", "blocks.10.pw"])
@pytest.mark.parametrize("options", [{}, {"draw": "dirichlet"}, {"archetypes": 0.6}])
def test_filters_lie_in_the_hull_of_the_archetypes_and_of_the_filters(
    model, tensors, name, options
):
    before = _rows(tensors[f"{name}.weight"])
    edited = fs.fabricate(fs.load(model), layers=[name], **options)
    after = edited[f"{name}.weight"]
    assert after.shape == tensors[f"{name}.weight"].shape
    count = max(1, round(options.get("archetypes", 0.25) * len(before)))
    corners = archetypal_analysis(before, count).archetypes
    made = _rows(after.array())
    for filter_ in made:
        assert _distance_to_hull(filter_, corners) < 1e-5
        assert _distance_to_hull(filter_, before) < 1e-5
    if len(corners) > 1:
        # Filters of the network itself do not, so the check can fail.
        assert max(_distance_to_hull(filter_, corners) for filter_ in before) > 0.1
        assert len(np.unique(made, axis=0)) == len(made)


def test_nothing_else_changes_and_nothing_is_computed_before_it_is_read(model, tensors, tmp_path):
    reports = []
    edited = fs.fabricate(fs.load(model), observe=reports.append)
    assert reports == []
    fs.save(edited, tmp_path / "out.safetensors")
    after = load_file(tmp_path / "out.safetensors")
    changed = {name for name in tensors if after[name].tobytes() != tensors[name].tobytes()}
    assert changed == {"stem.weight", "blocks.2.dw.weight", "blocks.10.dw.weight"}
    assert {f"{report.name}.weight" for report in reports} == changed
    for report in reports:
        old, new = _rows(tensors[f"{report.name}.weight"]), _rows(after[f"{report.name}.weight"])
        assert report.filters == len(old)
        assert report.norm == pytest.approx(np.linalg.norm(old, axis=1).mean())
        assert report.norm_after == pytest.approx(np.linalg.norm(new, axis=1).mean())
        model_ = archetypal_analysis(old, report.archetypes)
        assert report.error == pytest.approx(model_.relative_error)


def test_norms_are_kept_to_the_last(model, tensors):
    plain = fs.fabricate(fs.load(model))
    matched = fs.fabricate(fs.load(model), norm_match=True)
    for name in ("stem.weight", "blocks.10.dw.weight"):
        before, free, kept = (
            _rows(t) for t in (tensors[name], plain[name].array(), matched[name].array())
        )
        norms = [np.linalg.norm(rows, axis=1) for rows in (before, free, kept)]
        np.testing.assert_allclose(np.sort(norms[2]), np.sort(norms[0]), rtol=1e-6)
        assert norms[1].mean() < 0.9 * norms[0].mean()
        # Directions and the order of size stay as they were drawn.
        np.testing.assert_array_equal(np.argsort(norms[1]), np.argsort(norms[2]))
        np.testing.assert_allclose(free / norms[1][:, None], kept / norms[2][:, None], atol=1e-6)


def test_a_filter_of_zeros_has_no_norm_to_match():
    found = match_norms(np.array([[0.0, 0], [3, 4]]), np.array([7.0, 2.0]))
    np.testing.assert_allclose(found, [[0, 0], [4.2, 5.6]])


# How they are drawn


@pytest.mark.parametrize(
    ("draw", "alpha"),
    [(Draw(), 1.0), (Draw("dirichlet"), 1 / 5), (Draw("dirichlet", 20.0), 20.0)],
)
def test_coefficients_have_the_moments_of_their_distribution(draw, alpha):
    d, n = 5, 40_000
    Y = draw.coefficients("layer", n, d)
    assert Y.shape == (n, d)
    assert Y.min() >= 0
    np.testing.assert_allclose(Y.sum(axis=1), 1)
    variance = (d - 1) / (d**2 * (d * alpha + 1))
    np.testing.assert_allclose(Y.mean(axis=0), 1 / d, atol=5 * np.sqrt(variance / n))
    expected = np.full((d, d), -variance / (d - 1))
    np.fill_diagonal(expected, variance)
    np.testing.assert_allclose(np.cov(Y.T), expected, atol=0.04 * variance)


def test_the_default_concentration_mixes_about_two():
    """The participation ratio 1 / E[sum y^2] is (d a + 1) / (a + 1), near 2 at a = 1/d."""
    Y = Draw("dirichlet").coefficients("layer", 40_000, 64)
    assert 1 / (Y**2).sum(axis=1).mean() == pytest.approx(2 / (1 + 1 / 64), rel=0.02)


def test_a_layer_is_drawn_by_its_name_and_the_seed(model):
    def stem(**options) -> bytes:
        return bytes(fs.fabricate(fs.load(model), **options)["stem.weight"].raw())

    assert stem() == stem() == stem(layers=["stem"])
    assert stem(seed=1) == stem(seed=1, layers=["stem"]) != stem()
    assert Draw().coefficients("a", 3, 4).tolist() != Draw().coefficients("b", 3, 4).tolist()


# Degenerate layers


def test_one_filter_equal_filters_and_zeros_stay(tmp_path):
    same = np.repeat(_normal(1, 3, 3, 3), 6, axis=0)
    tensors = {"one_weight": same[:1], "same_weight": same, "zero_weight": np.zeros((5, 2, 3, 3))}
    checkpoint = _file(tmp_path, **tensors)
    for options in ({}, {"norm_match": True}):
        edited = fs.fabricate(checkpoint, **options)
        for name, before in tensors.items():
            after = edited[name.replace("_", ".")].array()
            np.testing.assert_allclose(after, before.astype(np.float32), rtol=1e-6)


def test_fewer_distinct_filters_than_archetypes(tmp_path):
    two = np.repeat(_normal(2, 1, 3, 3), 8, axis=0)
    reports = []
    edited = fs.fabricate(_file(tmp_path, conv_weight=two), archetypes=0.5, observe=reports.append)
    made = _rows(edited["conv.weight"].array())
    assert reports[0].archetypes == 2
    assert max(_distance_to_hull(row, _rows(two)[[0, 8]]) for row in made) < 1e-5


def test_weights_that_are_not_finite_name_the_layer(model, tensors, refuse, tmp_path):
    tensors["blocks.2.dw.weight"][0, 0, 1, 1] = np.nan
    save_file(tensors, model)
    message = refuse("fabricate", model, "-o", tmp_path / "out.safetensors")
    assert "blocks.2.dw" in message
    edited = fs.fabricate(fs.load(model), layers=["!blocks.2"])
    assert np.isfinite(edited["stem.weight"].array()).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_types_are_kept(tmp_path, dtype):
    weights = torch.from_numpy(_normal(12, 2, 3, 3)).to(dtype)
    save_torch({"conv.weight": weights}, tmp_path / "m.safetensors")
    after = fs.fabricate(fs.load(tmp_path / "m.safetensors"))["conv.weight"].torch()
    assert after.dtype == dtype
    corners = archetypal_analysis(_rows(weights.double().numpy()), 3).archetypes
    slack = 20 * torch.finfo(dtype).eps + 1e-5
    assert all(_distance_to_hull(f, corners) < slack for f in _rows(after.double().numpy()))


def test_norms_beyond_the_range_of_the_type_are_an_error(tmp_path):
    # Each filter spreads its norm over nine weights; the mixture puts it on one.
    weights = np.zeros((4, 1, 3, 3), np.float16)
    weights[:, 0] = 60_000
    weights[0::2, 0, 0, 1:] *= -1
    weights[0::2, 0, 1:] *= -1
    save_file({"conv.weight": weights}, tmp_path / "m.safetensors")
    edited = fs.fabricate(fs.load(tmp_path / "m.safetensors"), archetypes=0.5, norm_match=True)
    with pytest.raises(LayerError, match=r"conv.*F16"):
        edited["conv.weight"].raw()


@pytest.mark.parametrize(
    "options",
    [
        {"archetypes": 0.0}, {"archetypes": 1.5}, {"archetypes": float("nan")}, {"draw": "normal"},
        {"concentration": 2.0}, {"draw": "dirichlet", "concentration": 0.0},
        {"draw": "dirichlet", "concentration": float("inf")},
        {"draw": "dirichlet", "concentration": "many"},
    ],
)  # fmt: skip
def test_unusable_options(model, options):
    with pytest.raises(OptionError):
        fs.fabricate(fs.load(model), **options)


# The command


def test_pipe_file_and_python_agree_byte_for_byte(model, fsurgeon, tmp_path):
    words = ("--draw", "dirichlet", "--concentration", "0.5", "--norm-match", "--seed", "3")
    piped = fsurgeon("fabricate", *words, input=model.read_bytes())
    assert piped.returncode == 0
    path = tmp_path / "out.safetensors"
    filed = fsurgeon("fabricate", model, *words, "-o", path)
    assert filed.returncode == 0
    advice = "(fsurgeon eval shows it; fsurgeon tune trains the network)"
    warning = f"warning: accuracy unknown: no images were passed {advice}\n"
    assert filed.stderr.decode().endswith(warning)
    assert b"accuracy unknown" not in piped.stderr
    assert path.read_bytes() == piped.stdout
    options = {"draw": "dirichlet", "concentration": 0.5, "norm_match": True, "seed": 3}
    fs.save(fs.fabricate(fs.load(model), **options), path, force=True)
    assert path.read_bytes() == piped.stdout
    assert fs.load(path).history[-1].options == {"archetypes": 0.25, **options}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"steps": [{"fabricate": options}]}))
    assert fsurgeon("apply", recipe, model).stdout == piped.stdout


def test_a_dry_run_reports_and_writes_nothing(model, fsurgeon, tmp_path):
    done = fsurgeon("fabricate", model, "--dry-run")
    content = json.loads(done.stdout)
    assert content["schema"] == "filtersurgeon.fabrication/1"
    counts = {layer["name"]: layer["archetypes"] for layer in content["layers"]}
    assert counts == {"blocks.2.dw": 2, "blocks.10.dw": 4, "stem": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]
    table = fsurgeon("fabricate", model, "--dry-run", "--table").stdout.decode()
    assert "made 32 filters in 3 layers from 8 archetypes" in table


def test_refusals(model, refuse):
    out = ("-o", model.parent / "out.safetensors")
    assert "share" in refuse("fabricate", model, "--archetypes", "1.5", *out)
    assert "uniform" in refuse("fabricate", model, "--draw", "unifrom", *out)
    assert "dirichlet" in refuse("fabricate", model, "--concentration", "2", *out)
    assert "no convolution matches" in refuse("fabricate", model, "--layers", "nothing", *out)


def test_real_networks(shared_data):
    checkpoint = fs.load(shared_data / "weights" / "tf_efficientnet_lite0.safetensors")
    edited = fs.fabricate(checkpoint, layers=["blocks.1", "conv_stem"], norm_match=True)
    assert len(edited.changes) == 7
    for change in edited.changes:
        before, after = (_rows(c[change.tensor].array()) for c in (checkpoint, edited))
        norms = [np.sort(np.linalg.norm(rows, axis=1)) for rows in (before, after)]
        np.testing.assert_allclose(*norms, rtol=1e-5)
