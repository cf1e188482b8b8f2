"""The Python API and the command line are twins."""

import ast
import inspect
import json
import typing
from importlib import import_module
from pathlib import Path

import pytest
import typer.main

import filtersurgeon as fs
from filtersurgeon.cli.application import app
from filtersurgeon.networks.structure.replay import EDITS
from filtersurgeon.registry import BANKS, RANKING_METHODS, TRANSFORMS, Registry

TWINS = {
    "archetypes": "find_archetypes", "bank": "load_bank", "doctor": "diagnose", "eval": "evaluate",
    "report": "write_report",
}  # fmt: skip
VERBS = sorted(typer.main.get_command(app).commands)
PUBLIC = sorted(set(fs.__all__) - {"__version__"})
MADE_BY_USERS = [name for name in PUBLIC if name.endswith("Settings")] + [
    "DataSpec", "ImageRun", "Lab", "SearchData", "TrainingImages", "TrainingRecipe", "TrainingStart"
]  # fmt: skip


def test_the_verbs_of_the_issue_exist():
    assert {"inspect", "rank", "replace", "bank", "apply", "doctor"} <= set(VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_python_twin(verb):
    assert callable(getattr(fs, TWINS.get(verb, verb.replace("-", "_"))))
    assert TWINS.get(verb, verb.replace("-", "_")) in fs.__all__


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_and_every_option_has_help(verb):
    command = typer.main.get_command(app).commands[verb]
    commands = getattr(command, "commands", {verb: command}).values()
    for each in commands:
        assert each.help
        for parameter in each.params:
            assert getattr(parameter, "help", None), f"{each.name} {parameter.name}"


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_documented_and_typed(name):
    value = getattr(fs, name)
    assert inspect.getdoc(value)
    assert name in dir(fs)
    if inspect.isfunction(value):
        signature = inspect.signature(value)
        assert signature.return_annotation is not inspect.Signature.empty
        for parameter in signature.parameters.values():
            assert parameter.annotation is not inspect.Parameter.empty


def _late_names(module):
    """Import what a module imports for type checkers only."""
    found = {}
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            exec(compile(ast.Module(node.body, []), module.__name__, "exec"), found)
    return found


def _types_in(hint):
    parts = hint if isinstance(hint, list) else typing.get_args(hint)
    return {hint} if isinstance(hint, type) and not parts else set().union(*map(_types_in, parts))


@pytest.mark.parametrize(
    "name", [name for name in PUBLIC if inspect.isfunction(getattr(fs, name))] + MADE_BY_USERS
)
def test_every_type_in_a_public_signature_is_public(name):
    function = getattr(fs, name)
    late = _late_names(inspect.getmodule(function))
    found = set()
    for hint in typing.get_type_hints(function, localns=late).values():
        found |= _types_in(hint)
    own = {kind for kind in found if kind.__module__.startswith("filtersurgeon.")}
    missing = {kind for kind in own if getattr(fs, kind.__name__, None) is not kind}
    assert not missing, f"{name} names {missing}, which filtersurgeon does not export"


def test_a_subpackage_never_hides_a_function_of_the_same_name():
    for home in fs._HOMES.values():
        import_module(home)
    assert not [name for name in PUBLIC if inspect.ismodule(getattr(fs, name))]


def test_unknown_names_are_attribute_errors():
    with pytest.raises(AttributeError, match="no_such_name"):
        fs.no_such_name  # noqa: B018


def test_type_checkers_see_the_same_names():
    """What is loaded late is listed a second time for them."""
    tree = ast.parse(Path(fs.__file__).read_text("utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    assert sorted(node.names[0].name for node in block.body) == PUBLIC


@pytest.mark.parametrize(
    "registry", [RANKING_METHODS, BANKS, TRANSFORMS, EDITS], ids=lambda r: r.noun
)
def test_drop_ins_are_named_after_their_files(registry):
    assert registry.names()
    for name in registry.names():
        assert callable(registry.function(name))
        assert registry.summary(name)


def test_a_dropped_in_file_is_found_without_being_imported(tmp_path, monkeypatch):
    (tmp_path / "some_method.py").write_text('"""What it measures."""\nraise SystemExit\n')
    (tmp_path / "_hidden.py").write_text("")
    registry = Registry("filtersurgeon.ranking.methods", "ranking method")
    monkeypatch.setattr(Registry, "_folder", tmp_path)
    assert registry.names() == ["some-method"]
    assert registry.summary("some-method") == "What it measures."


@pytest.mark.parametrize(
    ("text", "value"), [("true", True), ("No", False), ("1", True), ("0", False)]
)
def test_words_become_the_types_that_a_method_declares(text, value):
    bound = TRANSFORMS.bind("replace", {"all-spatial": text})
    assert bound == {"all_spatial": value}


def test_doctor(fsurgeon):
    done = fsurgeon("doctor")
    content = json.loads(done.stdout)
    assert done.returncode == (1 if content["missing"] else 0)
    assert content["versions"]["filtersurgeon"]
    assert content["devices"][0].startswith("cpu")
    assert content["schema"] == "filtersurgeon.environment/1"


def test_banks_on_the_command_line(fsurgeon, tmp_path):
    listed = json.loads(fsurgeon("bank", "list").stdout)["banks"]
    assert [bank["name"] for bank in listed] == BANKS.names()
    shown = json.loads(fsurgeon("bank", "show", "dog8", "--size", "5").stdout)
    assert (len(shown["kernels"]), len(shown["kernels"][0])) == (8, 5)
    path = tmp_path / "b.safetensors"
    assert fsurgeon("bank", "show", "dog8", "--size", "5", "-o", path).returncode == 0
    again = json.loads(fsurgeon("bank", "show", path).stdout)
    assert again["kernels"] == shown["kernels"]
    assert again["labels"] == shown["labels"]
    picture = tmp_path / "b.png"
    assert fsurgeon("bank", "show", "dog8", "-o", picture).returncode == 0
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_inspection(model, tensors, fsurgeon):
    content = json.loads(fsurgeon("inspect", model).stdout)
    assert content["tensors"] == len(tensors)
    assert content["parameters"] == sum(array.size for array in tensors.values())
    assert content["bytes"] == sum(array.nbytes for array in tensors.values())
    assert content["dtypes"] == {"F32": len(tensors) - 1, "I64": 1}
    assert [layer["name"] for layer in content["layers"]] == [
        "blocks.2.dw", "blocks.2.pw", "blocks.10.dw", "blocks.10.pw", "stem"
    ]  # fmt: skip
    spatial = 8 * 3 * 9 + 8 * 9 + 16 * 25
    assert content["spatial_weights"] == spatial
    assert content["spatial_share"] == pytest.approx(spatial / content["parameters"])
