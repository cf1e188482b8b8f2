"""README and docs: their commands run and print what is shown, their links and formulas hold."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer.main
from console import blocks, commands, differences, run_page
from workshop import network, prepare

import filtersurgeon
from filtersurgeon.cli.application import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
GENERATED = {"index.md", "commands.md", "methods.md", "schemas.md"}
PAGES = [
    ROOT / "README.md",
    *sorted(page for page in DOCS.glob("*.md") if page.name not in GENERATED),
    *sorted(DOCS.glob("tasks/*.md")),
]
# Those whose commands are over in seconds; the others run among the slow tests.
QUICK = {"notebook.md", "plain-timm.md", "streaming.md"}
SHARED = ROOT.parent / "shared" / "data"


def _ids(pages):
    return [page.name for page in pages]


def _pieces(text):
    """Cut a command line at its pipes and semicolons; give the words of each part."""
    lexer = shlex.shlex(text.replace("\\\n", " "), posix=True, punctuation_chars="|;&<>")
    lexer.whitespace_split = True
    words = []
    for word in lexer:
        if set(word) <= set("|;&"):
            yield words
            words = []
        else:
            words.append(word)
    yield words


def _fsurgeon_calls(page):
    """Give the words after ``fsurgeon`` of every command that a page shows, in any block."""
    for language, content, first in blocks(page.read_text("utf-8"), "console", "sh", "text"):
        text = content if "$ " in content else ""
        if language == "sh" and not text:
            joined = content.replace("\\\n", " ").replace("|\n", "| ")
            text = "\n".join(f"$ {line}" for line in joined.splitlines() if line.strip())
        for command in commands(text, first):
            for words in _pieces(command.text):
                if "fsurgeon" in words[:1]:
                    yield command.line, _arguments(words[1:])


def _arguments(words):
    """Leave out redirections, ellipses, and variables of the shell."""
    kept, skip = [], False
    for word in words:
        if skip or set(word) <= set("<>"):
            skip = not skip
        elif word != "..." and not word.startswith("$"):
            kept.append(word)
    return kept


@pytest.mark.parametrize("page", PAGES, ids=_ids(PAGES))
def test_every_command_is_one(page):
    """Verbs and options exist, and their values are of the right type."""
    application = typer.main.get_command(app)
    parent = application.make_context("fsurgeon", [], resilient_parsing=True)
    for line, words in _fsurgeon_calls(page):
        if words[0] in ("--help", "--version", "--install-completion"):
            continue
        verb = application.commands.get(words[0])
        assert verb, f"{page.name}:{line}: no command called {words[0]}"
        rest = words[1:]
        if hasattr(verb, "commands"):
            verb, rest = verb.commands[rest[0]], rest[1:]
        if "--help" in rest:
            continue
        try:
            verb.make_context(words[0], rest, parent=parent)
        except Exception as error:
            pytest.fail(f"{page.name}:{line}: {' '.join(words)}: {error}")


def _named(page):
    return pytest.param(page, marks=() if page.name in QUICK else pytest.mark.slow, id=page.name)


@pytest.fixture(scope="module")
def workshop(tmp_path_factory):
    """Give a folder with what most pages name."""
    folder = tmp_path_factory.mktemp("workshop")
    prepare(folder)
    try:
        network(folder)
    except LookupError as error:
        pytest.skip(str(error))
    script = folder / "bin" / "fsurgeon"
    script.parent.mkdir()
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -W ignore -m filtersurgeon "$@"\n')
    script.chmod(0o755)
    return folder


def _equip(name, folder):
    """Add the files that only one page names."""
    if name not in NEEDS:
        return
    if NEEDS[name] not in OWN and not SHARED.is_dir():
        pytest.skip("needs the real weights in ../shared/data")
    NEEDS[name](folder)


def _tutorial(folder):
    from safetensors.torch import load_file

    weights = load_file(SHARED / "weights" / "cifar10_resnet56.safetensors")
    state = {f"module.{name}": tensor for name, tensor in weights.items()}
    torch.save({"state_dict": state}, folder / "resnet56.pt")  # as it is published
    shutil.copy(ROOT / "examples" / "zoo" / "networks.py", folder)
    (folder / "test.npz").symlink_to(SHARED / "cifar10" / "test.npz")
    (folder / "train.npz").symlink_to(SHARED / "cifar10" / "train_10k.npz")


def _weights(folder):
    """Link the shared weights by the names that pages use."""
    for path in (SHARED / "weights").glob("*.safetensors"):
        (folder / path.name).symlink_to(path)
        (folder / path.name.removeprefix("cifar10_")).unlink(missing_ok=True)
        (folder / path.name.removeprefix("cifar10_")).symlink_to(path)


def _zoo(folder):
    for path in (ROOT / "examples" / "zoo").glob("*.safetensors"):
        shutil.copy(path, folder)


def _medical(folder):
    shutil.copy(ROOT / "examples" / "medical.py", folder)


def _digits(folder):
    sys.path.insert(0, str(ROOT))
    from examples.zoo.train import write_digits

    _zoo(folder)
    write_digits(folder / "digits.npz")


def _pruned(folder):
    checkpoint = filtersurgeon.load(folder / "m.safetensors")
    pruned = filtersurgeon.prune(checkpoint, per_layer=True, sparsity=0.3)
    filtersurgeon.save(pruned, folder / "pruned.safetensors")
    filtersurgeon.save(pruned, f"{folder}/pruned/")


NEEDS = {
    "banks.md": _weights,
    "checkpoints.md": _pruned,
    "explain.md": _weights,
    "medical.md": _medical,
    "many-checkpoints.md": _zoo,
    "redundant-filters.md": _digits,
    "reproduce.md": _digits,
    "see.md": _zoo,
    "tutorial.md": _tutorial,
}
OWN = (_zoo, _digits, _pruned, _medical)  # which need nothing from elsewhere


@pytest.mark.parametrize("page", [_named(page) for page in PAGES])
def test_a_page_does_what_it_says(page, workshop, tmp_path, monkeypatch):
    if not list(blocks(page.read_text("utf-8"), "console", "python")):
        pytest.skip("no commands to run")
    folder = tmp_path / "page"
    shutil.copytree(workshop, folder, symlinks=True)
    _equip(page.name, folder)
    # The interpreter of the tests, by the name that pages use.
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin")
    found = run_page(page, folder)
    assert not found, "\n\n".join(found)


def test_the_readme_prunes_a_plain_weight_file(workshop, tmp_path, monkeypatch):
    """Its lines on pruning run as printed on tensors that say nothing about their network."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "page"
    shutil.copytree(workshop, folder, symlinks=True)
    plain = {k: v.clone() for k, v in load_file(folder / "m.safetensors").items()}
    save_file(plain, folder / "m.safetensors")
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{Path(sys.executable).parent}:/usr/bin:/bin")
    readme = (ROOT / "README.md").read_text("utf-8")
    lines = [
        command.text
        for _, content, first in blocks(readme, "console")
        for command in commands(content, first)
        if "fsurgeon prune" in command.text and "--compensate" not in command.text
    ]
    assert len(lines) >= 2
    for line in lines:
        done = subprocess.run(["bash", "-o", "pipefail", "-c", line], cwd=folder, check=False)
        assert done.returncode == 0, line
    with filtersurgeon.load(folder / "small.safetensors") as small:
        assert small.architecture == "timm:tf_efficientnet_lite0"


