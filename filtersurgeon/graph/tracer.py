"""Trace a network once, without data, and follow its channels through every operator.

``trace`` runs the network; ``_Tracer`` hands each operator to its rule in
:mod:`filtersurgeon.graph.ops`. Below it stand its parts: which module is running, functions that
are followed as one operator, the modules and tensors of a network, and what a run must restore.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._functorch import peek_interpreter_stack
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from filtersurgeon.graph.labels import TIED, Axis, Ids, Labels, Reason, Step
from filtersurgeon.graph.ops import (
    Operator,
    follow_nothing,
    operator_of,
    shape_functions,
)
from filtersurgeon.graph.record import (
    Key,
    Notes,
    Read,
    Rerun,
    Trace,
    split_tensors,
    tensors,
)
from filtersurgeon.graph.values import (
    READS,
    ValuesNeededError,
    asks_whether_finite,
    list_numbers,
)
from filtersurgeon.graph.writing import overwrite, relatives
from filtersurgeon.graph.zeros import never
from filtersurgeon.networks.code_lines import CodeLine, running_line
from filtersurgeon.networks.outputs import find_tensors
from filtersurgeon.networks.restoring import restore_attributes

_PICKING = frozenset({"index", "index_select", "index_put"})
"""Operators whose results are as long as the values of their arguments tell."""


_SET_DATA = Tensor.data.__set__  # type: ignore[attr-defined]
"""What ``tensor.data = other`` calls."""


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
    lined: Collection[int] = (),
    values: Sequence[Any] | None = None,
) -> Trace:
    """Run a network once and follow its channels.

    Args:
        network: in evaluation mode; its own tensors may be real or on the meta device.
        image: a batch of one, on the meta device to spend no work on data.
        modes: how many readings of an operator to skip.
        slots: labels of the network's tensors, if they are not to be made anew.
        rerun: what is expected, if this is a pruned network.
        limit: number of operators after which to stop.
        lined: numbers of the operators whose lines of code are wanted.
        values: the numbers that the network reads from tensors without data, in the order of the
            run, in which those that it reads from its own tensors are counted too.

    Raises:
        ValuesNeededError: it reads such numbers, and there are none.
        OutputError: the network returns no tensors, or hides them in an unknown object.
    """
    tracer = _Tracer(network, modes or {}, rerun, limit, values)
    tracer.lined = lined
    if slots is not None:
        tracer.trace.slots = dict(slots)
        tracer.given = True
    tracer.note_image(image)
    try:
        with (
            torch.no_grad(),
            pause_garbage_collection(),
            restore_attributes(network),
            track_modules(tracer.modules, tracer.stack),
            tracer,
            WholeFunctions(tracer.follow, tracer.exchange),
        ):
            outputs = network(image)
    except Exception as error:
        # TorchScript raises exceptions of its own in the place of these.
        if isinstance(tracer.stopped, _EnoughError):
            return tracer.trace
        if tracer.stopped is not None:
            raise tracer.stopped from error
        raise
    tracer.trace.complete = True
    for _, tensor in find_tensors(outputs):
        tracer.trace.outputs.append(tracer.notes.note(tensor, tracer.labels(tensor)))
        for axis in tracer.labels(tensor):
            tracer.trace.constraints.pin(axis, Reason("output", "", "leaves the network"))
    return tracer.trace


def _none(_: int) -> None:
    return None


class _Tracer(TorchDispatchMode):
    """Runs operators on the meta device and hands each to its rule."""

    def __init__(
        self,
        network: nn.Module,
        modes: Mapping[Key, int],
        rerun: Rerun | None,
        limit: int | None,
        values: Sequence[Any] | None,
    ) -> None:
        super().__init__()
        self.stopped: Exception | None = None
        self._values = values
        self._depending: set[int] = set()
        self.trace = Trace()
        self.lined: Collection[int] = ()
        self.trace.constraints.loose = None if rerun is None else rerun.loose
        self.given = False
        self.stack = [outermost(network)]
        self._modes = modes
        self._rerun = rerun
        self._limit = limit
        # Tensors are kept alive with their labels, so that an id is never used twice.
        self._seen: dict[int, tuple[Tensor, Labels]] = {}
        self._silent: set[int] = set()
        self._holding: set[int] = set()
        self._until_read: dict[int, tuple[Axis, Reason]] = {}
        self._names: dict[int, str] = {}
        self._twins: dict[int, Tensor] = {}
        self._whole: set[int] = set()
        self._pointing: set[str] = set()
        self._counting: set[str] = set()
        self.modules = modules = every_module(network)
        learned = list(parameters(modules))
        self._parameters = {id(tensor) for _, tensor in learned}
        for name, tensor in (*learned, *buffers(modules)):
            first = self._names.setdefault(id(tensor), name)
            if first != name:
                self.trace.aliases[name] = first
            if tensor.ndim and not (tensor.is_floating_point() or tensor.dtype == torch.bool):
                self._whole.add(id(tensor))
        self._unstored = set(unstored(modules))
        self.notes = Notes(self._names)

    def labels(self, tensor: Tensor) -> Labels:
        """Give a tensor's labels; the network's own get theirs when first met."""
        if self._until_read and id(tensor) in self._until_read:
            self.trace.constraints.pin(*self._until_read[id(tensor)])
        found = self._seen.get(id(tensor))
        if found is not None:
            return found[1]
        values = tensor.is_floating_point() or tensor.dtype == torch.bool
        own = self.own(tensor) if values else None
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
            values = tensor.is_floating_point() or tensor.dtype == torch.bool
            if not values and name in self._unstored:
                for axis in labels:
                    reason = Reason(
                        "index", self.stack[-1].name, "tied to a buffer not stored", *self.place()
                    )
                    self.trace.constraints.pin(axis, reason)
        self._seen[id(tensor)] = (tensor, labels)
        return labels

    def note_image(self, image: Tensor) -> None:
        """Note what the network reads, which has no channels that can be removed."""
        labels: Labels = (None,) * image.ndim
        self._seen[id(image)] = (image, labels)
        self._depending.add(id(image))
        self.trace.image = self.notes.note(image, labels)

    def exchange(self, tensor: Tensor, other: Tensor) -> None:
        """Give a tensor, by its ``data``, the values of another one; their channels go together.

        The tensor itself is not changed, as the network is used again after the run.

        Raises:
            RuntimeError: they have other shapes, which would have to be put back after the run.
        """
        if tensor.shape != other.shape:
            raise RuntimeError(f"data of the shape {tuple(other.shape)} are set in its forward")
        if not tensor.is_floating_point():
            tensor.data = other  # whole numbers stay real, as their values matter
            return
        labels = self.labels(other)
        why = Reason("set_data", self.stack[-1].name, TIED, *self.place())
        for one, two in zip(self.labels(tensor), labels, strict=True):
            if one is None or two is None:
                self.trace.constraints.pin(one, why)
                self.trace.constraints.pin(two, why)
            else:
                self.trace.constraints.tie(one, two, lambda: why)
        self._seen[id(tensor)] = (tensor, labels)
        if not self.silent(other):
            self._names.pop(id(tensor), None)
        if not tensor.is_meta:
            self._twins[id(tensor)] = other if other.is_meta else other.to("meta")

    def silent(self, tensor: Tensor) -> bool:
        """Tell whether a tensor is zero wherever a removed channel was."""
        if id(tensor) in self._silent:
            return True
        return id(tensor) in self._names and tensor.is_floating_point()

    def holds(self, tensor: Tensor) -> bool:
        """Tell whether a tensor is true, or not zero, wherever a removed channel was."""
        return id(tensor) in self._holding

    def point(self, tensor: Tensor, axis: Ids) -> bool:
        """Note that the numbers of a tensor of the network's are positions in an axis."""
        name = self._names[id(tensor)]
        known = self.trace.positions.setdefault(name, axis)
        self._pointing.add(name)
        if name in self._counting or len(known) != len(axis):
            self._keep_numbers(name)
            return False
        reason = Reason("index", self.stack[-1].name, "picked by the same indices", *self.place())
        self.trace.constraints.tie(known, axis, lambda: reason)
        return True

    def _keep_numbers(self, name: str) -> None:
        """Note that a tensor's numbers have another use than as positions of channels."""
        self._counting.add(name)
        reason = Reason(
            "index",
            self.stack[-1].name,
            "picked by indices that have another use too",
            *self.place(),
        )
        if name in self.trace.positions:
            for axis in (self.trace.positions[name], *self.trace.slots[name]):
                self.trace.constraints.pin(axis, reason)

    def pin_if_read(self, tensor: Tensor, axis: Axis, reason: Reason) -> None:
        """Pin labels as soon as anything reads a tensor, or the network returns it."""
        self._until_read[id(tensor)] = axis, reason

    def place(self) -> tuple[CodeLine | None, int]:
        """Give the line of the network's code that is running, and how many records there are.

        What is pinned in a pruned network is not told to anyone.
        """
        if self._rerun is not None:
            return None, -1
        return running_line(trace.__code__), len(self.trace.records)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Spare every call a wrapper that keeps compilers out: none is at work here."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in READS:
            return self._read(func, args)
        result = self._run(func, args, kwargs)
        if isinstance(result, Tensor):
            self.follow(func, args, kwargs, [result])
        elif isinstance(result, list | tuple):
            results = [r for r in result if isinstance(r, Tensor)]
            if results:
                self.follow(func, args, kwargs, results)
        return result

    def _read(self, func: Any, args: Any) -> Any:
        """Give a number that the network reads: its own tensor's, or the one that was found."""
        given = tensors(args)
        reason = Reason("item", self.stack[-1].name, "read as a number", *self.place())
        for axis in (axis for tensor in given for axis in self.labels(tensor)):
            self.trace.constraints.pin(axis, reason)
        place = len(self.trace.reads)
        if not any(tensor.is_meta for tensor in given):
            value = func(*args)
        elif self._values is None:
            self.stopped = ValuesNeededError()
            raise self.stopped
        elif place < len(self._values):
            value = self._values[place]
        else:
            return func(*args)  # which says that there is no data
        self.trace.reads.append(Read(value, any(id(x) in self._depending for x in given)))
        return value

    def _run(self, func: Any, args: Any, kwargs: Any) -> Any:
        given = tensors((*args, *kwargs.values()))
        real = [tensor for tensor in given if not tensor.is_meta]
        if real and (len(real) < len(given) or any(id(t) in self._parameters for t in real)):
            whole = operator_of(func).name not in _PICKING
            args = [self._twin(arg, whole) for arg in args]
            kwargs = {name: self._twin(arg, whole) for name, arg in kwargs.items()}
        if "device" in kwargs and real and not real[0].is_floating_point():
            kwargs = {**kwargs, "device": None}  # whole numbers stay real, as their values matter
        return func(*args, **kwargs)

    def _twin(self, arg: Any, whole: bool) -> Any:
        """Exchange a real tensor for one without data; of small ones the values are needed.

        Args:
            arg: any argument.
            whole: exchange whole numbers and masks, too.
        """
        if isinstance(arg, list | tuple):
            return [self._twin(item, whole) for item in arg]
        if not isinstance(arg, Tensor) or arg.is_meta:
            return arg
        if not arg.ndim or not (whole or arg.is_floating_point()):
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
        if self.lined and len(self.trace.records) in self.lined:
            self.trace.lines[len(self.trace.records)] = running_line(trace.__code__)
        given, rest = split_tensors((*args, *kwargs.values()))
        met: Any = self._seen.get if not self._until_read else _none
        inputs = [met(id(tensor)) or (tensor, self.labels(tensor)) for tensor in given]
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
        if self._values is not None and self._rerun is None:
            self._track_image(operator, args, given, results)
        if len(self.trace.records) == self._limit:
            self.stopped = _EnoughError()
            raise self.stopped

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
        self._pointing.clear()
        made = self._apply(operator, step)
        if self._whole:
            names = (self._names[id(x)] for x, _ in inputs if id(x) in self._whole)
            for name in {*names} - self._pointing:
                self._keep_numbers(name)
        if operator.mutable and inputs:
            made = overwrite(operator, step, made, self._seen)
        for tensor, labels in zip(step.results, made, strict=True):
            self._seen[id(tensor)] = (tensor, labels)
        if not self.given:
            self._track_zeros(operator, step, made)
        return made

    def _track_image(
        self, operator: Operator, args: Any, given: list[Tensor], results: Sequence[Tensor]
    ) -> None:
        """Note which tensors depend on the image in more than being finite."""
        if not any(id(tensor) in self._depending for tensor in given):
            return
        if not asks_whether_finite(operator.name, args):
            self._depending.update(id(tensor) for tensor in results)
            if operator.mutable and isinstance(args[0], Tensor):
                self._depending.update(id(x) for x in relatives(args[0], self._seen))

    def _pass(self, original: Tensor, copy: Tensor) -> None:
        """Let a copy have the labels of its original; whether one is made depends on strides."""
        labels = self.labels(original)
        self._seen[id(copy)] = (copy, labels)
        self.notes.note_copy(original, labels, copy)
        if id(original) in self._depending:
            self._depending.add(id(copy))
        if not copy.is_floating_point() and id(original) in self._names:
            self._names[id(copy)] = self._names[id(original)]
            self._whole.update({id(copy)} if id(original) in self._whole else ())
        if self.silent(original):
            self._silent.add(id(copy))
        if id(original) in self._holding:
            self._holding.add(id(copy))

    def _track_zeros(self, operator: Operator, step: Step, made: Sequence[Labels]) -> None:
        if operator.zero_preserving(step, made):
            self._silent.update(id(tensor) for tensor in step.results)
        elif operator.mutable and isinstance(step.args[0], Tensor):
            family = relatives(step.args[0], self._seen)
            self._silent.difference_update(id(tensor) for tensor in family)
        if operator.truth_preserving is not never and operator.truth_preserving(step, made):
            self._holding.update(id(tensor) for tensor in step.results)
        elif self._holding and operator.mutable and isinstance(step.args[0], Tensor):
            family = relatives(step.args[0], self._seen)
            self._holding.difference_update(id(tensor) for tensor in family)

    def _mode(self, key: Key) -> int:
        return self._modes.get(key, 0)

    def _apply(self, operator: Operator, step: Step) -> list[Labels]:
        if operator.rule is None:
            return follow_nothing(step)
        made = operator.rule(step)
        return made if isinstance(made, list) else [made]


