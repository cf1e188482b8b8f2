"""Wrong command lines end in one plain line: no text of a library, no second error in a pipe."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import filtersurgeon as fs
from filtersurgeon.cli import failures
from filtersurgeon.cli.application import app
from filtersurgeon.data.labels import listed_rows
from filtersurgeon.data.preprocess import read_preprocessing
from filtersurgeon.filters import select_layers
from filtersurgeon.networks.failing import reason
from filtersurgeon.networks.hub import _why

Refuse = Callable[..., str]


@pytest.fixture
def told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], model: Path
) -> Refuse:
    """Run a command that must fail in this process; give its line without ``error: ``."""
    monkeypatch.chdir(model.parent)
    Path("mynet.py").write_text("import nosuchpackage\n")
    Path("other.py").write_text("def make():\n    return 3\n")
    Path("bytes.yaml").write_bytes(b"\xff\xfe\x00")

    def call(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["fsurgeon", *words])
        assert failures._run(app) == 2
        shown = capsys.readouterr()
        assert shown.out == ""
        lines = shown.err.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("error: ")
        assert len(lines[0]) <= 160
        return lines[0].removeprefix("error: ")

    return call


PRUNE = ("prune", "m.safetensors", "-o", "x.safetensors", "--per-layer", "--sparsity", ".3")


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((*PRUNE, "--factory", "nosuch"), "factory nosuch should read MODULE:FUNCTION"),
        ((*PRUNE, "--factory", "nosuch:f"), "factory nosuch:f: no module nosuch in the working"),
        ((*PRUNE, "--factory", "mynet:f"), "factory mynet:f: no module nosuchpackage in"),
        (
            (*PRUNE, "--factory", "other:maek"),
            "factory other:maek: other has no maek; did you mean",
        ),
        (("apply", "none.yaml", "m.safetensors"), "recipe none.yaml: no such file or directory"),
        (("apply", "bytes.yaml", "m.safetensors"), "recipe bytes.yaml is not a text file"),
        (("rank", "m.safetensors", "-m", "L2"), "no ranking method called 'L2'; did you mean l2?"),
        (("inspect", "timm:"), "timm: names no network; write timm:NAME"),
        (
            ("bank",),
            "no command; pass one of list, show, compare, learn, sample, search, atlas",
        ),
        (
            ("tune", "m.safetensors", "--data", "x", "-p", "momentum=abc", "-o", "t.safetensors"),
            "-p momentum=abc should be a value such as 0.9",
        ),
        (
            ("prune", "m.safetensors", "--sparsity", ".3", "--method", "archetype", "-o", "x/"),
            "archetype ranks filters, not kernels; add --per-layer",
        ),
        (("silence", "m.safetensors", "--worst", "x%", "-o", "x/"), "x% should be a share such as"),
        (
            ("silence", "m.safetensors", "--worst", "20", "-o", "x/"),
            "--worst 20.0 should be a share from 0 to 1; did you mean 0.2?",
        ),
        (("silence", "m.safetensors", "-o", "x/"), "exactly one of --worst, --best and --near"),
        (
            ("prune", "m.safetensors", "--sparsity", "30", "-o", "x/"),
            "--sparsity 30 should be at least 0 and below 1; did you mean 0.3?",
        ),
        (
            (*PRUNE, "--factory", "nets/other.py:make"),
            "should name a module, not a file; did you mean nets.other:make?",
        ),
        (("inspect", "resnet50"), "resnet50: no such file or directory; for a network of timm"),
        (("inspect", "timm/resnet50.a1"), "file or directory; did you mean timm:resnet50.a1?"),
        (("inspect", "https://x.org/m.pt"), "no such file or directory; download it first"),
        (
            ("tune", "m.safetensors", "--data", "x", "-p", "zz=1", "-o", "t.safetensors"),
            "-p zz: no such parameter of training; fsurgeon tune --help lists them under -p",
        ),
    ],
)
def test_a_wrong_line_is_described(told: Refuse, words: tuple[str, ...], expected: str) -> None:
    message = told(*words)
    assert expected in message
    assert "Errno" not in message
    assert "codec" not in message


def test_a_name_that_no_layer_is_like_leads_to_the_list() -> None:
    layers = [SimpleNamespace(name=f"blocks.{k}", tensor=f"blocks.{k}.weight") for k in range(20)]
    with pytest.raises(fs.FilterSurgeonError) as caught:
        select_layers(layers, ["xyz"])
    assert str(caught.value) == "no convolution matches 'xyz'; fsurgeon inspect lists the layers"


def test_values_of_bytes_are_no_means() -> None:
    with pytest.raises(fs.FilterSurgeonError, match=r"mean \[123, 117, 104\] is of pixels"):
        read_preprocessing({}, mean=[123, 117, 104])


@pytest.mark.parametrize("ending", ["csv", "json"])
def test_a_label_file_that_is_no_text_is_described(ending: str, tmp_path: Path) -> None:
    (tmp_path / f"l.{ending}").write_bytes(b"0/\xff.png,1\n")
    with pytest.raises(fs.FilterSurgeonError, match=r"labels \(it is not a text in UTF-8\)"):
        listed_rows(tmp_path / f"l.{ending}")


@pytest.mark.parametrize(
    ("layer", "image", "expected"),
    [
        (nn.Conv2d(3, 4, 3), (1, 1, 9, 9), "it takes 3 channels, not 1"),
        (nn.Conv2d(3, 4, 3), (9,), "it takes inputs with channels, height and width"),
        (nn.Conv1d(3, 4, 3), (2, 3, 9, 9), "it takes inputs with channels and length"),
        (nn.Linear(8, 2), (1, 9), "it takes 8 features, not 9"),
    ],
)
def test_what_a_layer_takes_is_said_without_the_words_of_torch(
    layer: nn.Module, image: tuple[int, ...], expected: str
) -> None:
    with pytest.raises(RuntimeError) as caught:
        layer(torch.zeros(image))
    assert reason(caught.value, 90).endswith(expected)


def test_an_absent_device_is_named_without_the_words_of_torch(monkeypatch) -> None:

    from filtersurgeon.networks.devices import find_device

    def refuse(*_words: object, **_options: object) -> None:
        raise AssertionError("Torch not compiled with CUDA enabled")

    monkeypatch.setattr(torch, "empty", refuse)
    with pytest.raises(fs.FilterSurgeonError) as caught:
        find_device("cuda")
    assert "Torch not compiled" not in str(caught.value)
    assert "'cuda' is not available on this machine" in str(caught.value)


def _named(name: str, base: type[Exception] = Exception) -> Exception:
    return type(name, (base,), {})("An error happened while trying to locate the file on the Hub")


def test_why_a_download_failed() -> None:
    absent = _named("RepositoryNotFoundError", type(_named("HfHubHTTPError")))
    assert _why(absent).startswith("the hub has no such network")
    assert "hf auth login" in _why(_named("GatedRepoError", type(absent)))
    outer = RuntimeError("failed")
    outer.__cause__ = _named("LocalEntryNotFoundError")
    for error in (outer, ConnectionError("x"), TimeoutError("x"), _named("URLError")):
        assert _why(error) == "no network connection, and no copy in the cache; give a local file"
    assert "ValueError: odd; give a local file" in _why(ValueError("odd"))


def test_a_pipe_that_ends_adds_a_note_not_an_error(fsurgeon, model: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = fsurgeon("replace", model, stdout=writer, capture_output=False, stderr=-1)
    os.close(writer)
    assert done.returncode == 2
    assert done.stderr == b"note: the command after the pipe ended before all was written\n"
    done = fsurgeon("inspect", input=b"")
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.startswith(b"note: standard input is empty: the command before the pipe")
