"""Whatever a network's own code does, a command says one line, ends with code 2, writes nothing."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import odd_networks
import pytest
import torch
from conftest import snapshot
from PIL import Image

import filtersurgeon as fs
from filtersurgeon.errors import ArchitectureError
from filtersurgeon.networks.failing import first_line, reason, running, shorten

DATA = ("--data", "d.npz")
OUTPUT = ("-o", "o.safetensors")
VERBS = {
    "prune": ("prune", "in.pt", "-s", 0.5, *OUTPUT),
    "per-layer": ("prune", "in.pt", "--per-layer", "-s", 0.25, *OUTPUT),
    "exact": ("prune", "in.pt", "--mode", "exact", "-s", 0.5, *OUTPUT),
    "refit": ("prune", "in.pt", "--per-layer", "-s", 0.25, "--compensate", "least-squares", *DATA,
              *OUTPUT),
    "eval": ("eval", "in.pt", *DATA),
    "compare": ("compare", "in.pt", "in.pt", "--random", 2, "--latency-runs", 1),
    "export": ("export", "in.pt", "-o", "o.onnx", "--random", 1),
    "gradcam": ("gradcam", "in.pt", *DATA, "--picture", "o.png"),
    "decode": ("decode", "in.pt", "--layers", "a", "--units", 0, "--picture", "o.png"),
    "maximize": ("maximize", "in.pt", "--layers", "a", "--units", 0, "--steps", 1,
                 "--picture", "o.png"),
    "activations": ("activations", "in.pt", "--image", "i.png", "--picture", "o.png"),
    "embed": ("embed", "in.pt", *DATA, "-m", "pca", "--picture", "o.png"),
    "walk": ("walk", "in.pt", "-o", "o.html", "--image", "i.png"),
    "report": ("report", "in.pt", "-o", "o.html", *DATA, "--latency-runs", 1),
    "explain": ("explain", "in.pt", *DATA),
    "modules": ("convert", "in.pt", "--module", "pfm", *OUTPUT),
    "activation": ("convert", "in.pt", "--activation", "leaky-relu", *OUTPUT),
    "fold": ("replace", "in.pt", "--all-spatial", "--fold", *OUTPUT),
    "replace": ("replace", "in.pt", "--all-spatial", *DATA, "--dry-run"),
    "tune": ("tune", "in.pt", *DATA, "--epochs", 1, *OUTPUT),
    "saliency": ("rank", "in.pt", "-m", "saliency", *DATA),
    "channels": ("inspect", "in.pt", "--channels"),
    "initialize": ("initialize", "--untrained", "-m", "dct2", *OUTPUT),
}  # fmt: skip
PRINTS_JSON = ("eval", "compare", "explain", "saliency", "channels")
# Every verb meets a network that raises; every network meets verbs of each way to run it.
SOME = [("raising", verb) for verb in VERBS]
SOME += [
    (network, verb)
    for network in odd_networks.FACTORIES
    if network not in ("plain", "raising")
    for verb in ("per-layer", "eval", "channels")
]
SOME += [("only_buffers", "gradcam"), ("only_buffers", "embed"), ("only_buffers", "report"),
         ("scripted_inside", "activations"), ("scripted_inside", "walk"), ("deciding", "walk"),
         ("complex_numbers", "modules"), ("mixed", "exact"), ("one_image", "report"),
         ("no_images", "compare"), ("whole_numbers", "gradcam"), ("nothing", "tune"),
         ("quitting", "prune"), ("endless", "activation"), ("empty", "report")]  # fmt: skip


@pytest.fixture
def fsurgeon_here(tmp_path, monkeypatch):
    """Give a function that runs a command in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("FSURGEON_DEBUG", raising=False)
    pixels = np.random.default_rng(0).integers(0, 256, (8, 16, 16, 3), dtype=np.uint8)
    labels = np.arange(8) % odd_networks.CLASSES
    np.savez("d.npz", x_test=pixels, y_test=labels, x_train=pixels, y_train=labels)
    Image.fromarray(pixels[0]).save("i.png")
    return _run_here


