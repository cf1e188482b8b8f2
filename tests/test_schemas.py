"""What commands print is what their JSON Schemas say, key for key."""

import io
import json
import re
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from PIL import Image

import filtersurgeon
from examples import medical
from examples.zoo import train
from filtersurgeon.cli.application import app
from filtersurgeon.schemas import schema, schema_names

FOLDER = Path(filtersurgeon.__file__).parent / "schemas"
ZOO = Path(train.__file__).parent
DIGITS = str(ZOO / "lenet5_digits.safetensors")
MNIST = str(ZOO / "lenet5_mnist.safetensors")
CONVNEXT = str(ZOO / "convnext_cifar10.safetensors")
RESNET = str(ZOO / "resnet20_cifar10.safetensors")
CIFAR = "--factory examples.zoo.networks:cifar_resnet20"
LENET = "--factory examples.zoo.networks:lenet5"
UNET = "--factory examples.medical:UNet"
FINDER = "--factory examples.medical:Finder"
# Forms of metadata, which stand in the page on checkpoints.
STORED = {"packed", "packed-bank", "filter-autoencoder", "decoded", "walk"}

# Former versions, which the package reads but does not write, and parts that jobs exchange.
FORMER = {"evaluation/1", "multilabel-evaluation-part/1"}

# What a command prints, and words that make it print that; {} are files of the fixture.
CASES = [
    ("activations", f"activations {DIGITS} {LENET} --image {{image}} --against {MNIST}"),
    ("archetypes", f"archetypes {DIGITS}"),
    ("archetypes", f"archetypes {DIGITS} --archetypes elbow"),
    ("bank", "bank show dog8 --size 3"),
    ("bank-comparison", "bank compare dog8 dct-4"),
    ("bank-learning", f"bank learn {CONVNEXT} -o {{new}}.safetensors --epochs 1"),
    ("bank-packing", "pack {replaced} --bank dog8 --dry-run"),
    ("bank-search", f"bank search {CONVNEXT} --bank dog8 --criterion error -o {{new}}.safetensors"),
    ("banks", "bank list"),
    ("channels", f"inspect {DIGITS} {LENET} --channels"),
    ("comparison", f"compare {DIGITS} {MNIST} {LENET} --random 2"),
    ("comparison", f"compare {DIGITS} {MNIST} {LENET} {{data}} --latency-runs 0"),
    ("decoding", f"decode {DIGITS} {LENET} --layers conv1"),
    ("decoding", f"decode {DIGITS} {LENET} --layers conv1 {{data}} --error --top 2"),
    ("embedding", f"embed {DIGITS} {LENET} {{data}}"),
    ("environment", "doctor"),
    ("evaluation", f"eval {DIGITS} {LENET} {{data}}"),
    ("evaluation", f"eval {DIGITS} {LENET} {{data}} --confusion --per-class"),
    ("comparison", f"compare {{unet}} {{unet}} {UNET} --data cells:4 --latency-runs 0"),
    ("mask-evaluation", f"eval {{unet}} {UNET} --data cells:4"),
    ("multilabel-evaluation", f"eval {{finder}} {FINDER} --data findings:24"),
    ("explanation", f"explain {DIGITS}"),
    ("explanation", f"explain {DIGITS} --basis pca"),
    ("explanation-pair", f"explain {DIGITS} {MNIST}"),
    ("export", f"export {DIGITS} {LENET} -o {{new}}.onnx --dynamic-batch"),
    ("fabrication", f"fabricate {DIGITS} --dry-run"),
    ("gradcam", f"gradcam {DIGITS} {LENET} --image {{image}} --against {MNIST}"),
    ("initialization", f"initialize {DIGITS} --method ghaar --dry-run"),
    ("initialization-methods", "initialize --list"),
    ("inspection", f"inspect {DIGITS}"),
    ("inspection", "inspect {replaced}"),
    ("inspection", "inspect {packed}"),
    ("inspection", "inspect {packed_by_bank}"),
    ("kernel-atlas", f"bank atlas {CONVNEXT} {DIGITS}"),
    ("maximisation", f"maximize {DIGITS} {LENET} --layers conv1 --steps 1"),
    ("packing", f"pack {DIGITS} --dry-run"),
    ("predefined", f"convert {DIGITS} {LENET} --module pfm --dry-run"),
    ("predefined", f"convert {RESNET} {CIFAR} --module pfm --from-weights --dry-run"),
    ("plan", f"apply {{recipe}} {CONVNEXT} --dry-run"),
    ("prune", f"prune {DIGITS} {LENET} --per-layer --sparsity 0.3 --dry-run"),
    ("prune", f"prune {DIGITS} {LENET} --sparsity 0.7 --dry-run --no-verify"),
    ("ranking", f"rank {DIGITS}"),
    ("ranking", f"rank {DIGITS} --method saliency {LENET} {{data}}"),
    ("ranking-methods", "rank --list"),
    ("replacement", f"replace {CONVNEXT} --bank dog8 --dry-run"),
    ("replacement", f"replace {DIGITS} --bank dct-4 --all-spatial {LENET} {{data}} --dry-run"),
    ("schemas", "schema"),
    ("silencing", f"silence {DIGITS} {LENET} --worst 0.3 --dry-run"),
    ("silencing", f"silence {DIGITS} --best 0.3 --kernels --dry-run"),
    ("studies", "study --list"),
    ("study", "study storage"),
]  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Give the files that the cases name, and options that name images."""
    folder = tmp_path_factory.mktemp("schemas")
    train.write_digits(folder / "digits.npz")
    with np.load(folder / "digits.npz") as digits:
        Image.fromarray(digits["x_test"][0].squeeze()).save(folder / "image.png")
    (folder / "recipe.yaml").write_text("steps:\n  - replace: {bank: dog8}\n")
    checkpoint = filtersurgeon.load(CONVNEXT)
    replaced = filtersurgeon.replace(checkpoint, bank="dog8")
    made = {
        "replaced": replaced,
        "packed": filtersurgeon.pack(checkpoint),
        "packed_by_bank": filtersurgeon.pack(replaced, bank="dog8"),
        "unet": filtersurgeon.load(medical.UNet(), example_inputs=medical.SIZE),
        "finder": filtersurgeon.load(medical.Finder(), example_inputs=medical.SIZE),
    }
    for name, each in made.items():
        filtersurgeon.save(each, folder / f"{name}.safetensors")
    return folder, {
        "data": f"--data {folder / 'digits.npz'} --subset 12",
        "image": folder / "image.png",
        "recipe": folder / "recipe.yaml",
        **{name: folder / f"{name}.safetensors" for name in made},
    }


def _closed(part):
    """Forbid keys that a schema does not describe."""
    if isinstance(part, list):
        return [_closed(item) for item in part]
    if not isinstance(part, dict):
        return part
    found = {key: _closed(value) for key, value in part.items()}
    return {"additionalProperties": False, **found} if "properties" in found else found


def _check(name, content):
    found = schema(name)
    # A study adds its findings, in a form of its own.
    jsonschema.validate(content, found if name == "study" else _closed(found))


@pytest.mark.parametrize(
    ("name", "words"), CASES, ids=[f"{place}-{case[0]}" for place, case in enumerate(CASES)]
)
def test_output(name, words, files, tmp_path, monkeypatch):
    shown = io.StringIO()
    monkeypatch.setattr(sys, "stdout", shown)
    app(words.format(new=tmp_path / "new", **files[1]).split(), standalone_mode=False)
    monkeypatch.undo()
    content = json.loads(shown.getvalue(), parse_constant=pytest.fail)
    assert content["schema"] == schema(name)["title"]
    _check(name, content)


def test_scores_of_kernels(tmp_path):
    scores = filtersurgeon.kernel_scores(filtersurgeon.load(DIGITS), "l1")
    filtersurgeon.write_kernel_scores(scores, tmp_path / "scores.json")
    _check("kernel-scores", json.loads((tmp_path / "scores.json").read_text()))


def test_every_schema_is_tried():
    assert {name for name, _ in CASES} | {"kernel-scores"} == set(schema_names())


def test_every_document_has_a_schema():
    """Every name of a document in the source is a schema, or a form of metadata."""
    named = set()
    for path in FOLDER.parent.rglob("*.py"):
        if path.parent != FOLDER:
            text = path.read_text("utf-8")
            named |= set(re.findall(r'"filtersurgeon\.([a-z-]+/\d+)"', text))
    files = {"/".join(path.stem.rsplit("-", 1)) for path in FOLDER.glob("*.json")}
    assert named - {f"{name}/1" for name in STORED} - FORMER == files


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_a_schema_is_one_and_says_so(path):
    content = json.loads(path.read_text("utf-8"))
    jsonschema.Draft202012Validator.check_schema(content)
    name, _, version = path.stem.rpartition("-")
    assert content["title"] == f"filtersurgeon.{name}/{version}"
    assert content["properties"]["schema"] == {"const": content["title"]}
    assert "schema" in content["required"]
    for key, value in content["properties"].items():
        assert key == "schema" or value["description"].endswith(".")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"schema": "filtersurgeon.other/1"}, content)


@pytest.mark.parametrize("name", ["ranking", "ranking/1", "filtersurgeon.ranking/1"])
def test_names(name):
    assert schema(name)["title"] == "filtersurgeon.ranking/1"


def test_refusals(refuse):
    assert "did you mean ranking" in refuse("schema", "rankin")
    assert "there is 1" in refuse("schema", "ranking/2")


def test_on_the_command_line(fsurgeon, tmp_path):
    printed = json.loads(fsurgeon("schema", "ranking").stdout)
    assert printed == schema("ranking")
    assert fsurgeon("schema", "ranking", "-o", tmp_path / "s.json").returncode == 0
    assert json.loads((tmp_path / "s.json").read_text()) == printed
