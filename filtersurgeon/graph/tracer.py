"""Trace a network once, without data, and follow its channels through every operator.

``trace`` runs the network; ``_Tracer`` hands each operator to its rule in
:mod:`filtersurgeon.graph.ops`. Below it stand its parts: which module is running, functions that
are followed as one operator, the modules and tensors of a network, and what a run must restore.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._mode_utils import no_dispatch
from torch.utils._python_dispatch import TorchDispatchMode

from filtersurgeon.graph.labels import Axis, Labels, Reason, Step
from filtersurgeon.graph.ops import (
    Operator,
    follow_nothing,
    operator_of,
    shape_functions,
)
from filtersurgeon.graph.record import (
    Key,
    Notes,
    Rerun,
    Trace,
    split_tensors,
    tensors,
)
from filtersurgeon.graph.writing import overwrite, relatives
from filtersurgeon.networks.outputs import find_tensors


class _EnoughError(Exception):
    """As many operators as were asked for have run."""


def trace(
    network: nn.Module,
    image: Tensor,
    *,
    modes: Mapping[Key, int] | None = None,
    slots: Mapping[str, Labels] | None = None,
    rerun: Rerun | None = None,
    limit: int | None = None,
) -> Trace:
    """Run a network once and follow its channels.

    Args:
        network: in evaluation mode; its own tensors may be real or on the meta device.
        image: a batch of one, on the meta device to spend no work on data.
        modes: how many readings of an operator to skip.
        slots: labels of the network's tensors, if they are not to be made anew.
        rerun: what is expected, if this is a pruned network.
        limit: number of operators after which to stop.

    Raises:
        OutputError: the network returns no tensors, or hides them in an unknown object.
    """
    tracer = _Tracer(network, modes or {}, rerun, limit)
    if slots is not None:
        tracer.trace.slots = dict(slots)
        tracer.given = True
    tracer.note_image(image)
    try:
        with (
            torch.no_grad(),
            pause_garbage_collection(),
            restore_attributes(network),
            track_modules(network, tracer.stack),
            tracer,
            WholeFunctions(tracer.follow),
        ):
            outputs = network(image)
    except _EnoughError:
        return tracer.trace
    tracer.trace.complete = True
    for _, tensor in find_tensors(outputs):
        tracer.trace.outputs.append(tracer.notes.note(tensor, tracer.labels(tensor)))
        for axis in tracer.labels(tensor):
            tracer.trace.constraints.pin(axis, Reason("output", "", "leaves the network"))
    return tracer.trace


class _Tracer(TorchDispatchMode):
    """Runs operators on the meta device and hands each to its rule."""

    def __init__(
        self,
        network: nn.Module,
        modes: Mapping[Key, int],
        rerun: Rerun | None,
        limit: int | None,
    ) -> None:
        super().__init__()
        self.trace = Trace()
        self.trace.constraints.loose = None if rerun is None else rerun.loose
        self.given = False
        self.stack = [outermost(network)]
        self._modes = modes
        self._rerun = rerun
        self._limit = limit
        # Tensors are kept alive with their labels, so that an id is never used twice.
        self._seen: dict[int, tuple[Tensor, Labels]] = {}
        self._silent: set[int] = set()
        self._until_read: dict[int, tuple[Axis, Reason]] = {}
        self._names: dict[int, str] = {}
        self._twins: dict[int, Tensor] = {}
        modules = every_module(network)
        learned = list(parameters(modules))
        self._parameters = {id(tensor) for _, tensor in learned}
        for name, tensor in (*learned, *buffers(modules)):
            first = self._names.setdefault(id(tensor), name)
            if first != name:
                self.trace.aliases[name] = first
        self.notes = Notes(self._names)

    def labels(self, tensor: Tensor) -> Labels:
        """Give a tensor's labels; the network's own get theirs when first met."""
        if self._until_read and id(tensor) in self._until_read:
            self.trace.constraints.pin(*self._until_read[id(tensor)])
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
            fresh = self.trace.constraints.fresh
            labels = tuple(
                fresh(size) if size > 1 and not self.given else None for size in tensor.shape
            )
            self.trace.slots[name] = labels
        self._seen[id(tensor)] = (tensor, labels)
        return labels

    def note_image(self, image: Tensor) -> None:
        """Note what the network reads, which has no channels that can be removed."""
        labels: Labels = (None,) * image.ndim
        self._seen[id(image)] = (image, labels)
        self.trace.image = self.notes.note(image, labels)

    def silent(self, tensor: Tensor) -> bool:
        """Tell whether a tensor is zero wherever a removed channel was."""
        return id(tensor) in self._silent or id(tensor) in self._names

    def pin_if_read(self, tensor: Tensor, axis: Axis, reason: Reason) -> None:
        """Pin labels as soon as anything reads a tensor, or the network returns it."""
        self._until_read[id(tensor)] = axis, reason

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Spare every call a wrapper that keeps compilers out: none is at work here."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
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
        operator = operator_of(func)
        if operator.copies:
            self._pass(args[0], results[0])
            return
        running = self.stack[-1]
        count = running.calls[operator.name] = running.calls.get(operator.name, 0) + 1
        key = (running.owner, operator.name, count)
        given, rest = split_tensors((*args, *kwargs.values()))
        inputs = [(tensor, self.labels(tensor)) for tensor in given]
        made = self._foreseen(operator, key, rest, inputs, results)
        if made is None:
            step = Step(
                operator.name,
                args,
                kwargs,
                results,
                running.name,
                running.kind,
                self._mode(key),
                self,
                self.trace.constraints,
                None if self._rerun is None else self._rerun.prescribed,
            )
            made = self._apply_rule(operator, step, inputs)
            record = self.notes.record(operator, key, step, inputs, made, rest)
            self.trace.records.append(record)
            if self._rerun is not None:
                made = self._rerun.watch(record)
        for tensor, labels in zip(results, made, strict=True):
            self._seen[id(tensor)] = (tensor, labels)
        if len(self.trace.records) == self._limit:
            raise _EnoughError

    def _foreseen(
        self,
        operator: Operator,
        key: Key,
        rest: list[Any],
        inputs: Sequence[tuple[Tensor, Labels]],
        results: Sequence[Tensor],
    ) -> Sequence[Labels] | None:
        if self._rerun is None or not operator.equivariant:
            return None
        if operator.mutable and inputs[0][0]._base is not None:
            return None
        return self._rerun.foresee(key, rest, inputs, results)

    def _apply_rule(
        self, operator: Operator, step: Step, inputs: Sequence[tuple[Tensor, Labels]]
    ) -> list[Labels]:
        made = self._apply(operator, step)
        if operator.mutable and inputs:
            made = overwrite(operator, step, made, self._seen)
        for tensor, labels in zip(step.results, made, strict=True):
            self._seen[id(tensor)] = (tensor, labels)
        if not self.given:
            self._track_zeros(operator, step, made)
        return made

    def _pass(self, original: Tensor, copy: Tensor) -> None:
        """Let a copy have the labels of its original; whether one is made depends on strides."""
        labels = self.labels(original)
        self._seen[id(copy)] = (copy, labels)
        self.notes.note_copy(original, labels, copy)
        if self.silent(original):
            self._silent.add(id(copy))

    def _track_zeros(self, operator: Operator, step: Step, made: Sequence[Labels]) -> None:
        if operator.zero_preserving(step, made):
            self._silent.update(id(tensor) for tensor in step.results)
        elif operator.mutable and isinstance(step.args[0], Tensor):
            family = relatives(step.args[0], self._seen)
            self._silent.difference_update(id(tensor) for tensor in family)

    def _mode(self, key: Key) -> int:
        return self._modes.get(key, 0)

    def _apply(self, operator: Operator, step: Step) -> list[Labels]:
        if operator.rule is None:
            return follow_nothing(step)
        made = operator.rule(step)
        return made if isinstance(made, list) else [made]


@dataclass(frozen=True, slots=True)
class Running:
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


def outermost(network: nn.Module) -> Running:
    """Describe the network itself."""
    kind = type(network).__name__
    return Running("", kind, kind, {})


@contextmanager
def track_modules(network: nn.Module, stack: list[Running]) -> Iterator[None]:
    """Keep a stack of the modules that are running."""
    names: dict[int, str] = {}
    for name, module in every_module(network):
        names.setdefault(id(module), name)

    def enter(module: nn.Module, _: Any) -> None:
        kind, around = type(module), stack[-1]
        own = not kind.__module__.startswith("torch.nn.")
        owner, calls = (kind.__name__, {}) if own else (around.owner, around.calls)
        stack.append(Running(names.get(id(module), ""), kind.__name__, owner, calls))

    def leave(*_: Any) -> None:
        stack.pop()

    hooks = [
        nn.modules.module.register_module_forward_pre_hook(enter),
        nn.modules.module.register_module_forward_hook(leave, always_call=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


Follow = Callable[[Any, tuple[Any, ...], dict[str, Any], Sequence[Tensor]], None]
"""Takes an operator, its arguments and its results."""


class WholeFunctions(TorchFunctionMode):
    """Computes the shapes of some functions itself and hands them on as one operator.

    The scale of attention, for example, is a number that PyTorch works out from the length of a
    head; taken whole, its rule can see it.

    Args:
        follow: told of each.
    """

    def __init__(self, follow: Follow) -> None:
        super().__init__()
        self._follow = follow
        self._shapes = shape_functions()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, whole or as it is."""
        kwargs = kwargs or {}
        shapes = self._shapes.get(func)
        made = None
        if shapes is not None:
            # A tensor without data is made in a fifth of the time if no mode hears of it.
            with no_dispatch():
                made = shapes(*args, **kwargs)
        if made is None:
            return func(*args, **kwargs)
        operator, args, results = made
        self._follow(operator, args, kwargs, [made for made in results if made is not None])
        return results[0] if len(results) == 1 else tuple(results)


