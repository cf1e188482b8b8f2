"""The records of operators: they name real operators, state true facts, and can be added to."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from cutting import Between, check, free_channels, graph_of  # noqa: E402
from torch import Tensor  # noqa: E402
from torch.nn import functional as F  # noqa: E402, N812

from filtersurgeon.graph import ops  # noqa: E402
from filtersurgeon.graph.cost import CostModel  # noqa: E402
from filtersurgeon.graph.graph import ChannelGraph  # noqa: E402
from filtersurgeon.graph.labels import Labels, Step  # noqa: E402
from filtersurgeon.graph.record import Record, Term  # noqa: E402
from filtersurgeon.graph.zeros import if_all_silent  # noqa: E402

NAME = "fsurgeon_operators::thrice"
ATEN = sorted(name for name in ops.declared() if "::" not in name and name != ops.POINTWISE)


def _overloads(name: str) -> list[object]:
    packet = getattr(torch.ops.aten, name)
    return [getattr(packet, overload) for overload in packet.overloads()]


def _macs(graph: ChannelGraph) -> int:
    return CostModel(graph).cost(np.ones(len(graph.groups), bool)).macs


@pytest.fixture
def thrice(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    """An operator that PyTorch has not tagged and that no record describes, and free names."""
    with torch.library._scoped_library("fsurgeon_operators", "DEF") as library:
        library.define("thrice(Tensor x) -> Tensor")
        library.impl("thrice", lambda x: 3 * x, "CompositeExplicitAutograd")
        library.impl("thrice", torch.empty_like, "Meta")
        monkeypatch.setattr(ops, "_OPERATORS", dict(ops.declared()))
        ops.operator_of.cache_clear()
        yield torch.ops.fsurgeon_operators.thrice
    ops.operator_of.cache_clear()


@pytest.mark.parametrize("name", ATEN)
def test_every_name_is_that_of_an_operator(name: str) -> None:
    assert hasattr(torch.ops.aten, name), f"{name} is no ATen operator"
    found = {ops.operator_of(function).name for function in _overloads(name)}
    assert found == {ops.declared()[name].name}


def test_an_operator_is_declared_once() -> None:
    with pytest.raises(ValueError, match="operator relu is declared twice"):
        ops.declare("relu")


@pytest.mark.parametrize("name", ATEN)
def test_pointwise_operators_that_are_said_to_preserve_zeros_do(name: str) -> None:
    record = ops.declared()[name]
    if record.rule is not ops.declared()[ops.POINTWISE].rule:
        return
    if record.zero_preserving is not if_all_silent:
        return
    zeros = torch.zeros(1, 4, 2, 2)
    slope = {"prelu": [torch.ones(1)], "_prelu_kernel": [torch.ones(1, 1, 1, 1)]}
    assert not getattr(torch.ops.aten, name)(zeros, *slope.get(name, [])).any()


X, Y = torch.ones(2, 6, 8, 4, device="meta"), torch.ones(6, 1, 4, device="meta")


def _weights(gates: int) -> tuple[Tensor, ...]:
    """Give those of a cell with three units that reads four channels."""
    shapes = [(3 * gates, 4), (3 * gates, 3), (3 * gates,), (3 * gates,)]
    return tuple(torch.ones(shape, device="meta") for shape in shapes)


KERNELS, MATRIX, ONES = (torch.ones(n, device="meta") for n in ((9, 2, 3, 3), (5, 4), (6,)))
CALLS = {
    torch.conv2d: (X, KERNELS, torch.ones(9, device="meta"), 2, 1, 1, 3),
    F.batch_norm: (X, ONES, ONES, ONES, ONES),
    F.layer_norm: (X, (8, 4)),
    F.linear: (X, MATRIX),
    F.bilinear: (X, X[..., :3], torch.ones(5, 4, 3, device="meta")),
    F.adaptive_avg_pool2d: (X, 1),
    torch.mean: (X, (1, -1), True),
    Tensor.mean: (X, 1),
    torch.cat: ([X, X[:, :2]], 1),
    F.scaled_dot_product_attention: (X, X, X[..., :3]),
    **dict.fromkeys((torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu), None),
    torch.lstm_cell: (X[0, :, 0], [ONES[:3].expand(6, 3)] * 2, *_weights(4)),
    torch.gru_cell: (X[0, :, 0], ONES[:3].expand(6, 3), *_weights(3)),
    **dict.fromkeys(
        (torch.rnn_tanh_cell, torch.rnn_relu_cell),
        (X[0, :, 0], ONES[:3].expand(6, 3), *_weights(1)),
    ),
    F.multi_head_attention_forward: (
        *[X[0, ..., :4]] * 3,
        *(4, 2, MATRIX.new_ones(12, 4), None, None, None, False, 0.0, MATRIX, None),
    ),
    **dict.fromkeys((torch.matmul, Tensor.matmul, Tensor.__matmul__), (X, Y.mT)),
    **dict.fromkeys((torch.add, Tensor.add, Tensor.__add__), (X, Y)),
    **dict.fromkeys((torch.mul, Tensor.mul, Tensor.__mul__), (X, Y)),
    **dict.fromkeys((Tensor.add_, Tensor.__iadd__), (X, Y)),
}


@pytest.mark.parametrize("function", ops.shape_functions(), ids=lambda f: f.__name__)
def test_shape_functions_give_the_shapes_of_pytorch(function: Callable[..., Tensor]) -> None:
    args = CALLS.get(function, (X,))
    if args is None:
        kind, _, nonlinearity = function.__name__.upper().partition("_")
        more = {"nonlinearity": nonlinearity.lower()} if nonlinearity else {}
        make = getattr(torch.nn, kind)
        layer = make(4, 3, bidirectional=True, batch_first=True, device="meta", **more)
        state = torch.ones(2, 2, 3, device="meta")
        states = [state] * 2 if kind == "LSTM" else state
        args = (X[:, 0], states, layer._flat_weights, True, 1, 0.0, False, True, True)
    made = ops.shape_functions()[function](*args)
    assert made is not None
    results = function(*args)
    expected = [results] if isinstance(results, Tensor) else results
    assert [one.shape for one in made[2]] == [one.shape for one in expected]


def test_an_operator_of_another_library_is_not_taken_for_one_of_pytorch() -> None:
    with torch.library._scoped_library("fsurgeon_operators", "DEF") as library:
        library.define("relu(Tensor x) -> Tensor")
        found = ops.operator_of(torch.ops.fsurgeon_operators.relu.default)
    assert (found.name, found.rule) == ("fsurgeon_operators::relu", None)


def test_one_decorated_function_adds_an_operator(thrice: object) -> None:
    network = Between(lambda x: thrice(x) * thrice(x).sum(1, keepdim=True))
    before = check(network, 3, 8, 8)
    assert free_channels(before) == []
    reasons = {pin.operator: pin.text for _, pin in before.trace.constraints.pins}
    assert reasons[NAME] == "no rule follows channels through it"

    def work(record: Record) -> list[Term]:
        return [record.results[0].lengths]

    @ops.operator(NAME, equivariant=True, zero_preserving=if_all_silent, work=work)
    def rule(step: Step) -> Labels:
        return step.labels(step.args[0])

    # Each cut is compared with the network whose removed channels are zero.
    after = check(network, 3, 8, 8)
    assert free_channels(after) == [8]
    assert _macs(after) - _macs(before) == 2 * 8 * 64


def test_only_a_record_that_says_so_lets_channels_be_summed(thrice: object) -> None:
    ops.operator(NAME)(lambda step: step.labels(step.args[0]))
    network = Between(lambda x: x * thrice(x).sum(1, keepdim=True))
    assert free_channels(check(network, 3, 8, 8)) == []
    passed = graph_of(Between(lambda x: thrice(x)), 3, 8, 8)
    assert free_channels(passed) == [8]


def test_constants_go_through_an_operator_as_its_record_says(thrice: object) -> None:
    from filtersurgeon.graph.constants import constant_inputs

    def no_constants(func: object, args: tuple[Tensor, ...], kwargs: object) -> Tensor:
        del func, kwargs
        return torch.full_like(args[0], torch.nan)

    network = Between(lambda x: thrice(x)).eval()
    with torch.no_grad():
        network.first.weight[:4] = 0
    image = torch.empty(1, 3, 8, 8)
    found = constant_inputs(network, image, {})["last"].values
    assert torch.equal(found[:4], 3 * network.first.bias[:4].double())
    assert found[4:].isnan().all()
    ops.declare(NAME, run_with_nan=no_constants)
    assert constant_inputs(network, image, {})["last"].values.isnan().all()


def test_values_that_are_not_known_count_as_finite() -> None:
    from filtersurgeon.graph.constants import constant_inputs

    def guarded(x: Tensor) -> Tensor:
        assert torch.isfinite(x).all()
        assert not torch.isnan(x).any()
        return torch.relu(x)

    network = Between(guarded).eval()
    with torch.no_grad():
        network.first.weight[:4] = 0
    found = constant_inputs(network, torch.empty(1, 3, 8, 8), {})["last"].values
    assert torch.equal(found[:4], torch.relu(network.first.bias[:4].double()))
    assert found[4:].isnan().all()


@pytest.mark.parametrize("name", ["abs_", "mish_", "gelu_", "relu_"])
def test_a_record_holds_for_the_form_in_place(name: str) -> None:
    function = getattr(torch.ops.aten, name)
    assert free_channels(check(Between(lambda x: function(x)), 3, 8, 8)) == [8]
