"""Follow channels through a network by running it once, without data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from filtersurgeon.graph.labels import Ids, Labels
from filtersurgeon.graph.ledger import Reason
from filtersurgeon.graph.memory import forgotten
from filtersurgeon.graph.outputs import output_tensors
from filtersurgeon.graph.record import Key, Record, Seen, Trace, tensors, whole
from filtersurgeon.graph.rules import rules
from filtersurgeon.graph.rules.elementwise import elementwise
from filtersurgeon.graph.running import followed, outermost
from filtersurgeon.graph.silence import silent
from filtersurgeon.graph.step import Step
from filtersurgeon.graph.whole import Whole
from filtersurgeon.graph.writing import overwrite, relatives

_FILLING = frozenset(["full", "new_full", "full_like", "fill", "scalar_tensor"])
_SAME = {
    **dict.fromkeys(["alias", "detach", "lift_fresh", "contiguous", "_to_copy"], "clone"),
    **dict.fromkeys(["_unsafe_view", "_reshape_alias", "reshape", "_reshape_copy"], "view"),
}
"""Operators that do the same, by the name that they are followed under."""

Watch = Callable[[Record], Sequence[Labels]]


class _EnoughError(Exception):
    """As many operators as were asked for have run."""


def trace(
    network: nn.Module,
    image: Tensor,
    *,
    modes: Mapping[Key, int] | None = None,
    slots: Mapping[str, Labels] | None = None,
    wide: Sequence[Record] = (),
    watch: Watch | None = None,
    loose: Callable[[Ids, Ids], None] | None = None,
    limit: int | None = None,
) -> Trace:
    """Run a network once and follow its channels.

    Args:
        network: in evaluation mode; its own tensors may be real or on the meta device.
        image: a batch of one, on the meta device to spend no work on data.
        modes: how many readings of an operator to skip.
        slots: labels of the network's tensors, if they are not to be made anew.
        wide: the records of the wide network, if this is a narrow one.
        watch: called after every operator; may give its results other labels.
        loose: see :class:`~filtersurgeon.graph.ledger.Ledger`.
        limit: number of operators after which to stop.
    """
    tracer = _Tracer(network, modes or {}, wide, watch, limit)
    tracer.trace.ledger.loose = loose
    if slots is not None:
        tracer.trace.slots = dict(slots)
        tracer.given = True
    try:
        with (
            torch.no_grad(),
            forgotten(network),
            followed(network, tracer.stack),
            tracer,
            Whole(tracer.follow, tracer.set_aside),
        ):
            outputs = network(image)
    except _EnoughError:
        return tracer.trace
    tracer.trace.complete = True
    for tensor in output_tensors(outputs):
        for axis in tracer.labels(tensor):
            tracer.trace.ledger.pin(axis, Reason("output", "", "leaves the network"))
    return tracer.trace


class _Tracer(TorchDispatchMode):
    """Runs operators on the meta device and hands each to its rule."""

    def __init__(
        self,
        network: nn.Module,
        modes: Mapping[Key, int],
        wide: Sequence[Record],
        watch: Watch | None,
        limit: int | None,
    ) -> None:
        super().__init__()
        self.trace = Trace()
        self.given = False
        self._aside = False
        self.stack = [outermost(network)]
        self._modes = modes
        self._wide = wide
        self._watch = watch
        self._limit = limit
        self._rules = rules()
        # Tensors are kept alive with their labels, so that an id is never used twice.
        self._seen: dict[int, tuple[Tensor, Labels]] = {}
        self._silent: set[int] = set()
        self._names: dict[int, str] = {}
        self._twins: dict[int, Tensor] = {}
        parameters = list(network.named_parameters(remove_duplicate=False))
        self._parameters = {id(tensor) for _, tensor in parameters}
        for name, tensor in (*parameters, *network.named_buffers(remove_duplicate=False)):
            first = self._names.setdefault(id(tensor), name)
            if first != name:
                self.trace.aliases[name] = first

    def labels(self, tensor: Tensor) -> Labels:
        """Give a tensor's labels; the network's own get theirs when first met."""
        found = self._seen.get(id(tensor))
        if found is not None:
            return found[1]
        own = self.own(tensor) if tensor.is_floating_point() else None
        return own if own is not None else (None,) * tensor.ndim

    def own(self, tensor: Tensor) -> Labels | None:
        """Give the labels of a tensor of the network's, of whole numbers too; None for others."""
        name = self._names.get(id(tensor))
        if name is None:
            return None
        labels = self.trace.slots.get(name)
        if labels is None:
            fresh = self.trace.ledger.fresh
            labels = tuple(
                fresh(size) if size > 1 and not self.given else None for size in tensor.shape
            )
            self.trace.slots[name] = labels
        self._seen[id(tensor)] = (tensor, labels)
        return labels

    def silent(self, tensor: Tensor) -> bool:
        """Tell whether a tensor is zero wherever a removed channel was."""
        return id(tensor) in self._silent or id(tensor) in self._names

    def set_aside(self, aside: bool) -> None:
        """Let operators pass, or follow them again."""
        self._aside = aside

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self._aside:
            return func(*args, **kwargs)
        result = self._run(func, args, kwargs)
        if isinstance(result, Tensor):
            self.follow(func, args, kwargs, [result])
        elif isinstance(result, list | tuple):
            results = [r for r in result if isinstance(r, Tensor)]
            if results:
                self.follow(func, args, kwargs, results)
        return result

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        given = tensors((*args, *kwargs.values()))
        real = [tensor for tensor in given if not tensor.is_meta]
        if real and (len(real) < len(given) or any(id(t) in self._parameters for t in real)):
            args = [self._twin(arg) for arg in args]
            kwargs = {name: self._twin(arg) for name, arg in kwargs.items()}
        return func(*args, **kwargs)

    def _twin(self, arg: Any) -> Any:
        """Exchange a real tensor for one without data; of small ones the values are needed."""
        if isinstance(arg, list | tuple):
            return [self._twin(item) for item in arg]
        if not isinstance(arg, Tensor) or arg.is_meta:
            return arg
        if not arg.ndim or not arg.is_floating_point():
            return arg
        twin = self._twins.get(id(arg))
        if twin is None:
            twin = arg.to("meta")
            self._seen.setdefault(id(arg), (arg, self.labels(arg)))
            self._twins[id(arg)] = twin
        return twin

    def follow(self, func: Any, args: Any, kwargs: Any, results: Sequence[Tensor]) -> None:
        """Apply the rule of an operator that has run."""
        name = func._schema.name.partition("::")[2]
        operator = _SAME.get(name) or name.rstrip("_") or name
        if operator == "clone":
            self._pass(args[0], results[0])
            return
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
            self._wide[done] if (done := len(self.trace.records)) < len(self._wide) else None,
        )
        inputs = tensors((*args, *kwargs.values()))
        before = [Seen(tuple(a.shape), self.labels(a)) for a in inputs]
        made = self._apply(func, step, before)
        if func._schema.is_mutable and inputs:
            made = overwrite(step, made, self._seen)
        for tensor, labels in zip(results, made, strict=True):
            self._seen[id(tensor)] = (tensor, labels)
        self._judge(func, step, made)
        record = Record(
            key,
            running.name,
            before,
            [Seen(tuple(t.shape), x) for t, x in zip(results, made, strict=True)],
            step.held,
            step.named,
            step.offered,
            step.answers,
            [self._names.get(id(a)) for a in inputs],
            step.averaged,
            (*_numbers(func, step), *step.repeats),
        )
        self.trace.records.append(record)
        if self._watch is not None:
            for tensor, labels in zip(results, self._watch(record), strict=True):
                self._seen[id(tensor)] = (tensor, labels)
        if len(self.trace.records) == self._limit:
            raise _EnoughError

    def _pass(self, original: Tensor, copy: Tensor) -> None:
        """Let a copy have the labels of its original; whether one is made depends on strides."""
        self._seen[id(copy)] = (copy, self.labels(original))
        if self.silent(original):
            self._silent.add(id(copy))

    def _judge(self, func: Any, step: Step, made: Sequence[Labels]) -> None:
        if self.given:
            return
        if silent(step, made):
            self._silent.update(id(tensor) for tensor in step.results)
        elif func._schema.is_mutable and isinstance(step.args[0], Tensor):
            family = relatives(step.args[0], self._seen)
            self._silent.difference_update(id(tensor) for tensor in family)

    def _mode(self, key: Key) -> int:
        if not self._modes:
            return 0
        around = (self._modes.get(whole(running.owner), 0) for running in self.stack)
        return min(around, default=0) or self._modes.get(key, 0)

    def _apply(self, func: Any, step: Step, inputs: Sequence[Seen]) -> list[Labels]:
        rule = self._rules.get(step.operator)
        if rule is None and torch.Tag.pointwise in func.tags:
            rule = elementwise
        if "out" in step.kwargs:
            rule = None
        if rule is None or step.mode < 0:
            text = "no rule follows channels through it" if rule is None else "held in Python"
            for seen in inputs:
                for axis in seen.labels:
                    step.pin(axis, text)
            if rule is None:
                return [(None,) * tensor.ndim for tensor in step.results]
        made = rule(step)
        return made if isinstance(made, list) else [made]


def _numbers(func: Any, step: Step) -> list[float]:
    """List the numbers that an operator calculates with, rather than sizes and axes."""
    every = torch.Tag.pointwise in func.tags or step.operator in _FILLING
    found: list[float] = []
    for arg in (*step.args, *step.kwargs.values()):
        if isinstance(arg, float) or (every and isinstance(arg, int)):
            found.append(arg)
        elif isinstance(arg, Tensor) and not arg.ndim and not arg.is_meta:
            found.append(float(arg))
    return found
