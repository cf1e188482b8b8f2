"""Set filters or kernels to zero in place by a ranking, from either end; shapes stay."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from filtersurgeon.checkpoint import Checkpoint, HistoryEntry, StoredTensor
from filtersurgeon.checkpoint.progress import Progress
from filtersurgeon.data.data import DataSpec, ImageRun
from filtersurgeon.data.splits import warning_of
from filtersurgeon.errors import LayerError, OptionError, as_percentage, near_misses
from filtersurgeon.filters import ANY, FilterLayer, as_globs, count_share, layers_to_analyse
from filtersurgeon.networks.opened_module import transforms_modules
from filtersurgeon.ranking.annotation import read_ranking
from filtersurgeon.ranking.kernel_scores import kernel_scores, mark_kernels
from filtersurgeon.ranking.ranking import ANNOTATION, rank
from filtersurgeon.registry import read_share

SHIFTS = ("zero", "keep")
NEAR = {"archetypes": ("archetype", "best"), "median": ("geometric-median", "worst")}
"""What filters can be near to -> the ranking method, and the end of its order where they are."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class LayerSilence:
    """What was zeroed of one layer.

    Attributes:
        name: the module's name.
        size: number of its filters, or of its kernels.
        zeroed: how many of them were zeroed.
        filters: the zeroed filters, ascending; empty for kernels.
        normalisation: the batch normalisation behind whose scale and shift are zeroed, too; empty
            if there is none.
    """

    name: str
    size: int
    zeroed: int
    filters: tuple[int, ...] = ()
    normalisation: str = ""

    def to_json(self) -> dict[str, Any]:
        """Give the layer as it stands in the JSON of a dry run."""
        return {
            "name": self.name,
            "size": self.size,
            "zeroed": self.zeroed,
            "filters": list(self.filters),
            "normalisation": self.normalisation,
        }


Observer = Callable[[LayerSilence], None]


@dataclass(frozen=True)
class _Choice:
    """Which filters or kernels: a share from one end of a ranking."""

    share: float
    end: str
    method: str | None


