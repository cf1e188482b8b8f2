"""Networks that are pruned by hand: which tensors a group of channels runs through, written out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

import filtersurgeon as fs
from filtersurgeon.checkpoint.tensor import from_torch
from filtersurgeon.networks.skeleton import skeleton
from filtersurgeon.networks.structure.edits.plain_convolution import fold_standardisation


@dataclass(frozen=True)
class Cut:
    """Channels to remove.

    Attributes:
        removed: their indices.
        members: tensor -> axis along which it holds them, and its first one's position.
        silenced: tensors that make the channels zero where these are zero.
    """

    removed: Sequence[int]
    members: Mapping[str, int | tuple[int, int, int]]
    silenced: Sequence[str]


@dataclass(frozen=True)
class Example:
    """A network and how it is pruned.

    Attributes:
        arch: the architecture.
        cuts: the channels that go.
        structure: the edits that shapes do not show.
        side: height and width of the images to compare on.
    """

    arch: str
    cuts: Sequence[Cut]
    structure: Sequence[Mapping[str, Any]] = field(default_factory=tuple)
    side: int = 64


def normed(*stems: str) -> dict[str, int]:
    """Give the tensors of batch normalisations."""
    parts = ("weight", "bias", "running_mean", "running_var")
    return {f"{stem}.{part}": 0 for stem in stems for part in parts}


def random_network(arch: str) -> nn.Module:
    """Make a network with weights and statistics that no initialisation gives."""
    network = skeleton(arch, on_meta=False)
    generator = torch.Generator().manual_seed(0)
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            noise = torch.randn(tensor.shape, generator=generator)
            tensor.copy_(tensor + 0.05 * (noise.abs() if name.endswith("var") else noise))
    return network.eval()


def pruned_by_hand(example: Example) -> tuple[nn.Module, fs.Checkpoint]:
    """Give the network with its channels silenced, and the checkpoint that lacks them.

    Neither may be changed.
    """
    network = random_network(example.arch)
    with torch.no_grad():
        for cut in example.cuts:
            for name in cut.silenced:
                network.state_dict()[name][list(cut.removed)] = 0
    state = dict(network.state_dict())
    for edit in example.structure:
        if edit["edit"] == "plain-convolution":
            name = edit["module"]
            folded = fold_standardisation(network.get_submodule(name))
            state = {k: v for k, v in state.items() if not k.startswith(f"{name}.")}
            state |= {f"{name}.{k}": v for k, v in folded.state_dict().items()}
    for cut in example.cuts:
        for name, place in cut.members.items():
            axis, begin, end = place if isinstance(place, tuple) else (place, 0, 10**9)
            gone = {index - begin for index in cut.removed if begin <= index < end}
            kept = [index for index in range(state[name].shape[axis]) if index not in gone]
            state[name] = state[name].index_select(axis, torch.tensor(kept)).clone()
    tensors = {name: from_torch(tensor, name) for name, tensor in state.items()}
    checkpoint = fs.Checkpoint(
        tensors, architecture=example.arch, structure=tuple(example.structure)
    )
    return network, checkpoint


EXAMPLES = {
    "resnet18": Example(
        "torchvision:resnet18",
        [
            Cut(
                [0, 3, 63],
                {"layer1.0.conv1.weight": 0, **normed("layer1.0.bn1"), "layer1.0.conv2.weight": 1},
                ["layer1.0.bn1.weight", "layer1.0.bn1.bias"],
            ),
            Cut(
                list(range(500)),
                {"layer4.1.conv1.weight": 0, **normed("layer4.1.bn1"), "layer4.1.conv2.weight": 1},
                ["layer4.1.bn1.weight", "layer4.1.bn1.bias"],
            ),
        ],
    ),
    "resnetblur18": Example(
        "timm:resnetblur18",
        [
            Cut(
                [5, 77],
                {"layer2.0.conv1.weight": 0, **normed("layer2.0.bn1"), "layer2.0.conv2.weight": 1},
                ["layer2.0.bn1.weight", "layer2.0.bn1.bias"],
            )
        ],
        [{"edit": "set", "module": "layer2.0.aa", "values": {"channels": 126}}],
    ),
    "mobilenetv3": Example(
        "timm:mobilenetv3_small_050",
        [
            Cut(
                [1, 2, 30],
                {
                    "blocks.1.1.conv_pw.weight": 0,
                    **normed("blocks.1.1.bn1", "blocks.1.1.bn2"),
                    "blocks.1.1.conv_dw.weight": 0,
                    "blocks.1.1.conv_pwl.weight": 1,
                },
                [f"blocks.1.1.bn{i}.{part}" for i in (1, 2) for part in ("weight", "bias")],
            ),
            Cut(
                [0, 9],
                {
                    "blocks.3.1.conv_pw.weight": 0,
                    **normed("blocks.3.1.bn1", "blocks.3.1.bn2"),
                    "blocks.3.1.conv_dw.weight": 0,
                    "blocks.3.1.se.conv_reduce.weight": 1,
                    "blocks.3.1.se.conv_expand.weight": 0,
                    "blocks.3.1.se.conv_expand.bias": 0,
                    "blocks.3.1.conv_pwl.weight": 1,
                },
                [f"blocks.3.1.bn{i}.{part}" for i in (1, 2) for part in ("weight", "bias")],
            ),
        ],
    ),
    "densenet121": Example(
        "timm:densenet121",
        [
            Cut(
                [0, 127],
                {
                    "features.denseblock1.denselayer1.conv1.weight": 0,
                    **normed("features.denseblock1.denselayer1.norm2"),
                    "features.denseblock1.denselayer1.conv2.weight": 1,
                },
                [f"features.denseblock1.denselayer1.norm2.{part}" for part in ("weight", "bias")],
            ),
            Cut(  # the last 32 of 1024 channels come from the last layer
                [992, 1023],
                {
                    "features.denseblock4.denselayer16.conv2.weight": (0, 992, 1024),
                    **normed("features.norm5"),
                    "classifier.weight": 1,
                },
                ["features.norm5.weight", "features.norm5.bias"],
            ),
        ],
    ),
    "convnext": Example(
        "timm:convnext_atto",
        [
            Cut(
                list(range(7, 80)),
                {
                    "stages.1.blocks.0.mlp.fc1.weight": 0,
                    "stages.1.blocks.0.mlp.fc1.bias": 0,
                    "stages.1.blocks.0.mlp.fc2.weight": 1,
                },
                ["stages.1.blocks.0.mlp.fc1.weight", "stages.1.blocks.0.mlp.fc1.bias"],
            )
        ],
    ),
    "resnext50": Example(  # groups 1 and 31 of 32, each four channels wide
        "torchvision:resnext50_32x4d",
        [
            Cut(
                [4, 5, 6, 7, 124, 125, 126, 127],
                {
                    "layer1.0.conv1.weight": 0,
                    **normed("layer1.0.bn1", "layer1.0.bn2"),
                    "layer1.0.conv2.weight": 0,
                    "layer1.0.conv3.weight": 1,
                },
                [f"layer1.0.bn{i}.{part}" for i in (1, 2) for part in ("weight", "bias")],
            )
        ],
    ),
    "mixnet": Example(
        "timm:mixnet_s",
        [
            Cut(
                [0, 1, 90],
                {
                    "blocks.1.0.conv_pw.0.weight": (0, 0, 48),
                    "blocks.1.0.conv_pw.1.weight": (0, 48, 96),
                    **normed("blocks.1.0.bn1", "blocks.1.0.bn2"),
                    "blocks.1.0.conv_dw.weight": 0,
                    "blocks.1.0.conv_pwl.0.weight": (1, 0, 48),
                    "blocks.1.0.conv_pwl.1.weight": (1, 48, 96),
                },
                [f"blocks.1.0.bn{i}.{part}" for i in (1, 2) for part in ("weight", "bias")],
            )
        ],
        [{"edit": "set", "module": "blocks.1.0.conv_pwl", "values": {"splits": [46, 47]}}],
    ),
    "nf_resnet26": Example(  # the gain of a scaled convolution goes along with its filters
        "timm:nf_resnet26",
        [
            Cut(
                [2, 40],
                {
                    "stages.0.0.conv1.weight": 0,
                    "stages.0.0.conv1.bias": 0,
                    "stages.0.0.conv1.gain": 0,
                    "stages.0.0.conv2.weight": 1,
                },
                ["stages.0.0.conv1.gain", "stages.0.0.conv1.bias"],
            )
        ],
        [{"edit": "plain-convolution", "module": "stages.0.0.conv2"}],
    ),
}
