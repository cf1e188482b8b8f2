"""A network's run as a list of operators, which can be repeated from any point on other tensors.

The run is recorded once, on real images, with everything in place made functional. What a step
computes from the network's tensors alone is never stored, so that tensors may change between runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from filtersurgeon.errors import GraphError, ran_out_of_memory
from filtersurgeon.networks.dry_run import call
from filtersurgeon.networks.failing import describe_failure
from filtersurgeon.networks.outputs import find_scores, find_tensors

Tensors = Mapping[str, Tensor]
Values = dict[int, Any]
"""Number of a step -> what it computed."""

_VIEWS = frozenset({"t", "transpose", "permute", "view", "_unsafe_view", "reshape", "unsqueeze",
                    "squeeze", "alias", "detach", "expand", "clone", "_to_copy"})  # fmt: skip


@dataclass(frozen=True)
class Step:
    """One operator of a run.

    Attributes:
        function: what is called.
        args: arguments; values of steps and tensors of the network stand as :class:`Ref`.
        kwargs: further ones.
        uses: numbers of the steps, not constant, whose values it takes.
        constant: whether it takes tensors of the network only.
    """

    function: Any
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    uses: tuple[int, ...]
    constant: bool

    @property
    def name(self) -> str:
        """The operator, as ``convolution``."""
        return str(self.function).removeprefix("aten.").partition(".")[0]


@dataclass(frozen=True, slots=True)
class Ref:
    """A value in the arguments of a step: a step's by its number, or the network's tensor."""

    step: int = -1
    tensor: str = ""


class Program:
    """The steps of a run, in an order in which they can be computed.

    Args:
        steps: number -> step. Step 0 is the input, without a function.
        outputs: numbers of the tensors that the network returns.
        scores: number of the class scores, if it is clear which tensor they are.
        constants: tensors that the network's code makes itself.
        batch: images in the batch that every run takes.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        outputs: Sequence[int],
        scores: int | None,
        constants: Tensors,
        batch: int,
    ) -> None:
        self.steps, self.outputs, self.scores, self.batch = steps, tuple(outputs), scores, batch
        self._constants = constants
        self.order = [n for n, step in enumerate(steps) if n and not step.constant]
        self.users: dict[int, list[int]] = {}
        for number, step in enumerate(steps):
            for used in step.uses:
                self.users.setdefault(used, []).append(number)
        self._taken: dict[int, set[str]] = {}
        self._wanted: dict[int, tuple[int, ...]] = {}
        self._index()

    def _index(self) -> None:
        """Note where each step stands, and where its value is taken for the last time."""
        self.place = {number: at for at, number in enumerate(self.order)}
        self._last = {
            number: max((self.place[user] for user in self.users.get(number, ())), default=-1)
            for number in (0, *self.order)
        }
        for number, values in self._wanted.items():
            for value in values:
                self._last[value] = max(self._last[value], self.place[number])
        self._last.update((number, len(self.order)) for number in self.outputs)

    def arrange(self, early: Iterable[tuple[int, int]]) -> set[tuple[int, int]]:
        """Change the order so that some values are there before some steps, and still there then.

        Args:
            early: pairs of a step and a value that is wanted before it.

        Returns:
            The pairs that can be had; a value that comes from its step, perhaps by way of other
            pairs, cannot.
        """
        wanted: dict[int, tuple[int, ...]] = {}
        had = set()
        for number, value in early:
            if number not in self.ancestors([value], wanted):
                wanted[number] = (*wanted.get(number, ()), value)
                had.add((number, value))
        self._wanted = wanted
        done: set[int] = {0}
        found: list[int] = []

        def visit(number: int) -> None:
            # Iterative, as networks have thousands of steps.
            stack = [(number, False)]
            while stack:
                current, ready = stack.pop()
                if current in done or self.steps[current].constant:
                    continue
                if ready:
                    done.add(current)
                    found.append(current)
                    continue
                stack.append((current, True))
                before = (*self.steps[current].uses, *wanted.get(current, ()))
                stack += [(used, False) for used in reversed(before) if used not in done]

        for number in self.order:
            visit(number)
        self.order = found
        self._index()
        return had

    def live(self, at: int) -> list[int]:
        """List the values that steps from a place on take, and that are computed before it."""
        return [n for n in (0, *self.order[:at]) if self._last[n] >= at]

    def run(
        self,
        values: Values,
        tensors: Tensors,
        start: int = 0,
        stop: int | None = None,
        *,
        keep: Collection[int] = (),
        only: Collection[int] | None = None,
    ) -> None:
        """Compute steps, and forget values that are not taken any more.

        Args:
            values: what is known already; changed.
            tensors: the network's, by name.
            start: place of the first step in the order.
            stop: place after the last one.
            keep: values that are never forgotten.
            only: compute these steps only.
        """
        memo: Values = {}
        for at in range(start, len(self.order) if stop is None else stop):
            number = self.order[at]
            if only is not None and number not in only:
                continue
            if number not in values:
                values[number] = self._compute(number, values, tensors, memo)
            for used in (*self.steps[number].uses, *self._wanted.get(number, ())):
                if self._last.get(used, at) <= at and used not in keep:
                    values.pop(used, None)

    def _compute(self, number: int, values: Values, tensors: Tensors, memo: Values) -> Any:
        step = self.steps[number]
        args = [self._resolve(arg, values, tensors, memo) for arg in step.args]
        further = {k: self._resolve(v, values, tensors, memo) for k, v in step.kwargs.items()}
        return step.function(*args, **further)

    # A method, as a function inside that calls itself would hold all values in a cycle of
    # references, and so in memory, until the garbage collector runs.
    def _resolve(self, ref: Any, values: Values, tensors: Tensors, memo: Values) -> Any:
        if not isinstance(ref, Ref):
            if isinstance(ref, list | tuple):
                return type(ref)(self._resolve(item, values, tensors, memo) for item in ref)
            return ref
        if ref.tensor:
            found = tensors.get(ref.tensor)
            return self._constants[ref.tensor] if found is None else found
        if self.steps[ref.step].constant:
            if ref.step not in memo:
                memo[ref.step] = self._compute(ref.step, values, tensors, memo)
            return memo[ref.step]
        return values[ref.step]

    def tensor_of(self, ref: Any) -> str | None:
        """Name the network's tensor that an argument is, as it is or seen in another shape."""
        while isinstance(ref, Ref):
            if ref.tensor:
                return ref.tensor
            step = self.steps[ref.step]
            if not step.constant or step.name not in _VIEWS:
                return None
            ref = step.args[0]
        return None

    def tensors_of(self, number: int) -> set[str]:
        """Name the network's tensors that a step takes, also by way of constant steps."""
        found: set[str] = set()
        stack: list[Any] = [*self.steps[number].args, *self.steps[number].kwargs.values()]
        while stack:
            ref = stack.pop()
            if isinstance(ref, list | tuple):
                stack += ref
            elif isinstance(ref, Ref):
                if ref.tensor:
                    found.add(ref.tensor)
                elif self.steps[ref.step].constant:
                    stack += [*self.steps[ref.step].args, *self.steps[ref.step].kwargs.values()]
        return found

    def ancestors(
        self, numbers: Iterable[int], wanted: Mapping[int, Sequence[int]] | None = None
    ) -> set[int]:
        """Give steps and all steps that their values come from.

        Args:
            numbers: the steps.
            wanted: step -> further steps that it waits for.
        """
        found: set[int] = set()
        stack = list(numbers)
        while stack:
            number = stack.pop()
            if number not in found:
                found.add(number)
                stack += self.steps[number].uses
                stack += (wanted or {}).get(number, ())
        return found

    def touched_by(self, names: Collection[str]) -> set[int]:
        """Give the steps whose values change with some of the network's tensors."""
        names, found = set(names), set[int]()
        for number in self.order:
            step = self.steps[number]
            if any(used in found for used in step.uses) or names & self._tensors(number):
                found.add(number)
        return found

    def _tensors(self, number: int) -> set[str]:
        if number not in self._taken:
            self._taken[number] = self.tensors_of(number)
        return self._taken[number]


