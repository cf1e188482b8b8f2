"""Groups of channels as objects: what they are made of, and their removal by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from filtersurgeon.checkpoint import Checkpoint, HistoryEntry
from filtersurgeon.checkpoint.summary import summarise
from filtersurgeon.errors import GraphError, OptionError
from filtersurgeon.graph.opened_model import OpenedModel, open_model
from filtersurgeon.graph.slim import slim, zero_removed
from filtersurgeon.graph.verify import verify
from filtersurgeon.networks.opened_module import as_module, open_module, unwrap

if TYPE_CHECKING:
    from torch import Tensor, nn

    from filtersurgeon.graph.groups import Bundle

MAKES, READS, CARRIES = "makes", "reads", "carries"


@dataclass(frozen=True)
class Member:
    """One axis of one tensor, on which a group of channels lies.

    Attributes:
        name: of the parameter or buffer.
        layer: name of its module.
        axis: of the tensor.
        role: ``makes`` for the outputs of a convolution or linear layer, ``reads`` for its inputs,
            ``carries`` for anything else with values for each channel, such as a bias or a
            normalisation.
        places: ``(channels, places of each)``, where every channel of the group lies on the axis.
        values: the tensor as it is now.
    """

    name: str
    layer: str
    axis: int
    role: str
    places: NDArray[np.int64]
    values: Tensor

    def __repr__(self) -> str:
        return f"Member({self.name}, axis {self.axis}, {self.role})"

    def rows(self, tensor: Tensor | None = None) -> Tensor:
        """Give the values of every channel as a row, ``(channels, values of one)``.

        Args:
            tensor: of the shape of the tensor, such as its gradient; None for its own values.
        """
        found = self.values if tensor is None else tensor
        if found.shape != self.values.shape:
            raise OptionError(
                f"`tensor` has the shape {tuple(found.shape)}, and {self.name} has "
                f"{tuple(self.values.shape)}"
            )
        places = torch.from_numpy(self.places).to(found.device)
        return found.detach().movedim(self.axis, 0)[places].flatten(1)


class ChannelGroup:
    """Channels that pass through the same layers; each may be removed with all its weights.

    Attributes:
        network: what the channels are of.
        axes: (tensor, axis) pairs on which the channels lie.
        numbers: of the channels in the network, before any removal.
        size: how many channels the group has; they are numbered from 0, in the order of the first
            layer that makes them.
        members: all axes of tensors on which they lie.
        made_by: names of the layers whose outputs they are.
        read_by: names of the layers whose inputs they are.

    Examples:
        >>> import filtersurgeon as fs
        >>> from torch import nn
        >>> module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
        >>> group, = fs.channels(module, (3, 16, 16)).groups
        >>> group
        ChannelGroup(size=8, made_by='0', read_by='2', members=3)
          0.bias: axis 0, carries
          0.weight: axis 0, makes
          2.weight: axis 1, reads
        >>> norms = sum(x.rows().square().sum(1) for x in group.members if x.role == "makes")
        >>> _ = group.prune(norms.argsort()[:2])
        >>> module[0].out_channels, module[2].in_channels, group.size
        (6, 6, 6)
    """

    def __init__(self, network: Cuttable, bundle: Bundle) -> None:
        self.network = network
        self.axes = tuple(sorted(bundle.axes))
        self.numbers: NDArray[np.int64] = np.asarray(bundle.groups)
        first = next((x for x in self.axes if network.role(*x) == MAKES), self.axes[0])
        self.numbers = self.numbers[np.argsort(network.places(first, self.numbers)[:, 0])]

    def __repr__(self) -> str:
        return summarise(
            self,
            (f"{x.name}: axis {x.axis}, {x.role}" for x in self.members),
            size=self.size,
            made_by=", ".join(self.made_by),
            read_by=", ".join(self.read_by),
            members=len(self.axes),
        )

    def __len__(self) -> int:
        return self.size

    @property
    def size(self) -> int:
        """How many channels the group has now."""
        return len(self.left)

    @property
    def left(self) -> NDArray[np.int64]:
        """Numbers of the channels that are left."""
        return self.numbers[self.network.keep[self.numbers]]

    @property
    def members(self) -> tuple[Member, ...]:
        """All axes of tensors on which the channels lie, by name."""
        network, left = self.network, self.left
        return tuple(
            Member(
                name, name.rpartition(".")[0], axis, network.role(name, axis),
                network.places((name, axis), left), network.value(name),
            )
            for name, axis in self.axes
        )  # fmt: skip

    @property
    def made_by(self) -> tuple[str, ...]:
        """Convolutions and linear layers whose outputs the channels are."""
        return self._layers(MAKES)

    @property
    def read_by(self) -> tuple[str, ...]:
        """Convolutions and linear layers whose inputs the channels are."""
        return self._layers(READS)

    def _layers(self, role: str) -> tuple[str, ...]:
        found = (name for name, axis in self.axes if self.network.role(name, axis) == role)
        return tuple(dict.fromkeys(map(self.network.opened.layer_name, found)))

    def prune(self, indices: Iterable[int], *, copy: bool = False, verify: bool = True) -> Any:
        """Remove channels of the group, and update every dependent layer.

        A module is changed in place, with the gradients that it holds, and this group and all
        others then describe the smaller module. Its parameters are new objects.

        Args:
            indices: of channels, each from 0 to below ``size``.
            copy: give a new module, and leave the module and the groups as they are.
            verify: compare the outputs with those of the original network, its removed channels
                zeroed.

        Returns:
            The module; for the groups of a checkpoint, a new checkpoint.

        Raises:
            OptionError: there is no such channel, or a layer would keep none.
            GraphError: the network does not take fewer channels.
        """
        return self.network.prune({self: indices}, copy=copy, verify=verify)


class Cuttable:
    """A network of which groups of channels are removed one after the other.

    Args:
        opened: the network.
        module: the module in memory that it was opened from; None for a checkpoint.
        example_inputs: what the module is called with.
    """

    def __init__(
        self, opened: OpenedModel, module: nn.Module | None = None, example_inputs: Any = None
    ) -> None:
        self.module = None if module is None else unwrap(module)
        self._inputs = example_inputs
        self._owner = module
        self.groups: list[ChannelGroup] = []
        self._begin(opened)

    def _begin(self, opened: OpenedModel) -> None:
        self.opened, self.current = opened, opened.checkpoint
        self._facts = None if self.module is None else _Facts.of(self.module)
        self.keep = np.ones(len(opened.graph.groups), bool)

    def open_groups(self, bundles: Iterable[Bundle]) -> tuple[ChannelGroup, ...]:
        """Make an object of each bundle of channels that may be removed."""
        self.groups += [ChannelGroup(self, x) for x in bundles if not x.pinned]
        return tuple(self.groups)

    def role(self, name: str, axis: int) -> str:
        """Tell what the channels on an axis of a tensor are to its layer."""
        return role_of(self.opened, name, axis)

    def value(self, name: str) -> Tensor:
        """Give a tensor as it is now, without its gradient."""
        owner = self.opened.network if self.module is None else self.module
        layer, _, attribute = name.rpartition(".")
        found: Tensor = getattr(owner.get_submodule(layer), attribute)
        return found.detach()

    def places(self, where: tuple[str, int], numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        """Find channels on an axis of a tensor as it is now, ``(channels, places of each)``."""
        labels = self._labels(*where)
        now = labels[(labels < 0) | self.keep[labels]]
        place = np.full(len(self.keep), -1)
        place[numbers] = np.arange(len(numbers))
        owner = np.where(now < 0, -1, place[now])
        found = np.flatnonzero(owner >= 0)
        found = found[np.argsort(owner[found], kind="stable")]
        counts = np.bincount(owner[found], minlength=len(numbers))
        each = int(counts.min()) if len(counts) else 0
        starts = np.cumsum(counts) - counts
        return found[starts[:, None] + np.arange(each)] if each else np.empty((0, 1), np.int64)

    def _labels(self, name: str, axis: int) -> NDArray[np.int64]:
        """Give the number of the channel at every place of an axis, before any removal."""
        groups = self.opened.graph.groups
        ids = groups.slots[name][axis]
        assert ids is not None
        return np.where(ids < 0, -1, groups.of[ids])

    def prune(
        self,
        removed: Mapping[ChannelGroup, Iterable[int]],
        *,
        copy: bool = False,
        verify: bool = True,
    ) -> Any:
        """Remove channels of several groups at once; see :meth:`ChannelGroup.prune`."""
        chosen = {group: _read_indices(group, numbers) for group, numbers in removed.items()}
        if any(group.network is not self for group in chosen):
            raise OptionError("a group of another network was given")
        self._catch_up()
        keep = self.keep.copy()
        for group, numbers in chosen.items():
            keep[group.left[list(numbers)]] = False
        self._check_left(chosen, keep)
        said = {_title(group): list(numbers) for group, numbers in chosen.items() if numbers}
        entry = HistoryEntry("prune", {"removed": said})
        pruned = slim(self.opened, keep, entry)
        if verify:
            _compare(self.opened, keep, pruned)
        if self.module is None:
            return pruned
        gradients = {} if copy else self._cut_gradients(keep)
        found = as_module(pruned, self.module, copy=copy)
        if copy:
            return found
        for name, gradient in gradients.items():
            self.module.get_parameter(name).grad = gradient
        self.keep, self.current, self._facts = keep, pruned, _Facts.of(self.module)
        return self._owner

    def _check_left(self, groups: Iterable[ChannelGroup], keep: NDArray[np.bool_]) -> None:
        """Refuse to empty an axis of a tensor."""
        for group in groups:
            for name, axis in group.axes:
                labels = self._labels(name, axis)
                if not ((labels < 0) | keep[labels]).any():
                    raise OptionError(
                        f"the indices leave {_title(group)} no channel in {name}; "
                        f"keep at least one of the {group.size}"
                    )

    def _cut_gradients(self, keep: NDArray[np.bool_]) -> dict[str, Tensor]:
        """Give the gradients of the module without the channels that go."""
        assert self.module is not None
        graph, found = self.opened.graph, {}
        for name, parameter in self.module.named_parameters(remove_duplicate=False):
            gradient = parameter.grad
            if gradient is None:
                continue
            slots = graph.trace.slots.get(graph.trace.aliases.get(name, name), ())
            for axis, ids in enumerate(slots):
                if ids is not None:
                    labels = np.where(ids < 0, -1, graph.groups.of[ids])
                    now = labels[(labels < 0) | self.keep[labels]]
                    kept = np.flatnonzero((now < 0) | keep[now])
                    places = torch.from_numpy(kept).to(gradient.device)
                    gradient = gradient.index_select(axis, places)
            found[name] = gradient
        return found

    def _catch_up(self) -> None:
        """Take over what training, or anything else, has changed in the module.

        Raises:
            GraphError: its channels are no longer those of the groups.
        """
        if self.module is None:
            return
        if _holds(self.module, self.current) and _Facts.of(self.module) == self._facts:
            return
        places = [self.places(group.axes[0], group.left)[:, 0] for group in self.groups]
        self._begin(open_model(open_module(self.module, self._inputs)))
        bundles = self.opened.graph.groups.bundles
        free = {int(number): x for x in bundles if not x.pinned for number in x.groups}
        for group, at in zip(self.groups, places, strict=True):
            numbers = self._numbers_at(group.axes[0], at)
            found = {id(free[n]): free[n] for n in numbers if n in free}
            same = all(tuple(sorted(x.axes)) == group.axes for x in found.values())
            if not same or len(set(numbers) & free.keys()) < len(at):
                raise GraphError(
                    "the channels of the module are no longer those of the groups; "
                    "call `channels` again"
                )
            group.numbers = np.array(numbers, np.int64)

    def _numbers_at(self, where: tuple[str, int], places: NDArray[np.int64]) -> list[int]:
        """Give the channels at places of an axis of a tensor, as far as it has these."""
        name, axis = where
        slots = self.opened.graph.groups.slots.get(name, ())
        if axis >= len(slots) or slots[axis] is None:
            return []
        labels = self._labels(name, axis)
        found: list[int] = labels[places[places < len(labels)]].tolist()
        return found


def role_of(opened: OpenedModel, name: str, axis: int) -> str:
    """Tell what the channels on an axis of a tensor are to its layer."""
    from torch import nn
    from torch.nn.modules.conv import _ConvNd

    if (bare := opened.bare_parameter(name)) is not None:
        ids = opened.graph.trace.slots[name][axis]
        return MAKES if axis == bare.axis else READS if ids is bare.in_channels else CARRIES
    layer, _, attribute = name.rpartition(".")
    module = opened.graph.network.get_submodule(layer)
    if attribute != "weight" or axis > 1 or not isinstance(module, _ConvNd | nn.Linear):
        return CARRIES
    return MAKES if axis == output_axis(module) else READS


def output_axis(module: nn.Module) -> int:
    """Give the axis of the weight of a convolution or linear layer that holds its outputs."""
    return 1 if getattr(module, "transposed", False) else 0


def _read_indices(group: ChannelGroup, indices: Iterable[int]) -> Sequence[int]:
    try:
        found = [index(number) for number in indices]
    except TypeError:
        raise OptionError("indices should be whole numbers, such as [0, 2]") from None
    wrong = [number for number in found if not 0 <= number < group.size]
    if wrong:
        raise OptionError(
            f"the group of {_title(group)} has no channel {wrong[0]}; its indices go from 0 to "
            f"{group.size - 1}"
        )
    return sorted(set(found))


def _title(group: ChannelGroup) -> str:
    return (group.made_by or (group.axes[0][0],))[0]


def _compare(opened: OpenedModel, keep: NDArray[np.bool_], pruned: Checkpoint) -> None:
    verify(opened, zero_removed(opened, keep), pruned)


class _Facts(NamedTuple):
    """What a module holds besides the tensors of its state."""

    numbers: dict[str, Any]
    hooks: list[int]
    buffers: dict[str, bytes]

    @classmethod
    def of(cls, module: nn.Module) -> _Facts:
        """Read them from a module and all its parts."""
        found = cls({}, [], {})
        for name, part in module.named_modules(remove_duplicate=False):
            for key, value in vars(part).items():
                if key.endswith("_hooks") and isinstance(value, dict):
                    found.hooks.extend(map(id, value.values()))
                elif not key.startswith("_") and key != "training" and _is_plain(value):
                    found.numbers[f"{name}.{key}"] = value
            for key in part._non_persistent_buffers_set:
                buffer = part._buffers[key]
                if buffer is not None:
                    values = buffer.detach().cpu().contiguous().flatten()
                    found.buffers[f"{name}.{key}"] = values.view(torch.uint8).numpy().tobytes()
        return found


def _is_plain(value: Any) -> bool:
    if isinstance(value, tuple | list):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, int | float | str)


def _holds(module: nn.Module, checkpoint: Checkpoint) -> bool:
    """Tell whether a module holds the very tensors of a checkpoint."""
    own = {k: x for k, x in module.state_dict().items() if isinstance(x, torch.Tensor)}
    return own.keys() == set(checkpoint.tensors) and all(
        tensor.shape == checkpoint[name].shape
        and torch.equal(tensor.detach().cpu(), checkpoint[name].torch())
        for name, tensor in own.items()
    )
