"""Filters and kernels that are set to zero in place, and cut exactly afterwards."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import filtersurgeon as fs
from filtersurgeon.errors import LayerError, OptionError
from filtersurgeon.networks.opened_module import open_module

SIZE = (3, 12, 12)


def network(norm: bool = True) -> nn.Sequential:
    """Two convolutions, the first one with a batch normalisation that shifts every channel."""
    torch.manual_seed(1)
    behind = nn.BatchNorm2d(10) if norm else nn.Identity()
    model = nn.Sequential(
        nn.Conv2d(3, 10, 3, padding=1), behind, nn.SiLU(), nn.Conv2d(10, 5, 3),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 4),
    )  # fmt: skip
    if norm:
        with torch.no_grad():
            behind.running_mean.uniform_(0.5, 1)
            behind.bias.uniform_(0.5, 1)
    return model.eval()


def zero_rows(weight: Tensor) -> list[int]:
    return torch.nonzero((weight == 0).flatten(1).all(1)).flatten().tolist()


@pytest.mark.parametrize(("end", "place"), [("worst", slice(7, None)), ("best", slice(0, 3))])
def test_a_share_of_filters_becomes_zero_from_either_end(end, place):
    model = network()
    norms = model[0].weight.flatten(1).norm(dim=1)
    wanted = sorted(torch.argsort(-norms)[place].tolist())
    found: list[fs.LayerSilence] = []
    silent = fs.silence(model, SIZE, **{end: 0.35}, method="l2", observe=found.append)
    assert zero_rows(silent[0].weight) == wanted
    assert zero_rows(silent[0].bias[:, None]) == wanted
    assert zero_rows(silent[1].weight[:, None]) == wanted
    assert zero_rows(silent[1].bias[:, None]) == wanted
    assert len(zero_rows(silent[3].weight)) == 1
    assert [(x.name, x.zeroed, x.normalisation) for x in found] == [("0", 3, "1"), ("3", 1, "")]
    assert list(found[0].filters) == wanted
    rest = [i for i in range(10) if i not in wanted]
    assert torch.equal(silent[0].weight[rest], model[0].weight[rest])
    with torch.no_grad():
        assert not silent[:3](torch.randn(2, *SIZE))[:, wanted].any()


def test_silent_filters_are_cut_exactly():
    silent = fs.silence(network(), SIZE, worst=0.4, layers=["0"])
    pruned = fs.prune(silent, SIZE, sparsity=0, mode="exact")
    assert pruned[0].out_channels == 6
    images = torch.randn(2, *SIZE)
    with torch.no_grad():
        torch.testing.assert_close(pruned(images), silent(images), rtol=1e-5, atol=1e-6)


def test_the_shift_stays_on_request():
    model = network()
    silent = fs.silence(model, SIZE, worst=0.4, shift="keep", layers=["0"])
    assert len(zero_rows(silent[0].weight)) == 4
    assert torch.equal(silent[1].weight, model[1].weight)
    with torch.no_grad():
        assert silent[:3](torch.randn(2, *SIZE)).abs().amax((0, 2, 3)).min() > 0.01


def test_without_scale_the_running_mean_is_zeroed():
    model = network()
    model[1] = nn.BatchNorm2d(10, affine=False)
    model[1].running_mean.fill_(2.0)
    silent = fs.silence(model.eval(), SIZE, worst=0.2, layers=["0"])
    assert int((silent[1].running_mean == 0).sum()) == 2
    with torch.no_grad():
        channels = silent[:3](torch.randn(1, *SIZE)).abs().amax((0, 2, 3))
    assert int((channels == 0).sum()) == 2


def test_a_normalisation_of_others_stays_and_is_told():
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3)
            self.norm, self.groups = nn.BatchNorm2d(4), nn.GroupNorm(2, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.groups(self.norm(self.one(x)) + self.norm(self.other(x)))

    silent = fs.silence(Shared().eval(), SIZE, worst=0.5)
    assert len(zero_rows(silent.one.weight)) == 2
    assert not (silent.norm.weight == 0).any()
    notes = fs.silence(open_module(Shared().eval(), SIZE), worst=0.5).notes
    assert notes[-1].startswith("one and 1 more: the normalisation behind is shared")


@pytest.mark.parametrize("end", ["worst", "best"])
def test_kernels_of_all_layers_are_ordered_together(end):
    model = network()
    silent = fs.silence(model, SIZE, **{end: 0.25}, kernels=True, method="l1")
    norms = torch.cat([model[i].weight.abs().sum((2, 3)).flatten() for i in (0, 3)])
    zeroed = torch.cat([(silent[i].weight == 0).all(-1).all(-1).flatten() for i in (0, 3)])
    assert int(zeroed.sum()) == 20
    order = torch.argsort(norms, descending=end == "best")
    assert sorted(order[:20].tolist()) == torch.nonzero(zeroed).flatten().tolist()
    assert torch.equal(silent[1].bias, model[1].bias)
    assert torch.equal(silent[0].bias, model[0].bias)


@pytest.mark.parametrize(
    ("near", "method", "options"),
    [("archetypes", "archetype", {"best": 0.3}), ("median", "geometric-median", {"worst": 0.3})],
)
def test_filters_near_archetypes_or_the_median(near, method, options):
    model = network()
    one = fs.silence(model, SIZE, near=f"{near}=30%")
    other = fs.silence(model, SIZE, method=method, **options)
    assert len(zero_rows(one[0].weight)) == 3
    assert torch.equal(one[0].weight, other[0].weight)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_files_keep_their_type_and_take_the_stored_ranking(dtype, tmp_path, fsurgeon):
    state = {f"m.{k}": v.to(dtype) for k, v in network().state_dict().items() if v.ndim}
    save_file(state, tmp_path / "m.safetensors")
    ranked, out = tmp_path / "ranked.safetensors", tmp_path / "out.safetensors"
    done = fsurgeon("rank", tmp_path / "m.safetensors", "-m", "l1", "--annotate", "-o", ranked)
    assert done.returncode == 0, done.stderr
    done = fsurgeon("silence", ranked, "--worst", "0.5", "--shift", "keep", "-o", out)
    assert done.returncode == 0, done.stderr
    assert b"zeroed 7 of 15 filters in 2 layers" in done.stderr
    found = fs.load(out)
    assert found["m.0.weight"].dtype == {torch.float16: "F16", torch.bfloat16: "BF16"}[dtype]
    sums = state["m.0.weight"].float().abs().flatten(1).sum(1)
    zeroed = np.flatnonzero((found["m.0.weight"].array() == 0).all(axis=(1, 2, 3)))
    assert zeroed.tolist() == sorted(torch.argsort(sums)[:5].tolist())
    assert "ranking" not in found.annotations
    assert found.history[-1].options == {"worst": 0.5, "shift": "keep"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "exactly one of `worst`, `best` and `near`"),
        ({"worst": 0.2, "best": 0.2}, "exactly one of"),
        ({"worst": 1.2}, "`worst` 1.2 should be a share from 0 to 1"),
        ({"best": float("nan")}, "should be a share"),
        ({"near": "median"}, "archetypes=0.2 or median=0.2"),
        ({"near": "median=x"}, "`near` median=x should be a share"),
        ({"near": "median=0.2", "kernels": True}, "leave `method` and `kernels` out"),
        ({"worst": 0.2, "shift": "zeor"}, "did you mean zero"),
        (
            {"worst": 0.2, "kernels": True, "method": "archetype"},
            "ranks filters, not kernels",
        ),
    ],
)
def test_words_without_meaning_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        fs.silence(network(), SIZE, **options)


def test_transposed_convolutions_are_refused_by_name():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 3, 3)).eval()
    with pytest.raises(LayerError, match=r"layer 1 is a transposed convolution.*'!1'"):
        fs.silence(model, SIZE, worst=0.5)


def test_too_small_a_share_is_told(fsurgeon, tmp_path):
    save_file(network(norm=False).state_dict(), tmp_path / "m.safetensors")
    done = fsurgeon(
        "silence", tmp_path / "m.safetensors", "--worst", "0.01", "--shift", "keep", "--dry-run",
        "--json",
    )  # fmt: skip
    assert b"nothing is zeroed: 0.01 is less than one in every layer" in done.stderr
    assert [x["zeroed"] for x in json.loads(done.stdout)["layers"]] == [0, 0]


def test_an_unknown_accuracy_is_told_once_filters_are_zero(fsurgeon, tmp_path):
    save_file(network().state_dict(), tmp_path / "m.safetensors")
    words = ("silence", tmp_path / "m.safetensors", "--shift", "keep")
    written = ("-o", tmp_path / "out.safetensors", "--force")
    warning = "warning: accuracy unknown: no images were passed (fsurgeon eval shows it)\n"
    assert fsurgeon(*words, "--worst", "0.5", *written).stderr.decode().endswith(warning)
    # Nothing is zeroed or written, or the next command may show it.
    for others in (("--worst", "0.01", *written), ("--worst", "0.5", "--dry-run"),
                   ("--worst", "0.5")):  # fmt: skip
        done = fsurgeon(*words, *others)
        assert done.returncode == 0, done.stderr
        assert b"accuracy unknown" not in done.stderr
    assert not fsurgeon(*words, "--worst", "0.5", "--quiet", *written).stderr
