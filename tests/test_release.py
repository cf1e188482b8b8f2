"""The wheel and the sdist: what is in them, and that they are the same every time."""

import ast
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

import filtersurgeon
from filtersurgeon.doctor import EXTRAS, REQUIRED

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
# Packages whose module has another name.
MODULES = {"pillow": "PIL", "pyyaml": "yaml", "scikit-learn": "sklearn", "umap-learn": "umap"}
# What comes with scikit-learn, dask[distributed], timm and starlette, by their promise.
CARRIED = {"joblib", "distributed", "huggingface_hub", "anyio"}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build twice; give the folders."""
    folders = [tmp_path_factory.mktemp("dist") for _ in range(2)]
    for folder in folders:
        command = [sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-t", "wheel"]
        subprocess.run([*command, "-d", folder], cwd=ROOT, check=True, capture_output=True)
    return folders


@pytest.fixture(scope="module")
def wheel(built):
    with zipfile.ZipFile(next(built[0].glob("*.whl"))) as file:
        yield file


def _tracked(folder):
    """Name the files below a folder that are under version control, or lie in an unpacked sdist."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", folder],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if listed.returncode == 0:
        return {name for name in listed.stdout.splitlines() if (ROOT / name).exists()}
    files = (path for path in (ROOT / folder).rglob("*") if path.is_file())
    return {str(path.relative_to(ROOT)) for path in files if "__pycache__" not in path.parts}


def test_the_same_bytes_every_time(built):
    first, second = (
        {path.name: path.read_bytes() for path in folder.iterdir()} for folder in built
    )
    assert len(first) == 2
    assert first == second


def test_the_wheel_holds_the_package_and_nothing_else(wheel):
    name = f"filtersurgeon-{filtersurgeon.__version__}"
    found = set(wheel.namelist())
    manual = {path for path in found if path.startswith(f"{name}.data/data/share/man/man1/")}
    about = {path for path in found if path.startswith(f"{name}.dist-info/")}
    assert found - manual - about == _tracked("filtersurgeon")
    assert {Path(path).name for path in manual} == {path.name for path in ROOT.glob("docs/man/*")}
    assert {Path(path).name for path in about} >= {"METADATA", "LICENSE", "entry_points.txt"}


def test_the_sdist_holds_what_the_tests_need(built):
    with tarfile.open(next(built[0].glob("*.tar.gz"))) as file:
        found = {name.partition("/")[2] for name in file.getnames()}
    for folder in ("filtersurgeon", "tests", "docs", "examples", "benchmarks"):
        assert _tracked(folder) <= found
    assert {"README.md", "CHANGELOG.md", "Makefile", "mkdocs.yml", "constraints.txt"} <= found
    assert not [name for name in found if ".venv" in name or "__pycache__" in name]


def test_the_metadata_tells_the_version_once(wheel):
    about = next(path for path in wheel.namelist() if path.endswith("/METADATA"))
    metadata = Parser().parsestr(wheel.read(about).decode())
    assert metadata["Version"] == filtersurgeon.__version__
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata.get_payload().startswith("# filtersurgeon")
    assert PROJECT["dynamic"] == ["version"]


def test_the_changelog_goes_from_new_to_old():
    headings = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    released = [re.fullmatch(r"(\d+)\.(\d+)\.(\d+) - \d{4}-\d\d-\d\d", h) for h in headings[1:]]
    assert all(released), headings
    versions = [tuple(map(int, match.groups())) for match in released]
    assert versions == sorted(versions, reverse=True)
    if versions:
        assert headings[1].startswith(f"{filtersurgeon.__version__} - ")


def _named(requirements):
    return {re.match(r"[\w.-]+", word).group() for word in requirements}


def test_everything_that_the_package_imports_is_required():
    """Development packages are not there where users are."""
    extras = PROJECT["optional-dependencies"]
    packages = _named(PROJECT["dependencies"]).union(*(_named(extras[name]) for name in EXTRAS))
    known = {MODULES.get(name.lower(), name) for name in packages} | CARRIED
    known |= set(sys.stdlib_module_names) | {"filtersurgeon"}
    imported = {}
    for path in (ROOT / "filtersurgeon").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            imported |= {name.partition(".")[0]: path.name for name in names}
    assert not {name: path for name, path in imported.items() if name not in known}


def test_doctor_knows_every_requirement():
    assert set(REQUIRED) == _named(PROJECT["dependencies"])
    for extra, names in EXTRAS.items():
        assert set(names) == _named(PROJECT["optional-dependencies"][extra])


def test_everything_that_is_checked_with_is_pinned():
    pins = {
        name.lower().replace("_", "-")
        for name in _named((ROOT / "constraints.txt").read_text("utf-8").splitlines()[1:])
    }
    extras = [words for name, words in PROJECT["optional-dependencies"].items() if name != "demo"]
    for name in _named(PROJECT["dependencies"]).union(*map(_named, extras)) - {"filtersurgeon"}:
        assert name.lower().replace("_", "-") in pins, name


def test_manual_pages_are_read_without_a_warning():
    pages = sorted((ROOT / "docs" / "man").glob("*.1"))
    assert len(pages) > 20
    try:
        done = subprocess.run(
            ["groff", "-man", "-Tutf8", "-ww", "-z", *map(str, pages)],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
    except FileNotFoundError:
        pytest.skip("groff is not installed")
    assert not done.stderr