def test_shown_lines_are_compared():
    shown = ["loss      0.3458", "", "93.39 %  (9,339 of 10,000)", "proven to 7e-16", "..."]
    good = "loss   0.3457\n93.35 %  (9,335 of 10,000)\nproven to 1e-15\nmore\nand more\n"
    assert differences(shown, good) == []
    assert differences(shown, good.replace("0.3457", "0.3658"))
    assert differences(shown, good.replace("9,335", "8,335"))
    assert differences(["epoch 2: loss 0.2586"], "epoch 2: loss 0.2550") == []
    assert differences(["epoch 2: loss 0.2586"], "epoch 2: loss 0.2300")
    assert differences(shown, good.replace("proven", "shown"))
    assert differences(shown[:-1], good)
    assert differences(["a 12 b"], "a 13 b")
    assert differences(["only this"], "")
    assert differences(["...", "last 3"], "first\nlast 3") == []
    assert differences(["...", "last 3"], "first\nlast 4")
    assert differences(["speed    225.2 images per second"], "speed 9.1 images per second") == []


def test_commands_are_read():
    block = "$ one \\\n    --two |\n    three\nshown\n$ four 'a\nb'\n"
    found = commands(block, 10)
    assert [command.text for command in found] == ["one \\\n    --two |\n    three", "four 'a\nb'"]
    assert [command.shown for command in found] == [("shown",), ()]
    assert [command.line for command in found] == [10, 14]


def test_a_page_that_lies_is_found_out(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```console\n$ echo 1\n2\n$ sh -c 'exit 3'\n```\n\n```python\n1 / 0\n```\n")
    lie, *failures = run_page(page, tmp_path)
    assert "- 2\n+ 1" in lie
    assert "ends with 3" in failures[0]
    assert "ZeroDivisionError" in failures[1]


@pytest.mark.parametrize("page", PAGES, ids=_ids(PAGES))
def test_pictures_exist_and_say_what_they_show(page):
    for text, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", page.read_text("utf-8")):
        assert text
        assert (page.parent / target).is_file(), target


def test_the_first_page_leads_to_every_task():
    """One click from the first page, and a place in the site's navigation."""
    first, navigation = ((ROOT / name).read_text("utf-8") for name in ("README.md", "mkdocs.yml"))
    pages = sorted(DOCS.glob("tasks/*.md"))
    assert len(pages) == 10
    for page in pages:
        assert f"](docs/tasks/{page.name})" in first
        assert f": tasks/{page.name}\n" in navigation


def test_every_picture_is_used():
    text = "".join(page.read_text("utf-8") for page in [*PAGES, ROOT / "mkdocs.yml"])
    for picture in (DOCS / "pictures").iterdir():
        assert picture.name in text, picture.name


@pytest.mark.parametrize("path", sorted(DOCS.glob("formulas/*/*.md")), ids=lambda p: p.stem)
def test_formulas_are_of_a_method_and_can_be_drawn(path):
    """The font of the site has every character that a formula needs."""
    from fontTools.ttLib import TTFont
    from latex2mathml.converter import convert

    assert (DOCS / "methods" / path.relative_to(DOCS / "formulas")).is_file()
    known = TTFont(DOCS / "fonts" / "formulas.woff").getBestCmap()
    formulas = re.findall(r"\$\$(.+?)\$\$|(?<!\$)\$([^$]+)\$(?!\$)", path.read_text(), re.DOTALL)
    assert formulas
    for pair in formulas:
        drawn = re.sub(r"<[^>]+>", "", convert("".join(pair).strip()))
        drawn = re.sub(r"&#x(\w+);", lambda match: chr(int(match[1], 16)), drawn)
        missing = {c for c in drawn if not c.isspace() and ord(c) not in known and c not in "&lgt;"}
        assert not missing, missing
        assert "\\" not in drawn


def test_generated_pages_are_up_to_date():
    subprocess.run([sys.executable, DOCS / "generate.py", "--check"], check=True)
