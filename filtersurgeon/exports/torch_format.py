"""``torch.export``: a ``.pt2`` file, which torch loads without the network's source code."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

from filtersurgeon.networks.exporters import batch_sizes, quietly

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def write(
    model: nn.Module,
    inputs: Sequence[Tensor],
    batch: torch.export.Dim | None,
    opset: int,  # noqa: ARG001 - checked to be 0 before
    names: Sequence[str] = (),  # noqa: ARG001 - it takes them in their order
) -> bytes:
    """Give the ``.pt2`` file of a network, without the places in source files that torch notes.

    Args:
        model: in evaluation mode.
        inputs: what it is called with, each with the axis of the batch first.
        batch: the symbol of the batch's size, or None to fix it.
        opset: of no meaning here.
        names: of no meaning here.

    Raises:
        OptionError: torch cannot export this network.
    """
    import torch

    sizes = batch_sizes(inputs, batch)
    with quietly("export by torch.export"):
        program = torch.export.export(model, tuple(inputs), dynamic_shapes=sizes)
        for module in program.graph_module.modules():
            for node in getattr(getattr(module, "graph", None), "nodes", ()):
                node.meta.pop("stack_trace", None)
        program._example_inputs = None  # or the file would hold the images, too
        file = BytesIO()
        torch.export.save(program, file)
    return file.getvalue()


def run(content: bytes, batches: Sequence[Sequence[Tensor]]) -> list[Any]:
    """Load a ``.pt2`` file, and give its outputs for every batch."""
    import torch

    with quietly("load what was exported"):
        model = torch.export.load(BytesIO(content)).module()
    with torch.no_grad():
        return [model(*batch) for batch in batches]
