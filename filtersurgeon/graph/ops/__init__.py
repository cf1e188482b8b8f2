"""What each operator does: one record per operator of PyTorch, beside the rule for its labels.

A rule is a function of a :class:`~filtersurgeon.graph.labels.Step`; it returns the labels of the
result, or a list of them where the operator returns several tensors. The decorator
:func:`operator` names the operators that the rule covers and states all other facts about them.
Where operators share a rule but differ in a fact, the rule is decorated several times. Any module
of this folder may hold rules::

    @operator("flip", zero_preserving=if_all_silent)
    def flip(step: Step) -> Labels:
        ...

Of an operator without a record nothing is known: all channels that reach it are pinned, unless
PyTorch tags it as pointwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import torch

from filtersurgeon.graph.labels import Axis, Labels, Step
from filtersurgeon.graph.record import Term, tensors
from filtersurgeon.graph.shapes import ShapeFunction
from filtersurgeon.graph.zeros import Condition, never

if TYPE_CHECKING:
    from filtersurgeon.graph.record import Record

Rule = Callable[[Step], Labels | list[Labels]]


@dataclass(frozen=True, slots=True)
class Sum:
    """The axis that a call sums over, as far as a layer's weight tells it.

    Attributes:
        weight: the name of a convolution's weight; None if it is computed, or for other operators.
        axis: labels of the axis that a matrix product sums over; None for other operators.
        everything: whether the result depends on every channel of the arguments, also on those
            that appear in it.
    """

    weight: str | None = None
    axis: Axis = None
    everything: bool = False


def mix_all(_record: Record) -> Sum:
    """Tell that the result depends on every channel of the arguments."""
    return Sum(everything=True)


class Facts(TypedDict, total=False):
    """What can be stated about an operator, beside the rule for its labels.

    Attributes:
        copies: the result has the values and labels of the argument; such calls are not recorded.
        calculates: whole numbers among the arguments are values, not sizes and axes, so that they
            must be the same in a pruned network. Always true of pointwise operators.
        equivariant: removing channels before the operator, with the same other arguments, gives
            the same as removing them after it. Always true of pointwise operators.
        zero_preserving: tells whether the results of a call are zero wherever a removed channel
            was. By default they are not.
        truth_preserving: tells whether the results of a call are true, or not zero, wherever a
            removed channel was. By default they are not.
        keeps_labels: a tensor that the operator writes into keeps its labels.
        work: gives products of lengths; their sum is the number of multiply-accumulates.
        sums: tells which axis is summed over; its channels do not appear in the result. None for
            operators that do not sum.
        run_with_nan: runs the operator so that a result is NaN exactly where it depends on a NaN
            among the arguments. By default a NaN goes where PyTorch's own arithmetic takes it.
    """

    copies: bool
    calculates: bool
    equivariant: bool
    zero_preserving: Condition
    truth_preserving: Condition
    keeps_labels: bool
    work: Callable[[Record], list[Term]]
    sums: Callable[[Record], Sum]
    run_with_nan: Callable[[Any, Any, Any], Any]


def pin_all(step: Step, text: str) -> None:
    """Pin the channels of every argument."""
    for tensor in tensors((*step.args, *step.kwargs.values())):
        for axis in step.labels(tensor):
            step.pin(axis, text)


def follow_nothing(step: Step) -> list[Labels]:
    """Pin everything: the rule of operators that have none."""
    pin_all(step, "no rule follows channels through it")
    return [(None,) * tensor.ndim for tensor in step.results]


@dataclass(frozen=True, slots=True, eq=False)
class Operator:
    """The record of an operator; :class:`Facts` describes the attributes that are not listed here.

    Attributes:
        name: without overload, such as ``convolution``; with its namespace unless that is ``aten``.
        rule: what it does to labels; None if no rule follows channels through it.
        mutable: whether it writes into an argument.
        pointwise: whether PyTorch tags it as acting on every element by itself.
    """

    name: str
    rule: Rule | None = None
    copies: bool = False
    calculates: bool = False
    equivariant: bool = False
    zero_preserving: Condition = never
    truth_preserving: Condition = never
    keeps_labels: bool = False
    work: Callable[[Record], list[Term]] | None = None
    sums: Callable[[Record], Sum] | None = None
    run_with_nan: Callable[[Any, Any, Any], Any] | None = None
    mutable: bool = False
    pointwise: bool = False


POINTWISE = "*"
"""Stands for all operators that PyTorch tags as pointwise and that have no record of their own."""

_OPERATORS: dict[str, Operator] = {}
_SHAPES: dict[Any, ShapeFunction] = {}


def operator(
    *names: str,
    synonyms: Sequence[str] = (),
    shapes: Mapping[Any, ShapeFunction] | None = None,
    **facts: Unpack[Facts],
) -> Callable[[Rule], Rule]:
    """Declare operators that share a rule and all facts, by decorating the rule.

    Args:
        names: without overload, such as ``relu``, which includes ``relu_``; with the namespace
            where it is not ``aten``, such as ``torchvision::roi_align``.
        synonyms: operators that do the same as the first one; traces and messages use its name.
        shapes: functions of PyTorch that call this operator -> functions that give the shapes of
            their results without running them.
        facts: see :class:`Facts`.

    Raises:
        ValueError: one of them is declared already.
    """

    def register(rule: Rule) -> Rule:
        declare(*names, rule=rule, synonyms=synonyms, shapes=shapes, **facts)
        return rule

    return register


def declare(
    *names: str,
    rule: Rule | None = None,
    synonyms: Sequence[str] = (),
    shapes: Mapping[Any, ShapeFunction] | None = None,
    **facts: Unpack[Facts],
) -> None:
    """Declare operators as :func:`operator` does, also without a rule."""
    _SHAPES.update(shapes or {})
    for name in (*names, *synonyms):
        if name in _OPERATORS:
            raise ValueError(f"operator {name} is declared twice")
        _OPERATORS[name] = Operator(names[0] if name in synonyms else name, rule, **facts)
    operator_of.cache_clear()


@cache
def operator_of(function: Any) -> Operator:
    """Give the record of a function of ``torch.ops``; its schema takes long to ask."""
    schema = function._schema
    namespace, _, plain = schema.name.partition("::")
    plain = plain.rstrip("_") or plain
    name = plain if namespace == "aten" else f"{namespace}::{plain}"
    known = declared()
    pointwise = torch.Tag.pointwise in function.tags
    found = known.get(name) or (known[POINTWISE] if pointwise else Operator(name))
    written = any(argument.name == "out" for argument in schema.arguments)
    return replace(
        found,
        name=found.name if name in known else name,
        rule=None if written else found.rule,
        calculates=pointwise or found.calculates,
        equivariant=(pointwise or found.equivariant) and not written,
        mutable=schema.is_mutable,
        pointwise=pointwise,
    )


def declared() -> Mapping[str, Operator]:
    """Give the records of all operators by name."""
    _load()
    return _OPERATORS


def shape_functions() -> Mapping[Any, ShapeFunction]:
    """Map functions of PyTorch to functions that give the shapes of their results."""
    _load()
    return _SHAPES


@cache
def _load() -> None:
    for file in sorted(Path(__file__).parent.glob("*.py")):
        if not file.stem.startswith("_"):
            import_module(f"{__name__}.{file.stem}")
