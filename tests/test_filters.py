"""Finding convolutions: kinds, natural order, patterns."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import filtersurgeon as fs
from filtersurgeon.checkpoint import Checkpoint, StoredTensor
from filtersurgeon.errors import LayerError
from filtersurgeon.filters import find_layers, natural_order, select_layers


def _checkpoint(**shapes: tuple[int, ...]) -> Checkpoint:
    """Make a checkpoint of zeros; two underscores in a name stand for a point."""
    return Checkpoint(
        {
            name.replace("__", "."): StoredTensor.from_array(np.zeros(shape, np.float32), "F32")
            for name, shape in shapes.items()
        }
    )


def _kinds(checkpoint: Checkpoint, **groups: int) -> dict[str, str]:
    return {layer.name: layer.kind for layer in find_layers(checkpoint, groups or None)}


def test_kinds_by_shape():
    checkpoint = _checkpoint(
        stem__weight=(16, 3, 3, 3),
        dw__weight=(16, 1, 5, 5),
        pw__weight=(32, 16, 1, 1),
        bn__weight=(32,),
        fc__weight=(10, 32),
    )
    assert _kinds(checkpoint) == {"stem": "standard", "dw": "depthwise", "pw": "pointwise"}


def test_a_grey_image_is_no_depthwise_layer():
    lenet = _checkpoint(
        conv1__weight=(6, 1, 5, 5),
        conv1__bias=(6,),
        conv2__weight=(16, 6, 5, 5),
        fc1__weight=(120, 400),
        fc2__weight=(84, 120),
        fc3__weight=(10, 84),
    )
    assert _kinds(lenet) == {"conv1": "standard", "conv2": "standard"}


def test_kinds_by_groups_of_the_architecture():
    checkpoint = _checkpoint(
        a__weight=(16, 1, 3, 3),
        b__weight=(16, 4, 3, 3),
        c__weight=(16, 4, 1, 1),
        d__weight=(8, 8, 3, 3),
    )
    kinds = _kinds(checkpoint, a=16, b=4, c=4, d=1)
    assert kinds == {"a": "depthwise", "b": "grouped", "c": "pointwise", "d": "standard"}


def test_what_is_no_convolution():
    checkpoint = _checkpoint(
        pos_embed=(1, 14, 14, 64),
        gamma__weight=(1, 1, 1, 768),
        linear__weight=(10, 10),
        conv3d__weight=(4, 3, 3, 3, 3),
        empty__weight=(0, 3, 3, 3),
        conv__bias=(4, 1, 1, 1),
    )
    assert find_layers(checkpoint) == []


def test_lite0(shared_data):
    with fs.load(shared_data / "weights/tf_efficientnet_lite0.safetensors") as checkpoint:
        layers = find_layers(checkpoint)
        depthwise = [layer for layer in layers if layer.kind == "depthwise"]
        sizes = [layer.kernel_size for layer in depthwise]
        assert (sizes.count((3, 3)), sizes.count((5, 5)), len(sizes)) == (7, 9, 16)
        assert [layer.name for layer in layers if layer.kind == "standard"] == ["conv_stem"]
        assert {layer.kind for layer in layers} == {"standard", "depthwise", "pointwise"}
        exact = fs.inspect(checkpoint, exact=True).layers if checkpoint.architecture else layers
        assert [(x.name, x.kind) for x in exact] == [(x.name, x.kind) for x in layers]


def test_resnet20(shared_data):
    with fs.load(shared_data / "weights/cifar10_resnet20.safetensors") as checkpoint:
        layers = find_layers(checkpoint)
    assert len(layers) == 19
    assert {layer.kind for layer in layers} == {"standard"}
    assert layers[0].name == "conv1"
    assert layers[-1].name == "layer3.2.conv2"


@pytest.mark.parametrize(
    ("names", "ordered"),
    [
        (["a.10", "a.9", "a.1"], ["a.1", "a.9", "a.10"]),
        (["b2", "b", "a"], ["a", "b", "b2"]),
        (["x.2.y", "x.2", "x.10.a"], ["x.2", "x.2.y", "x.10.a"]),
        (["1", "a", ""], ["", "1", "a"]),
        (["a٣", "a2"], ["a2", "a٣"]),  # the Arabic three is a number too
        (["a1²", "a1b"], ["a1b", "a1²"]),  # a superscript is not
    ],
)
def test_natural_order(names, ordered):
    assert sorted(names, key=natural_order) == ordered


@given(st.lists(st.text(max_size=8)))
def test_any_names_can_be_ordered(names):
    ordered = [natural_order(name) for name in sorted(names, key=natural_order)]
    assert all(one <= other for one, other in pairwise(ordered))


LAYERS = find_layers(
    _checkpoint(
        stem__weight=(4, 3, 3, 3),
        blocks__1__conv__weight=(4, 4, 3, 3),
        blocks__2__conv__weight=(4, 4, 3, 3),
        blocks__10__conv__weight=(4, 4, 3, 3),
        head__conv__weight=(4, 4, 1, 1),
    )
)


@pytest.mark.parametrize(
    ("globs", "expected"),
    [
        (None, ["blocks.1.conv", "blocks.2.conv", "blocks.10.conv", "head.conv", "stem"]),
        ([], ["blocks.1.conv", "blocks.2.conv", "blocks.10.conv", "head.conv", "stem"]),
        (["stem"], ["stem"]),
        (["stem.weight"], ["stem"]),
        (["blocks.1"], ["blocks.1.conv"]),
        (["blocks.?.*"], ["blocks.1.conv", "blocks.2.conv"]),
        (["blocks.[12]"], ["blocks.1.conv", "blocks.2.conv"]),
        (["*conv"], ["blocks.1.conv", "blocks.2.conv", "blocks.10.conv", "head.conv"]),
        (["stem", "head"], ["head.conv", "stem"]),
        (["!blocks"], ["head.conv", "stem"]),
        (["blocks", "!blocks.2", "!*10*"], ["blocks.1.conv"]),
        (["*", "!*"], []),
    ],
)
def test_patterns(globs, expected):
    assert [layer.name for layer in select_layers(LAYERS, globs)] == expected


@pytest.mark.parametrize("glob", ["stam", "Stem", "ste", "!blocks.3", "blocks.1.con", ""])
def test_a_pattern_without_a_match_is_refused(glob):
    with pytest.raises(LayerError, match="no convolution matches"):
        select_layers(LAYERS, ["stem", glob])


def test_the_matrix_of_a_layer_has_one_filter_per_row():
    values = np.arange(4 * 3 * 5, dtype=np.float32).reshape(4, 3, 5, 1)
    layer = find_layers(Checkpoint({"c.weight": StoredTensor.from_array(values, "F32")}))[0]
    np.testing.assert_array_equal(layer.matrix(), values.reshape(4, 15))
    assert (layer.n_filters, layer.n_kernels, layer.kernel_size) == (4, 12, (5, 1))


def test_finite_weights_whose_sum_overflows_are_fine():
    values = np.full((2, 2, 3, 3), 3e38, np.float32)
    layer = find_layers(Checkpoint({"c.weight": StoredTensor.from_array(values, "F32")}))[0]
    assert np.isfinite(layer.matrix()).all()
    values[0, 0, 0, 0] = np.nan
    layer = find_layers(Checkpoint({"c.weight": StoredTensor.from_array(values, "F32")}))[0]
    with pytest.raises(LayerError, match="layer c: 1 of its 36 weights"):
        layer.matrix()
