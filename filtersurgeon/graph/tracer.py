"""Follow channels through a network by running it once, without data."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from filtersurgeon.graph.labels import Ids, Labels
from filtersurgeon.graph.ledger import Ledger, Reason
from filtersurgeon.graph.rules import rules
from filtersurgeon.graph.rules.elementwise import elementwise
from filtersurgeon.graph.step import Step

Key = tuple[str, str, int]
"""Where an operator is called: class of the owner, operator, count of its calls there."""


def whole(module_class: str) -> Key:
    """Give the key that stands for everything called in modules of a class and below them."""
    return (module_class, "*", 0)


@dataclass(frozen=True)
class Seen:
    """A tensor as it passed: its shape and labels."""

    shape: tuple[int, ...]
    labels: Labels


@dataclass(frozen=True)
class Record:
    """What an operator did.

    Attributes:
        key: where it was called.
        module: name of the module that called it.
        inputs: every tensor argument.
        results: every tensor returned.
        held: see :class:`~filtersurgeon.graph.step.Step`.
        named: see :class:`~filtersurgeon.graph.step.Step`.
        offered: number of readings that its rule offered.
        names: of each tensor argument that is the network's own; None for the others.
        averaged: see :class:`~filtersurgeon.graph.step.Step`.
    """

    key: Key
    module: str
    inputs: list[Seen]
    results: list[Seen]
    held: list[Ids | list[Ids]]
    named: dict[str, Ids]
    offered: int
    names: list[str | None]
    averaged: list[Ids]


@dataclass
class Trace:
    """A run: everything that was tied, pinned and done.

    Attributes:
        ledger: ties and pins.
        slots: name of a tensor -> its labels. Tied tensors have one name.
        records: the operators, in order.
        aliases: further name of a tied tensor -> the name in ``slots``.
    """

    ledger: Ledger = field(default_factory=Ledger)
    slots: dict[str, Labels] = field(default_factory=dict)
    records: list[Record] = field(default_factory=list)
    aliases: dict[str, str] = field(default_factory=dict)


def trace(
    network: nn.Module,
    image: Tensor,
    *,
    modes: Mapping[Key, int] | None = None,
    slots: Mapping[str, Labels] | None = None,
    watch: Callable[[Record], None] | None = None,
) -> Trace:
    """Run a network once and follow its channels.

    Args:
        network: in evaluation mode; its own tensors may be real or on the meta device.
        image: a batch of one, on the meta device to spend no work on data.
        modes: how many readings of an operator to skip.
        slots: labels of the network's tensors, if they are not to be made anew.
        watch: called after every operator.
    """
    tracer = _Tracer(network, modes or {}, watch)
    if slots is not None:
        tracer.trace.slots = dict(slots)
        tracer.given = True
    with torch.no_grad(), _module_names(network, tracer), tracer:
        outputs = network(image)
    for leaf in tree_leaves(_plain(outputs)):
        if isinstance(leaf, Tensor):
            for axis in tracer.labels(leaf):
                tracer.trace.ledger.pin(axis, Reason("output", "", "leaves the network"))
    return tracer.trace


def _plain(outputs: Any) -> Any:
    return dict(outputs) if isinstance(outputs, Mapping) else outputs


@dataclass(frozen=True)
class _Running:
    """A module that is running.

    Attributes:
        name: its name.
        kind: its class's name.
        owner: class of the innermost module around it whose code is not torch's own.
        calls: how often that module has called each operator, itself or through torch's.
    """

    name: str
    kind: str
    owner: str
    calls: dict[str, int]


class _Tracer(TorchDispatchMode):
    """Runs operators on the meta device and hands each to its rule."""

    def __init__(
        self,
        network: nn.Module,
        modes: Mapping[Key, int],
        watch: Callable[[Record], None] | None,
    ) -> None:
        super().__init__()
        self.trace = Trace()
        self.given = False
        self.stack = [_Running("", type(network).__name__, type(network).__name__, {})]
        self._modes = modes
        self._watch = watch
        self._rules = rules()
        # Tensors are kept alive with their labels, so that an id is never used twice.
        self._seen: dict[int, tuple[Tensor, Labels]] = {}
        self._names: dict[int, str] = {}
        self._twins: dict[int, Tensor] = {}
        owned = (
            *network.named_parameters(remove_duplicate=False),
            *network.named_buffers(remove_duplicate=False),
        )
        for name, tensor in owned:
            first = self._names.setdefault(id(tensor), name)
            if first != name:
                self.trace.aliases[name] = first

    def labels(self, tensor: Tensor) -> Labels:
        """Give a tensor's labels; the network's own get theirs when first met."""
        found = self._seen.get(id(tensor))
        if found is not None:
            return found[1]
        name = self._names.get(id(tensor))
        if name is None:
            return (None,) * tensor.ndim
        labels = self.trace.slots.get(name)
        if labels is None:
            fresh = self.trace.ledger.fresh
            labels = tuple(
                fresh(size) if size > 1 and not self.given else None for size in tensor.shape
            )
            self.trace.slots[name] = labels
        self._seen[id(tensor)] = (tensor, labels)
        return labels

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = self._run(func, args, kwargs)
        results = [r for r in _listed(result) if isinstance(r, Tensor)]
        if results:
            self._follow(func, args, kwargs, results)
        return result

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        if func is torch.ops.aten.native_batch_norm.default and args[0].is_meta and not args[5]:
            # The meta kernel of this one alone takes most of a run's time.
            return torch.empty_like(args[0]), args[0].new_empty(0), args[0].new_empty(0)
        if any(isinstance(a, Tensor) and a.is_meta for a in tree_leaves((args, kwargs))):
            args, kwargs = tree_map_only(Tensor, self._twin, (args, kwargs))
        return func(*args, **kwargs)

    def _twin(self, tensor: Tensor) -> Tensor:
        if tensor.is_meta or not tensor.ndim or not tensor.is_floating_point():
            return tensor
        twin = self._twins.get(id(tensor))
        if twin is None:
            twin = tensor.to("meta")
            self._twins[id(tensor)] = twin
        return twin

    def _follow(self, func: Any, args: Any, kwargs: Any, results: Sequence[Tensor]) -> None:
        name = func._schema.name.partition("::")[2]
        operator = name.rstrip("_") or name
        running = self.stack[-1]
        count = running.calls[operator] = running.calls.get(operator, 0) + 1
        key = (running.owner, operator, count)
        step = Step(
            operator,
            args,
            kwargs,
            results,
            running.name,
            running.kind,
            self._mode(key),
            self,
            self.trace.ledger,
        )
        inputs = [a for a in tree_leaves((args, kwargs)) if isinstance(a, Tensor)]
        before = [Seen(tuple(a.shape), self.labels(a)) for a in inputs]
        made = self._apply(func, step, before)
        for tensor, labels in zip(results, made, strict=True):
            self._seen[id(tensor)] = (tensor, labels)
        record = Record(
            key,
            running.name,
            before,
            [Seen(tuple(t.shape), x) for t, x in zip(results, made, strict=True)],
            step.held,
            step.named,
            step.offered,
            [self._names.get(id(a)) for a in inputs],
            step.averaged,
        )
        self.trace.records.append(record)
        if self._watch is not None:
            self._watch(record)

    def _mode(self, key: Key) -> int:
        around = (self._modes.get(whole(running.owner), 0) for running in self.stack)
        return min(around, default=0) or self._modes.get(key, 0)

    def _apply(self, func: Any, step: Step, inputs: Sequence[Seen]) -> list[Labels]:
        rule = self._rules.get(step.operator)
        if rule is None and torch.Tag.pointwise in func.tags:
            rule = elementwise
        if rule is None or step.mode < 0:
            text = "no rule follows channels through it" if rule is None else "held in Python"
            for seen in inputs:
                for axis in seen.labels:
                    step.pin(axis, text)
            if rule is None:
                return [(None,) * tensor.ndim for tensor in step.results]
        made = rule(step)
        return made if isinstance(made, list) else [made]


def _listed(result: Any) -> Sequence[Any]:
    return result if isinstance(result, list | tuple) else (result,)


@contextmanager
def _module_names(network: nn.Module, tracer: _Tracer) -> Iterator[None]:
    """Keep the tracer informed which module is running."""
    names = {id(module): name for name, module in network.named_modules()}

    def enter(module: nn.Module, _: Any) -> None:
        kind, around = type(module), tracer.stack[-1]
        name = names.get(id(module), "")
        own = not kind.__module__.startswith("torch.nn.")
        owner, calls = (kind.__name__, {}) if own else (around.owner, around.calls)
        tracer.stack.append(_Running(name, kind.__name__, owner, calls))

    def leave(*_: Any) -> None:
        tracer.stack.pop()

    hooks = [
        nn.modules.module.register_module_forward_pre_hook(enter),
        nn.modules.module.register_module_forward_hook(leave, always_call=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
