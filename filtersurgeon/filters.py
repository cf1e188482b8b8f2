"""Convolution weights seen as filters: finding, selecting and flattening them.

A *filter* is all weights of one output channel, ``(in/groups, kh, kw)``; a *kernel* is one
``(kh, kw)`` slice of it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import lru_cache
from math import prod
from typing import Protocol, TypeVar
from zlib import crc32

import numpy as np

from filtersurgeon.checkpoint import Checkpoint, StoredTensor
from filtersurgeon.checkpoint.tensor import COMPUTABLE
from filtersurgeon.checkpoint.weight_parts import WeightParts, find_parts
from filtersurgeon.errors import LayerError, OptionError, near_misses

IMAGES = (4,)
"""Axes of the weights of convolutions over images."""

ANY = (3, 4, 5)
"""Axes of the weights of convolutions along one, two or three axes."""

KINDS = ("standard", "depthwise", "grouped", "pointwise")


@dataclass(frozen=True)
class FilterLayer:
    """The weight of one convolution, as a matrix of filters.

    Attributes:
        name: the module's name, such as ``layer1.0.conv1``.
        tensor: the weight's name in the checkpoint; the name that it would have as one tensor if
            it is stored in parts.
        kind: ``standard``, ``depthwise``, ``grouped`` or ``pointwise``.
        stored: the weight, of shape ``(out, in/groups, kh, kw)``; of a transposed convolution,
            which shapes do not tell, ``(in, out/groups, kh, kw)``.
        parts: what it is stored in, if that is more than one tensor.

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> layer = fs.find_layers(checkpoint)[0]
        >>> layer.name, layer.kind, layer.shape
        ('conv1.0', 'standard', (16, 3, 3, 3))
        >>> layer.matrix().shape
        (16, 27)
    """

    name: str
    tensor: str
    kind: str
    stored: StoredTensor
    parts: WeightParts | None = field(default=None, kw_only=True)

    @property
    def shape(self) -> tuple[int, ...]:
        """``(out, in/groups, kh, kw)``."""
        return self.stored.shape

    @property
    def n_filters(self) -> int:
        """Number of filters, which is the number of output channels."""
        return self.shape[0]

    @property
    def n_kernels(self) -> int:
        """Number of spatial kernels: ``out * in/groups``."""
        return self.shape[0] * self.shape[1]

    @property
    def kernel_size(self) -> tuple[int, int]:
        """Height and width of a kernel."""
        return self.shape[2], self.shape[3]

    @property
    def is_spatial(self) -> bool:
        """Whether a kernel sees more than one position, along however many axes."""
        return prod(self.shape[2:]) > 1

    @property
    def stores_kernels(self) -> bool:
        """Whether the weight holds the kernels themselves."""
        return self.shape[2:] == self.kernel_size

    def check_one_tensor(self, verb: str) -> None:
        """Refuse a weight that is stored in parts; raises LayerError with the remedy."""
        if self.parts is not None:
            self.parts.check_one_tensor(verb)

    def check_type(self) -> None:
        """Refuse weights of a type that is not computed with; raises LayerError."""
        if self.stored.dtype not in COMPUTABLE:
            raise LayerError(
                f"layer {self.name}: its weights are of type {self.stored.dtype}, and only "
                f"{', '.join(COMPUTABLE)} can be computed with; "
                f"leave it out with `layers` '!{self.name}'"
            )

    def matrix(self) -> np.ndarray:
        """Give the flattened filters as rows, ``(out, in/groups * kh * kw)``.

        Returns:
            float32, or float64 for a float64 checkpoint; may be read-only.

        Raises:
            LayerError: a weight is NaN or infinite, or of a type that is not computed with.
        """
        self.check_type()
        values = self.stored.array().reshape(self.n_filters, -1)
        check_finite(values, self.name)
        return values


@dataclass(frozen=True)
class CombiningLayer(FilterLayer):
    """The pointwise convolution of a pre-defined filter module.

    Its weights, ``(out, n, 1, 1)``, multiply what n fixed filters gave, so that the kernel of
    output o and result c is ``weight[o, c] * filters[which[c]]``.

    Attributes:
        filters: ``(k, kh, kw)``.
        which: ``(n,)`` whole numbers.
    """

    filters: StoredTensor
    which: StoredTensor

    @property
    def kernel_size(self) -> tuple[int, int]:
        """Height and width of a filter."""
        return self.filters.shape[1], self.filters.shape[2]

    @property
    def is_spatial(self) -> bool:
        """Whether a filter sees more than one position."""
        return prod(self.kernel_size) > 1

    def chosen_filters(self) -> np.ndarray:
        """Give the filter of every result, ``(n, kh * kw)`` float64.

        Raises:
            LayerError: the list of filters is none.
        """
        filters = self.filters.array().astype(np.float64).reshape(self.filters.shape[0], -1)
        if self.which.dtype != "I32" or self.which.shape != self.shape[1:2]:
            raise LayerError(f"layer {self.name}: its module does not list a filter per result")
        which = np.frombuffer(self.which.raw(), "<i4")
        if not ((which >= 0) & (which < len(filters))).all():
            raise LayerError(f"layer {self.name}: its module lists filters that it does not have")
        chosen: np.ndarray = filters[which]
        return chosen


def layer_seed(name: str, seed: int) -> int:
    """Mix a seed with a layer's name into one of 32 bits.

    A layer is treated alike whichever others are treated beside it.
    """
    return (seed + crc32(name.encode())) % 2**32


def count_share(share: float, size: int) -> int:
    """Give how many of a number a share is, rounded down."""
    # The product may fall just short of the whole number that is meant, as 0.3 * 10 does.
    return int(np.floor(share * size * (1 + 1e-12)))


def check_finite(values: np.ndarray, layer: str) -> None:
    """Refuse weights that cannot be analysed; raises LayerError with the layer's name."""
    # A sum of squares is finite only if every term is, and BLAS takes half the time of a plain sum;
    # the second look sorts out an overflow.
    flat = values.reshape(-1)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        suspicious = not np.isfinite(np.dot(flat, flat))
    if suspicious and (bad := values.size - int(np.isfinite(values).sum())):
        raise LayerError(
            f"layer {layer}: {bad} of its {values.size} weights are NaN or infinite; "
            f"repair the checkpoint, or leave the layer out with `layers` '!{layer}'"
        )


