"""The linear models by which layers make up for inputs that they lose."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from filtersurgeon.pruning.compensation.moments import Moments
from filtersurgeon.pruning.compensation.readers import Reader
from filtersurgeon.pruning.compensation.sampling import channels, patches
from filtersurgeon.pruning.compensation.watch import Call

# Share of the mean second moment: enough to solve for inputs that are nearly copies.
RIDGE = 1e-4
# Per image; neighbouring positions say nearly the same.
POSITIONS = 32
# Inputs of a filter, beyond which their second moments would take more than 170 MB.
LARGEST = 4608


@dataclass(frozen=True)
class Part:
    """A layer, or one group of a grouped convolution.

    Attributes:
        reader: the layer.
        inputs: which inputs its filters see.
        outputs: which filters these are.
    """

    reader: Reader
    inputs: slice
    outputs: slice

    @property
    def kept(self) -> NDArray[np.bool_]:
        """Which of its inputs are left."""
        return self.reader.kept[self.inputs]

    def own(self, call: Call) -> Call:
        """Give the part's own inputs and outputs of a call."""
        if self.reader.layer.groups == 1:
            return call
        return Call(call.inputs[:, self.inputs], call.outputs[:, self.outputs], call.geometry)


class PatchFit:
    """Fits what filters make to everything left that they see.

    Args:
        part: what is fitted.
        device: where moments are summed.
    """

    def __init__(self, part: Part, device: torch.device) -> None:
        self.part = part
        self.moments: Moments | None = None
        self._kept = torch.from_numpy(part.kept).to(device)

    def learn(self, call: Call, bias: Tensor | None, draw: torch.Generator) -> None:
        """Take inputs and outputs of the layer in."""
        rows, made = patches(self.part.own(call), self.part.reader.layer.kernel, POSITIONS, draw)
        rows = rows[:, :, self._kept].transpose(1, 2).flatten(1)
        if bias is not None:
            made = made - bias[self.part.outputs]
        if self.moments is None:
            self.moments = Moments(rows.shape[1], made.shape[1], rows.device)
        self.moments.add(rows, made)

    def solve(self, weight: Tensor, intercept: bool) -> tuple[Tensor, Tensor]:
        """Give the new weights of these outputs, and a constant.

        Args:
            weight: of these outputs, ``(out, in/groups, ...)``.
            intercept: whether a constant can be added; else it is zero.

        Returns:
            Weights like those given, and ``(out,)``.
        """
        assert self.moments is not None
        prior = weight[:, self._kept]
        fitted, constant = self.moments.fit(prior.flatten(1), RIDGE, intercept)
        found = weight.clone()
        found[:, self._kept] = fitted.reshape(prior.shape).to(weight.dtype)
        return found, constant


class ChannelFit:
    """Fits removed channels to those left at the same position, where patches are too large.

    Args:
        part: what is fitted.
        device: where moments are summed.
    """

    def __init__(self, part: Part, device: torch.device) -> None:
        self.part = part
        self.moments: Moments | None = None
        self._columns = _columns(part)
        kept = part.kept[self._columns[0]]
        self._kept = torch.from_numpy(np.flatnonzero(kept)).to(device)
        self._gone = torch.from_numpy(np.flatnonzero(~kept)).to(device)

    def learn(self, call: Call, bias: Tensor | None, draw: torch.Generator) -> None:  # noqa: ARG002
        """Take inputs of the layer in."""
        rows = channels(self.part.own(call), self._columns, POSITIONS, draw)
        if self.moments is None:
            self.moments = Moments(len(self._kept), len(self._gone), rows.device)
        self.moments.add(rows[:, self._kept], rows[:, self._gone])

    def solve(self, weight: Tensor, intercept: bool) -> tuple[Tensor, Tensor]:
        """Give the new weights of these outputs, and a constant; see :class:`PatchFit`."""
        assert self.moments is not None
        prior = weight.new_zeros(len(self._gone), len(self._kept))
        mixture, constants = self.moments.fit(prior, RIDGE, intercept)
        columns = torch.from_numpy(self._columns).to(weight.device)
        own = weight[:, columns].double()  # (out, taps, channels, ...)
        lost = own[:, :, self._gone]
        own[:, :, self._kept] += torch.einsum("otg...,gk->otk...", lost, mixture)
        shift = torch.einsum("otgp,g->o", lost.flatten(3) if lost.ndim > 3 else lost[..., None],
                             constants)  # fmt: skip
        found = weight.clone()
        found[:, columns] = own.to(weight.dtype)
        return found, shift


def plan_fits(reader: Reader, weight: Tensor) -> list[PatchFit | ChannelFit]:
    """Choose a model for every group of a layer that loses some of its inputs.

    Args:
        reader: the layer.
        weight: its weights, ``(out, in/groups, ...)``.
    """
    groups = reader.layer.groups
    width, depth = len(weight) // groups, weight.shape[1]
    found: list[PatchFit | ChannelFit] = []
    for group in range(groups):
        inputs, outputs = (slice(group * n, (group + 1) * n) for n in (depth, width))
        part = Part(reader, inputs, outputs)
        if part.kept.all() or not part.kept.any():
            continue
        seen = prod(reader.layer.kernel) * int(part.kept.sum())
        found.append((PatchFit if seen <= LARGEST else ChannelFit)(part, weight.device))
    return found


def _columns(part: Part) -> NDArray[np.int64]:
    """Tell which inputs are a channel's, ``(taps, channels)``.

    Behind a flattening a channel has an input per position, in the same order for all channels.
    """
    members = part.reader.members[part.inputs]
    _, counts = np.unique(members, return_counts=True)
    if part.reader.layer.kernel or members.min() < 0 or len(set(counts.tolist())) > 1:
        return np.arange(len(members))[None]
    return np.argsort(members, kind="stable").reshape(len(counts), -1).T
