"""``torch.export``: a ``.pt2`` file, which torch loads without the network's source code."""

from __future__ import annotations

from io import BytesIO
from typing import TYPE_CHECKING, Any

from filtersurgeon.networks.exporters import quietly

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


def write(
    model: nn.Module,
    images: Tensor,
    batch: torch.export.Dim | None,
    opset: int,  # noqa: ARG001 - checked to be 0 before
) -> bytes:
    """Give the ``.pt2`` file of a network, without the places in source files that torch notes.

    Args:
        model: in evaluation mode.
        images: (batch, channels, height, width), an input.
        batch: the symbol of the batch's size, or None to fix it.
        opset: of no meaning here.

    Raises:
        OptionError: torch cannot export this network.
    """
    import torch

    sizes: Any = ({0: batch},) if batch is not None else None
    with quietly("export by torch.export"):
        program = torch.export.export(model, (images,), dynamic_shapes=sizes)
        for module in program.graph_module.modules():
            for node in getattr(getattr(module, "graph", None), "nodes", ()):
                node.meta.pop("stack_trace", None)
        program._example_inputs = None  # or the file would hold the images, too
        file = BytesIO()
        torch.export.save(program, file)
    return file.getvalue()


def run(content: bytes, batches: list[Tensor]) -> list[Any]:
    """Load a ``.pt2`` file, and give its outputs for every batch."""
    import torch

    with quietly("load what was exported"):
        model = torch.export.load(BytesIO(content)).module()
    with torch.no_grad():
        return [model(batch) for batch in batches]
