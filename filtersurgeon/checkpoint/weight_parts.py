"""Weights that a state dict holds in parts, as norms, masks and parametrizations of torch do.

The parts of ``conv.weight`` are tensors such as ``conv.weight_g`` and ``conv.weight_v``. They are
found by their names and shapes; the weight that the network computes with follows from them.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from math import prod

import numpy as np

from filtersurgeon.checkpoint.tensor import COMPUTABLE, Buffer, StoredTensor, decode, encode
from filtersurgeon.errors import LayerError

_NEW = re.compile(r"(?:(?P<module>.+)\.)?parametrizations\.(?P<name>\w*weight\w*)\.(?P<role>.+)")
_OLD = re.compile(r"(?P<weight>(?:.+\.)?\w*?weight\w*?)_(?P<role>(?:orig|mask|g|v|u)(?:_\w+)?)")

Parts = Mapping[str, np.ndarray]
NORM, MASK, SPECTRAL, OTHER = "weight_norm", "mask", "spectral_norm", "parametrization"
_NEW_REMEDY = "call parametrize.remove_parametrizations(module, 'weight')"
_REMEDIES = {
    NORM: "call remove_weight_norm(module)",
    MASK: "call prune.remove(module, 'weight')",
    SPECTRAL: "call remove_spectral_norm(module)",
    OTHER: "store it as one tensor",
}
"""Functions of ``torch.nn.utils``."""
# Norms whose squares torch can add up in the stored type, and numbers that it can hold.
_SAFE = {"F16": (2.0**-13, 2.0**14)}
_SAFE_OTHERS = (1e-15, 1e15)
_ALIKE = 0.9
"""Cosine of ``w v`` and ``u`` in a spectral normalisation that has seen training."""
WHOLE_NUMBERS = {
    "BOOL": "?", "U8": "<u1", "I8": "<i1", "U16": "<u2", "I16": "<i2", "U32": "<u4", "I32": "<i4",
    "U64": "<u8", "I64": "<i8",
}  # fmt: skip


@dataclass(frozen=True)
class WeightParts:
    """One weight and the tensors that it is stored in.

    Attributes:
        weight: the name that the weight would have, such as ``conv.weight``.
        kind: ``weight_norm``, ``mask``, ``spectral_norm``, or ``parametrization`` where the parts
            do not tell how the weight follows from them.
        parts: the tensors by their roles, such as ``g`` and ``v``.
        names: their names.
        new_style: made by ``torch.nn.utils.parametrize``.
    """

    weight: str
    kind: str
    parts: Mapping[str, StoredTensor]
    names: Mapping[str, str]
    new_style: bool

    @property
    def layer(self) -> str:
        """The module's name."""
        return self.weight.rpartition(".")[0] or self.weight

    @property
    def values(self) -> StoredTensor:
        """The part that has the weight's shape and type."""
        usual = (self.parts[role] for role in ("orig", "", "v") if role in self.parts)
        return next(usual, None) or max(self.parts.values(), key=lambda part: prod(part.shape))

    @property
    def joining(self) -> str:
        """How to store the weight as one tensor."""
        return _NEW_REMEDY if self.new_style else _REMEDIES[self.kind]

    def remedy(self) -> str:
        """Say how to store the weight as one tensor, in words that end an error's line."""
        return f"{self.joining} first, or leave it out with `layers` '!{self.layer}'"

    def check_one_tensor(self, verb: str) -> None:
        """Refuse the weight where it has to be one tensor; raises LayerError always."""
        raise LayerError(
            f"layer {self.layer}: its weight is stored in parts, which {verb} does not keep; "
            f"{self.remedy()}"
        )

    def whole(self) -> StoredTensor:
        """Give the weight that the network computes with, in evaluation mode; computed when read.

        Raises:
            LayerError: while reading, where the parts do not tell it.
        """
        stored = self.values
        return StoredTensor.from_bytes(stored.dtype, stored.shape, self._whole)

    def _whole(self) -> Buffer:
        made = _MADE.get(self.kind)
        numbers = (
            {role: numbers_of(part, self) for role, part in self.parts.items()} if made else {}
        )
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            try:
                values = made(numbers) if made else None
            except LookupError:
                values = None
        if values is None:
            raise LayerError(
                f"layer {self.layer}: how its weight follows from its parts is unknown; "
                f"{self.remedy()}"
            )
        return encode(values, self.values.dtype)

    def check_writable(self) -> None:
        """Refuse a change of the weight that its parts cannot hold; raises LayerError."""
        if self.kind != NORM:
            why = {
                MASK: "a mask covers its weights",
                SPECTRAL: "spectral_norm sets the scale of its weights",
            }.get(self.kind, "a parametrization makes its weights")
            raise LayerError(f"layer {self.layer}: {why}; {self.remedy()}")

    def written(self, weight: StoredTensor) -> dict[str, StoredTensor]:
        """Give the parts of another weight of the same shape, by name; computed when read.

        Raises:
            LayerError: the parts cannot hold it; also later, a norm beyond its type's range.
        """
        self.check_writable()
        shared = _Shared(lambda: self._split(weight))
        return {
            name: StoredTensor.from_bytes(
                self.parts[role].dtype, self.parts[role].shape, partial(shared.take, role)
            )
            for role, name in self.names.items()
        }

    def _split(self, weight: StoredTensor) -> dict[str, np.ndarray]:
        """Write a weight as norms and directions: ``g = ||w||``, and ``v = w``.

        A filter of zeros has the norm 0 and keeps its old direction, for ``0 / 0`` is none.
        """
        [raw] = weight.blocks(weight.nbytes)  # to its end, where observers are told
        new = decode(raw, weight.dtype).reshape(weight.shape).astype(np.float64)
        old = numbers_of(self.parts["v"], self)
        g = self.parts["g"]
        norm = norm_over(new, g.shape)
        low, high = _SAFE.get(self.values.dtype, _SAFE_OTHERS)
        safe = (norm >= low) & (norm <= high)
        with np.errstate(divide="ignore", invalid="ignore"):
            v = np.where(safe, new, new / norm)
        length = norm_over(old, g.shape)
        v = np.where(norm == 0, np.where((length > 0) & np.isfinite(length), old, 1.0), v)
        norms = encode(norm.reshape(g.shape), g.dtype)
        if np.isfinite(norm).all() and not np.isfinite(decode(norms, g.dtype)).all():
            raise LayerError(f"layer {self.layer}: a norm is beyond the range of {g.dtype}")
        return {"g": norms, "v": encode(v, self.values.dtype)}


