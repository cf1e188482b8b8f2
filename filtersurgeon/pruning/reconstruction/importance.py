"""How much the outputs of every reading layer matter to the outputs of the network."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from filtersurgeon.graph.cost import CostModel
from filtersurgeon.pruning.reconstruction.calibration import Bench, each_batch, groups_alive

TEMPERATURE = 4.0
_FISHER = 256
_FISHER_MACS = 4e11
_FEWEST = 16


def fisher(bench: Bench, seed: int) -> dict[str, Tensor]:
    """Measure how much every output of the reading layers matters to the network's outputs.

    The diagonal of the Fisher information, summed over positions: mean squares of the gradient of
    the log-probability of a class that is drawn from the network's own softmax; where the outputs
    are no class scores, of random sums of the outputs.

    Returns:
        Layer -> ``(outputs,)`` in float64.
    """
    total = 0
    most = affordable(bench, _FISHER_MACS, _FISHER)
    found: dict[str, Tensor] = {}
    draw = torch.Generator().manual_seed(seed)
    for _, batch in each_batch(bench, held=False):
        if total >= most:
            break
        total += batch.count
        for name, gradient in _gradients(bench, batch.images, batch.count, draw).items():
            squares = gradient.double().square()
            linear = bench.survey.readers[name].geometry is None
            axes = [
                axis for axis in range(squares.ndim) if axis != (squares.ndim - 1 if linear else 1)
            ]
            squares = squares.sum(axes)
            found[name] = found.get(name, 0) + squares
    for name, value in found.items():
        value = value / total
        found[name] = value / 2 + 1e-3 * value.mean().clamp(min=1e-30)
    return found


def affordable(bench: Bench, budget: float, most: int) -> int:
    """Give how many images can be run for so many multiply-accumulate operations."""
    graph = bench.opened.graph
    # Networks are traced at their own size; the images may have another one.
    larger = bench.batches[0].images[0].numel() / graph.image[0].numel()
    each = CostModel(graph).cost(groups_alive(bench)).macs * larger
    return int(np.clip(budget / max(1.0, each), _FEWEST, most))


def _gradients(
    bench: Bench, images: Tensor, count: int, draw: torch.Generator
) -> dict[str, Tensor]:
    """Give the gradient of a random score by every reading layer's output."""
    program, values = bench.program, {0: images}
    steps = {name: reader.step for name, reader in bench.survey.readers.items()}
    with torch.enable_grad():
        start = 0
        wanted = [*steps.values(), *program.outputs]
        for number in steps.values():
            stop = program.place[number] + 1
            program.run(values, bench.tensors, start, stop, keep=wanted)
            if not values[number].requires_grad:
                values[number].requires_grad_()
            start = stop
        program.run(values, bench.tensors, start, keep=wanted)
        outputs = bench.outputs(values)[:count]
        if bench.classifies:
            logs = functional.log_softmax(outputs / TEMPERATURE, dim=1)
            drawn = torch.multinomial(logs.detach().exp().cpu(), 1, generator=draw)
            score = logs.gather(1, drawn.to(logs.device)).sum()
        else:
            flat = outputs.flatten(1)
            signs = torch.randint(0, 2, flat.shape, generator=draw).to(flat) * 2 - 1
            spread = flat.detach().std().clamp(min=1e-12)
            score = (flat * signs).sum() / (spread * flat.shape[1] ** 0.5)
        gradients = torch.autograd.grad(
            score, [values[number] for number in steps.values()], allow_unused=True
        )
    return {
        name: torch.zeros_like(values[number]) if gradient is None else gradient
        for (name, number), gradient in zip(steps.items(), gradients, strict=True)
    }
