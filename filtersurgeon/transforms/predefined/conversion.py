"""Exchange the convolutions of a network for pre-defined filter modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import nn

from filtersurgeon.banks import FilterBank
from filtersurgeon.banks.bank import BankSource, load_bank
from filtersurgeon.checkpoint import Checkpoint, HistoryEntry
from filtersurgeon.checkpoint.tensor import from_torch
from filtersurgeon.errors import ArchitectureError, LayerError
from filtersurgeon.filters import lacks_convolutions, layer_seed, select_layers
from filtersurgeon.graph.follow import Convolutions, find_convolutions
from filtersurgeon.graph.graph import trace_shapes
from filtersurgeon.networks.architecture import identify
from filtersurgeon.networks.build import build
from filtersurgeon.networks.dry_run import check_runs, find_size
from filtersurgeon.networks.modules.predefined import PredefinedFilterModule
from filtersurgeon.networks.outputs import output_difference
from filtersurgeon.networks.structure import replay
from filtersurgeon.networks.structure.edits.predefined import unfit
from filtersurgeon.networks.structure.edits.smoothed import leaves_out
from filtersurgeon.networks.structure.plain_weights import make_all_plain
from filtersurgeon.transforms.predefined.expressing import express, relative_error
from filtersurgeon.transforms.predefined.report import ConversionReport, ConvertedLayer, Size
from filtersurgeon.transforms.predefined.settings import ModuleSettings

Edit = dict[str, Any]


class Candidate(NamedTuple):
    """A convolution that can be exchanged.

    Attributes:
        name: the module's name.
        bank: the filters that take its place.
        growth: filters per input channel.
        closing: whether the module has to normalise what leaves it.
    """

    name: str
    bank: FilterBank
    growth: int
    closing: bool

    @property
    def tensor(self) -> str:
        """The name of the weight that goes."""
        return f"{self.name}.weight"


def convert_modules(
    checkpoint: Checkpoint, settings: ModuleSettings, entry: HistoryEntry
) -> tuple[Checkpoint, ConversionReport]:
    """Exchange convolutions for pre-defined filter modules.

    Args:
        checkpoint: the network.
        settings: which modules, with which filters.
        entry: the step for the history.

    Returns:
        The converted checkpoint, and what was done.

    Raises:
        ArchitectureError: the network cannot be built or run.
        LayerError: no convolution can be exchanged; says why for the first.
        OptionError: no such bank, or a growth that it does not allow.
    """
    source = load_bank(settings.bank)
    checkpoint = identify(checkpoint)
    model = build(checkpoint)
    if not any(isinstance(module, nn.Conv2d) for module in model.modules()):
        raise lacks_convolutions(checkpoint)
    joined: list[Edit] = [
        {"edit": "plain-weight", "module": name} for name in sorted(make_all_plain(model))
    ]
    size = check_runs(model, [find_size(model, checkpoint)])
    seen = find_convolutions(model, trace_shapes(model, size))
    chosen, left = _candidates(model, seen, source, settings)
    chosen, left = _that_run(model, chosen, left, settings, size)
    if not chosen:
        name, reason = left[0] if left else ("", "")
        why = f": {name} {reason}" if name else ""
        raise LayerError(f"{checkpoint.name} has no convolution left to convert{why}")
    smooth = [n for n in seen.called if leaves_out(model.get_submodule(n))]
    edits = _edits(chosen, smooth if settings.smooths else [], settings)
    made = deepcopy(model)
    replay(made, edits)
    layers = tuple(_fill(made, model, candidate, settings) for candidate in chosen)
    difference = output_difference(model, made, size) if settings.from_weights else None
    report = ConversionReport(
        layers, tuple(left), tuple(smooth if settings.smooths else ()),
        measure(model, size), measure(made, size), difference,
    )  # fmt: skip
    entry = replace(entry, resources=source.resources)
    return _edit(checkpoint, made, [*joined, *edits], entry), report


def _candidates(
    model: nn.Module, seen: Convolutions, source: BankSource, settings: ModuleSettings
) -> tuple[list[Candidate], list[tuple[str, str]]]:
    """Choose the convolutions to exchange; of the others, say why not."""
    found, left = [], []
    names = [n for n, m in model.named_modules() if isinstance(m, nn.Conv2d)]
    order = {name: place for place, name in enumerate(seen.called)}
    for name in sorted(names, key=lambda name: order.get(name, len(order))):
        module = model.get_submodule(name)
        assert isinstance(module, nn.Conv2d)
        if module.kernel_size == (1, 1):
            continue
        bank = _bank_for(module, source, settings)
        reason = _obstacle(name, module, bank, seen)
        if reason or bank is None:
            left.append((name, reason))
            continue
        growth = settings.growth_of(len(bank), name in seen.first)
        closing = not settings.from_weights and name not in seen.normalised
        found.append(Candidate(name, bank, growth, closing))
    if settings.layers:
        chosen = select_layers(found, settings.layers)
        left = [*left, *((x.name, "was not chosen") for x in found if x not in chosen)]
        return chosen, left
    return found, left


def _bank_for(module: nn.Conv2d, source: BankSource, settings: ModuleSettings) -> FilterBank | None:
    """Give the bank at the size of a layer's kernels, else at its own size."""
    height, width = module.kernel_size
    bank = source.at((height, width))
    if bank is None and not settings.from_weights and max(height, width) > 1:
        bank = source.at(source.size or (3, 3))
    return bank


