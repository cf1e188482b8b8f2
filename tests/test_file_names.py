"""Names of tensors as trainers leave them, found by the network."""

import pytest
import torch

import filtersurgeon as fs
from filtersurgeon.errors import CheckpointError
from filtersurgeon.networks.prefixes import fit_names

ARCH = "timm:test_resnet"


@pytest.fixture(scope="module")
def state():
    return fs.untrained(ARCH, num_classes=3).state_dict()


def _save(tmp_path, *parts):
    torch.save({p + k: v for p, tensors in parts for k, v in tensors.items()}, tmp_path / "m.pt")
    return tmp_path / "m.pt"


def test_a_prefix_is_found_by_the_network(tmp_path, state):
    path = _save(tmp_path, ("model.", state), ("loss.", {"w": torch.ones(2)}))
    found = fs.load(path, arch=ARCH)
    assert set(found) == set(state)
    assert all(torch.equal(found[k].torch(), v) for k, v in state.items())
    assert "removed 'model.'" in found.notes[-1]
    assert "left out 1 tensors" in found.notes[-1]


def test_two_networks_need_a_prefix(tmp_path, state):
    other = {k: v + 1 for k, v in state.items()}
    path = _save(tmp_path, ("teacher.", state), ("student.", other))
    with pytest.raises(CheckpointError, match=r"several networks.*`prefix`"):
        fs.load(path, arch=ARCH)
    found = fs.load(path, arch=ARCH, prefix="student.")
    assert all(torch.equal(found[k].torch(), v) for k, v in other.items())
    with pytest.raises(CheckpointError, match="begins with 'x'"):
        fs.load(path, prefix="x")


def test_a_missing_head_is_a_network_without_classes():
    bare = fs.untrained(ARCH, num_classes=0)
    assert fs.build(bare).num_classes == 0


def test_plain_names_stay():
    plain = fs.untrained(ARCH, num_classes=3)
    assert fit_names(plain) is plain
