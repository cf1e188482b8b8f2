"""Pipes, terminals, signals and full disks: what a shell does to a command."""

import json
import os
import pty
import resource
import signal
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from workshop import PATIENCE

DEVNULL = subprocess.DEVNULL


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    """Run every test in its own folder."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def large(tmp_path):
    """A checkpoint of 40 MB, more than any pipe holds."""
    weights = np.random.default_rng(0).standard_normal((200_000, 1, 7, 7)).astype(np.float32)
    path = tmp_path / "large.safetensors"
    save_file({"dw.weight": weights, "other.weight": np.ones((200_000, 1), np.float32)}, path)
    return path


def _one_line(stderr: bytes) -> str:
    message = stderr.decode()
    assert message.startswith("error: "), message
    assert message.count("\n") == 1, message
    return message


# Pipes


def test_file_redirect_and_pipe_give_the_same_bytes(model, fsurgeon):
    assert fsurgeon("replace", model, "-o", "out.safetensors").returncode == 0
    expected = Path("out.safetensors").read_bytes()
    assert fsurgeon("replace", model).stdout == expected
    assert fsurgeon("replace", "-", input=model.read_bytes()).stdout == expected
    with model.open("rb") as stdin:
        assert fsurgeon("replace", stdin=stdin).stdout == expected


def test_a_redirect_that_was_read_from_before(model, command):
    """The shell may hand over a file that stands behind its beginning."""
    content = b"garbage!" + model.read_bytes()
    Path("shifted").write_bytes(content)
    script = f"{{ head -c 8 >/dev/null; {' '.join(command)} inspect --json; }} < shifted"
    # `head` reads ahead by more than it gives, but puts the position back on a regular file.
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(json.loads(done.stdout)["layers"]) == 5


def test_a_named_pipe_as_input(model, fsurgeon):
    os.mkfifo("fifo")
    with subprocess.Popen(["cp", str(model), "fifo"]):
        assert fsurgeon("replace", "fifo").stdout == fsurgeon("replace", model).stdout


def test_the_pipeline_of_the_readme(model, command):
    words = " ".join(command)
    script = f"cat m.safetensors | {words} replace --bank dog8 | {words} inspect - --json"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", script], capture_output=True, check=True)
    history = json.loads(done.stdout)["history"]
    assert [entry["verb"] for entry in history] == ["replace"]
    assert model.exists()


def test_a_reader_that_leaves_early(large, command):
    script = f"{' '.join(command)} replace {large} | head -c 10 | wc -c; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    assert done.stdout.split() == [b"10", b"2"]
    assert done.stderr.startswith(b"note: the command after the pipe ended")


@pytest.mark.parametrize(
    "words", [["replace"], ["inspect"], ["rank", "-m", "l2"], ["bank", "list"]]
)
def test_a_reader_that_is_gone_from_the_start(model, fsurgeon, words):
    reader, writer = os.pipe()
    os.close(reader)
    source = [] if words[0] == "bank" else [model]
    done = fsurgeon(*words, *source, capture_output=False, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert done.returncode == 2
    assert done.stderr == b"note: the command after the pipe ended before all was written\n"


def test_a_writer_upstream_that_fails(model, command):
    words = " ".join(command)
    script = f"{words} replace absent.safetensors | {words} inspect; echo ${{PIPESTATUS[*]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    assert done.stdout == b"2 2\n"
    assert sorted(line.split(":")[:2] for line in done.stderr.decode().splitlines()) == [
        ["error", " absent.safetensors"],
        ["note", " standard input is empty"],
    ]
    assert model.exists()


def test_a_pipe_is_drained_so_that_its_writer_ends_in_peace(large, command):
    script = f"cat {large} | {' '.join(command)} inspect --json; echo ${{PIPESTATUS[*]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=True)
    assert done.stdout.endswith(b"0 0\n")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_closed_standard_streams_give_no_traceback(model, command, closed):
    words = " ".join(command)
    script = f"{words} replace m.safetensors -o out.safetensors {closed}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert load_file("out.safetensors").keys() == load_file(model).keys()
    script = f"{words} {'inspect' if closed == '<&-' else 'inspect m.safetensors'} {closed}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, check=False)
    assert b"Traceback" not in done.stderr
    assert done.returncode == (0 if closed == "2>&-" else 2)


def test_remarks_never_end_up_in_the_data(model, command):
    expected = subprocess.run([*command, "replace", model], capture_output=True, check=True).stdout
    script = f"{' '.join(command)} replace m.safetensors 2>&-"
    assert subprocess.run(["bash", "-c", script], stdout=-1, check=False).stdout == expected


# Terminals


def _on_terminal(words: list[str], *, stdin: bool = False) -> tuple[int, bytes, bytes]:
    """Run a command with standard output (and input) on a terminal; gives code, output, error."""
    master, slave = pty.openpty()
    with subprocess.Popen(
        words, stdin=slave if stdin else DEVNULL, stdout=slave, stderr=subprocess.PIPE
    ) as process:
        os.close(slave)
        shown = b""
        try:
            while chunk := os.read(master, 4096):
                shown += chunk
        except OSError:  # how Linux reports that nobody holds the other end
            pass
        error = process.stderr.read()
    os.close(master)
    return process.returncode, shown, error


@pytest.mark.parametrize("words", [["replace"], ["rank", "-m", "l2", "--annotate"]])
def test_binary_is_not_for_a_terminal(model, command, words):
    code, shown, error = _on_terminal([*command, *words, str(model)])
    assert (code, shown) == (2, b"")
    assert "-o FILE.safetensors" in _one_line(error)


def test_no_input_on_a_terminal(command):
    code, shown, error = _on_terminal([*command, "inspect"], stdin=True)
    assert (code, shown) == (2, b"")
    assert "no INPUT" in _one_line(error)


@pytest.mark.parametrize("words", [["inspect"], ["rank", "-m", "l2"], ["replace", "--dry-run"]])
def test_results_are_tables_on_a_terminal_and_json_elsewhere(model, command, words):
    code, shown, error = _on_terminal([*command, *words, str(model)])
    assert (code, error) == (0, b"")
    assert b"blocks.10.dw" in shown
    assert not shown.lstrip().startswith(b"{")
    code, shown, _ = _on_terminal([*command, *words, str(model), "--json"])
    assert "layers" in json.loads(shown)
    done = subprocess.run([*command, *words, str(model)], capture_output=True, check=True)
    assert json.loads(done.stdout) == json.loads(shown)


# Signals


@contextmanager
def _writing(command, large, *words):
    """Start a command whose output pipe nobody empties, so that it hangs in the middle."""
    process = subprocess.Popen(
        [*command, "replace", large, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert process.stdout.read(8)  # it has begun to write
    yield process
    process.stdout.close()
    process.stderr.close()
    process.wait()


@pytest.mark.parametrize(
    ("sent", "code", "word"),
    [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")],
)
def test_a_signal_while_writing_to_a_pipe(large, command, sent, code, word):
    with _writing(command, large) as process:
        process.send_signal(sent)
        assert process.wait(PATIENCE) == code
        assert word in _one_line(process.stderr.read())


@pytest.fixture
def slow_input(large):
    """Start a command that waits for the rest of its input, in the middle of its output."""
    running = []

    def start(command, *words):
        process = subprocess.Popen(
            [*command, "replace", "-", *words],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        running.append(process)
        content = large.read_bytes()
        process.stdin.write(content[: len(content) // 2])
        process.stdin.flush()
        time.sleep(0.3)
        assert process.poll() is None
        return process

    yield start
    for process in running:
        process.kill()
        process.stdout.close()
        process.stderr.close()
        # Closing flushes what the dead will never read.
        os.close(os.dup(process.stdin.fileno()))
        process.stdin.detach() if hasattr(process.stdin, "detach") else None
        process.wait()


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)]
)
@pytest.mark.parametrize("existing", [False, True])
def test_a_signal_leaves_no_output_and_an_existing_one_alone(
    slow_input, command, sent, code, existing
):
    if existing:
        Path("out.safetensors").write_text("precious")
    process = slow_input(command, "-o", "out.safetensors", "--force")
    process.send_signal(sent)
    assert process.wait(PATIENCE) == code
    if code > 0:
        _one_line(process.stderr.read())
    expected = ["large.safetensors", *(["out.safetensors"] if existing else [])]
    assert sorted(os.listdir()) == expected
    if existing:
        assert Path("out.safetensors").read_text() == "precious"


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_leaves_no_new_folder(slow_input, command, sent, code):
    process = slow_input(command, "--arch", "lcnet_050", "-o", "net/")
    process.send_signal(sent)
    assert process.wait(PATIENCE) == code
    assert os.listdir() == ["large.safetensors"]


def test_a_failure_in_the_middle_leaves_nothing(fsurgeon):
    """The layer that cannot be replaced comes last, when most of the file is written."""
    weights = np.random.default_rng(0).standard_normal((50_000, 1, 7, 7)).astype(np.float32)
    save_file({"a.weight": weights, "b.weight": np.full_like(weights, np.nan)}, "m.safetensors")
    for output in ("out.safetensors", "net/"):
        done = fsurgeon("replace", "m.safetensors", "--arch", "lcnet_050", "-o", output)
        assert done.returncode == 2
        assert "layer b" in _one_line(done.stderr)
        assert os.listdir() == ["m.safetensors"]


# Full disks


@pytest.fixture
def small_disk(tmp_path):
    """A disk of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
    if subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small disk needs more rights")
    yield folder
    subprocess.run(["umount", folder], check=True)


