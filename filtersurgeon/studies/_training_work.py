"""What a training step computes and holds, counted; it is the same on every machine."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True)
class TrainingWork:
    """The work of one training step.

    Attributes:
        forward: multiply-accumulates of convolutions and matrix products, of the whole batch.
        backward: the same of the backward pass.
        weights: bytes of the parameters and buffers.
        trained: bytes of the parameters that train.
        kept: bytes of activations that the forward pass keeps for the backward pass.
    """

    forward: int
    backward: int
    weights: int
    trained: int
    kept: int

    def memory(self, moments: int = 2) -> int:
        """Give the bytes that training holds: weights, gradients, moments and activations.

        Args:
            moments: tensors that the optimizer holds of each parameter; Adam holds two.
        """
        return self.weights + (1 + moments) * self.trained + self.kept


def count_work(model: nn.Module, compute_loss: Callable[[], Tensor]) -> TrainingWork:
    """Run a network forward and backward once, and count.

    Args:
        model: its gradients are discarded afterwards.
        compute_loss: runs it forward and gives the loss.
    """
    from torch.autograd.graph import saved_tensors_hooks

    own = {tensor.data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    counter = _make_counter()
    with counter:
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            loss = compute_loss()
        forward, counter.macs = counter.macs, 0
        loss.backward()
    model.zero_grad(set_to_none=True)
    tensors = (*model.parameters(), *model.buffers())
    return TrainingWork(
        forward,
        counter.macs,
        sum(tensor.nbytes for tensor in tensors),
        sum(p.nbytes for p in model.parameters() if p.requires_grad),
        sum(tensor.untyped_storage().nbytes() for tensor in kept.values()),
    )


def _make_counter() -> Any:
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    aten = torch.ops.aten

    class Counter(TorchDispatchMode):
        """Counts multiply-accumulates of convolutions and matrix products."""

        def __init__(self) -> None:
            super().__init__()
            self.macs = 0

        def __torch_dispatch__(
            self, func: Any, types: Any, args: Any = (), kwargs: Any = None
        ) -> Any:
            result = func(*args, **(kwargs or {}))
            if func is aten.convolution.default:
                transposed = args[6]
                self.macs += (args[0] if transposed else result).numel() * prod(args[1].shape[1:])
            elif func is aten.convolution_backward.default:
                grad, x, weight, transposed, mask = args[0], args[1], args[2], args[7], args[-1]
                once = (x if transposed else grad).numel() * prod(weight.shape[1:])
                self.macs += once * (bool(mask[0]) + bool(mask[1]))
            elif func in (aten.mm.default, aten.bmm.default):
                self.macs += result.numel() * args[0].shape[-1]
            elif func is aten.addmm.default:
                self.macs += result.numel() * args[1].shape[-1]
            return result

    return Counter()