def find_layers(
    checkpoint: Checkpoint,
    groups: Mapping[str, int] | None = None,
    axes: Collection[int] = IMAGES,
) -> list[FilterLayer]:
    """Find the convolutions of a checkpoint by the shapes of its weights.

    Weights that norms, masks or parametrizations of torch store in parts are found too.

    Args:
        checkpoint: the tensors.
        axes: how many axes a weight may have; by default those of two-dimensional convolutions.
        groups: number of groups of each convolution by module name, where the architecture is
            known. Without it, a weight with one input channel per group is called depthwise if
            some other weight makes as many channels as it has filters (else it reads a grey
            image), and other grouped convolutions are called standard: shapes do not tell.

    Returns:
        The layers in the natural order of their names (``blocks.2`` before ``blocks.10``).

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> [layer.name for layer in fs.find_layers(checkpoint)][:2]
        ['conv1.0', 'conv1.3']
    """
    parts = find_parts(checkpoint.tensors)
    taken = {name for each in parts.values() for name in each.names.values()}
    tensors = {name: checkpoint[name] for name in checkpoint if name not in taken}
    tensors |= {name: each.whole() for name, each in parts.items()}
    made = Counter(stored.shape[0] for stored in tensors.values() if len(stored.shape) >= 2)
    layers = []
    for tensor in sorted(tensors, key=natural_order):
        stored = tensors[tensor]
        if len(stored.shape) in axes and _is_convolution(tensor, stored):
            name = tensor.rpartition(".")[0] or tensor
            known = groups.get(name) if groups is not None else None
            kind = _kind(stored.shape, known, made)
            layers.append(FilterLayer(name, tensor, kind, stored, parts=parts.get(tensor)))
    return layers


