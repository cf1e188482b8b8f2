"""Initialisations: what each promises, the checks of App. G, what is kept and refused."""

import inspect
import json

import numpy as np
import pytest
from learning import SHARED, needs_shared
from safetensors.numpy import load_file, save_file
from scipy.stats import ks_2samp, kstest, uniform

import filtersurgeon as fs
from filtersurgeon.errors import ArchitectureError, LayerError, OptionError
from filtersurgeon.explain.basis import Guide
from filtersurgeon.explain.explanation import distances, unmet
from filtersurgeon.registry import INITIALIZERS

METHODS = INITIALIZERS.names()
UNGUIDED = [name for name in METHODS if "guide" not in INITIALIZERS.inputs(name)]


def _write(path, **shapes):
    random = np.random.default_rng(0)
    tensors = {
        f"{name}.weight": random.standard_normal(shape).astype(np.float32) / 3
        for name, shape in shapes.items()
    }
    save_file({**tensors, "stem.bias": np.arange(8, dtype=np.float32)}, path)
    return path


@pytest.fixture
def network(tmp_path):
    return _write(tmp_path / "m.safetensors", stem=(8, 3, 3, 3), a=(64, 32, 3, 3),
                  b=(40, 64, 5, 5), c=(16, 40, 1, 7), d=(9, 16, 1, 1))  # fmt: skip


def _kernels(checkpoint, name):
    values = checkpoint[f"{name}.weight"].array()
    return values.reshape(-1, *values.shape[2:]).astype(np.float64)


# The contract


def test_the_methods_of_the_paper_are_found():
    known = {"ones", "dct2", "unchanged", "ghaar", "psine", "guided-steer", "bank"}
    assert known == set(METHODS)


@pytest.mark.parametrize("method", METHODS)
def test_a_method_is_documented_with_its_source(method):
    text = inspect.getdoc(INITIALIZERS.function(method))
    assert "Source:" in text
    assert "Returns:" in text
    assert len(INITIALIZERS.summary(method)) <= 100
    for option in INITIALIZERS.options(method).values():
        assert option.annotation in (bool, int, float, str)
        assert f"{option.name}:" in text


@pytest.mark.parametrize("method", METHODS)
def test_spatial_kernels_change_and_nothing_else(network, method):
    with fs.load(network) as checkpoint:
        guide = checkpoint if method == "guided-steer" else None
        new = fs.initialize(checkpoint, method=method, guide=guide, seed=4)
        for name in ("d.weight", "stem.bias"):
            assert bytes(new[name].raw()) == bytes(checkpoint[name].raw())
        for layer in fs.find_layers(checkpoint):
            before, after = layer.stored.array(), new[layer.tensor].array()
            assert before.shape == after.shape
            assert np.isfinite(after).all()
            # The default bank has no kernels of 1x7.
            kept = {"unchanged": "abc", "bank": "c"}.get(method, "")
            assert (after != before).any() == (layer.is_spatial and layer.name[0] not in kept
                                               and method != "unchanged")  # fmt: skip


@pytest.mark.parametrize("method", ["dct2", "ghaar", "psine", "guided-steer", "bank"])
def test_draws_depend_on_the_seed_and_the_layer_alone(network, method):
    with fs.load(network) as checkpoint:
        guide = checkpoint if method == "guided-steer" else None

        def made(**options):
            return fs.initialize(checkpoint, method=method, guide=guide, **options)

        alone, again, other = made(seed=1, layers=["b"]), made(seed=1), made(seed=2)
        np.testing.assert_array_equal(_kernels(alone, "b"), _kernels(again, "b"))
        np.testing.assert_array_equal(_kernels(alone, "a"), _kernels(checkpoint, "a"))
        assert (_kernels(other, "b") != _kernels(again, "b")).any()


# What each promises


def test_ones_are_ones(network):
    with fs.load(network) as checkpoint:
        assert (_kernels(fs.initialize(checkpoint, method="ones"), "b") == 1).all()


@pytest.mark.parametrize("layer", ["a", "b", "c"])
def test_dct2_draws_all_basis_filters_alike(network, layer):
    with fs.load(network) as checkpoint:
        kernels = _kernels(fs.initialize(checkpoint, method="dct2"), layer)
    basis = fs.find_basis("dct", kernels.shape[1:])
    coefficients = kernels.reshape(len(kernels), -1) @ basis.vectors.T
    one_hot = np.eye(len(basis.vectors))[np.abs(coefficients).argmax(axis=1)]
    np.testing.assert_allclose(coefficients, one_hot, atol=1e-6)
    counts, expected = one_hot.sum(axis=0), len(kernels) / len(basis.vectors)
    assert (np.abs(counts - expected) < 5 * expected**0.5).all()


