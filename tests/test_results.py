"""Results that several pages quote come from one file."""

import json
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def results(monkeypatch, tmp_path):
    """The module that fills pages, with results of its own."""
    monkeypatch.syspath_prepend(str(DOCS))
    monkeypatch.delitem(sys.modules, "results", raising=False)
    import results

    content = {
        "network, 100 images": {
            "top1": 91.26,
            "quoted": {"a.md": ["original {1} %", "| net | {2} |"], "b.md": ["has {1} %"]},
        }
    }
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content))
    monkeypatch.setattr(results, "RESULTS", path)
    return results


def test_pages_get_the_measured_value_in_their_digits(results):
    assert results.quoted_pages() == ["a.md", "b.md"]
    filled = results.fill("a.md", "original 90.0 %, and 5.5 | net | 12.345 |")
    assert filled == "original 91.3 %, and 5.5 | net | 91.26 |"
    assert results.fill("a.md", filled) == filled
    assert results.fill("c.md", "original 1.0 %") == "original 1.0 %"


def test_words_that_a_page_has_not_or_twice_are_refused(results):
    with pytest.raises(ValueError, match="of 'network, 100 images' 0 times"):
        results.fill("b.md", "it had 91.3 %")
    with pytest.raises(ValueError, match="2 times"):
        results.fill("b.md", "has 1.0 % and has 2.0 %")


def test_every_result_is_quoted_by_two_pages_or_in_two_places():
    content = json.loads((DOCS / "results.json").read_text("utf-8"))
    for name, result in content.items():
        assert 0 <= result["top1"] <= 100
        assert sum(map(len, result["quoted"].values())) >= 2, name