def test_a_full_disk(large, small_disk, fsurgeon):
    for output in ("out.safetensors", "net/"):
        done = fsurgeon("replace", large, "--arch", "lcnet_050", "-o", f"{small_disk}/{output}")
        assert done.returncode == 2
        assert "No space left" in _one_line(done.stderr)
        assert os.listdir(small_disk) == []


def test_a_disk_that_the_pipe_cannot_be_kept_on(large, small_disk, fsurgeon, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(small_disk))
    with large.open("rb") as file:
        done = fsurgeon("replace", "-o", "out.safetensors", input=file.read())
    assert done.returncode == 2
    assert "TMPDIR" in _one_line(done.stderr)
    assert os.listdir(small_disk) == []
    assert not Path("out.safetensors").exists()


def test_a_limit_on_the_size_of_files(large, fsurgeon):
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    done = fsurgeon("replace", large, "-o", "out.safetensors", preexec_fn=limit)
    assert done.returncode == 2
    assert "cannot write out.safetensors" in _one_line(done.stderr)
    assert os.listdir() == ["large.safetensors"]


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
@pytest.mark.parametrize(
    "words", [["replace"], ["inspect"], ["rank", "-m", "l2"], ["replace", "--dry-run"]]
)
def test_a_full_disk_behind_standard_output(model, fsurgeon, words):
    with open("/dev/full", "wb") as full:
        done = fsurgeon(*words, model, capture_output=False, stdout=full, stderr=subprocess.PIPE)
    assert done.returncode == 2
    assert "No space left" in _one_line(done.stderr)
