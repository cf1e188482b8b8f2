"""Write the weights of an ONNX file's convolutions as safetensors.

Verbs that work on tensors alone, such as ``bank learn``, ``bank atlas`` and ``inspect``, take the
result; those that run the network do not. Needs ``pip install onnx``.

    python -m examples.onnx_weights model.onnx weights.safetensors
"""

from __future__ import annotations

import sys

import numpy as np
import onnx
from onnx import numpy_helper
from safetensors.numpy import save_file


def convolution_weights(path: str) -> dict[str, np.ndarray]:
    """Give the weight of every convolution, ``(out, in/groups, kh, kw)``, in the order of use."""
    graph = onnx.load(path).graph
    known = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Constant" and attribute.name == "value":
                known[node.output[0]] = attribute.t
    found = {}
    for node in graph.node:
        if node.op_type == "Conv" and node.input[1] in known:
            weight = numpy_helper.to_array(known[node.input[1]])
            if weight.ndim == 4:
                found[f"conv{len(found)}.weight"] = np.ascontiguousarray(weight)
    return found


if __name__ == "__main__":
    save_file(convolution_weights(sys.argv[1]), sys.argv[2])
