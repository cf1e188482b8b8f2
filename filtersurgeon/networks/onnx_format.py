"""ONNX, written by torch's exporter and run by onnxruntime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from filtersurgeon.checkpoint.vision import require
from filtersurgeon.errors import OptionError
from filtersurgeon.networks.exporters import batch_sizes, quietly

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

EXTRA = "export"
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
LIMIT = 2**31
"""Bytes of the largest ONNX file that holds its own weights, a limit of protobuf."""


def write(
    model: nn.Module,
    inputs: Sequence[Tensor],
    batch: torch.export.Dim | None,
    opset: int,
    names: Sequence[str] = ("images",),
) -> bytes:
    """Give the ONNX file of a network, without the places in source files that torch notes in it.

    Args:
        model: in evaluation mode.
        inputs: what it is called with, each with the axis of the batch first.
        batch: the symbol of the batch's size, or None to fix it.
        opset: version of ONNX's operators; 0 for the exporter's own choice.
        names: of the inputs.

    Raises:
        OptionError: the extra is not installed, the exporter fails or writes other operators than
            asked for, or the file would be larger than 2 GiB.
    """
    import torch

    require("onnxscript", EXTRA)
    require("onnx", EXTRA)
    sizes = batch_sizes(inputs, batch)
    weights = sum(t.numel() * t.element_size() for t in model.state_dict().values())
    if weights >= LIMIT:
        raise OptionError(
            f"{weights:,} bytes of weights do not fit into one ONNX file (2 GiB at most); "
            "use `format='torch-export'`"
        )
    with quietly("export to ONNX"):
        program = torch.onnx.export(
            model,
            tuple(inputs),
            dynamo=True,
            verbose=False,
            opset_version=opset or None,
            dynamic_shapes=sizes,
            input_names=list(names),
        )
    assert program is not None
    proto = program.model_proto
    [written] = (each.version for each in proto.opset_import if each.domain == "")
    if opset not in (0, written):
        raise OptionError(
            f"the exporter gives ONNX operator set {written} for this network, not {opset}; pass "
            f"`opset` {written}, or leave it out"
        )
    _anonymise(proto)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def run(content: bytes, batches: Sequence[Sequence[Tensor]]) -> list[Any]:
    """Run an ONNX file on the CPU, and give its outputs for every batch.

    Raises:
        OptionError: onnxruntime is not installed.
    """
    import torch

    session = open_session(content)
    names = [given.name for given in session.get_inputs()]
    found = []
    for batch in batches:
        given = {name: x.numpy() for name, x in zip(names, batch, strict=True)}
        found.append([torch.from_numpy(output) for output in session.run(None, given)])
    return found


def open_session(content: bytes, device: str = "cpu") -> Any:
    """Load an ONNX file into onnxruntime, with as many threads as torch has.

    Args:
        content: of the file.
        device: torch's name of it.

    Raises:
        OptionError: onnxruntime is not installed, has no provider for the device, or does not know
            the file's operators.
    """
    import torch

    runtime = require("onnxruntime", EXTRA)
    states = require("onnxruntime.capi.onnxruntime_pybind11_state", EXTRA)
    refusals = (states.Fail, states.InvalidArgument, states.InvalidGraph, states.NotImplemented)
    place = torch.device(device)
    provider = _PROVIDERS.get(place.type)
    if provider not in runtime.get_available_providers():
        raise OptionError(
            f"the installed onnxruntime does not run on {place.type}; it has "
            + ", ".join(runtime.get_available_providers())
        )
    options = runtime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = torch.get_num_threads()
    options.inter_op_num_threads = 1
    where = (provider, {"device_id": place.index or 0}) if place.type == "cuda" else provider
    try:
        return runtime.InferenceSession(content, options, providers=[where])
    except refusals as problem:
        versions = require("onnx", EXTRA).load_from_string(content).opset_import
        [written] = (each.version for each in versions if each.domain == "")
        raise OptionError(
            f"onnxruntime {runtime.__version__} does not load this network in ONNX operator set "
            f"{written}; pass a lower `opset`, or leave it out"
        ) from problem


def _anonymise(proto: Any) -> None:
    """Take out what tells of the machine: names of files and lines of source code."""
    nodes = [*proto.graph.node, *(node for each in proto.functions for node in each.node)]
    for node in nodes:
        node.doc_string = ""
        kept = [prop for prop in node.metadata_props if not prop.key.endswith("stack_trace")]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)
