"""Fits of reading layers to what they made before: second moments, ridge regression, selection.

A layer, or one group of a grouped convolution, is a linear map ``W`` of the rows ``x`` that its
filters see. With fewer inputs it becomes ``argmin_{W', c} E_o g_o |y - W' x - c|^2``, where y is
what it made, and g_o says how much its output o matters.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import inf

import torch
from torch import Tensor

from filtersurgeon.networks.devices import copy_number

RIDGES = (1e-5, 1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 4.0, 16.0)
"""Shares of an input's variance; which one is used, held-out rows decide."""

_HELD = 6144
_HELD_WIDE = 2048
_STORED = 2048
_NARROW = 128
"""Numbers in a row up to which products are summed in float64 from the start."""
_FEW = 1 << 20
"""Numbers in stored rows up to which the same is done."""
_WIDE = 1200
"""Numbers in a row from which on float32 has to do."""
_BLOCK = 65536
_STEPS = (64, 32)
_BLOCKS = 6
_LEAST_BLOCK = 48


class RowSums:
    """First and second moments of rows, and some rows that are held out.

    Args:
        inputs: numbers in a row that a filter sees.
        outputs: numbers in a row that is made.
        device: where they are summed.
    """

    has_moments = True

    def __init__(self, inputs: int, outputs: int, device: torch.device) -> None:
        zeros = torch.zeros(1, dtype=torch.float64, device=device)
        self.rows = 0
        self._gram = zeros.new_zeros(inputs, inputs)
        self._cross = zeros.new_zeros(outputs, inputs)
        self._sums = zeros.new_zeros(inputs), zeros.new_zeros(outputs)
        # Rows are summed about the mean of the first ones: far from zero, rounding would hide
        # how they vary.
        self._origin: tuple[Tensor, Tensor] | None = None
        self._held: list[tuple[Tensor, Tensor]] = []

    def add(self, inputs: Tensor, outputs: Tensor) -> None:
        """Add rows to fit to, ``(rows, inputs)`` and ``(rows, outputs)``."""
        if self._origin is None:
            self._origin = inputs.mean(0), outputs.mean(0)
        for x, y in zip(inputs.split(_BLOCK), outputs.split(_BLOCK), strict=True):
            x, y = x - self._origin[0], y - self._origin[1]
            if x.shape[1] <= _NARROW:
                x, y = x.double(), y.double()
            self.rows += len(x)
            self._add_products(x)
            self._cross += y.T @ x
            self._sums[0].add_(x.sum(0))
            self._sums[1].add_(y.sum(0))

    def _add_products(self, x: Tensor) -> None:
        """Add products of inputs on and above the diagonal, in blocks."""
        width = max(_LEAST_BLOCK, -(-x.shape[1] // _BLOCKS))
        for start in range(0, x.shape[1], width):
            stop = start + width
            self._gram[start:stop, start:] += x[:, start:stop].T @ x[:, start:]

    def hold(self, inputs: Tensor, outputs: Tensor) -> None:
        """Add rows that choose the ridge and are not fitted to, until there are enough."""
        room = (_HELD if inputs.shape[1] <= _WIDE else _HELD_WIDE) - sum(
            len(x) for x, _ in self._held
        )
        if room > 0:
            self._held.append((inputs[:room].clone(), outputs[:room].clone()))

    @property
    def held(self) -> tuple[Tensor, Tensor]:
        """The rows that are held out."""
        inputs, outputs = zip(*self._held, strict=True)
        self._held = [(torch.cat(inputs), torch.cat(outputs))]
        return self._held[0]

    def means(self) -> tuple[Tensor, Tensor]:
        """Give the means of inputs and outputs."""
        assert self._origin is not None
        pairs = zip(self._origin, self._sums, strict=True)
        x, y = (origin.double() + total / self.rows for origin, total in pairs)
        return x, y

    def variances(self) -> Tensor:
        """Give the variance of each input."""
        x = self._sums[0] / self.rows
        return self._gram.diagonal() / self.rows - x.square()

    def centred(self) -> tuple[Tensor, Tensor]:
        """Give the moments about the means: inputs with inputs, and outputs with inputs."""
        x, y = (total / self.rows for total in self._sums)
        upper = self._gram.triu()
        gram = upper.add_(upper.triu(1).T).div_(self.rows).addr_(x, x, alpha=-1)
        return gram, (self._cross / self.rows).addr_(y, x, alpha=-1)

    def plain(self) -> tuple[Tensor, Tensor]:
        """Give the moments about zero."""
        (gram, cross), (x, y) = self.centred(), self.means()
        return gram.addr_(x, x), cross.addr_(y, x)


class StoredRows(RowSums):
    """Rows of so many numbers that fewer rows than numbers are seen; the rows are kept instead.

    Args:
        inputs: numbers in a row that a filter sees.
        outputs: numbers in a row that is made.
        device: where they are kept.
    """

    has_moments = False

    def __init__(self, inputs: int, outputs: int, device: torch.device) -> None:  # noqa: ARG002
        self.rows = 0
        self._kept: list[tuple[Tensor, Tensor]] = []
        self._held: list[tuple[Tensor, Tensor]] = []

    def add(self, inputs: Tensor, outputs: Tensor) -> None:
        """Keep rows, as many as :data:`_STORED`."""
        room = _STORED - self.rows
        if room > 0:
            self._kept.append((inputs[:room].clone(), outputs[:room].clone()))
            self.rows += len(inputs[:room])

    @property
    def kept(self) -> tuple[Tensor, Tensor]:
        """The rows to fit to."""
        inputs, outputs = zip(*self._kept, strict=True)
        self._kept = [(torch.cat(inputs), torch.cat(outputs))]
        return self._kept[0]

    def means(self) -> tuple[Tensor, Tensor]:
        """Give the means of inputs and outputs."""
        x, y = self.kept
        return x.mean(0, dtype=torch.float64), y.mean(0, dtype=torch.float64)

    def variances(self) -> Tensor:
        """Give the variance of each input, in float64."""
        return self.kept[0].var(0, unbiased=False).double()


@dataclass(frozen=True)
class Fit:
    """A layer's new map.

    Attributes:
        weight: ``(outputs, kept inputs)``.
        constant: ``(outputs,)``, what is added.
        error: mean weighted squared error on held-out rows.
        ridge: the share that was chosen.
    """

    weight: Tensor
    constant: Tensor
    error: float
    ridge: float


def fit(
    sums: RowSums, columns: Tensor, prior: Tensor, importance: Tensor, *, constant: bool = True
) -> Fit:
    """Fit what a layer made to some of its inputs.

    The ridge, in units of each input's variance, pulls towards the weights as they were. Of
    several, the one is taken whose fit errs least on the rows that are held out; the fit itself
    then stands.

    Args:
        sums: of the rows.
        columns: numbers of the inputs that are kept, ``(kept,)``.
        prior: the weights as they were, ``(outputs, inputs)``.
        importance: how much each output matters, ``(outputs,)``.
        constant: whether a constant may be added.
    """
    if not len(columns):
        return _fit_constant(sums, prior, importance, constant=constant)
    if isinstance(sums, StoredRows):
        return _fit_rows(sums, columns, prior, importance, constant=constant)
    gram, cross = sums.centred() if constant else sums.plain()
    means = sums.means()
    mean = copy_number(gram.diagonal().mean().clamp(min=1e-30))
    kept, part = (
        _precise(z, len(columns))
        for z in (gram.index_select(0, columns).index_select(1, columns), cross[:, columns])
    )
    del gram, cross
    before = prior[:, columns].to(kept)
    variance = kept.diagonal() + 1e-3 * mean
    # The step from the weights as they were is what the ridge makes small.
    right = (part - before @ kept).T
    x, y = sums.held
    x = x[:, columns]

    def attempt(ridge: float) -> Fit | None:
        stiff = kept.clone()
        stiff.diagonal().add_(ridge * variance)
        factor, failed = torch.linalg.cholesky_ex(stiff)
        if failed.tolist():
            return None
        weight = before + torch.cholesky_solve(right, factor).T
        added = means[1] - weight.double() @ means[0][columns]
        if not constant:
            added = torch.zeros_like(added)
        error = torch.addmm(y - added.to(y), x, weight.T.to(x), alpha=-1)
        lost = error.square_().mean(0, dtype=torch.float64)
        return Fit(weight, added, copy_number((lost * importance).sum()), ridge)

    return _best_ridge(attempt)


def _fit_constant(sums: RowSums, prior: Tensor, importance: Tensor, *, constant: bool) -> Fit:
    """Fit a layer that reads nothing: what it made on average, if a constant may be added."""
    y = sums.held[1]
    mean = sums.means()[1]
    made = mean if constant else torch.zeros_like(mean)
    lost = (y - made.to(y)).square().mean(0, dtype=torch.float64)
    return Fit(prior[:, :0], made, copy_number((lost * importance).sum()), 0.0)


def _precise(values: Tensor, width: int) -> Tensor:
    """Give values in the precision to calculate in; wide layers would take too long in float64."""
    return values.double() if width <= _WIDE else values.float()


def _best_ridge(attempt: Callable[[float], Fit | None]) -> Fit:
    """Find the ridge that errs least, from the middle one on in the direction that helps."""
    errors: dict[int, float] = {}
    best: Fit | None = None  # only one is kept: the map of a large layer fills much memory

    def error(number: int) -> float:
        nonlocal best
        if not 0 <= number < len(RIDGES):
            return inf
        if number not in errors:
            found = attempt(RIDGES[number])
            errors[number] = inf if found is None or found.error != found.error else found.error
            if best is None or errors[number] < best.error:
                best = found if errors[number] < inf else best
        return errors[number]

    at = len(RIDGES) // 2
    while at < len(RIDGES) - 1 and error(at) == inf:
        at += 1
    step = -1 if error(at - 1) < error(at) else 1
    while error(at + step) < error(at):
        at += step
    assert best is not None
    return best


def _fit_rows(
    sums: StoredRows, columns: Tensor, prior: Tensor, importance: Tensor, *, constant: bool
) -> Fit:
    """Fit as :func:`fit` does, from the products of the rows with one another.

    ``X D^-1 X^T`` has as many rows as there are rows, far fewer than inputs.
    """
    x, y = sums.kept
    x, before = x[:, columns], prior[:, columns].float()
    if x.numel() <= _FEW:
        x, y, before = x.double(), y.double(), before.double()
    shift = (
        (x.mean(0), y.mean(0)) if constant else (x.new_zeros(x.shape[1]), y.new_zeros(y.shape[1]))
    )
    x, y = x - shift[0], y - shift[1]
    variance = x.square().mean(0)
    variance = variance + 1e-3 * variance.mean().clamp(min=1e-30)
    scaled = x / variance
    products = (scaled @ x.T).double() / len(x)
    missing = (y - x @ before.T).double() / len(x)
    held, wanted = (part.to(x) for part in sums.held)
    held = held[:, columns]
    eye = torch.eye(len(x), dtype=torch.float64, device=x.device)

    def attempt(ridge: float) -> Fit | None:
        factor, failed = torch.linalg.cholesky_ex(products + ridge * eye)
        if failed.tolist():
            return None
        weight = (torch.cholesky_solve(missing, factor).to(x).T @ scaled).add_(before)
        added = shift[1] - weight @ shift[0]
        lost = (wanted - held @ weight.T - added).double().square().mean(0)
        return Fit(weight, added, copy_number((lost * importance).sum()), ridge)

    return _best_ridge(attempt)


@dataclass
class Columns:
    """One reading layer, as the order of removal sees it: the columns of one bundle.

    Attributes:
        inverse: block of the inverse moments of all the layer's inputs, ``(n * k, n * k)``, where
            each of n groups of channels has k columns, one group after the other.
        weights: ``(outputs, n * k)``, each row times the root of its importance.
        each: k.
    """

    inverse: Tensor
    weights: Tensor
    each: int


def invert(sums: RowSums, prior: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Give the inverse second moments of a layer's inputs, and its map fitted to all of them.

    Args:
        sums: of the rows.
        prior: the weights as they were, ``(outputs, inputs)``.
        ridge: share of the mean variance.
    """
    gram, cross = (_precise(x, len(prior[0])) for x in sums.centred())
    prior = prior.to(gram)
    amount = ridge * gram.diagonal().mean().clamp(min=1e-30)
    gram.diagonal().add_(amount)
    factor, failed = torch.linalg.cholesky_ex(gram)
    while failed.tolist():
        gram.diagonal().add_(9 * amount)
        amount = 10 * amount
        factor, failed = torch.linalg.cholesky_ex(gram)
    inverse = torch.cholesky_inverse(factor)
    return inverse, (cross + amount * prior) @ inverse


def removal_order(
    readers: Sequence[Columns], count: int, least: int, at_once: int | None = None
) -> tuple[list[int], list[float]]:
    """Order the channels of a bundle by what their removal costs once all others are refitted.

    Channels go one after the other, or some at once in wide bundles: always those whose loss adds
    least to the weighted squared error of the layers that read them. Source: Hassibi and Stork,
    *Second Order Derivatives for Network Pruning: Optimal Brain Surgeon*, 1992, Eq. 5, for groups
    of weights that go together.

    Args:
        readers: the layers that read the bundle; changed.
        count: groups of channels in the bundle.
        least: how many are left in the end.
        at_once: how many go in a step; by default a sixty-fourth of them, or a thirty-second of
            wide layers.

    Returns:
        The order, first to go first, and the error after each removal.
    """
    alive = torch.arange(count, device=readers[0].inverse.device)
    order: list[int] = []
    errors: list[float] = []
    total, step = 0.0, at_once or max(1, count // _STEPS[len(readers[0].inverse) > _WIDE])
    while len(alive) > least:
        score = sum(_losses(reader, len(alive)) for reader in readers)
        assert isinstance(score, Tensor)
        number = min(step, len(alive) - least)
        going = torch.topk(score, number, largest=False).indices
        lost = sum(copy_number(_remove(x, going, len(alive))) for x in readers)
        order += alive[going].tolist()
        errors += [total + lost * (n + 1) / number for n in range(number)]
        total += lost
        stays = torch.ones(len(alive), dtype=torch.bool, device=alive.device)
        stays[going] = False
        alive = alive[stays]
    return order, errors


def _losses(reader: Columns, count: int) -> Tensor:
    """Give for each group of channels what its own removal costs, ``(count,)``."""
    k, weights = reader.each, reader.weights
    if k == 1:
        return weights.square().sum(0) / reader.inverse.diagonal()
    apart = reader.inverse.reshape(count, k, count, k)
    blocks = apart.diagonal(dim1=0, dim2=2).permute(2, 0, 1)  # (count, k, k)
    own = weights.reshape(-1, count, k).permute(1, 2, 0)  # (count, k, outputs)
    factor = torch.linalg.cholesky_ex(blocks)[0]
    solved = torch.linalg.solve_triangular(factor, own, upper=False)
    return solved.square().sum((1, 2))


def _remove(reader: Columns, going: Tensor, count: int) -> Tensor:
    """Take groups of channels out, the others refitted; give what that costs, a scalar."""
    k = reader.each
    columns = (going[:, None] * k + torch.arange(k, device=going.device)).ravel()
    stays = torch.ones(count * k, dtype=torch.bool, device=going.device)
    stays[columns] = False
    rest = stays.nonzero()[:, 0]
    block = reader.inverse[columns].index_select(1, columns)
    lost = reader.weights[:, columns]
    factor = torch.linalg.cholesky_ex(block)[0]
    taken = torch.cholesky_solve(lost.T, factor)  # (columns, outputs)
    between = reader.inverse[columns].index_select(1, rest)
    reader.weights = reader.weights[:, rest] - taken.T @ between
    half = torch.linalg.solve_triangular(factor, between, upper=False)
    left = reader.inverse.index_select(0, rest).index_select(1, rest)
    reader.inverse = left.addmm_(half.T, half, alpha=-1)
    return (lost.T * taken).sum()
