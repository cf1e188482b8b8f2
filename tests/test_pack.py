"""Packing: what is stored, what comes back, how large it is, and who refuses it."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch
from scipy.optimize import nnls

import filtersurgeon as fs
from filtersurgeon.archetypes import archetypal_analysis
from filtersurgeon.checkpoint.safetensors import format_header
from filtersurgeon.checkpoint.tensor import BITS, COMPUTABLE, byte_count
from filtersurgeon.errors import CheckpointError, LayerError, OptionError
from filtersurgeon.transforms.packing.description import PARTS
from filtersurgeon.transforms.packing.trade import trade


@pytest.fixture
def wide(tmp_path):
    """A network whose layers are large enough to shrink, its tensors in an order of their own."""
    rng = np.random.default_rng(3)
    tensors = {
        "z.conv.weight": rng.standard_normal((32, 8, 3, 3)).astype(np.float32),
        "bias": rng.standard_normal(32).astype(np.float16),
        "steps": np.array(7, np.int64),
        "a.conv.weight": rng.standard_normal((40, 32, 3, 3)).astype(np.float32),
        "a.pw.weight": rng.standard_normal((24, 40, 1, 1)).astype(np.float32),
    }
    path = tmp_path / "wide.safetensors"
    save_torch({k: torch.from_numpy(v) for k, v in tensors.items()}, path)
    return path


def _rows(tensor: np.ndarray) -> np.ndarray:
    return tensor.reshape(len(tensor), -1).astype(np.float64)


def _saved(checkpoint: fs.Checkpoint, path) -> fs.Checkpoint:
    fs.save(checkpoint, path, force=True)
    return fs.load(path)


def _relative(new: np.ndarray, old: np.ndarray) -> float:
    return float(np.linalg.norm(_rows(new) - _rows(old)) / np.linalg.norm(_rows(old)))


# What comes back


@pytest.mark.parametrize("options", [{}, {"half": True}, {"coefficients": "random", "seed": 2}])
def test_names_shapes_types_and_order_come_back_and_all_else_stays(wide, tmp_path, options):
    before = fs.load(wide)
    packed = _saved(fs.pack(before, layers=["*"], **options), tmp_path / "p.safetensors")
    after = fs.unpack(packed)
    assert list(after) == list(before)
    for name in before:
        assert (after[name].dtype, after[name].shape) == (before[name].dtype, before[name].shape)
    for name in ("bias", "steps"):
        assert bytes(after[name].raw()) == bytes(before[name].raw())
        assert bytes(packed[name].raw()) == bytes(before[name].raw())
    assert "packed" not in after.annotations
    assert [entry.verb for entry in after.history] == ["pack", "unpack"]


def _with_raw(path, source, raw):
    """Add tensors of any type, given by their bytes, to a file."""
    with fs.load(source) as before:
        table = {name: (stored.dtype, stored.shape) for name, stored in before.tensors.items()}
        data = b"".join(bytes(before[name].raw()) for name in before)
    for name, (dtype, shape) in raw.items():
        table[name] = dtype, shape
        data += random_bytes(byte_count(dtype, shape))
    path.write_bytes(format_header(table, {}) + data)
    return path


def random_bytes(count):
    """Give bytes of every value."""
    return np.random.default_rng(count).integers(0, 256, count, np.uint8).tobytes()


@pytest.mark.parametrize("dtype", sorted(BITS))
@pytest.mark.parametrize("options", [{}, {"coefficients": "random"}])
def test_tensors_of_every_type_stay_bit_for_bit(wide, tmp_path, dtype, options):
    raw = {"a.scale": (dtype, (8,)), "q.zero": (dtype, (2, 4)), "q.empty": (dtype, (0, 3))}
    before = fs.load(_with_raw(tmp_path / "all.safetensors", wide, raw))
    packed = _saved(fs.pack(before, **options), tmp_path / "p.safetensors")
    after = _saved(fs.unpack(packed), tmp_path / "u.safetensors")
    assert set(after) == set(before)
    for name in set(before) - {"z.conv.weight", "a.conv.weight"}:
        for file in (packed, after):
            assert (file[name].dtype, file[name].shape) == (before[name].dtype, before[name].shape)
            assert bytes(file[name].raw()) == bytes(before[name].raw())


@pytest.mark.parametrize("dtype", sorted(set(BITS) - set(COMPUTABLE)))
def test_filters_of_types_that_cannot_be_packed_are_named(wide, tmp_path, dtype):
    raw = {"q.conv.weight": (dtype, (32, 8, 3, 3))}
    before = fs.load(_with_raw(tmp_path / "all.safetensors", wide, raw))
    for bank in (None, "dog8"):
        with pytest.raises(LayerError, match=rf"layer q\.conv: .*{dtype}.*`layers`"):
            fs.pack(before, bank=bank)
    after = fs.unpack(_saved(fs.pack(before, layers=["!q.conv"]), tmp_path / "p.safetensors"))
    assert bytes(after["q.conv.weight"].raw()) == bytes(before["q.conv.weight"].raw())


def test_the_closest_mixtures_come_back(wide):
    """Against NNLS on the stored archetypes: no convex mixture of them is closer."""
    before = fs.load(wide)
    packed = fs.pack(before)
    after = fs.unpack(packed)
    for name in ("z.conv.weight", "a.conv.weight"):
        Z = _rows(packed[f"{name}.archetypes"].array())
        weight = 1e3 * np.abs(Z).max()
        design = np.vstack([Z.T, np.full(len(Z), weight)])
        for old, new in zip(_rows(before[name].array()), _rows(after[name].array()), strict=True):
            best = nnls(design, np.append(old, weight))[0]
            assert np.linalg.norm(new - old) <= np.linalg.norm(best @ Z - old) * (1 + 1e-4)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("options", [{}, {"coefficients": "random", "seed": 5}])
def test_the_error_is_the_one_that_is_stated(wide, tmp_path, half, options):
    costs = []
    before = fs.load(wide)
    packed = fs.pack(before, half=half, observe=costs.append, **options)
    after = fs.unpack(_saved(packed, tmp_path / "p.safetensors"))
    stated = fs.inspect(packed).to_json()["packed"]["layers"]
    assert [layer["name"] for layer in stated] == ["a.conv", "z.conv"]
    for layer, cost in zip(stated, costs, strict=True):
        tensor = layer["tensor"]
        error = _relative(after[tensor].array(), before[tensor].array())
        assert layer["error"] == pytest.approx(error, rel=1e-6)
        assert cost.error == layer["error"]
    if not options and not half:
        # And it is the residual of the analysis, which is relative to the distance from the mean.
        X = _rows(before["a.conv.weight"].array())
        model = archetypal_analysis(X, 10)
        assert costs[0].error == pytest.approx(
            model.relative_error * np.linalg.norm(X - X.mean(0)) / np.linalg.norm(X), rel=1e-4
        )


def test_random_coefficients_give_what_fabricate_gives(model, wide):
    for path in (model, wide):
        checkpoint = fs.load(path)
        options = {"draw": "dirichlet", "concentration": 0.3, "seed": 9, "archetypes": 0.3}
        made = fs.fabricate(checkpoint, **options)
        restored = fs.unpack(fs.pack(checkpoint, coefficients="random", **options))
        assert restored.digest == made.digest != checkpoint.digest


def test_half_precision_costs_little_error_and_half_the_bytes(wide):
    sizes, errors = [], []
    for half in (False, True):
        costs = []
        packed = fs.pack(fs.load(wide), half=half, coefficients="random", observe=costs.append)
        sizes.append(sum(packed[n].nbytes for n in packed if n.endswith(".archetypes")))
        errors.append([cost.error for cost in costs])
    assert sizes[0] == 2 * sizes[1]
    np.testing.assert_allclose(errors[0], errors[1], rtol=1e-2)
    assert errors[0] != errors[1]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types(tmp_path, dtype):
    weights = torch.randn(24, 8, 3, 3, generator=torch.Generator().manual_seed(0)).to(dtype)
    save_torch({"conv.weight": weights}, tmp_path / "m.safetensors")
    packed = fs.pack(fs.load(tmp_path / "m.safetensors"))
    after = fs.unpack(packed)["conv.weight"]
    assert after.torch().dtype == dtype
    assert packed["conv.weight.archetypes"].torch().dtype == dtype
    stated = fs.inspect(packed).packing.layers[0].error
    found = _relative(after.array(), fs.load(tmp_path / "m.safetensors")["conv.weight"].array())
    assert stated == pytest.approx(found, rel=1e-6)
    assert 0.1 < found < 1


# How large it is


def test_sizes_are_what_arithmetic_says(wide):
    costs = []
    checkpoint = fs.load(wide)
    packed = fs.pack(checkpoint, observe=costs.append)
    saved = 0
    for cost, (n, length) in zip(costs, [(40, 288), (32, 72)], strict=True):
        d = round(n / 4)
        entries = packed[f"{cost.name}.weight.indices"].shape[0]
        counted = archetypal_analysis(_rows(checkpoint[f"{cost.name}.weight"].array()), d)
        assert entries == np.count_nonzero(counted.coefficients)
        assert cost.packed_bytes == 4 * d * length + (4 + 1) * entries + n
        assert cost.bytes == 4 * n * length
        saved += cost.bytes - cost.packed_bytes
    assert packed.nbytes == checkpoint.nbytes - saved
    random = fs.pack(checkpoint, coefficients="random")
    assert random.nbytes == checkpoint.nbytes - 4 * (30 * 288 + 24 * 72)


def test_layers_that_would_not_shrink_are_left(wide, tmp_path):
    rng = np.random.default_rng(0)
    tensors = {"dw.weight": (64, 1, 3, 3), "conv.weight": (8, 4, 3, 3), "head.weight": (64, 2)}
    save_file(
        {k: rng.standard_normal(shape).astype("f4") for k, shape in tensors.items()},
        tmp_path / "m.safetensors",
    )
    costs = []
    checkpoint = fs.load(tmp_path / "m.safetensors")
    packed = fs.pack(checkpoint, archetypes=0.5, observe=costs.append)
    assert {cost.name: cost.shrinks for cost in costs} == {"conv": True, "dw": False}
    assert set(packed) - {f"conv.weight.{part}" for part in PARTS["learned"]} == {
        "dw.weight", "head.weight"
    }  # fmt: skip
    with pytest.raises(LayerError, match="smaller"):
        fs.pack(checkpoint, archetypes=0.5, layers=["dw"])
    with pytest.raises(LayerError, match="smaller"):
        fs.pack(fs.load(wide), coefficients="random", archetypes=1.0)


def test_a_trade_tells_what_packing_does(wide):
    checkpoint = fs.load(wide)
    bargains = trade(checkpoint, [0.125, 0.25, 0.5])
    assert [(b.archetypes, b.half) for b in bargains] == [
        (share, half) for share in (0.125, 0.25, 0.5) for half in (False, True)
    ]
    for bargain in bargains:
        packed = fs.pack(checkpoint, archetypes=bargain.archetypes, half=bargain.half)
        after = fs.unpack(packed)
        assert bargain.packed_bytes == packed.nbytes
        pairs = [(after[n].array(), checkpoint[n].array()) for n in after if "conv" in n]
        lost = sum(np.square(_rows(a) - _rows(b)).sum() for a, b in pairs)
        energy = sum(np.square(_rows(b)).sum() for _, b in pairs)
        assert bargain.error == pytest.approx(np.sqrt(lost / energy), rel=1e-6)
    full = bargains[::2]
    assert [b.packed_bytes for b in full] == sorted(b.packed_bytes for b in full)
    assert [b.error for b in full] == sorted((b.error for b in full), reverse=True)


# Degenerate layers


def test_zeros_and_copies(tmp_path):
    base = np.random.default_rng(0).standard_normal((2, 4, 3, 3)).astype(np.float32)
    tensors = {"zero.weight": np.zeros((8, 4, 3, 3), "f4"), "two.weight": np.repeat(base, 8, 0)}
    save_file(tensors, tmp_path / "m.safetensors")
    packed = _saved(fs.pack(fs.load(tmp_path / "m.safetensors")), tmp_path / "p.safetensors")
    assert packed["two.weight.archetypes"].shape == (2, 4, 3, 3)
    after = fs.unpack(packed)
    for name, before in tensors.items():
        np.testing.assert_allclose(after[name].array(), before, rtol=1e-6)
    assert all(layer.error < 1e-6 for layer in fs.inspect(packed).packing.layers)


def test_weights_beyond_half_precision_name_the_layer(tmp_path):
    weights = 1e6 * np.random.default_rng(0).standard_normal((8, 4, 3, 3)).astype(np.float32)
    save_file({"conv.weight": weights}, tmp_path / "m.safetensors")
    with pytest.raises(LayerError, match=r"conv.*F16"):
        fs.pack(fs.load(tmp_path / "m.safetensors"), half=True)
    fs.pack(fs.load(tmp_path / "m.safetensors"))


@pytest.mark.parametrize(
    "options",
    [
        {"coefficients": "leraned"}, {"archetypes": 0}, {"draw": "dirichlet"},
        {"concentration": 2.0}, {"coefficients": "random", "draw": "none"},
    ],
)  # fmt: skip
def test_unusable_options(model, options):
    with pytest.raises(OptionError):
        fs.pack(fs.load(model), **options)


def test_a_name_that_is_taken(tmp_path):
    rng = np.random.default_rng(0)
    tensors = {"c.weight": rng.standard_normal((8, 4, 3, 3)), "c.weight.indices": np.zeros(3)}
    save_file({k: v.astype("f4") for k, v in tensors.items()}, tmp_path / "m.safetensors")
    with pytest.raises(LayerError, match=r"c\.weight\.indices"):
        fs.pack(fs.load(tmp_path / "m.safetensors"))


# Who refuses it, and what is refused


@pytest.fixture
def packed(model, tmp_path):
    path = tmp_path / "packed.safetensors"
    fs.save(fs.pack(fs.load(model)), path)
    return path


def test_other_verbs_name_the_remedy(packed, refuse, tmp_path):
    out = ("-o", tmp_path / "out.safetensors")
    for words in (
        ["rank", packed], ["replace", packed, *out], ["fabricate", packed, *out],
        ["pack", packed, *out], ["inspect", packed, "--arch", "timm:resnet18"],
        ["eval", packed, "--data", packed, "--arch", "timm:resnet18"],
    ):  # fmt: skip
        assert "fsurgeon unpack" in refuse(*words)
    with pytest.raises(CheckpointError, match="fsurgeon unpack"):
        fs.build(fs.load(packed))


def test_what_is_not_packed_is_not_unpacked(model, refuse, tmp_path):
    assert "not packed" in refuse("unpack", model, "-o", tmp_path / "out.safetensors")


def test_a_folder_is_refused_before_any_work(model, refuse, tmp_path):
    assert "one file" in refuse("pack", model, "-o", f"{tmp_path}/net/")


def _damage(path, tensors=None, **changes):
    """Write a packed file again with another description or other tensors."""
    from safetensors import safe_open

    with safe_open(path, "np") as file:
        metadata = file.metadata()
    content = json.loads(metadata["packed"]) | changes
    metadata["packed"] = json.dumps(content)
    save_file({**load_file(path), **(tensors or {})}, path, metadata)


@pytest.mark.parametrize(
    "changes",
    [
        {"schema": "filtersurgeon.packed/2"}, {"coefficients": "found"}, {"layers": [{}]},
        {"layers": 3}, {"order": ["stem.weight"]}, {"layers": []}, {"order": None},
        {"coefficients": "random"},
        {"coefficients": "random", "draw": {"kind": "uniform", "concentration": 3, "seed": 1}},
    ],
)  # fmt: skip
def test_a_corrupt_description(packed, changes):
    _damage(packed, **changes)
    for look in (fs.unpack, lambda checkpoint: fs.inspect(checkpoint).to_json()):
        with pytest.raises(CheckpointError, match="not packed as it says"):
            look(fs.load(packed))


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("indices", lambda x: x + 100),
        ("indices", lambda x: x[:-1]),
        ("indices", lambda x: x.astype("f4")),
        ("counts", lambda x: x[:-1]),
        ("counts", lambda x: np.where(np.arange(len(x)) == 0, 0, x).astype(x.dtype)),
        ("coefficients", lambda x: x * np.nan),
        ("coefficients", lambda x: -x),
        ("archetypes", lambda x: x[:, :1].copy()),
    ],
)
def test_corrupt_parts(packed, part, change):
    name = f"stem.weight.{part}"
    _damage(packed, {name: change(load_file(packed)[name])})
    with pytest.raises(CheckpointError, match="stem"):
        fs.unpack(fs.load(packed))["stem.weight"].raw()


def test_damage_ends_the_command_without_an_output(packed, refuse, tmp_path):
    _damage(packed, {"stem.weight.counts": np.zeros(8, np.uint8)})
    assert "stem" in refuse("unpack", packed, "-o", tmp_path / "out.safetensors")


# The commands


def test_pipes_files_recipes_and_python_agree_byte_for_byte(wide, fsurgeon, tmp_path):
    piped = fsurgeon("pack", "--half", input=wide.read_bytes())
    assert piped.returncode == 0
    path = tmp_path / "p.safetensors"
    noted = fsurgeon("pack", wide, "--half", "-o", path).stderr.decode()
    assert path.read_bytes() == piped.stdout
    before, after = fs.load(wide).nbytes, fs.load(path).nbytes
    assert f"packed 2 layers: {before:,} bytes become {after:,}" in noted
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps({"steps": [{"pack": {"half": True}}, "unpack"]}))
    restored = fsurgeon("unpack", input=piped.stdout).stdout
    assert fsurgeon("apply", recipe, wide).stdout == restored
    assert fsurgeon("unpack", path).stdout == restored
    fs.save(fs.unpack(fs.load(path)), tmp_path / "u.safetensors")
    assert (tmp_path / "u.safetensors").read_bytes() == restored


def test_inspect_shows_what_is_packed(packed, fsurgeon):
    content = json.loads(fsurgeon("inspect", packed).stdout)
    assert [layer["name"] for layer in content["packed"]["layers"]] == [
        "blocks.2.dw", "blocks.10.dw", "stem"
    ]  # fmt: skip
    assert [x["name"] for x in content["layers"]] == ["blocks.2.pw", "blocks.10.pw"]
    table = fsurgeon("inspect", packed, "--table").stdout.decode()
    assert "fsurgeon unpack" in table


def test_a_dry_run_shows_the_trade_and_writes_nothing(wide, fsurgeon, tmp_path):
    content = json.loads(fsurgeon("pack", wide, "--dry-run", "--half").stdout)
    assert content["schema"] == "filtersurgeon.packing/1"
    packed = fs.pack(fs.load(wide), half=True)
    assert content["packed_bytes"] == packed.nbytes
    assert len(content["trade"]) == 6
    assert [path.name for path in tmp_path.iterdir()] == ["wide.safetensors"]
    table = fsurgeon("pack", wide, "--dry-run", "--table", "--archetypes", "0.75").stdout.decode()
    assert "0.375" in table
    assert "1.500" not in table


def test_a_real_network_evaluates_after_a_round_trip(shared_data):
    path = shared_data / "weights" / "cifar10_resnet20.safetensors"
    before = fs.load(path)
    costs = []
    packed = fs.pack(before, archetypes=0.5, layers=["layer3"], observe=costs.append)
    after = fs.unpack(packed)
    assert packed.nbytes < 0.75 * before.nbytes
    for cost in costs:
        tensor = f"{cost.name}.weight"
        found = _relative(after[tensor].array(), before[tensor].array())
        assert cost.error == pytest.approx(found, rel=1e-6)
