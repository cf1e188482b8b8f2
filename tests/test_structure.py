"""Edits of the module tree that a checkpoint describes."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from hand_pruned import EXAMPLES, pruned_by_hand
from torch import nn

import filtersurgeon as fs
from filtersurgeon.errors import ArchitectureError, CheckpointError
from filtersurgeon.networks.structure import replay
from filtersurgeon.networks.structure.edits.plain_convolution import (
    fold_standardisation,
    is_standardised,
)


@cache
def _mixnet() -> fs.Checkpoint:
    return pruned_by_hand(replace(EXAMPLES["mixnet"], cuts=[]))[1]


def _edited(edit: object) -> fs.Checkpoint:
    return replace(_mixnet(), structure=(edit,))


PLACE = "blocks.1.0.conv_pwl"


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({}, "does not name its kind"),
        ({"edit": 3}, "does not name its kind"),
        ({"edit": "sett", "module": PLACE, "values": {}}, "no edit .* 'sett'; did you mean set"),
        ({"edit": "__init__"}, "no edit of the structure called"),
        ({"edit": "set", "module": PLACE}, "lacks 'values'"),
        ({"edit": "set", "module": PLACE, "values": {}, "more": 1}, "no option 'more'"),
        ({"edit": "set", "module": "blocks.1.0.conv_pw1", "values": {}}, "did you mean"),
        ({"edit": "set", "module": PLACE, "values": [1]}, "not an object"),
        ({"edit": "set", "module": PLACE, "values": {"split": [48, 48]}}, "did you mean splits"),
        ({"edit": "set", "module": PLACE, "values": {"__doc__": 3}}, "keeps no integers"),
        ({"edit": "set", "module": PLACE, "values": {"__class__": 3}}, "keeps no integers"),
        ({"edit": "set", "module": PLACE, "values": {"training": 1}}, "keeps no integers"),
        ({"edit": "set", "module": PLACE, "values": {"forward": 1}}, "keeps no integers"),
        ({"edit": "set", "module": PLACE, "values": {"_modules": []}}, "keeps no integers"),
        ({"edit": "set", "module": PLACE, "values": {"new_name": 1}}, "keeps no integers"),
        ({"edit": "set", "module": PLACE, "values": {"splits": 96}}, "a list of integers"),
        ({"edit": "set", "module": PLACE, "values": {"splits": []}}, "a list of integers"),
        ({"edit": "set", "module": PLACE, "values": {"splits": ["48", 48]}}, "a list of integers"),
        ({"edit": "set", "module": PLACE, "values": {"splits": [True, 95]}}, "a list of integers"),
        ({"edit": "set", "module": PLACE, "values": {"splits": [-1, 97]}}, "from 0 to 2147483647"),
        ({"edit": "set", "module": PLACE, "values": {"splits": [2**31]}}, "from 0 to 2147483647"),
        ({"edit": "set", "module": PLACE, "values": {"in_channels": [96]}}, "an integer"),
        ({"edit": "set", "module": PLACE, "values": {"in_channels": 9.5}}, "an integer"),
        ({"edit": "plain-convolution", "module": "conv_stem"}, "but it is a Conv2d"),
        (
            {"edit": "cut-buffer", "module": "bn1", "name": "running_mean", "axis": 0, "keep": [0]},
            "no buffer without stored values",
        ),
    ],
)
def test_edits_are_not_trusted(edit, words):
    with pytest.raises(CheckpointError, match=words) as caught:
        fs.build(_edited(edit))
    assert "\n" not in str(caught.value)


def test_an_edit_that_breaks_the_network_is_refused():
    with pytest.raises(ArchitectureError, match="do not go together"):
        fs.build(_edited({"edit": "set", "module": PLACE, "values": {"splits": [40, 48]}}))


def test_a_network_says_what_is_wrong_on_the_command_line(tmp_path, refuse):
    bad = _edited({"edit": "set", "module": PLACE, "values": {"splits": [2**31]}})
    fs.save(bad, tmp_path / "m.safetensors")
    words = ("compare", tmp_path / "m.safetensors", tmp_path / "m.safetensors", "--random", 1)
    message = refuse(*words)
    assert "m.safetensors: the structure's value for blocks.1.0.conv_pwl.splits" in message


def test_the_same_kind_of_container_is_kept():
    model = nn.LayerNorm(6)
    replay(model, [{"edit": "set", "module": "", "values": {"normalized_shape": [4]}}])
    assert model.normalized_shape == (4,)


def test_blur_pools_follow_their_channels():
    from filtersurgeon.checkpoint.vision import import_timm

    pools = import_timm().layers
    model = nn.Sequential(pools.BlurPool2d(8))
    replay(model, [{"edit": "set", "module": "0", "values": {"channels": 5}}])
    assert torch.equal(model[0].filt, pools.BlurPool2d(5).filt)
    assert not model.state_dict()
    # More channels than any memory holds cost nothing before the network is proven.
    replay(model, [{"edit": "set", "module": "0", "values": {"channels": 2**31 - 1}}])
    assert model[0].filt.untyped_storage().nbytes() < 1000


def test_constants_that_differ_between_channels_are_not_guessed():
    model = nn.Module()
    model.channels = 3
    model.register_buffer("table", torch.arange(6.0).reshape(3, 2), persistent=False)
    with pytest.raises(CheckpointError, match="differ between channels"):
        replay(model, [{"edit": "set", "module": "", "values": {"channels": 2}}])


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"name": "tabel"}, "did you mean table"),
        ({"name": ["table"]}, "no buffer without stored values"),
        ({"axis": 2}, "has no axis 2"),
        ({"keep": 1}, "ascending and from 0 to 2"),
        ({"keep": []}, "ascending and from 0 to 2"),
        ({"keep": [0, 3]}, "ascending and from 0 to 2"),
        ({"keep": [-1, 0]}, "ascending and from 0 to 2"),
        ({"keep": [1, 0]}, "ascending and from 0 to 2"),
        ({"keep": [0, "1"]}, "ascending and from 0 to 2"),
    ],
)
def test_a_buffer_that_is_not_stored_is_cut_where_it_has_the_indices(wrong, words):
    model = nn.Module()
    model.register_buffer("table", torch.arange(6.0).reshape(3, 2), persistent=False)
    edit = {"edit": "cut-buffer", "module": "", "name": "table", "axis": 0, "keep": [0, 2]}
    with pytest.raises(CheckpointError, match=words):
        replay(model, [{**edit, **wrong}])
    replay(model, [edit])
    assert model.table.tolist() == [[0, 1], [4, 5]]
    assert not model.state_dict()


@pytest.mark.parametrize(
    "kind", ["StdConv2d", "StdConv2dSame", "ScaledStdConv2d", "ScaledStdConv2dSame"]
)
@pytest.mark.parametrize("options", [{}, {"stride": 2, "bias": True}, {"groups": 2, "dilation": 2}])
def test_folding_computes_the_same_bits(kind, options):
    from filtersurgeon.checkpoint.vision import import_timm

    made = getattr(import_timm().layers, kind)(4, 6, 3, **options)
    nn.init.normal_(made.weight)
    if hasattr(made, "gain"):
        nn.init.normal_(made.gain)
    plain = fold_standardisation(made)
    assert is_standardised(made)
    assert not is_standardised(plain)
    image = torch.randn((2, 4, 13, 10), generator=torch.Generator().manual_seed(1))
    assert torch.equal(plain(image), made(image))
    assert plain.state_dict().keys() == made.state_dict().keys() - {"gain"}
    # By the formula of the paper.
    weight = made.weight.detach().double().flatten(1)
    centred = weight - weight.mean(1, keepdim=True)
    wanted = centred / (centred.square().mean(1, keepdim=True) + made.eps).sqrt()
    if hasattr(made, "gain"):
        wanted = wanted * made.gain.detach().double().flatten(1) / weight.shape[1] ** 0.5
    assert torch.allclose(plain.weight.detach().double().flatten(1), wanted, atol=1e-5)