def _run_here(*words: object) -> tuple[int, bytes, str]:
    """Run a command; gives its code, what it printed, and its messages."""
    from filtersurgeon.cli import main

    stopping = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    texts, argv = (sys.stdout, sys.stderr), sys.argv
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        sys.argv = ["fsurgeon", *map(str, words)]
        sys.stdout, sys.stderr = (
            io.TextIOWrapper(io.FileIO(os.dup(f.fileno()), "w"), write_through=True)
            for f in (out, err)
        )
        try:
            main()
        except SystemExit as ended:
            code = ended.code
        finally:
            for stream in (sys.stdout, sys.stderr):
                stream.close()
            (sys.stdout, sys.stderr), sys.argv = texts, argv
            for number, handler in stopping:
                signal.signal(number, handler)
            os.environ.pop("FSURGEON_DEBUG", None)
        out.seek(0)
        err.seek(0)
        assert isinstance(code, int)
        return code, out.read(), err.read().decode()


def _write_weights(name: str) -> None:
    """Write weights that the network of this name takes, or those of the plain one."""
    torch.manual_seed(0)
    made = getattr(odd_networks, name)
    usable = name not in ("broken", "quits", "pair", "none", "needs_words", "on_meta")
    state = made().state_dict() if usable else odd_networks.plain().state_dict()
    torch.save(state, "in.pt")


def _check(run, name: str, verb: str) -> None:
    _write_weights(name)
    before = snapshot(Path.cwd())
    code, out, messages = run(*VERBS[verb], "--factory", f"odd_networks:{name}")
    lines = messages.splitlines()
    assert code in (0, 2), messages
    if code == 2:
        assert lines[-1].startswith("error: "), messages
        assert all(line.startswith("note: ") or "shape" in line for line in lines[:-1]), messages
        assert (out, snapshot(Path.cwd())) == (b"", before)
    elif verb in PRINTS_JSON:
        json.loads(out)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("network", "verb"), SOME, ids=["-".join(pair) for pair in SOME])
def test_an_odd_network_gives_a_result_or_one_line(fsurgeon_here, network, verb):
    _check(fsurgeon_here, network, verb)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("network", odd_networks.FACTORIES)
def test_every_odd_network_in_every_verb(fsurgeon_here, network):
    for verb in VERBS:
        _check(fsurgeon_here, network, verb)
        for path in Path.cwd().glob("o.*"):
            path.unlink()


# What the line says

SAID = {
    ("choosing", "per-layer"): "odd_networks.py:{if y.mean}, it looks at the values of a tensor",
    ("wants_key", "eval"): 'in.pt fails on these images (odd_networks.py:{["features"]}, '
    "KeyError: 'features'); --debug shows the traceback",
    ("two_inputs", "eval"): "its forward needs 'mask': name inputs in --input-size",
    ("named_input", "channels"): "its forward needs 'pixel_values' and takes 0 positional "
    "arguments, not 1: name inputs in --input-size",
    ("wordless", "tune"): "(odd_networks.py:{raise NotImpl}, NotImplementedError)",
    ("empty", "modules"): "at none, odd_networks.py:",
    ("only_buffers", "per-layer"): "no channel can be cut",
    ("complex_numbers", "per-layer"): "no layer of the network makes channels that can be followed",
    ("broken", "eval"): "cannot make factory:odd_networks:broken: odd_networks.py:{raise OSError}, "
    "FileNotFoundError: [Errno 2] No such file",
    ("quits", "eval"): "cannot make factory:odd_networks:quits: its code ends the process",
    ("quitting", "eval"): "fsurgeon eval in.pt: the network's own code ended the process; --debug",
    ("greedy", "per-layer"): "out of memory",
    ("pair", "eval"): "made a tuple, no torch module",
    ("needs_words", "eval"): "missing 1 required positional argument: 'width'",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("case", "words"), SAID.items(), ids=["-".join(case) for case in SAID])
