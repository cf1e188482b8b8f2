"""The C++ example compiles, and names the classes that onnxruntime's Python names."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
PLACES = ("/usr/include/onnxruntime", "/usr/local/include/onnxruntime", "/usr/include")
STAND_IN = ROOT / "tests" / "onnxruntime_headers"


def _headers() -> Path:
    """Find onnxruntime's headers; the project's own stand in for them where there are none."""
    given = os.environ.get("ORT")
    places = [Path(given, "include")] if given else []
    for place in (*places, *map(Path, PLACES)):
        if (place / "onnxruntime_cxx_api.h").exists():
            return place
    return STAND_IN


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Compile the example against the library of onnxruntime's wheel."""
    onnxruntime = pytest.importorskip("onnxruntime")
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    library = next(Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*"), None)
    if library is None:
        pytest.skip("this wheel of onnxruntime holds no library to link with")
    folder = tmp_path_factory.mktemp("cpp")
    made = folder / "classify"
    (folder / "libonnxruntime.so.1").symlink_to(library)  # the name that programs look for
    source = ROOT / "examples" / "cpp" / "classify.cpp"
    words = [compiler, "-std=c++17", "-Wall", "-Wextra", "-Werror", source, "-I", _headers()]
    words += [library, f"-Wl,-rpath,{folder}", "-o", made]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return made


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """Write a network of one matrix: flattened images of 2x3x3 to seven classes."""
    onnx = pytest.importorskip("onnx")
    weight = np.random.default_rng(0).standard_normal((18, 7)).astype("f4")
    helper, real = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["image"], ["flat"], axis=1),
            helper.make_node("MatMul", ["flat", "weight"], ["scores"]),
        ],
        "classes",
        [helper.make_tensor_value_info("image", real, ["batch", 2, 3, 3])],
        [helper.make_tensor_value_info("scores", real, ["batch", 7])],
        [onnx.numpy_helper.from_array(weight, "weight")],
    )
    opset = [helper.make_opsetid("", 17)]
    path = tmp_path / "network.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=9), path)
    return path


def _run(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)


def test_it_names_the_best_classes(program: Path, network: Path, tmp_path: Path) -> None:
    import onnxruntime

    image = np.random.default_rng(1).standard_normal((1, 2, 3, 3)).astype("f4")
    image.tofile(tmp_path / "image.f32")
    session = onnxruntime.InferenceSession(network, providers=["CPUExecutionProvider"])
    (scores,) = session.run(None, {"image": image})[0]
    done = _run(program, network, tmp_path / "image.f32")
    assert (done.returncode, done.stderr) == (0, "")
    shown = [line.split() for line in done.stdout.splitlines()]
    assert [int(words[1]) for words in shown] == [*np.argsort(-scores)[:5]]
    assert [float(words[3]) for words in shown] == pytest.approx(
        np.sort(scores)[::-1][:5], abs=1e-3
    )
    zeros = _run(program, network)
    assert [line.split()[-1].lstrip("-") for line in zeros.stdout.splitlines()] == ["0.0000"] * 5


def test_its_errors_are_one_line(program: Path, network: Path, tmp_path: Path) -> None:
    (tmp_path / "short.f32").write_bytes(b"abcd")
    done = _run(program, network, tmp_path / "short.f32")
    assert (done.returncode, done.stdout) == (2, "")
    assert "short.f32 should hold 18 float32 values" in done.stderr
    missing = _run(program, tmp_path / "none.onnx")
    assert missing.returncode == 2
    assert "none.onnx" in missing.stderr
    assert _run(program).returncode == 2