@transforms_modules
def silence(
    checkpoint: Checkpoint,
    *,
    worst: float | None = None,
    best: float | None = None,
    near: str | None = None,
    kernels: bool = False,
    method: str | None = None,
    options: Mapping[str, Any] | None = None,
    shift: str = "zero",
    layers: Iterable[str] | None = None,
    seed: int = 0,
    data: ImageRun | DataSpec | str | Any | None = None,
    observe: Observer | None = None,
    progress: Progress | None = None,
) -> Checkpoint:
    """Set filters to zero in place, by a ranking, from either end; no shape changes.

    A zeroed filter loses its bias, and the batch normalisation behind it its scale and shift, so
    that its channel is zero for every image. ``prune`` with ``mode="exact"`` and ``sparsity=0``
    removes such channels. Studies of what filters matter zero them so. Sources: Thakur et al.,
    *Does Geometric Structure in Convolutional Filter Space Provide Filter Redundancy
    Information?*, Table 1 and Fig. 3; Gaudio et al., *ExplainFix*, section 4.5.1 (kernels).

    Args:
        checkpoint: the network.
        worst: share of each layer's filters to zero, 0 to 1, the least important ones; the number
            is rounded down.
        best: the same of the most important ones.
        near: ``archetypes=0.2`` zeroes the share of each layer's filters that is nearest to its
            archetypes, ``median=0.2`` the share that is nearest to their geometric median.
        kernels: zero spatial kernels instead of filters, as a share of all kernels of the network,
            which are ordered together.
        method: a ranking method. By default, a ranking in the checkpoint's metadata, else saliency
            if there are images, else l2 for filters and lamp for kernels.
        options: the method's own.
        shift: ``zero`` also zeroes scale and shift of the batch normalisation that reads only this
            layer; ``keep`` leaves them, and needs no architecture. Kernels leave them always.
        layers: globs; None takes every spatial convolution.
        seed: of methods that draw numbers.
        data: labelled images for saliency.
        observe: told about each layer.
        progress: told how many layers, or images, of how many are done.

    Returns:
        A checkpoint of the same shapes.

    Raises:
        OptionError: not exactly one of ``worst``, ``best`` and ``near``, or an unusable value.
        LayerError: no layer fits, or one cannot be ranked or zeroed (named).
        ArchitectureError: ``shift="zero"``, and the network cannot be built.
        GraphError: ``shift="zero"``, and the network cannot be followed.

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> silent = fs.silence(checkpoint, worst=0.25)
        >>> weight = silent["conv1.0.weight"].array()
        >>> weight.shape, int((weight == 0).all(axis=(1, 2, 3)).sum())
        ((16, 3, 3, 3), 4)
        >>> fs.prune(silent, sparsity=0, mode="exact")["conv1.0.weight"].shape
        (12, 3, 3, 3)
    """
    choice = _read_choice(worst, best, near, kernels, method)
    if shift not in SHIFTS:
        raise OptionError(f"`shift` {shift!r} should be zero or keep{near_misses(shift, SHIFTS)}")
    globs = as_globs(layers)
    given = {
        "worst": worst, "best": best, "near": near, "kernels": kernels or None, "method": method,
        "options": dict(options or {}), "shift": shift if shift != "zero" else None,
        "layers": globs, "seed": seed or None,
    }  # fmt: skip
    found = {x.name: x for x in layers_to_analyse(checkpoint, ["*"], ANY)}
    wanted = {"options": options, "seed": seed, "data": data, "progress": progress}
    choose = _choose_kernels if kernels else _choose_filters
    masks, images = choose(checkpoint, choice, globs, wanted)
    for name, mask in masks.items():
        if name not in found or mask.shape != found[name].shape[: mask.ndim]:
            raise OptionError(
                f"the ranking of layer {name} does not fit {checkpoint.name}; rank it again with "
                "fsurgeon rank --annotate"
            )
        found[name].check_type()
    behind: dict[str, str] = {}
    notes: list[str] = []
    if not kernels and shift == "zero":
        from filtersurgeon.networks.architecture import identify

        checkpoint = identify(checkpoint)
        behind, notes = _find_behind(checkpoint, masks)
    changed: dict[str, Mask] = {}
    for name, mask in masks.items():
        changed |= _tensors_of(checkpoint, found[name], mask, behind.get(name, ""), kernels)
        if observe:
            indices = () if kernels else tuple(np.flatnonzero(mask).tolist())
            zeroed = int(mask.sum())
            observe(LayerSilence(name, mask.size, zeroed, indices, behind.get(name, "")))
    if not any(mask.any() for mask in masks.values()):
        notes.append(f"nothing is zeroed: {choice.share:g} is less than one in every layer")
    stored = {x.tensor: x.stored for x in found.values()}
    said = {k: v for k, v in given.items() if v not in (None, {}, [])}
    entry = HistoryEntry("silence", said, data=images, warning=warning_of(images))
    made = {
        name: _zero(stored.get(name) or checkpoint[name], mask)
        for name, mask in changed.items()
        if mask.any()
    }
    edited = checkpoint.edited(entry, made, "set to zero where silent")
    return replace(edited, notes=(*edited.notes, *notes))


def _read_choice(
    worst: float | None, best: float | None, near: str | None, kernels: bool, method: str | None
) -> _Choice:
    given = [(end, x) for end, x in (("worst", worst), ("best", best), ("near", near))
             if x is not None]  # fmt: skip
    if len(given) != 1:
        raise OptionError("pass exactly one of `worst`, `best` and `near`")
    end, value = given[0]
    if near is not None:
        name, _, number = near.partition("=")
        if name not in NEAR or not number:
            raise OptionError(f"`near` {near!r} should read archetypes=0.2 or median=0.2")
        if method is not None or kernels:
            raise OptionError("`near` compares filters by itself; leave `method` and `kernels` out")
        method, end = NEAR[name]
        value = _read_share(number)
    share = float(value)
    if not 0 <= share <= 1:
        raise OptionError(
            f"`{given[0][0]}` {given[0][1]} should be a share from 0 to 1{as_percentage(share)}"
        )
    return _Choice(share, end, method)


def _read_share(words: str) -> float:
    try:
        return read_share(words)
    except ValueError:
        return np.nan


