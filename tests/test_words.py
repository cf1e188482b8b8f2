"""The prose: phrases that no page, help text or message contains, and short sentences in help."""

import ast
import re
from pathlib import Path

import pytest
import typer.main

import filtersurgeon
from filtersurgeon.cli.application import app

HERE = Path(__file__).parents[1]
PACKAGE = HERE / "filtersurgeon"
TAGLINE = "Surgery on the convolution filters of pretrained image networks"
"""The one place of this word."""
_CODE = re.compile(r"(?<!`)(`+)(?!`).+?(?<!`)\1(?!`)", re.DOTALL)
GENERATED = ("docs/index.md", "docs/commands.md", "docs/man/", "docs/methods")
"""Pages that docs/generate.py writes: what they hold is found at its source."""

RULED_OUT = {
    r"\bprove[sdn]?\b(?! otherwise)": "checks, checked",
    r"\bhang(s|ing)? on\b": "dependent layers",
    r"\bheld still\b|\bhold still\b|\bstays? still\b": "frozen",
    r"\b(do|does) as well\b": "is also accepted",
    r"\bpeople read\b|\bprograms (read|standard)\b": "to stderr, to stdout",
    r"\bby heart\b": "memorise",
    r"\btoy that\b": "toy data set",
    r"\bsay it once\b|\b(is|are) told\b(?! apart)": "store it, described",
    r"\bcomes? along\b|\bcame along\b": "stored in the input",
    r"\bis not for a terminal\b": "refusing to write binary data to the terminal",
    r"\bkernels alike\b": "uniform kernel weights",
    r"\bappear whole\b|\bwhole or not\b": "writes are atomic",
    r"\bhonest(ly)?\b|\bwhere things come from\b": "records how it was made",
    r"\b(is|are|was|were|be) felt\b": "cannot be folded exactly",
    r"\blaid out a\b|\blay out a data\b": "plot the embeddings",
    r"\b(but for )?one number each\b": "one trainable scalar each",
    r"\brectifiers? below zero\b": "leaky-ReLU gradient",
    r"\banswers? most\b": "highest activation",
    r"\bsurgery\b|(?<!brain )\bsurgeon\b": "edit, prune",
    r"\b(is|are|was|were|be|been) gone\b|\bgone from\b|\bthings gone\b": "removed",
    r"\bcut away\b|\bcut out\b": "removed",
    r"\bslim(mer|med|ming|s)?\b": "pruned",
    r"\b(wide|narrow|narrower) (one|checkpoint|network)('s)?\b": "original, pruned",
    r"\bneither in\b": "no inversions",
    r"\b(rooms|doors?|houses?|players?)\b": "no metaphors",
    r"\blearns alone\b|\balone learns\b": "trainable",
    r"\b(is|are|was|were) right (on|with|before|after)\b|\bright before\b": "accuracy",
    r"\bErrno\b": "no such file",
    r"\bsay how much\b|\bbrings? back\b": "recover",
    r"\b(other|two|three) numbers\b|\bby numbers\b|\bnumbers stand\b": "parameters, values",
    r"\bwhatever is drawn\b|\bseed of what\b": "random seed",
    r"\bname (them|one|some|INPUT) with\b|\bgoes? with neither\b|\bone of both\b": "pass",
    r"\bnothing to make up for:|\btells? nothing of\b|\bhanding on\b": "plain words",
    r"\bwhat becomes of\b|\bthe word shuffled\b": "plain words",
}


def _sentences(text):
    """Split prose at the ends of its sentences, and before defaults and ranges in brackets."""
    return [each for each in re.split(r"(?<=[.!?])\s+|\s+(?=\[)", text) if each]


def _markdown(path):
    """Read the prose of a page: without code blocks, inline code and addresses."""
    text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.DOTALL | re.MULTILINE)
    text = _CODE.sub("code", text)
    return re.sub(r"\]\([^)]*\)", "]", text)


def _pages():
    pages = [HERE / "README.md", HERE / "CONTRIBUTING.md", *sorted((HERE / "docs").rglob("*.md"))]
    for path in pages:
        name = path.relative_to(HERE).as_posix()
        if not name.startswith(GENERATED):
            yield name, _markdown(path)