@pytest.mark.parametrize("layer", ["a", "b", "c"])
def test_ghaar_kernels_are_sums_of_three_products(network, layer):
    with fs.load(network) as checkpoint:
        kernels = _kernels(fs.initialize(checkpoint, method="ghaar"), layer)
    _, height, width = kernels.shape
    # A row, a column and a product: without its mean row and column a kernel has rank one.
    rest = kernels - kernels[:, :1] - kernels[:, :, :1] + kernels[:, :1, :1]
    assert (np.linalg.matrix_rank(rest, tol=1e-5) <= 1).all()
    if min(height, width) == 1:
        assert np.abs(rest).max() < 1e-5
    # At the first position every cosine is one: h + v + d.
    sums = kernels[:, 0, 0]
    drawn = np.random.default_rng(0).uniform(-1, 1, (3, 100_000)).sum(axis=0)
    assert ks_2samp(sums, drawn).pvalue > 0.001


def _one_ghaar(random, height, width):
    h, v, d = random.uniform(-1, 1, 3)
    f = random.uniform(0, 1, 3)
    x, y = np.linspace(0, np.pi, width), np.linspace(0, np.pi, height)
    across = [np.cos(2 * (width - 1) * part * x) for part in f]
    down = [np.cos(2 * (height - 1) * part * y) for part in f]
    one = h * np.outer(np.ones(height), across[0]) + v * np.outer(down[1], np.ones(width))
    return one + d * np.outer(down[2], across[2])


@pytest.mark.parametrize("layer", ["a", "b", "c"])
def test_ghaar_coefficients_are_distributed_as_the_formula_says(network, layer):
    with fs.load(network) as checkpoint:
        kernels = _kernels(fs.initialize(checkpoint, method="ghaar"), layer)
    random, size = np.random.default_rng(8), kernels.shape[1:]
    expected = np.stack([_one_ghaar(random, *size) for _ in range(4000)])
    vectors = fs.find_basis("dct", size).vectors.T
    for ours, theirs in zip(
        (kernels.reshape(len(kernels), -1) @ vectors).T,
        (expected.reshape(4000, -1) @ vectors).T,
        strict=True,
    ):
        assert ks_2samp(ours, theirs).pvalue > 1e-4