def record_program(network: nn.Module, images: Tensor, *, settled: bool = False) -> Program:
    """Record a run of a network.

    Args:
        network: in evaluation mode.
        images: a batch; every later run takes as many of the same shape.
        settled: the numbers that the network reads from tensors are known not to depend on images.

    Raises:
        GraphError: the network computes numbers from values, which cannot be recorded.
        OutputError: it returns no tensors.
    """
    from torch.func import functionalize
    from torch.fx.experimental.proxy_tensor import make_fx

    named = {**dict(network.named_buffers()), **dict(network.named_parameters())}
    names = list(named)
    scored: list[int | None] = []

    def whole(image: Tensor, *tensors: Tensor) -> list[Tensor]:
        outputs = call(network, dict(zip(names, tensors, strict=True)), image)
        found, scores = [x.tensor for x in find_tensors(outputs)], find_scores(outputs)
        where = [n for n, tensor in enumerate(found) if tensor is scores]
        scored.append(where[0] if where else None)
        return found

    try:
        with torch.no_grad():
            recorded = make_fx(
                functionalize(whole), tracing_mode="real", _error_on_data_dependent_ops=not settled
            )(images, *named.values())
    except Exception as error:
        if ran_out_of_memory(error):
            raise
        raise GraphError(
            describe_failure("the network's run cannot be recorded (", error, ")")
        ) from error
    return _read(recorded, names, scored[-1], len(images))


def _read(
    recorded: fx.GraphModule, names: Sequence[str], scored: int | None, batch: int
) -> Program:
    steps: list[Step] = [Step(None, (), {}, (), False)]
    refs: dict[fx.Node, Ref] = {}
    constants: dict[str, Tensor] = {}
    holders = iter([Ref(0), *(Ref(tensor=name) for name in names)])
    outputs: list[int] = []
    recorded.graph.eliminate_dead_code()
    for node in recorded.graph.nodes:
        if node.op == "placeholder":
            refs[node] = next(holders)
        elif node.op == "get_attr":
            name = f"<{node.target}>"
            constants[name] = getattr(recorded, str(node.target)).detach()
            refs[node] = Ref(tensor=name)
        elif node.op == "output":
            outputs = [refs[item].step for item in node.args[0]]
        else:
            args, kwargs = (_exchanged(item, refs) for item in (node.args, node.kwargs))
            inputs = [refs[item] for item in node.all_input_nodes]
            uses = tuple(dict.fromkeys(
                ref.step for ref in inputs
                if not ref.tensor and not steps[ref.step].constant
            ))  # fmt: skip
            refs[node] = Ref(len(steps))
            steps.append(Step(node.target, args, kwargs, uses, not uses))
    scores = None if scored is None else outputs[scored]
    return Program(steps, outputs, scores, constants, batch)


def _exchanged(value: Any, refs: Mapping[fx.Node, Ref]) -> Any:
    """Put references in the place of nodes, in ordinary lists, tuples and dicts."""
    if isinstance(value, fx.Node):
        return refs[value]
    if isinstance(value, Mapping):
        return {key: _exchanged(item, refs) for key, item in value.items()}
    if isinstance(value, tuple | list):
        items = [_exchanged(item, refs) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value
