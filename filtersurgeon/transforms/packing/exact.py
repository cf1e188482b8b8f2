"""Finding the numbers a and b from which a rounded kernel was made, bit for bit.

A kernel holds ``a g + b`` rounded to its type, so each of its values leaves a strip of the plane
(a, b) that rounds to it, and a and b lie where all strips meet. The strips are narrow and a and b
are numbers of a grid (float32), so one of the two is tried from grid point to grid point around the
least-squares estimate, and the other is looked for in the interval that the strips leave.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from filtersurgeon.banks.closest import transform_members
from filtersurgeon.checkpoint.tensor import decode, encode

# Steps to each side and their fineness: for all kernels, then for those still missing. Kernels of
# half precision leave an area far wider than a grid cell, but now and then a mere sliver of it.
_STAGES = ((3, 1.0), (64, 1.0), (1000, 1 / 30))
_HOPEFUL = 0.5


class Coefficients(NamedTuple):
    """The numbers of N kernels: ``scale`` and ``offset`` ``(N,)``, and which were found."""

    scale: np.ndarray
    offset: np.ndarray
    found: np.ndarray


def exact_coefficients(
    kernels: np.ndarray, members: np.ndarray, dtype: str, scale: bool, offset: bool
) -> Coefficients:
    """Find a and b so that ``a g + b``, computed in float64 and rounded, is the kernel.

    Args:
        kernels: ``(N, m)`` as decoded.
        members: ``(N, m)`` float64, g for each of them.
        dtype: the kernels' stored type.
        scale: whether a is free, or 1.
        offset: whether b is free, or 0.

    Returns:
        Coefficients in float32, or float64 for float64 kernels.
    """
    kind = np.float64 if dtype == "F64" else np.float32
    n = len(kernels)
    a, b = np.full(n, 1, kind), np.zeros(n, kind)
    if scale:
        a[:], b[:] = _estimates(kernels, members, offset)
    elif offset:
        b[:] = (kernels - members).mean(axis=1)
    task = _Search(kernels, members, dtype, Coefficients(a, b, np.zeros(n, bool)))
    if scale and offset:
        for reach, fineness in _STAGES if dtype in ("F16", "BF16") else _STAGES[:2]:
            # Kernels of another origin would keep this busy for minutes.
            if reach > _STAGES[0][0] and task.best.found.mean() < _HOPEFUL:
                break
            task.along_scale(reach, fineness)
            task.along_offset(reach, fineness)
    elif scale:
        task.try_scales(b)
    else:
        task.try_offsets(a)
    return task.best


def _estimates(
    kernels: np.ndarray, members: np.ndarray, offset: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Estimate a and b by least squares, ``(N,)`` each."""
    values = kernels.astype(np.float64)
    means = members.mean(axis=1) if offset else np.zeros(len(members))
    centred = members - means[:, None]
    energy = np.square(centred).sum(axis=1)
    slope = np.divide((centred * values).sum(axis=1), energy, where=energy > 0,
                      out=np.zeros(len(values)))  # fmt: skip
    # A constant kernel leaves nothing but rounding of a slope.
    slope[np.ptp(values, axis=1) == 0] = 0.0
    return slope, values.mean(axis=1) - slope * means if offset else means