def _choose_filters(
    checkpoint: Checkpoint, choice: _Choice, globs: Sequence[str], wanted: Mapping[str, Any]
) -> tuple[dict[str, Mask], Mapping[str, str]]:
    """Give for each layer which filters are zeroed, ``(N,)``, and the images that chose them."""
    stored = choice.method is None and wanted["data"] is None and not wanted["options"]
    if stored and ANNOTATION in checkpoint.annotations:
        ranking = read_ranking(checkpoint)
        assert ranking is not None
        names = [x.name for x in layers_to_analyse(checkpoint, globs, ANY)] if globs else None
        missing = [name for name in names or () if name not in ranking.layers]
        if missing:
            raise LayerError(
                f"the ranking stored in {checkpoint.name} has no layer {missing[0]}; rank again "
                "with `method`"
            )
        orders = {x: ranking.layers[x].order for x in names or ranking.layers}
    else:
        method = choice.method or ("l2" if wanted["data"] is None else "saliency")
        ranking = rank(checkpoint, method, layers=globs or None, **wanted)
        orders = {name: layer.order for name, layer in ranking.layers.items()}
    masks = {}
    for name, order in orders.items():
        mask = np.zeros(len(order), bool)
        count = count_share(choice.share, len(order))
        mask[order[:count] if choice.end == "best" else order[len(order) - count :]] = True
        masks[name] = mask
    return masks, ranking.data


def _choose_kernels(
    checkpoint: Checkpoint, choice: _Choice, globs: Sequence[str], wanted: Mapping[str, Any]
) -> tuple[dict[str, Mask], Mapping[str, str]]:
    """Give for each layer which kernels are zeroed, as the first two axes of its weight."""
    method = choice.method or ("lamp" if wanted["data"] is None else "saliency")
    found = kernel_scores(checkpoint, method, layers=globs or None, **wanted)
    return mark_kernels(found.layers, choice.share, best=choice.end == "best"), found.data


def _find_behind(checkpoint: Checkpoint, layers: Iterable[str]) -> tuple[dict[str, str], list[str]]:
    """Find the batch normalisation behind each layer, and say which layers have another one.

    Raises:
        LayerError: a transposed convolution, the rows of whose weight are its inputs.
    """
    from torch.nn.modules.conv import _ConvTransposeNd

    from filtersurgeon.graph.follow import find_convolutions, normalisations
    from filtersurgeon.graph.graph import trace_shapes
    from filtersurgeon.networks.build import build
    from filtersurgeon.networks.dry_run import find_size
    from filtersurgeon.networks.structure.plain_weights import make_all_plain

    model, chosen = build(checkpoint), list(layers)
    make_all_plain(model)
    modules = dict(model.named_modules())
    for name in chosen:
        if isinstance(modules.get(name), _ConvTransposeNd):
            raise LayerError(
                f"layer {name} is a transposed convolution, and its ranking orders its inputs; "
                f"leave it out with `layers` '!{name}'"
            )
    trace = trace_shapes(model, find_size(model, checkpoint))
    names = {id(module): name for name, module in modules.items()}
    alone = normalisations(model, trace, alone=True)
    found = {name: names[id(alone[name])] for name in chosen if name in alone}
    found = {name: norm for name, norm in found.items() if _norm_tensors(checkpoint, norm)}
    normalised = find_convolutions(model, trace).normalised
    left = [name for name in chosen if name in normalised and name not in found]
    if not left:
        return found, []
    more = f" and {len(left) - 1} more" if left[1:] else ""
    return found, [
        f"{left[0]}{more}: the normalisation behind is shared or mixes channels, and is left as it "
        "is; it may add a shift to the zeroed channels"
    ]


def _norm_tensors(checkpoint: Checkpoint, norm: str) -> list[str]:
    """Name the tensors that are zeroed: scale and shift, or without these the running mean."""
    own = [f"{norm}.{part}" for part in ("weight", "bias") if f"{norm}.{part}" in checkpoint]
    mean = f"{norm}.running_mean"
    return own or ([mean] if mean in checkpoint else [])


def _tensors_of(
    checkpoint: Checkpoint, layer: FilterLayer, mask: Mask, norm: str, kernels: bool
) -> dict[str, Mask]:
    """Name what becomes zero along with the filters or kernels of a layer, and where."""
    found = {layer.tensor: mask.ravel()}
    if kernels:
        return found
    bias = f"{layer.name}.bias" if layer.name else "bias"
    names = [bias] if bias in checkpoint else []
    names += _norm_tensors(checkpoint, norm) if norm else []
    return {**found, **dict.fromkeys(names, mask)}


def _zero(stored: StoredTensor, mask: Mask) -> StoredTensor:
    """Give a tensor with zeros in some of the equal parts that it falls into."""
    return StoredTensor.from_bytes(stored.dtype, stored.shape, partial(_zeroed, stored, mask))


def _zeroed(stored: StoredTensor, mask: Mask) -> np.ndarray:
    # Bytes of zero are a zero in every type.
    raw = np.frombuffer(stored.raw(), np.uint8).reshape(len(mask), -1).copy()
    raw[mask] = 0
    return raw.reshape(-1)