@dataclass(slots=True)  # frozen ones take three times as long to make
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
def track_modules(modules: list[tuple[str, nn.Module]], stack: list[Running]) -> Iterator[None]:
    """Keep a stack of the modules that are running."""
    names: dict[int, str] = {}
    for name, module in modules:
        names.setdefault(id(module), name)
    foreign: dict[type, bool] = {}

    def enter(module: nn.Module, _: Any) -> None:
        kind, around = type(module), stack[-1]
        own = foreign.get(kind)
        if own is None:
            own = foreign[kind] = not kind.__module__.startswith("torch.nn.")
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
        exchange: given a tensor whose values are to be those of another one.
    """

    def __init__(self, follow: Follow, exchange: Callable[[Tensor, Tensor], None]) -> None:
        super().__init__()
        self._follow = follow
        self._exchange = exchange
        self._shapes = shape_functions()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, whole or as it is."""
        kwargs = kwargs or {}
        # Inside of `vmap` and its like, shapes are those of one element of the batch.
        shapes = self._shapes.get(func) if peek_interpreter_stack() is None else None
        made = None
        if shapes is not None:
            # A tensor without data is made in a fifth of the time if no mode hears of it. The
            # guard is that of torch's `no_dispatch`, whose generator takes longer than the guard.
            guard = torch._C._DisableTorchDispatch()
            try:
                made = shapes(*args, **kwargs)
            finally:
                del guard
        if func == _SET_DATA:
            self._exchange(*args)
            return None
        if made is None:
            return list_numbers(args[0]) if func is Tensor.tolist else func(*args, **kwargs)
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


def unstored(modules: list[tuple[str, nn.Module]]) -> Iterator[str]:
    """Yield the names of the buffers that are not part of a network's state."""
    for name, module in modules:
        for key in module._non_persistent_buffers_set:
            yield f"{name}.{key}" if name else key


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