class _Shared:
    """Parts that are computed together, and kept until each has been read."""

    def __init__(self, compute: Callable[[], dict[str, np.ndarray]]) -> None:
        self._compute = compute
        self._made: dict[str, np.ndarray] = {}

    def take(self, role: str) -> np.ndarray:
        """Give one of them."""
        if role not in self._made:
            self._made = self._compute()
        return self._made.pop(role)


def numbers_of(stored: StoredTensor, parts: WeightParts) -> np.ndarray:
    """Give the values of a part in float64; raises LayerError for types that hold none."""
    if stored.dtype in COMPUTABLE:
        return stored.array().astype(np.float64)
    if stored.dtype not in WHOLE_NUMBERS:
        raise LayerError(
            f"layer {parts.layer}: a part of its weight is of type {stored.dtype}, which is not "
            f"computed with; leave it out with `layers` '!{parts.layer}'"
        )
    found = np.frombuffer(stored.raw(), WHOLE_NUMBERS[stored.dtype])
    return found.astype(np.float64).reshape(stored.shape)


def norm_over(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Give the Euclidean norm over the axes along which ``shape`` is 1, which are kept."""
    axes = tuple(k for k in range(values.ndim) if not shape or shape[k] == 1)
    greatest = np.abs(values).max(axis=axes, keepdims=True)
    # Divided by the greatest first: squares of small or large numbers leave even float64's range.
    scale = np.where(greatest > 0, greatest, 1.0)
    return scale * np.sqrt(np.square(values / scale).sum(axis=axes, keepdims=True))


def _compute_weight_norm(parts: Parts) -> np.ndarray:
    """``g v / ||v||``: Salimans and Kingma, *Weight Normalization*, 2016, Eq. 2."""
    g, v = parts["g"], parts["v"]
    return v * (g / norm_over(v, g.shape))


def _apply_mask(parts: Parts) -> np.ndarray:
    return parts["orig"] * parts["mask"]


def _spectral(parts: Parts) -> np.ndarray:
    """``w / (u^T w v)``: Miyato et al., *Spectral Normalization for GANs*, 2018, section 2.1.

    Transposed convolutions have their outputs along the second axis.
    """
    return parts["orig"] / (parts["u"] @ spectral_image(parts, _spectral_axis(parts)))


def _spectral_axis(parts: Parts) -> int:
    """Give the axis of the outputs; where sizes allow two, the one along which ``w v`` is ``u``.

    Raises:
        LookupError: neither is, as before the first step of training.
    """
    similarity = {
        axis: _cosine(spectral_image(parts, axis), parts["u"]) for axis in output_axes(parts)
    }
    axis = max(similarity, key=similarity.__getitem__)
    if len(similarity) > 1 and not similarity[axis] > _ALIKE:
        raise LookupError
    return axis


def output_axes(parts: Parts) -> list[int]:
    """List the axes of a spectrally normalised weight that may hold the outputs."""
    shape, count = parts["orig"].shape, len(parts["u"])
    return [axis for axis in range(2) if shape[axis] == count]


def spectral_image(parts: Parts, axis: int) -> np.ndarray:
    """Give ``w v`` for a weight whose outputs lie along an axis."""
    rows = np.moveaxis(parts["orig"], axis, 0).reshape(len(parts["u"]), -1)
    found: np.ndarray = rows @ parts["v"]
    return found


def _cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / (np.linalg.norm(one) * np.linalg.norm(other)))


_MADE: Mapping[str, Callable[[Parts], np.ndarray]] = {
    NORM: _compute_weight_norm,
    MASK: _apply_mask,
    SPECTRAL: _spectral,
}


def find_parts(tensors: Mapping[str, StoredTensor]) -> dict[str, WeightParts]:
    """Find the weights that are stored in parts.

    Args:
        tensors: a checkpoint's tensors by name.

    Returns:
        Name of the weight -> its parts.
    """
    old: dict[str, dict[str, str]] = defaultdict(dict)
    new: dict[str, dict[str, str]] = defaultdict(dict)
    for tensor in tensors:
        if found := _NEW.fullmatch(tensor):
            module = f"{found['module']}." if found["module"] else ""
            new[module + found["name"]][found["role"]] = tensor
        elif found := _OLD.fullmatch(tensor):
            old[found["weight"]][found["role"]] = tensor
    made = [_old_style(weight, names, tensors) for weight, names in old.items()]
    made += [_new_style(weight, names, tensors) for weight, names in new.items()]
    return {each.weight: each for each in made if each is not None}


def _old_style(
    weight: str, names: Mapping[str, str], tensors: Mapping[str, StoredTensor]
) -> WeightParts | None:
    """Tell what tensors with the endings of hooks are; None for tensors that only look so."""
    parts = {role: tensors[name] for role, name in names.items()}
    kind = _kind(parts)
    if kind is None and weight in tensors:
        # A module's own mask or gain beside a whole weight: how it is used is not known.
        same = parts.get("mask")
        if same is None or same.shape != tensors[weight].shape:
            return None
        names, parts = {"": weight, **names}, {"": tensors[weight], **parts}
    elif kind is None and not _is_nested(parts):
        return None
    return WeightParts(weight, kind or OTHER, parts, names, new_style=False)


def _new_style(
    weight: str, names: Mapping[str, str], tensors: Mapping[str, StoredTensor]
) -> WeightParts:
    roles = {"original0": "g", "original1": "v", "original": "orig", "0._u": "u", "0._v": "v"}
    known = {roles.get(role, role): name for role, name in names.items()}
    parts = {role: tensors[name] for role, name in known.items()}
    # A mask of a user's own need not be a factor.
    kind = _kind(parts) if len(known) == len(names) else None
    kind = kind if kind != MASK else None
    return WeightParts(weight, kind or OTHER, parts, known, new_style=True)


def _is_nested(parts: Mapping[str, StoredTensor]) -> bool:
    """Tell whether one hook works on the parts of another, or one's parts are not all there."""
    roles = set(parts)
    return (
        {"orig", "mask"} <= roles
        or {"orig", "u"} <= roles
        or any({f"{role}_orig", f"{role}_mask"} <= roles for role in ("g", "v"))
    )


def _kind(parts: Mapping[str, StoredTensor]) -> str | None:
    """Tell by roles and shapes how a weight follows from its parts; None where they do not."""
    shapes = {role: stored.shape for role, stored in parts.items()}
    if shapes.keys() == {"g", "v"} and _fits_norm(shapes["g"], shapes["v"]):
        return NORM
    if shapes.keys() == {"orig", "mask"} and shapes["orig"] == shapes["mask"]:
        return MASK
    if shapes.keys() == {"orig", "u", "v"}:
        weight, u, v = shapes["orig"], shapes["u"], shapes["v"]
        if len(weight) > 1 and len(u) == len(v) == 1:
            rows = u[0] if u[0] in weight[:2] else 0
            if rows and rows * v[0] == prod(weight):
                return SPECTRAL
    return None


def _fits_norm(g: tuple[int, ...], v: tuple[int, ...]) -> bool:
    if not g:
        return True
    own = [(a, b) for a, b in zip(g, v, strict=False) if a != 1]
    return len(g) == len(v) > 1 and len(own) <= 1 and all(a == b for a, b in own)


def one_tensor(tensors: Mapping[str, StoredTensor], name: str) -> StoredTensor:
    """Give a tensor, or the weight of this name that is stored in parts.

    Raises:
        KeyError: there is neither.
    """
    return tensors[name] if name in tensors else find_parts(tensors)[name].whole()


def in_parts(
    tensors: Mapping[str, StoredTensor], changed: Mapping[str, StoredTensor]
) -> dict[str, StoredTensor]:
    """Write changed weights back in the parts in which a checkpoint stores them.

    Args:
        tensors: the checkpoint's.
        changed: new tensors by name; weights that are stored in parts have the name that they
            would have as one tensor.

    Raises:
        LayerError: some parts cannot hold the new weight.
    """
    parts = find_parts(tensors)
    whole = {name: stored for name, stored in changed.items() if name not in parts}
    for name in changed:
        if name in parts:
            whole |= parts[name].written(changed[name])
    return whole