def test_the_line_says_what_failed_and_where(fsurgeon_here, case, words):
    code_lines = Path(odd_networks.__file__).read_text().splitlines()
    if "{" in words:
        start, _, rest = words.partition("{")
        wanted, _, end = rest.partition("}")
        numbers = [k for k, line in enumerate(code_lines, 1) if wanted in line]
        words = f"{start}{numbers[0]}{end}"
    _write_weights(case[0])
    code, _, message = fsurgeon_here(*VERBS[case[1]], "--factory", f"odd_networks:{case[0]}")
    assert code == 2
    assert words in message
    assert len(message.splitlines()[-1]) <= 160


@pytest.mark.parametrize("network", ["one_image", "one_image_asked", "scripted_inside", "half",
                                     "bfloat", "double", "no_images", "parallel",
                                     "printing_value", "deciding"])  # fmt: skip
def test_odd_networks_that_can_be_pruned_are(fsurgeon_here, network):
    _write_weights(network)
    words = ("--factory", f"odd_networks:{network}")
    code, _, message = fsurgeon_here(*VERBS["per-layer"], *words)
    assert code == 0, message
    made = getattr(odd_networks, network)()
    size = sum(p.numel() for p in made.parameters())
    with fs.load("o.safetensors", arch=f"factory:odd_networks:{network}") as cut:
        slim = fs.build(cut).double()
        assert 0 < sum(p.numel() for p in slim.parameters()) < size
        assert slim(torch.zeros(1, *odd_networks.SIZE, dtype=torch.float64)).isfinite().all()


def test_prints_of_a_network_stay_out_of_results(fsurgeon_here):
    _write_weights("printing")
    words = ("--factory", "odd_networks:printing")
    code, out, messages = fsurgeon_here("eval", "in.pt", *DATA, *words)
    assert (code, json.loads(out)["n_images"]) == (0, 8)
    assert "shape (8, 3, 16, 16)" in messages
    code, out, messages = fsurgeon_here(*VERBS["per-layer"][:-2], *words)
    Path("piped.safetensors").write_bytes(out)
    assert code == 0
    with fs.load("piped.safetensors") as piped:
        assert piped["a.weight"].shape == (6, 3, 3, 3)


def test_a_torchscript_archive_is_read(fsurgeon_here):
    torch.jit.trace(odd_networks.plain(), torch.zeros(1, *odd_networks.SIZE)).save("in.pt")
    code, out, _ = fsurgeon_here("inspect", "in.pt")
    assert code == 0
    torch.save(torch.jit.load("in.pt").state_dict(), "weights.pt")
    assert (
        json.loads(fsurgeon_here("inspect", "weights.pt")[1])["layers"] == json.loads(out)["layers"]
    )


# Exceptions that nothing foresaw


class _UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


UNFORESEEN = {
    "several lines": (ValueError("one\ntwo"), "ValueError: one; --debug"),
    "in colour": (ValueError("\x1b[96mone\x1b[0m two"), "ValueError: one two; --debug"),
    "long": (KeyError("x" * 999), ", KeyError ...; --debug shows the traceback"),
    "without a text": (StopIteration(), ", StopIteration; --debug"),
    "unspeakable": (_UnspeakableError(), "_UnspeakableError; --debug"),
    "too deep": (RecursionError("maximum recursion depth exceeded"), "RecursionError: maximum"),
    "a class of its own": (type("Odd", (BaseException,), {})("w"), "Odd: w; --debug"),
    "the end of a file": (EOFError("Ran out of input"), "EOFError: Ran out of input; --debug"),
    "the end of the process": (SystemExit(0), "own code ended the process; --debug"),
    "a pipe of a worker": (BrokenPipeError(32, "Broken pipe"), "BrokenPipeError: [Errno 32]"),
    "a file": (OSError(5, "Input/output error", "x.bin"), "cannot use x.bin: Input/output error"),
    "memory": (MemoryError(), "out of memory; "),
    "a worker": (
        RuntimeError("Caught KeyError in DataLoader worker process 0.\nOriginal\nKeyError: 'a'"),
        "KeyError: 'a'; --debug",
    ),
}