@pytest.mark.parametrize("layer", ["a", "b", "c"])
def test_psine_kernels_have_zero_mean_and_unit_norm(network, layer):
    with fs.load(network) as checkpoint:
        kernels = _kernels(fs.initialize(checkpoint, method="psine"), layer)
    np.testing.assert_allclose(kernels.mean(axis=(1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(kernels, axis=(1, 2)), 1, rtol=1e-5)


def test_psine_of_power_one_is_a_sum_of_three_products(tmp_path):
    path = _write(tmp_path / "m.safetensors", a=(20, 20, 7, 7))
    with fs.load(path) as checkpoint:
        new = fs.initialize(checkpoint, method="psine", options={"max_power": 1})
        kernels = _kernels(new, "a")
    # Three outer products, and the constant that makes the mean zero.
    assert (np.linalg.matrix_rank(kernels, tol=1e-5) <= 4).all()


def test_the_scale_can_be_kept(network):
    with fs.load(network) as checkpoint:
        for method in UNGUIDED:
            new = fs.initialize(checkpoint, method=method, match_scale=True)
            for name in "abc":
                rms = [np.sqrt((_kernels(x, name) ** 2).mean()) for x in (checkpoint, new)]
                assert rms[1] == pytest.approx(rms[0], rel=1e-5)


# From a bank


@pytest.mark.parametrize(("name", "inputs", "side"), [("a", 32, 3), ("b", 64, 5), ("stem", 3, 3)])
def test_kernels_are_members_evenly_drawn_at_the_usual_norm(network, name, inputs, side):
    with fs.load(network) as checkpoint:
        kernels = _kernels(fs.initialize(checkpoint, method="bank", seed=2), name)
    flat = kernels.reshape(len(kernels), -1)
    # The root mean square norm of PyTorch's own, U[-r, r] with r = 1 / sqrt(fan_in).
    drawn = np.random.default_rng(0).uniform(-1, 1, (50_000, side * side))
    usual = np.sqrt(np.square(drawn).sum(axis=1).mean() / (inputs * side * side))
    norms = np.linalg.norm(flat, axis=1)
    assert np.ptp(norms) < 1e-6
    assert norms[0] == pytest.approx(usual, rel=0.01)
    bank = fs.load_bank("dog8").at((side, side)).kernels.reshape(8, -1)
    cosines = flat @ (bank / np.linalg.norm(bank, axis=1, keepdims=True)).T / norms[:, None]
    chosen = np.abs(cosines).argmax(axis=1)
    signs = np.sign(cosines[np.arange(len(flat)), chosen])
    np.testing.assert_allclose(np.abs(cosines).max(axis=1), 1, atol=1e-6)
    counts = np.bincount(chosen, minlength=8)
    assert counts.max() - counts.min() <= 1
    positive = (signs > 0).sum()
    assert abs(positive - len(flat) / 2) < 5 * (len(flat) / 4) ** 0.5
    # Members come in no order.
    assert not (np.diff(chosen) >= 0).all()


def test_layers_take_the_first_bank_of_their_size(network):
    row = fs.FilterBank("row", np.arange(7.0)[None, None], ("slope",))
    with fs.load(network) as checkpoint:
        new = fs.initialize(checkpoint, method="bank", bank=["dog8", row], layers=["b", "c"])
        only = fs.initialize(checkpoint, method="bank", bank=row)
        np.testing.assert_array_equal(_kernels(only, "a"), _kernels(checkpoint, "a"))
    assert len(np.unique(np.round(_kernels(new, "b"), 4), axis=0)) == 16  # of either sign
    kernels = _kernels(new, "c")[:, 0]
    steps = np.diff(kernels, axis=1)
    np.testing.assert_allclose(steps, np.repeat(steps[:, :1], 6, axis=1), atol=1e-6)
    assert only.notes == ("3 layers do not change: row has no 3x3, 5x5 kernels",)
    assert only.history[-1].resources == {"row": row.digest}
    assert new.history[-1].options["bank"] == ["dog8", "row"]


def test_banks_that_do_not_fit_are_refused(network):
    zero = fs.FilterBank("zero", np.stack([np.eye(3), np.zeros((3, 3))]), ("one", "none"))
    with fs.load(network) as checkpoint:
        with pytest.raises(LayerError, match="bank dog8 has no kernels of the sizes"):
            fs.initialize(checkpoint, method="bank", layers=["c"])
        with pytest.raises(OptionError, match="ghaar uses no bank"):
            fs.initialize(checkpoint, bank="dog8")
        new = fs.initialize(checkpoint, method="bank", bank=zero, layers=["a"])
        with pytest.raises(OptionError, match="member none is zero"):
            new["a.weight"].raw()


# GuidedSteer


def _coefficients(guide, layer, kernels):
    return kernels.reshape(len(kernels), -1) @ guide.basis(layer.kernel_size).vectors.T


@needs_shared
@pytest.mark.parametrize("name", ["cifar10_resnet20", "tf_efficientnet_lite0"])
def test_a_density_estimate_keeps_the_guide_s_distributions(name):
    with fs.load(SHARED / "weights" / f"{name}.safetensors") as checkpoint:
        guide, passed = Guide(checkpoint), []
        new = fs.initialize(checkpoint, method="guided-steer", guide=checkpoint, seed=7)
        for layer in guide.layers:
            drawn = _coefficients(guide, layer, _kernels(new, layer.name))
            known = guide.coefficients(layer)
            passed += [
                ks_2samp(drawn[:, at], known[:, at]).pvalue > 0.05 for at in range(drawn.shape[1])
            ]
    assert np.mean(passed) >= 0.95


def test_a_normal_fit_keeps_mean_and_deviation_and_is_normal(network):
    with fs.load(network) as checkpoint:
        guide = Guide(checkpoint)
        new = fs.initialize(
            checkpoint, method="guided-steer", guide=checkpoint, options={"fit": "normal"}
        )
        pvalues = []
        for layer in guide.layers:
            known = guide.coefficients(layer)
            drawn = _coefficients(guide, layer, _kernels(new, layer.name))
            standard = (drawn - known.mean(axis=0)) / known.std(axis=0)
            pvalues += [kstest(column, "norm").pvalue for column in standard.T]
    # Were they right, p-values would be uniform.
    assert kstest(pvalues, uniform.cdf).pvalue > 0.001
    assert np.mean(np.array(pvalues) > 0.05) >= 0.9


def test_without_bandwidth_coefficients_are_the_guide_s_own(network):
    with fs.load(network) as checkpoint:
        new = fs.initialize(
            checkpoint, method="guided-steer", guide=checkpoint, options={"bandwidth": 0},
            layers=["stem"],
        )  # fmt: skip
        guide = Guide(checkpoint)
        layer = guide.layers[-1]
        known = guide.coefficients(layer)
        drawn = _coefficients(guide, layer, _kernels(new, "stem"))
    assert layer.name == "stem"
    for column, values in zip(drawn.T, known.T, strict=True):
        assert np.abs(column[:, None] - values).min(axis=1).max() < 1e-5


def test_widths_need_not_match_the_guide_s(tmp_path, network):
    wide = _write(tmp_path / "wide.safetensors", stem=(80, 3, 3, 3), a=(20, 8, 3, 3))
    with fs.load(network) as guide, fs.load(wide) as checkpoint:
        found = fs.initialize(checkpoint, method="guided-steer", guide=guide)
        apart = distances(fs.explain(found), fs.explain(guide))
    assert set(apart) == {"stem", "a"}
    assert max(apart.values()) < 0.15


def test_guides_that_do_not_fit_are_refused(tmp_path, network):
    other = _write(tmp_path / "o.safetensors", stem=(8, 3, 5, 5), a=(64, 32, 3, 3))
    with fs.load(network) as checkpoint, fs.load(other) as guide:
        for layers, message in (
            (["stem"], "layer stem has 3x3 kernels, the guide .* has 5x5 there"),
            (["b"], "layer b has no counterpart in the guide"),
        ):
            with pytest.raises(LayerError, match=message):
                fs.initialize(checkpoint, method="guided-steer", guide=guide, layers=layers)
        fs.initialize(checkpoint, method="guided-steer", guide=guide, layers=["a"])


# The sanity checks of App. G


@pytest.mark.parametrize(
    ("method", "flat", "low"),
    [("dct2", True, False), ("ones", False, True), ("ghaar", False, True), ("psine", False, True)],
)
def test_spectra_are_what_the_paper_expects(tmp_path, method, flat, low):
    path = _write(tmp_path / "m.safetensors", stem=(16, 3, 3, 3), a=(64, 64, 3, 3))
    with fs.load(path) as checkpoint:
        for seed in range(3):
            found = fs.explain(fs.initialize(checkpoint, method=method, seed=seed))
            assert (unmet(found, "flat") == []) == flat
            assert (unmet(found, "low-pass") == []) == low


def test_psine_at_other_sizes_needs_slower_waves(network):
    with fs.load(network) as checkpoint:
        fast = fs.initialize(checkpoint, method="psine", layers=["b"])
        slow = fs.initialize(
            checkpoint, method="psine", layers=["b"], options={"lowest": 0.5, "highest": 1.5}
        )
        assert unmet(fs.explain(fast, layers=["b"]), "low-pass") != []
        assert unmet(fs.explain(slow, layers=["b"]), "low-pass") == []


@needs_shared
def test_guided_steer_looks_like_its_guide_and_unchanged_is_it():
    with fs.load(SHARED / "weights" / "cifar10_resnet56.safetensors") as checkpoint:
        guide = fs.explain(checkpoint)
        steered = fs.explain(
            fs.initialize(checkpoint, method="guided-steer", guide=checkpoint, seed=2)
        )
        same = fs.initialize(checkpoint, method="unchanged")
        assert same.digest == checkpoint.digest
        apart = {m: fs.initialize(checkpoint, method=m) for m in ("dct2", "ghaar", "psine")}
        others = [max(distances(guide, fs.explain(x)).values()) for x in apart.values()]
    assert np.mean(list(distances(guide, steered).values())) < 0.03
    assert max(distances(guide, steered).values()) < 0.5 * min(others)


# From an architecture, and the others


def test_a_network_from_its_architecture_s_name_alone():
    first, second = (fs.untrained("timm:resnet10t", seed=s, num_classes=4) for s in (0, 1))
    assert first.architecture == "timm:resnet10t"
    assert first.pretrained_cfg["num_classes"] == 4
    assert first.digest == fs.untrained("resnet10t", num_classes=4).digest
    assert first.digest != second.digest
    reset = fs.initialize(first, method="unchanged", others="reset", seed=1)
    for name in first:
        # Same network, seed and order of drawing: all but the spatial kernels is the second's.
        spatial = len(first[name].shape) == 4 and first[name].shape[2:] != (1, 1)
        expected = first if spatial else second
        assert bytes(reset[name].raw()) == bytes(expected[name].raw())


def test_what_is_not_as_the_architecture_makes_it_is_not_reset(tmp_path):
    with fs.load(_write(tmp_path / "m.safetensors", stem=(8, 3, 3, 3))) as checkpoint:
        with pytest.raises(ArchitectureError, match="fits no network"):
            fs.initialize(checkpoint, method="ones", others="reset")
        wrong = fs.Checkpoint(checkpoint.tensors, "wrong", architecture="timm:resnet10t")
        new = fs.initialize(wrong, method="ones", others="reset")
        with pytest.raises(ArchitectureError, match="wrong does not fit timm:resnet10t"):
            new["stem.bias"].raw()


def test_initialize_as_a_command(fsurgeon, network, tmp_path):
    out = tmp_path / "new.safetensors"
    ran = fsurgeon("initialize", network, "-m", "psine", "-p", "max_power=2", "--seed", 3,
                   "--layers", "!c", "-o", out)  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert b"initialised 4,632 kernels in 3 layers by psine" in ran.stderr
    with fs.load(network) as checkpoint:
        expected = fs.initialize(
            checkpoint, method="psine", options={"max_power": 2}, seed=3, layers=["!c"]
        )
        for name, values in load_file(out).items():
            np.testing.assert_array_equal(values, expected[name].array())
    entry = fs.load(out).history[-1]
    assert (entry.verb, entry.options["method"], entry.options["seed"]) == (
        "initialize", "psine", 3
    )  # fmt: skip
    piped = fsurgeon("initialize", "-", "-m", "ones", input=out.read_bytes()).stdout
    flat = fsurgeon("explain", "-", "--expect", "low-pass", input=piped)
    assert flat.returncode == 0, flat.stderr


def test_a_recipe_initialises_too(network, tmp_path):
    (tmp_path / "r.yaml").write_text("steps: [{initialize: {method: dct2, seed: 5}}]")
    with fs.load(network) as checkpoint:
        by_recipe = fs.apply(checkpoint, tmp_path / "r.yaml")
        assert by_recipe.digest == fs.initialize(checkpoint, method="dct2", seed=5).digest


def test_a_dry_run_shows_the_scale(fsurgeon, network):
    content = json.loads(fsurgeon("initialize", network, "-m", "ones", "--dry-run").stdout)
    assert [layer["rms_after"] for layer in content["layers"]] == [1.0] * 4
    assert all(layer["rms"] == pytest.approx(1 / 3, rel=0.3) for layer in content["layers"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-m", "haar"), "no initialisation called 'haar'; did you mean ghaar?"),
        (("-m", "guided-steer"), "name it with --guide"),
        (("-m", "ones", "--guide", "m.safetensors"), "ones has no guide"),
        (("-m", "ones", "--bank", "dog8"), "leave out --bank, or pass --method bank"),
        (("-m", "psine", "-p", "power=2"), "psine has no option 'power'; did you mean max_power?"),
        (("-m", "guided-steer", "--guide", "m.safetensors", "-p", "fit=kd"), "did you mean kde"),
        (("--others", "drop"), "others='drop' is unknown; known: keep, reset"),
        (("--others", "reset"), "fits no network"),
        (("--layers", "d"), "no convolution matches 'd'"),
        (("--untrained", "--arch", "resnet18"), "takes one architecture"),
    ],
)
def test_what_initialize_refuses(refuse, network, words, message):
    out = ("-o", network.parent / "o.safetensors")
    assert message in refuse("initialize", network, *words, *out, cwd=network.parent)


def test_without_a_name_nothing_is_made(refuse, tmp_path):
    out = tmp_path / "o.safetensors"
    assert "needs an architecture" in refuse("initialize", "--untrained", "-o", out)
    assert "did you mean resnet" in refuse("initialize", "timm:resnet1", "--untrained", "-o", out)


def test_options_that_cannot_work(network):
    with fs.load(network) as checkpoint:
        for method, options, message in (
            ("psine", {"max_power": 0}, "max_power should be at least 1"),
            ("psine", {"lowest": 5}, "lowest below highest"),
            ("guided-steer", {"bandwidth": -1}, "should not be negative"),
        ):
            guide = checkpoint if method == "guided-steer" else None
            new = fs.initialize(checkpoint, method=method, options=options, guide=guide)
            with pytest.raises(OptionError, match=message):
                new["a.weight"].raw()
