"""Edits of the module tree, replayed on a network without data."""

import json

import torch
from torch import nn

from filtersurgeon.checkpoint.safetensors import format_header, read_safetensors
from filtersurgeon.checkpoint.vision import import_timm
from filtersurgeon.networks.resizing import restructure
from fuzz.scratch import as_file


class _Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.split = [4, 4]
        self.conv = nn.Conv2d(3, 8, 3)
        self.standard = import_timm().layers.StdConv2d(8, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.act = nn.ReLU()
        self.head = nn.Linear(8, 2)


def corpus() -> list[bytes]:
    edits = [
        {"edit": "set", "module": "", "values": {"split": [2, 4]}},
        {"edit": "activation", "kind": "leaky-relu", "slope": 0.1, "functions": False},
        {"edit": "plain-convolution", "module": "standard"},
    ]
    return [json.dumps(edits[:2]).encode(), json.dumps(edits).encode(), b"[]"]


def refused() -> list[bytes]:
    # The network's tensors are listed with a weight that it has no more then.
    return [json.dumps([{"edit": "constant", "modules": ["conv"]}]).encode()]


def read(case: bytes) -> None:
    header = format_header({}, {"structure": case.decode("utf-8", "replace")})
    with read_safetensors(as_file(header)) as found:
        with torch.device("meta"):
            network = _Network()
        shapes = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
        restructure(network, found.structure, shapes)