@pytest.mark.parametrize("kind", UNFORESEEN)
def test_an_unforeseen_exception_is_one_line(fsurgeon_here, monkeypatch, kind):
    problem, words = UNFORESEEN[kind]

    def fail(*_args: object, **_options: object) -> None:
        raise problem

    _write_weights("plain")
    monkeypatch.setattr("filtersurgeon.inspection.inspect", fail)
    code, out, message = fsurgeon_here("inspect", "in.pt")
    assert (code, out) == (2, b"")
    assert words in message
    assert message.count("\n") == 1
    assert message.startswith(("error: fsurgeon inspect in.pt: ", "error: cannot", "error: out of"))
    assert len(message) <= 161


def test_an_interrupt_from_anywhere_ends_with_130(fsurgeon_here, monkeypatch):
    def fail(*_args: object, **_options: object) -> None:
        raise KeyboardInterrupt

    _write_weights("plain")
    monkeypatch.setattr("filtersurgeon.inspection.inspect", fail)
    assert fsurgeon_here("inspect", "in.pt") == (130, b"", "error: interrupted\n")


def test_an_exception_while_a_checkpoint_is_streamed(fsurgeon_here, monkeypatch):
    def fail(_checkpoint: object, stream: io.BufferedWriter, *_: object, **__: object) -> None:
        stream.write(b"begun")
        raise ZeroDivisionError("while writing")

    _write_weights("plain")
    words = ("replace", "in.pt", "--all-spatial")
    monkeypatch.setattr("filtersurgeon.networks.files.write_stream", fail)
    code, out, message = fsurgeon_here(*words)
    assert (code, out) == (2, b"begun")
    assert message.endswith("ZeroDivisionError: while writing; --debug shows the traceback\n")


def test_debug_adds_the_traceback_and_keeps_the_code(fsurgeon_here):
    _write_weights("wants_key")
    words = ("--factory", "odd_networks:wants_key", "--debug")
    code, _, message = fsurgeon_here("eval", "in.pt", *DATA, *words)
    assert code == 2
    assert "Traceback (most recent call last)" in message
    assert message.splitlines()[-1].startswith("error: in.pt fails on these images")


def test_a_damaged_installation_is_one_line(tmp_path):
    (tmp_path / "typer.py").write_text("raise ImportError('no typer')")
    path = os.pathsep.join([str(tmp_path), str(Path(fs.__file__).parents[1])])
    command = [sys.executable, "-m", "filtersurgeon", "--version"]
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": path}, capture_output=True)
    assert done.returncode == 2
    assert done.stderr == (
        b"error: fsurgeon cannot start (ImportError: no typer); install it again\n"
    )


def test_running_leaves_faults_of_this_package_alone():
    with pytest.raises(AttributeError), running("net"):
        raise AttributeError("of no network")
    with pytest.raises(ArchitectureError, match="net fails on these images"), running("net"):
        odd_networks.wants_key()(torch.zeros(1, *odd_networks.SIZE))


def test_a_reason_fits_the_room_that_it_has():
    with pytest.raises(odd_networks.Raising.TroubleError) as caught:
        odd_networks.raising()(torch.zeros(1, *odd_networks.SIZE))
    assert first_line(caught.value).startswith("first line very")
    for room in (20, 40, 80, 300):
        text = reason(caught.value, room)
        assert len(text) <= room
        assert ("odd_networks.py:" in text) == (room > 40)
    assert shorten("abcdefgh", 8) == "abcdefgh"
    assert shorten("abcdefghi", 8) == "abcd ..."