def _obstacle(name: str, module: nn.Conv2d, bank: FilterBank | None, seen: Convolutions) -> str:
    if bank is None:
        return "has a {}x{} kernel, a size that the bank does not have".format(*module.kernel_size)
    if bank.kernel_size[0] % 2 == 0 or bank.kernel_size[1] % 2 == 0:
        return "would get filters of {}x{}, which have no middle".format(*bank.kernel_size)
    reason = unfit(module, bank.kernel_size)
    return reason or ("" if name in seen.called else "is never called as a layer")


def _that_run(
    model: nn.Module,
    chosen: list[Candidate],
    left: list[tuple[str, str]],
    settings: ModuleSettings,
    size: tuple[int, ...],
) -> tuple[list[Candidate], list[tuple[str, str]]]:
    """Leave out convolutions whose network does not take a module in their place."""
    if not chosen or _failure(model, chosen, settings, size) is None:
        return chosen, left
    kept = []
    for candidate in chosen:
        failure = _failure(model, [candidate], settings, size)
        if failure is None:
            kept.append(candidate)
        else:
            left.append((candidate.name, f"is used otherwise than as a layer ({failure})"))
    return kept, left


def _failure(
    model: nn.Module, chosen: Sequence[Candidate], settings: ModuleSettings, size: tuple[int, ...]
) -> str | None:
    tried = deepcopy(model)
    replay(tried, _edits(chosen, [], settings))
    try:
        check_runs(tried, [size])
    except (ArchitectureError, AttributeError) as error:
        return str(error)
    return None


def _edits(
    chosen: Sequence[Candidate], smooth: Sequence[str], settings: ModuleSettings
) -> list[Edit]:
    """Describe the exchange as the structure does: one edit per set of filters."""
    banks = {candidate.bank.kernel_size: candidate.bank for candidate in chosen}
    edits: list[Edit] = [
        {
            "edit": "predefined",
            "layers": [
                {"module": x.name, "growth": x.growth, "closing": x.closing}
                for x in chosen
                if x.bank.kernel_size == kernel
            ],
            "kernel": list(kernel),
            "count": len(bank),
            "filters": settings.filters,
            "norm": not settings.from_weights,
            "relu": settings.rectifies,
        }
        for kernel, bank in banks.items()
    ]
    return [*edits, {"edit": "smoothed", "modules": list(smooth)}] if smooth else edits


def _fill(
    made: nn.Module, model: nn.Module, candidate: Candidate, settings: ModuleSettings
) -> ConvertedLayer:
    """Give a new module the bank's filters, and its weights."""
    module, old = made.get_submodule(candidate.name), model.get_submodule(candidate.name)
    assert isinstance(module, PredefinedFilterModule)
    assert isinstance(old, nn.Conv2d)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        module.bank.filters.copy_(torch.from_numpy(candidate.bank.kernels.copy()))
        torch.manual_seed(layer_seed(candidate.name, settings.seed))
        module.reset_parameters()
        error = _express(module, old) if settings.from_weights else None
    return ConvertedLayer(
        candidate.name, tuple(old.weight.shape), len(candidate.bank), candidate.growth,
        candidate.bank.kernel_size, error,
    )  # fmt: skip


def _express(module: PredefinedFilterModule, old: nn.Conv2d) -> float:
    """Take the weights over; gives the relative error of the layer's kernels, as stored."""
    kernels, filters = old.weight.double().numpy(), module.bank.filters.double().numpy()
    which, weight = module.bank.which.numpy(), module.pointwise.weight
    weight.copy_(torch.from_numpy(express(kernels, filters, which)).reshape(weight.shape))
    if module.pointwise.bias is not None and old.bias is not None:
        module.pointwise.bias.copy_(old.bias)
    return relative_error(kernels, weight.double().flatten(1).numpy(), filters, which)


def measure(model: nn.Module, size: tuple[int, ...]) -> Size:
    """Count what a network learns, what it holds fixed, and its work for one image."""
    from filtersurgeon.learn.measure import count_macs

    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    banks = {
        id(m.bank.filters): m.bank.filters
        for m in model.modules()
        if isinstance(m, PredefinedFilterModule) and not m.bank.filters.requires_grad
    }
    fixed = sum(filters.numel() for filters in banks.values())
    return Size(learned, fixed, count_macs(deepcopy(model).float(), size))


def _edit(
    checkpoint: Checkpoint, made: nn.Module, edits: Sequence[Mapping[str, Any]], entry: HistoryEntry
) -> Checkpoint:
    """Put the new modules' tensors in the place of the old ones'; the others are not touched."""
    tensors = {
        name: checkpoint.tensors.get(name) or from_torch(tensor, name)
        for name, tensor in made.state_dict().items()
    }
    edited = checkpoint.edited(entry, {}, "")
    return replace(edited, tensors=tensors, structure=(*checkpoint.structure, *edits))
