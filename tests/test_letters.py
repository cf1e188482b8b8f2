"""The network of letters is what its filters, set by hand, say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

import filtersurgeon as fs
from examples import letters
from filtersurgeon.see.decoding import DecodeSettings

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def network() -> letters.Letters:
    return letters.letters()


def test_sizes_are_those_of_the_paper(network):
    shapes = [tuple(x.weight.shape) for x in (network.strokes, network.shapes, network.letters)]
    assert shapes == [(4, 1, 5, 5), (14, 4, 5, 5), (8, 14, 3, 3)]


def test_decode_gives_the_recursion_written_by_hand(network):
    size = {"input_size": (1, letters.SIDE, letters.SIDE)}
    found = fs.decode(
        network, DecodeSettings(["strokes", "shapes", "letters"]), preprocess=size,
        example_inputs=torch.zeros(1, 1, letters.SIDE, letters.SIDE),
    )  # fmt: skip
    by_hand = letters.decoded_filters(network)
    for layer, expected in zip(found, (by_hand[x.layer] for x in found), strict=True):
        assert np.allclose(layer.filters[:, 0], np.array(list(expected.values())), atol=1e-6)


def test_decoded_filters_have_the_planned_shapes_and_unit_length(network):
    found = letters.decoded_filters(network)
    corner = np.zeros((9, 9))
    corner[4, 4:] += 1
    corner[4:, 4] += 1
    assert np.allclose(found["shapes"]["corner top left"], corner / np.linalg.norm(corner))
    for filters in found.values():
        assert [np.linalg.norm(x) for x in filters.values()] == pytest.approx([1] * len(filters))
    # L: two strokes thick, down at columns 4 and 5, right at rows 8 and 9, nothing elsewhere.
    drawn = found["letters"]["L"] > 1e-6
    expected = np.zeros((14, 14), bool)
    expected[4:10, 4:6] = expected[8:10, 4:10] = True
    assert np.array_equal(drawn, expected)


@pytest.mark.parametrize("letter", letters.LETTERS)
def test_a_decoded_letter_excites_its_own_unit_most(network, letter):
    """Section 6: also with max-pooling, which decoding replaces."""
    maps = letters.activations(network, letters.decoded_filters(network)["letters"][letter])
    answers = {name: float(x[0, 0]) for name, x in maps["letters"].items()}
    assert max(answers, key=answers.__getitem__) == letter
    assert sorted(answers.values())[-2] < answers[letter] - 1e-3


def test_shapes_of_a_letter_answer_where_they_are(network):
    maps = letters.activations(network, letters.decoded_filters(network)["letters"]["C"])["pooled"]
    for (row, column), shape in letters.LETTERS["C"].items():
        if shape.startswith("corner"):
            assert np.unravel_index(maps[shape].argmax(), (3, 3)) == (row, column)
            assert maps[shape].max() == max(x[row, column] for x in maps.values())


def test_the_pictures_are_drawn(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["letters", "--out", str(tmp_path), "--letter", "D"])
    letters.main()
    for name in ("filters", "connections", "activations"):
        assert min(Image.open(tmp_path / f"letters_{name}.png").size) > 400