class _Search:
    """Kernels whose coefficients are looked for."""

    def __init__(
        self, kernels: np.ndarray, members: np.ndarray, dtype: str, start: Coefficients
    ) -> None:
        self.kernels, self.members, self.dtype = kernels.astype(np.float64), members, dtype
        self.low, self.high = _rounding_intervals(kernels, dtype)
        self.coarse = (self.high - self.low).max(axis=1) / 32
        self.start = Coefficients(start.scale.copy(), start.offset.copy(), start.found)
        self.best = start

    def along_scale(self, reach: int, fineness: float) -> None:
        """Try scales around the estimate, and what offsets they leave."""
        # Beside a coarse kernel the grid of scales is too fine to walk point by point.
        step = np.maximum(np.spacing(np.abs(self.start.scale)), fineness * self.coarse)
        for k in _outwards(reach):
            if self.best.found.all():
                return
            self.try_offsets((self.start.scale + k * step).astype(self.start.scale.dtype))

    def along_offset(self, reach: int, fineness: float) -> None:
        """Try offsets around the estimate, and what scales they leave."""
        step = np.maximum(np.spacing(np.abs(self.start.offset)), fineness * self.coarse)
        for k in _outwards(reach):
            if self.best.found.all():
                return
            self.try_scales((self.start.offset + k * step).astype(self.start.offset.dtype))

    def try_offsets(self, scale: np.ndarray) -> None:
        """Look for an offset to each of these scales."""
        left = np.flatnonzero(~self.best.found)
        a = scale[left]
        scaled = self.members[left] * a.astype(np.float64)[:, None]
        low, high = (self.low[left] - scaled).max(axis=1), (self.high[left] - scaled).min(axis=1)
        self._test(left, a, None, (low + high) / 2)

    def try_scales(self, offset: np.ndarray) -> None:
        """Look for a scale to each of these offsets."""
        left = np.flatnonzero(~self.best.found)
        b, members = offset[left], self.members[left]
        shift = b.astype(np.float64)[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            ends = np.stack([self.low[left] - shift, self.high[left] - shift]) / members
        ends = np.sort(np.where(members == 0, [[[-np.inf]], [[np.inf]]], ends), axis=0)
        low, high = ends[0].max(axis=1), ends[1].min(axis=1)
        middle = np.where(np.isfinite(low) & np.isfinite(high), (low + high) / 2, 0.0)
        self._test(left, None, b, middle)

    def _test(
        self, left: np.ndarray, a: np.ndarray | None, b: np.ndarray | None, middle: np.ndarray
    ) -> None:
        """Keep what rounds to the very kernels, of the middle and its neighbours on the grid."""
        kind = self.best.scale.dtype.type
        with np.errstate(over="ignore"):
            nearest = middle.astype(kind)
        for found in (nearest, np.nextafter(nearest, kind(np.inf)),
                      np.nextafter(nearest, kind(-np.inf))):  # fmt: skip
            scale = found if a is None else a
            offset = found if b is None else b
            with np.errstate(over="ignore", invalid="ignore"):
                made = transform_members(self.members[left], scale, offset)
                made = decode(encode(made, self.dtype), self.dtype).reshape(made.shape)
            # Zeros of either sign differ in their bits.
            same = (made == self.kernels[left]) & (
                np.signbit(made) == np.signbit(self.kernels[left])
            )
            hits = same.all(axis=1) & ~self.best.found[left]
            rows = left[hits]
            self.best.scale[rows], self.best.offset[rows] = scale[hits], offset[hits]
            self.best.found[rows] = True


def _outwards(reach: int) -> list[int]:
    """Give 0, 1, -1, 2, -2 and so on."""
    return sorted(range(-reach, reach + 1), key=lambda k: (abs(k), k))


def _rounding_intervals(kernels: np.ndarray, dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Give the ends of the interval that rounds to each value of a stored type, in float64."""
    # Half the distance of two float64 numbers is none of them.
    wide = np.longdouble if dtype == "F64" else np.float64
    size = np.abs(kernels).astype(wide)
    if dtype == "F16":
        narrow = size.astype(np.float16)
        above = np.spacing(narrow).astype(np.float64)
        below = narrow.astype(np.float64) - np.nextafter(narrow, np.float16(0))
    else:
        narrow, unit = np.abs(kernels), 2**16 if dtype == "BF16" else 1
        above = np.spacing(narrow).astype(wide) * unit
        below = (narrow.astype(wide) - np.nextafter(narrow, narrow.dtype.type(0))) * unit
    # Just above a power of two the numbers lie twice as far apart as below it; around zero, alike.
    below = np.where(size == 0, above, below)
    near, far = size - below / 2, size + above / 2
    negative = np.signbit(kernels)
    return np.where(negative, -far, near), np.where(negative, -near, far)
