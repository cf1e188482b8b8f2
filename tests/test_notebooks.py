"""What notebooks show: tables, data frames, and figures."""

import ast
import json
import shutil
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from console import differences

import filtersurgeon as fs
from filtersurgeon.checkpoint.tables import Tabular
from filtersurgeon.learn.compare import Side
from filtersurgeon.learn.measure import Difference

TABLES = (
    "BankComparison", "Channels", "Checkpoint", "Comparison", "ConversionReport", "CutPlan",
    "Evaluation", "Explanation", "Inspection", "KernelScores", "PruneReport", "Ranking",
    "TrainingResult",
)  # fmt: skip


@pytest.fixture(scope="module")
def checkpoint():
    random = np.random.default_rng(0)
    weights = {f"<b>{k}.weight": random.standard_normal((4, 2, 3, 3)).astype("f4") for k in (1, 2)}
    return fs.Checkpoint({k: fs.StoredTensor.from_array(v, "F32") for k, v in weights.items()})


@pytest.fixture
def pandas(monkeypatch):
    """Stand in for pandas: a data frame is the list of its rows."""
    module = ModuleType("pandas")
    module.__spec__, module.DataFrame = ModuleSpec("pandas", None), list
    monkeypatch.setitem(sys.modules, "pandas", module)


@pytest.mark.parametrize("name", TABLES)
def test_results_are_tables(name):
    kind = getattr(fs, name)
    assert issubclass(kind, Tabular)
    assert kind.rows is not Tabular.rows


def test_a_table_names_everything_as_text(checkpoint):
    page = checkpoint._repr_html_()
    assert "<th>tensor</th><th>dtype</th><th>shape</th><th>parameters</th>" in page
    assert "&lt;b&gt;1.weight</td>" in page
    assert "<b>" not in page
    assert ">4, 2, 3, 3</td>" in page
    assert "parameters=144" in page


def test_a_long_table_is_cut():
    stored = fs.StoredTensor.from_array(np.zeros(2000, np.float32), "F32")
    page = fs.Checkpoint({f"t{k}": stored for k in range(100)})._repr_html_()
    assert page.count("<tr>") == 61
    assert "and 40 more" in page
    assert ">2,000</td>" in page


@pytest.mark.usefixtures("pandas")
def test_a_ranking_has_a_row_for_each_filter(checkpoint):
    ranking = fs.rank(checkpoint, "l2")
    rows = ranking.to_pandas()
    assert len(rows) == 8
    first = [row for row in rows if row["layer"] == "<b>1"]
    layer = ranking.layers["<b>1"]
    assert [row["score"] for row in first] == layer.scores.tolist()
    assert [row["rank"] for row in first] == [layer.order.tolist().index(k) for k in range(4)]
    assert f"{layer.scores.max():.4g}" in ranking._repr_html_()


@pytest.mark.usefixtures("pandas")
def test_scores_inspections_and_explanations(checkpoint):
    scores = fs.kernel_scores(checkpoint, "l1")
    row = scores.to_pandas()[3]
    assert (row["row"], row["column"]) == (1, 1)
    assert row["score"] == scores.layers["<b>1"][1, 1]
    assert fs.inspect(checkpoint).to_pandas()[1]["weights"] == 72
    explained = fs.explain(checkpoint)
    found = sum(row["e2"] for row in explained.to_pandas() if row["layer"] == "<b>2")
    assert found == pytest.approx(explained.layers[1].energy)
    for each in (scores, fs.inspect(checkpoint), explained):
        assert each._repr_html_().count("<tr>") == 3


@pytest.mark.usefixtures("pandas")
def test_comparisons_and_evaluations():
    evaluation = fs.Evaluation(4, 3, 4, 1.0, (3, 0, 1), (2, 0, 1), None, 1.0)
    assert evaluation.to_pandas() == [
        {"class": 0, "images": 3, "right": 2, "accuracy": 2 / 3},
        {"class": 2, "images": 1, "right": 1, "accuracy": 1.0},
    ]
    sides = [Side(name, 10, 20, None, None, x) for name, x in (("a", None), ("b", evaluation))]
    comparison = fs.Comparison(*sides, Difference(1, 0.5, 0.25, 0.0))
    first, second = comparison.to_pandas()
    assert (first["top-1"], second["top-1"]) == (None, 0.75)
    assert (first["relative difference"], second["relative difference"]) == (
        None, comparison.difference.relative_max,
    )  # fmt: skip
    assert ">0.75</td>" in comparison._repr_html_()


@pytest.mark.usefixtures("pandas")
def test_reports_and_channels():
    from torch import nn

    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    done = []
    fs.prune(module, (3, 8, 8), ratios={"0": 0.5}, observe=done.append)
    first, second = done[0].to_pandas()
    assert (first["out channels before"], first["out channels"]) == (8, 4)
    assert second["in channels"] == 4
    assert "leaves the network" in second["kept because"]
    rows = fs.channels(module, (3, 8, 8)).to_pandas()
    assert {
        "channels": 8,
        "free": True,
        "made by": "0",
        "read by": "2",
        "pinned because": "",
    } in rows


def test_without_pandas(checkpoint, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(fs.FilterSurgeonError, match="pip install pandas") as caught:
        checkpoint.to_pandas()
    assert "\n" not in str(caught.value)


def test_figures_come_back_and_a_path_is_optional(tmp_path, checkpoint):
    from matplotlib.figure import Figure

    bank = fs.load_bank("dog8").at((3, 3))
    after = fs.replace(checkpoint, bank="dog8", all_spatial=True)
    shown = [
        fs.draw_bank(bank),
        fs.draw_basis(fs.find_basis("dct", (3, 3))),
        fs.draw_explanation([fs.explain(checkpoint)]),
        fs.draw_before_after(checkpoint, after, per_layer=2),
    ]
    assert all(isinstance(figure, Figure) for figure in shown)
    assert shown[0]._repr_png_().startswith(b"\x89PNG")
    assert not list(tmp_path.iterdir())
    assert isinstance(fs.draw_bank(bank, tmp_path / "bank.svg"), Figure)
    assert (tmp_path / "bank.svg").read_text().startswith("<?xml")


@pytest.mark.slow
def test_the_executed_notebook_shows_what_its_cells_give(tmp_path, monkeypatch):
    root = Path(__file__).parents[1]
    shutil.copytree(root / "examples" / "zoo", tmp_path / "zoo")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    notebook = json.loads((root / "examples" / "prune_in_a_notebook.ipynb").read_text("utf-8"))
    space, outputs = {}, 0
    for cell in (each for each in notebook["cells"] if each["cell_type"] == "code"):
        tree = ast.parse("".join(cell["source"]))
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "cell", "exec"), space)
        if last is None:
            assert cell["outputs"] == []
            continue
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), space)
        (shown,) = cell["outputs"]
        found = differences("".join(shown["data"]["text/plain"]).splitlines(), repr(value))
        if not repr(value).startswith("Checkpoint("):  # whose widths may differ between processors
            assert found == []
        outputs += 1
    assert outputs == 6
    assert (tmp_path / "pruned.safetensors").stat().st_size < 200_000
    with fs.load("pruned.safetensors") as saved:
        assert saved.parameters < 40_000