@lru_cache(maxsize=10_000)
def natural_order(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that compares runs of digits as numbers, however long they are."""
    parts = [part for part in re.split(r"(\d+)", name) if part]
    digits = [part.lstrip("0") if part.isdecimal() else None for part in parts]
    return tuple(
        (1, 0, part) if number is None else (0, len(number), number)
        for part, number in zip(parts, digits, strict=True)
    )


def _is_convolution(tensor: str, stored: StoredTensor) -> bool:
    # Position embeddings and layer scales have four axes too, but other names or no channels.
    weight = "weight" in tensor.rpartition(".")[2]
    return weight and prod(stored.shape) > 0 and any(n > 1 for n in stored.shape[:-1])


def _kind(shape: tuple[int, ...], groups: int | None, made: Counter[int]) -> str:
    if groups is None:
        alone = made[shape[0]] < 2 or shape[0] == 1
        groups = shape[0] if shape[1] == 1 and not alone else 1
    if groups > 1 and shape[1] == 1:
        return "depthwise"
    if prod(shape[2:]) == 1:
        return "pointwise"
    return "grouped" if groups > 1 else "standard"


def as_globs(globs: Iterable[str] | None) -> list[str]:
    """Give patterns as a list; a single one may come bare.

    Raises:
        OptionError: something that is no pattern.
    """
    if isinstance(globs, str):
        return [globs]
    listed = list(globs) if isinstance(globs, Iterable) else [globs] if globs else []
    if not all(isinstance(glob, str) for glob in listed):
        raise OptionError(f"layers: {globs!r} is not a list of names or patterns")
    return listed


class Named(Protocol):
    """A layer with a name, and a weight with one."""

    @property
    def name(self) -> str:
        """The module's name."""

    @property
    def tensor(self) -> str:
        """The weight's name."""


Layer = TypeVar("Layer", bound=Named)


def select_layers(layers: Sequence[Layer], globs: Iterable[str] | None) -> list[Layer]:
    """Choose layers by name.

    Args:
        layers: those to choose from.
        globs: shell patterns on module or tensor names; a name also stands for everything below
            it; ``!GLOB`` leaves layers out. With exclusions only, all the rest is meant.
            None or empty: all.

    Raises:
        LayerError: a pattern matches nothing.
    """
    globs = as_globs(globs)
    wanted = [glob for glob in globs if not glob.startswith("!")]
    unwanted = [glob[1:] for glob in globs if glob.startswith("!")]
    for glob in (*wanted, *unwanted):
        if not any(_matches(layer, glob) for layer in layers):
            known = {place for layer in layers for place in _places(layer.name)}
            hint = near_misses(glob.strip("*?."), known) or "; fsurgeon inspect lists the layers"
            raise LayerError(f"no convolution matches {glob!r}{hint}")
    chosen = [x for x in layers if not wanted or any(_matches(x, glob) for glob in wanted)]
    return [x for x in chosen if not any(_matches(x, glob) for glob in unwanted)]


def select_spatial(
    checkpoint: Checkpoint, globs: Iterable[str] | None, purpose: str
) -> list[FilterLayer]:
    """Choose spatial layers of a network by name.

    Args:
        checkpoint: the network.
        globs: as in :func:`select_layers`.
        purpose: what the layers are for, such as "initialise".

    Raises:
        LayerError: there is no spatial convolution, or a pattern matches none.
    """
    checkpoint.check_unpacked()
    found = find_layers(checkpoint)
    if not found:
        raise lacks_convolutions(checkpoint)
    spatial = [layer for layer in found if layer.is_spatial]
    if not spatial:
        raise LayerError(f"{checkpoint.name} has no spatial convolution to {purpose}")
    return select_layers(spatial, globs)


def _places(name: str) -> Iterator[str]:
    """Yield a module's name and those of the modules around it."""
    while name:
        yield name
        name = name.rpartition(".")[0]


def _matches(layer: Named, glob: str) -> bool:
    return any(
        fnmatchcase(name, pattern)
        for name in (layer.name, layer.tensor)
        for pattern in (glob, f"{glob}.*")
    )


def _as_combining(checkpoint: Checkpoint, layers: Iterable[FilterLayer]) -> list[FilterLayer]:
    """Tell the pointwise convolutions of pre-defined filter modules from others."""
    modules = {
        f"{entry['module']}.pointwise": f"{entry['module']}.bank"
        for edit in checkpoint.structure
        if edit.get("edit") == "predefined"
        for entry in edit["layers"]
    }
    found = []
    for layer in layers:
        bank = modules.get(layer.name)
        if bank is not None and {f"{bank}.filters", f"{bank}.which"} <= set(checkpoint):
            stored = checkpoint[f"{bank}.filters"], checkpoint[f"{bank}.which"]
            layer = CombiningLayer(layer.name, layer.tensor, layer.kind, layer.stored, *stored)
        found.append(layer)
    return found


def lacks_convolutions(checkpoint: Checkpoint, axes: Collection[int] = IMAGES) -> LayerError:
    """Make the error for a checkpoint without convolutions, or only along other axes.

    Args:
        checkpoint: it has no convolution weight of so many axes.
        axes: how many axes a weight may have.
    """
    others = {len(layer.shape) - 2 for layer in find_layers(checkpoint, axes=ANY)}
    if others and set(axes) == set(IMAGES):
        found = " and ".join(f"{count}-D" for count in sorted(others))
        return LayerError(
            f"{checkpoint.name} has {found} convolutions only, and this works on the kernels of 2-D"
            " ones; fsurgeon rank and prune take them"
        )
    known = " or ".join(f"{count}-D" for count in axes)
    return LayerError(f"{checkpoint.name} has no convolution weights ({known} tensors)")


def layers_to_analyse(
    checkpoint: Checkpoint, globs: Iterable[str] | None = None, axes: Collection[int] = IMAGES
) -> list[FilterLayer]:
    """Give the layers that an analysis looks at: the spatial ones, unless globs name others.

    Those of pre-defined filter modules are among them.

    Args:
        checkpoint: the tensors.
        globs: as for :func:`select_layers`.
        axes: how many axes a weight may have.

    Raises:
        LayerError: there are none, or a pattern matches nothing.
    """
    checkpoint.check_unpacked()
    layers = _as_combining(checkpoint, find_layers(checkpoint, axes=axes))
    if not layers:
        raise lacks_convolutions(checkpoint, axes)
    globs = as_globs(globs)
    named = any(not glob.startswith("!") for glob in globs)
    chosen = select_layers(layers, globs)
    chosen = chosen if named else [layer for layer in chosen if layer.is_spatial]
    if not chosen:
        raise LayerError(
            f"{checkpoint.name} has no spatial convolution left to look at; "
            "`layers` '*' takes the 1x1 ones too"
        )
    return chosen