def _written(node):
    """Join the parts of a string; the values of an f-string become {}."""
    if isinstance(node, ast.JoinedStr):
        return "".join(_written(part) for part in node.values)
    return str(node.value) if isinstance(node, ast.Constant) else "{}"


def _strings():
    """Read every string of the package with a blank in it: messages, help, docstrings."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text("utf-8"))
        inner = {
            part
            for node in ast.walk(tree)
            if isinstance(node, ast.JoinedStr)
            for part in ast.walk(node)
            if part is not node
        }
        for node in ast.walk(tree):
            text = isinstance(node, ast.Constant) and isinstance(node.value, str)
            if node not in inner and (text or isinstance(node, ast.JoinedStr)):
                words = re.sub(r"^ *(>>>|\.\.\.).*$", "", _written(node), flags=re.MULTILINE)
                if " " in words:
                    yield f"{path.relative_to(HERE)}:{node.lineno}", _CODE.sub("code", words)


def _unwrapped(text):
    return re.sub(TAGLINE, "", re.sub(r"\s+", " ", text), count=1, flags=re.IGNORECASE)


def _errors():
    """Read the literal texts of exceptions that are raised; values count as one character."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
                text = node.exc.args[0]
                if isinstance(text, ast.Constant | ast.JoinedStr):
                    yield (
                        f"{path.relative_to(HERE)}:{node.lineno}",
                        _written(text).replace("{}", "_"),
                    )


def _found(texts):
    """Count what the phrases match: "where: phrase (write: that)"."""
    return [
        f"{where}: {match[0]!r} (write: {instead})"
        for where, text in texts
        for pattern, instead in RULED_OUT.items()
        for match in re.finditer(pattern, _unwrapped(text), re.IGNORECASE)
    ]


def _commands(command, path):
    yield path, command
    for name, inner in getattr(command, "commands", {}).items():
        yield from _commands(inner, f"{path} {name}")


def _help():
    """Read every paragraph of every ``--help``."""
    for path, command in _commands(typer.main.get_command(app), "fsurgeon"):
        for paragraph in re.split(r"\n\s*\n", command.help or ""):
            if not paragraph.lstrip().startswith("\b"):
                yield path, paragraph
        for option in command.params:
            yield f"{path} {option.opts[-1]}", getattr(option, "help", None) or ""


def test_pages_have_no_phrase_that_is_ruled_out():
    found = _found(_pages())
    assert not found, f"{len(found)} phrases:\n" + "\n".join(found)


def test_help_messages_and_docstrings_have_no_phrase_that_is_ruled_out():
    found = _found(_strings())
    assert not found, f"{len(found)} phrases:\n" + "\n".join(found)


def test_errors_fit_a_line():
    long = [f"{where}: {text}" for where, text in _errors() if len(text) >= 160]
    assert not long, "\n".join(long)


def test_the_rules_find_what_they_rule_out():
    assert _found([("x", "A checkpoint is proven\nand held  still.")]) == [
        "x: 'proven' (write: checks, checked)",
        "x: 'held still' (write: frozen)",
    ]
    assert not _found([("x", f"{TAGLINE}: prune networks")])
    assert len(_sentences("One two. Three four [default: 0.5]")) == 3


def test_sentences_of_help_are_short():
    long = [
        f"{where}: {len(sentence.split())} words: {sentence}"
        for where, text in _help()
        for sentence in _sentences(re.sub(r"\s+", " ", text.strip()))
        if len(sentence.split()) >= 25
    ]
    assert not long, "\n".join(long)


@pytest.mark.parametrize("name", filtersurgeon.__all__)
def test_summaries_of_public_names_are_short(name):
    summary = (getattr(filtersurgeon, name).__doc__ or "").split("\n\n")[0]
    assert len(summary.split()) < 25, summary


def test_the_first_page_is_short():
    """People who come for the first time read one screen; the rest is behind links."""
    assert len((HERE / "README.md").read_text("utf-8").splitlines()) <= 150