def every_module(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """List all modules, those that stand in several places under each of their names.

    In the order of ``named_modules``, whose nested generators take twice as long.
    """
    found: list[tuple[str, nn.Module]] = []

    def walk(name: str, module: nn.Module) -> None:
        found.append((name, module))
        for key, child in module._modules.items():
            if child is not None:
                walk(f"{name}.{key}" if name else key, child)

    walk("", network)
    return found


def parameters(modules: list[tuple[str, nn.Module]]) -> Iterator[tuple[str, Tensor]]:
    """Yield the parameters of some modules."""
    for name, module in modules:
        for key, tensor in module._parameters.items():
            if tensor is not None:
                yield f"{name}.{key}" if name else key, tensor


def buffers(modules: list[tuple[str, nn.Module]]) -> Iterator[tuple[str, Tensor]]:
    """Yield the buffers of some modules."""
    for name, module in modules:
        for key, tensor in module._buffers.items():
            if tensor is not None:
                yield f"{name}.{key}" if name else key, tensor


_HOOKS = frozenset(vars(nn.Module())) - {"_buffers", "_parameters"}

_CONTAINERS = (dict, list)


@contextmanager
def restore_attributes(network: nn.Module) -> Iterator[None]:
    """Undo what a network's modules note down in their attributes while it runs.

    A tensor remembered from one run would be met without labels in the next.
    """
    before = [(vars(module), dict(vars(module))) for _, module in every_module(network)]
    contents: list[tuple[Any, Any]] = [
        (value, value.copy())
        for _, attributes in before
        for name, value in attributes.items()
        if type(value) in _CONTAINERS and name not in _HOOKS
    ]
    try:
        yield
    finally:
        for holder, was in before:
            holder.clear()
            holder.update(was)
        for container, content in contents:
            container.clear()
            container.extend(content) if isinstance(container, list) else container.update(content)


@contextmanager
def pause_garbage_collection() -> Iterator[None]:
    """Let no garbage be collected meanwhile, which takes a tenth of the time of a trace.

    A trace makes hundreds of thousands of objects and throws hardly any away.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
