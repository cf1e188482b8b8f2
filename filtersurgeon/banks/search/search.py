"""Searching the members of a bank that a network needs, by accuracy or by squared error."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from filtersurgeon.banks import FilterBank, load_bank
from filtersurgeon.banks.closest import unit_bank
from filtersurgeon.banks.collection import collect_kernels
from filtersurgeon.banks.matching import degenerate_members
from filtersurgeon.banks.search.by_accuracy import CandidateEvaluator, SearchData, describe_work
from filtersurgeon.banks.search.result import BankSearch, Elimination, SearchStep
from filtersurgeon.checkpoint import Checkpoint
from filtersurgeon.checkpoint.progress import Progress, tell_metric
from filtersurgeon.errors import LayerError, OptionError, near_misses
from filtersurgeon.filters import as_globs, find_layers, select_layers
from filtersurgeon.networks.in_memory import InMemory
from filtersurgeon.networks.opened_module import analyses_modules


def steps_by_error(
    elimination: Elimination,
    start: FilterBank,
    to: int,
    plain: bool,
    kernels: np.ndarray,
    progress: Progress | None,
) -> Iterator[SearchStep]:
    """Remove the member whose loss costs the least squared error, until so many are left.

    Args:
        elimination: the kernels, and how they are assigned; changed on the way.
        start: the whole bank.
        to: the last size.
        plain: assign all kernels anew for every candidate.
        kernels: as rows.
        progress: told candidates done and candidates in all.
    """
    total = sum(range(to + 1, len(start) + 1))
    yield SearchStep(len(start), None, elimination.relative_error, None)
    done = 0
    while len(elimination.left) > to:
        costs = _plain_costs(elimination, start, kernels) if plain else elimination.costs()
        member = int(elimination.left[costs.argmin()])
        done += len(elimination.left)
        elimination.remove(member)
        error = elimination.relative_error
        tell_metric(progress, f"{len(elimination.left)} members, error {error:.3f}")
        if progress:
            progress(done, total)
        yield SearchStep(
            len(elimination.left), start.labels[member], elimination.relative_error, None
        )


def _plain_costs(elimination: Elimination, start: FilterBank, kernels: np.ndarray) -> np.ndarray:
    """Assign all kernels anew without each member in turn."""
    unit = unit_bank(start.kernels.reshape(len(start), -1))
    errors = [
        Elimination(kernels, unit[elimination.left[elimination.left != k]]).relative_error
        for k in elimination.left
    ]
    return np.square(errors)


CRITERIA = ("accuracy", "error")
COMPENSATIONS = ("none", "batchnorm", "least-squares")


@analyses_modules
def search_bank(
    checkpoint: Checkpoint,
    bank: str | FilterBank,
    data: SearchData | None = None,
    *,
    to: int = 1,
    criterion: str = "accuracy",
    layers: Iterable[str] | None = None,
    all_spatial: bool = False,
    size: int | None = None,
    plain: bool = False,
    compensate: str = "none",
    progress: Progress | None = None,
) -> BankSearch:
    """Search for the few members of a bank that a network needs (greedy backward elimination).

    By accuracy: every member left is tried; the one goes without which the fewest images are wrong,
    of equals the one whose removal costs the least squared error. A candidate is given up as soon
    as it cannot be the one, images run only from the first layer on that changed, and only kernels
    that used the candidate are assigned anew; none of this changes the path.
    Source: Babaiee et al., *We Need Far Fewer Unique Filters Than We Thought*, 2024, section 3.1.

    Args:
        checkpoint: the network; or a module in memory, where the criterion is the error.
        bank: a built-in bank's name, a bank file, or a bank.
        data: images, where the criterion is accuracy.
        to: the last size.
        criterion: ``accuracy``, or ``error``, the squared error of all kernels, which needs no
            images.
        layers: globs; None takes every depthwise layer of the bank's kernel size.
        all_spatial: the kernels of standard convolutions too.
        size: side of the kernels, for a built-in bank and a network of several.
        plain: go the same path the slow way: for every candidate, replace all kernels, build the
            network and evaluate it on all images.
        compensate: adapt the network to every candidate bank before it is evaluated, as
            ``replace`` does, on up to 128 of the images; without shortcuts, so much slower.
        progress: told candidates done and candidates in all.

    Raises:
        LayerError: no kernels of the bank's size; a member that is constant or repeats another.
        OptionError: no images though the criterion needs them; more members asked for than there
            are; unknown names.

    Examples:
        >>> import filtersurgeon as fs
        >>> checkpoint = fs.untrained("timm:test_resnet")
        >>> found = fs.search_bank(
        ...     checkpoint, "dog8", to=2, criterion="error", layers=["conv1.0"], all_spatial=True
        ... )
        >>> found.bank.kernels.shape
        (2, 3, 3)
    """
    if criterion not in CRITERIA:
        raise OptionError(f"no criterion {criterion!r}{near_misses(criterion, CRITERIA)}")
    if criterion == "accuracy" and data is None:
        raise OptionError(
            "a search by accuracy needs images: pass them with `data`, or use `criterion='error'`"
        )
    if criterion == "error" and data is not None:
        raise OptionError("a search by error uses no images; leave out `data`")
    if compensate not in COMPENSATIONS:
        raise OptionError(f"no compensation {compensate!r}{near_misses(compensate, COMPENSATIONS)}")
    if criterion == "error" and compensate != "none":
        raise OptionError("a search by error uses no images; leave out `compensate`")
    start = _start(checkpoint, bank, to, layers, all_spatial, size)
    names, kernels = _kernels(checkpoint, start, layers, all_spatial)
    elimination = Elimination(kernels, unit_bank(start.kernels.reshape(len(start), -1)))
    if data is None:
        steps = steps_by_error(elimination, start, to, plain, kernels, progress)
        return BankSearch(criterion, start, tuple(steps))
    if isinstance(checkpoint.architecture, InMemory):
        raise OptionError(
            "a search by accuracy opens the network again for every worker; save the module's "
            "tensors to a file and load that"
        )
    if data.source == "-":
        raise OptionError("a search by accuracy needs a network that workers can open: pass INPUT")
    work = describe_work(checkpoint, start, names, data, plain, compensate)
    evaluator = CandidateEvaluator(work, data.jobs)
    return evaluator.search(elimination, start, to, progress)


def _start(
    checkpoint: Checkpoint,
    bank: str | FilterBank,
    to: int,
    layers: Iterable[str] | None,
    all_spatial: bool,
    size: int | None,
) -> FilterBank:
    source = load_bank(bank)
    wanted = source.size or ((size, size) if size else None)
    if size is not None and wanted != (size, size):
        raise OptionError(f"bank {source.name} has no kernels of `size` {size}")
    collected = collect_kernels([checkpoint], wanted, layers, all_spatial)
    start = source.at(collected.size)
    if start is None:
        raise LayerError(f"bank {source.name} has no kernels of {collected.size}")
    if not 1 <= to < len(start):
        raise OptionError(
            f"`to` {to}: the search begins with the {len(start)} members of {start.name} "
            "and ends with fewer, at least 1"
        )
    wrong = degenerate_members(start)
    if wrong:
        raise LayerError(
            f"bank {start.name}: {wrong[0]}, so it cannot be ranked; remove it from the bank"
        )
    return start


def _kernels(
    checkpoint: Checkpoint,
    start: FilterBank,
    layers: Iterable[str] | None,
    all_spatial: bool,
) -> tuple[list[str], np.ndarray]:
    chosen = [
        layer
        for layer in select_layers([x for x in find_layers(checkpoint) if x.is_spatial],
                                   as_globs(layers))
        if layer.kernel_size == start.kernel_size and (all_spatial or layer.kind == "depthwise")
    ]  # fmt: skip
    rows = [layer.matrix().reshape(layer.n_kernels, -1) for layer in chosen]
    return [layer.name for layer in chosen], np.concatenate(rows)
