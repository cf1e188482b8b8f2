"""Labelled images from folders, lists and arrays."""

import json
import os
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from learning import SHARED, needs_shared, small_cfg
from PIL import Image

from filtersurgeon.checkpoint.vision import import_timm
from filtersurgeon.data.data import DataSpec, open_data
from filtersurgeon.data.images import batches, make_loader
from filtersurgeon.data.labels import class_indices, folder_pairs, listed_rows
from filtersurgeon.data.preprocess import (
    Augmentation,
    array_transform,
    image_transform,
    read_preprocessing,
)
from filtersurgeon.data.sources import npz_classes, read_npz
from filtersurgeon.data.splits import choose_part
from filtersurgeon.errors import DataError


def _write(path, mode="RGB", value=100):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (8, 8), value if mode == "L" else (value, 0, 0)).save(path)


def _folders(root, names, per_class=2, mode="RGB"):
    for place, name in enumerate(names):
        for number in range(per_class):
            _write(root / name / f"{number}.png", mode, 10 * place + number)
    return root


def _labels(data):
    return [data.source.labels[index] for index in data.indices]


def _open(source, n_classes, channels=3, **options):
    preprocessing = read_preprocessing(small_cfg(channels))
    return open_data(DataSpec(str(source), **options), preprocessing, n_classes)


def test_class_folders_are_sorted(tmp_path):
    data = _open(_folders(tmp_path, ["dog", "ant", "cat"]), 3)
    names = [data.source.name(index).split("/")[0] for index in data.indices]
    assert list(zip(names, _labels(data), strict=True)) == [
        ("ant", 0), ("ant", 0), ("cat", 1), ("cat", 1), ("dog", 2), ("dog", 2),
    ]  # fmt: skip


def test_folders_called_by_numbers_are_indices(tmp_path):
    names = [str(number) for number in range(11)]
    data = _open(_folders(tmp_path, names, 1), 11)
    for index in data.indices:
        assert data.source.name(index) == f"{data.source.labels[index]}/0.png"


def test_class_count_that_differs_from_the_head_says_both_numbers(tmp_path):
    with pytest.raises(DataError, match=r"3 classes .* 10"):
        _open(_folders(tmp_path, ["a", "b", "c"]), 10)
    with pytest.raises(DataError, match=r"3 classes .* 10"):
        _open(tmp_path.joinpath(), 10)


def test_some_of_imagenets_folders_are_mapped_by_identifier():
    assert class_indices(["n01443537", "n15075141"], 1000) == {"n01443537": 1, "n15075141": 999}
    with pytest.raises(DataError, match="n00000001"):
        class_indices(["n00000001"], 1000)


@needs_shared
def test_imagenet_sample_labels_equal_the_file_stems():
    data = _open(SHARED / "imagenet_sample", 1000)
    assert len(data) == 500
    for index in data.indices:
        assert int(data.source.paths[index].stem) == data.source.labels[index]


def test_an_empty_class_folder_is_named(tmp_path):
    _folders(tmp_path, ["a", "b"])
    (tmp_path / "c").mkdir()
    with pytest.raises(DataError, match="c: holds no images"):
        _open(tmp_path, 3)


def test_a_folder_without_class_folders_asks_for_labels(tmp_path):
    _write(tmp_path / "x.png")
    with pytest.raises(DataError, match="label file"):
        _open(tmp_path, 2)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("header.csv", "label,filename\n1,a.png\n0,b.png\n"),
        ("bare.csv", "a.png,1\nb.png,0\n"),
        ("words.csv", "file,class\na.png,zebra\nb.png,ant\n"),
        ("map.json", json.dumps({"a.png": 1, "b.png": 0})),
        ("rows.json", json.dumps([{"file": "a.png", "label": 1}, {"file": "b.png", "label": 0}])),
    ],
)
def test_label_files(tmp_path, name, text):
    _write(tmp_path / "a.png")
    _write(tmp_path / "b.png")
    (tmp_path / name).write_text(text)
    data = _open(tmp_path, 2, labels=str(tmp_path / name))
    assert [data.source.name(index) for index in data.indices] == ["a.png", "b.png"]
    assert _labels(data) == [1, 0]


def test_missing_and_mislabelled_images_are_named_and_left_out_on_request(tmp_path):
    _write(tmp_path / "a.png")
    _write(tmp_path / "b.png")
    listing = tmp_path / "labels.csv"
    listing.write_text("a.png,1\nb.png,7\ngone.png,0\n")
    with pytest.raises(DataError, match=r"gone.png.*1 more"):
        _open(tmp_path, 2, labels=str(listing))
    data = _open(tmp_path, 2, labels=str(listing), skip_bad=True)
    assert _labels(data) == [1]
    assert any("gone.png" in note for note in data.notes)
    assert any("b.png: label 7" in note and "2 classes" in note for note in data.notes)


def test_a_label_file_without_labels_says_what_it_needs(tmp_path):
    listing = tmp_path / "labels.csv"
    listing.write_text("file,colour\na.png,red\n")
    with pytest.raises(DataError, match="label or class"):
        _open(tmp_path, 2, labels=str(listing))


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_named_in_one_line(tmp_path, workers):
    _folders(tmp_path, ["a", "b"])
    (tmp_path / "a" / "0.png").write_bytes(b"no picture")
    data = _open(tmp_path, 2)
    with pytest.raises(DataError, match=r"a/0.png is not an image") as caught:
        list(batches(make_loader(data, 2, workers)))
    assert "\n" not in str(caught.value)


def test_unreadable_images_are_left_out_on_request(tmp_path):
    _folders(tmp_path, ["a", "b"])
    truncated = (tmp_path / "b" / "1.png").read_bytes()[:45]
    (tmp_path / "b" / "1.png").write_bytes(truncated)
    data = _open(tmp_path, 2, skip_bad=True)
    assert len(data) == 3
    assert [note for note in data.notes if "b/1.png" in note]
    assert sum(len(labels) for _, labels in batches(make_loader(data, 2))) == 3


def test_grey_files_for_a_colour_network_are_converted_with_a_note(tmp_path):
    data = _open(_folders(tmp_path, ["a", "b"], mode="L"), 2)
    image, _ = data[0]
    assert image.shape == (3, 8, 8)
    assert "grey images converted to colour" in data.notes[0]


def test_colour_arrays_for_a_grey_network_are_converted_with_a_note(tmp_path):
    path = tmp_path / "data.npz"
    pixels = np.zeros((2, 8, 8, 3), np.uint8)
    pixels[..., 1] = 200
    np.savez(path, x=pixels, y=np.array([0, 1]))
    data = _open(path, 2, channels=1)
    grey = (200 * 0.587) / 255
    assert data[0][0].shape == (1, 8, 8)
    assert torch.allclose(data[0][0], torch.full((1, 8, 8), (grey - 0.5) / 0.25), atol=0.02)
    assert "colour images converted to grey" in data.notes[0]


def test_npz_splits_and_missing_arrays(tmp_path):
    path = tmp_path / "data.npz"
    zeros = np.zeros((3, 8, 8), np.uint8)
    np.savez(path, x_train=zeros, y_train=[0, 1, 1], x_test=zeros[:1], y_test=[1])
    assert _labels(_open(path, 2, channels=1, split="train")) == [0, 1, 1]
    assert _labels(_open(path, 2, channels=1)) == [1]
    np.savez(path, pictures=zeros)
    with pytest.raises(DataError, match="'x'"):
        _open(path, 2, channels=1)


@pytest.mark.parametrize("name", ["0/a\nb.png", "0/a\x0bb.png", "0/a\u2028b.png"])
def test_a_list_names_files_with_line_breaks_as_they_are(tmp_path, name):
    _folders(tmp_path / "data", ["0"], per_class=1)
    _write(tmp_path / "data" / name)
    listing = tmp_path / "labels.csv"
    listing.write_text(f'"{name}",1\n"0/0.png",0\n')
    assert listed_rows(listing) == [(name, "1"), ("0/0.png", "0")]


def test_a_pipe_is_no_npz_file(tmp_path):
    os.mkfifo(tmp_path / "data.npz")
    (tmp_path / "zero.npz").symlink_to("/dev/zero")
    for name in ("data", "zero"):
        for labels in (None, "indices"):
            with pytest.raises(DataError, match="neither a file nor a directory"):
                _open(tmp_path / f"{name}.npz", 2, labels=labels)


def test_a_damaged_npz_file_is_refused_in_a_short_line(tmp_path):
    path = tmp_path / "data.npz"
    header = ("{'descr': " + "[" * 900 + "}").encode().ljust(1000) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        for name in "xy":
            start = b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little")
            archive.writestr(f"{name}.npy", start + header)
    with pytest.raises(DataError, match=r"not a \.npz file of plain arrays") as refused:
        _open(path, 2)
    assert len(str(refused.value)) < 300 + len(str(path))


def test_folders_as_deep_as_names_allow_are_read(tmp_path, monkeypatch):
    _folders(tmp_path / "data", ["0"], per_class=1)
    monkeypatch.chdir(tmp_path / "data" / "0")
    for _ in range(1500):  # deeper than functions may call each other
        os.mkdir("a")
        os.chdir("a")
    _write(Path("x.png"))
    monkeypatch.chdir(tmp_path)
    try:
        assert len(folder_pairs(Path("data"))) == 2
    finally:
        subprocess.run(["rm", "-r", "data"], check=True)


@pytest.mark.parametrize("target", [".", "..", "/"])
def test_a_class_that_links_to_what_contains_it_is_refused(tmp_path, target):
    _folders(tmp_path / "data", ["0"])
    (tmp_path / "elsewhere").mkdir()
    _folders(tmp_path / "elsewhere", ["1"])
    (tmp_path / "data" / "1").symlink_to("../elsewhere/1")
    assert len(folder_pairs(tmp_path / "data")) == 4
    (tmp_path / "data" / "2").symlink_to(target)
    with pytest.raises(DataError, match="2: links to a directory that contains it"):
        folder_pairs(tmp_path / "data")


@pytest.mark.parametrize(
    ("x", "y", "said"),
    [
        (np.full((2, 8, 8), np.nan), [0, 1], "lie in 0..1"),
        (np.full((2, 8, 8), np.inf, np.float16), [0, 1], "lie in 0..1"),
        (np.full((2, 8, 8), "a"), [0, 1], "lie in 0..1"),
        (np.zeros((2, 8, 8), "M8[s]"), [0, 1], "lie in 0..1"),
        (np.zeros((2, 8, 8), complex), [0, 1], "lie in 0..1"),
        (np.zeros((2, 0, 8)), [0, 1], "have no pixels"),
        (np.zeros((2, 8, 8)), [np.nan, 1], "integer labels"),
        (np.zeros((2, 8, 8)), np.zeros(2, "m8[s]"), "integer labels"),
    ],
)
def test_arrays_that_are_no_labelled_images_are_refused(tmp_path, x, y, said):
    path = tmp_path / "data.npz"
    np.savez(path, x=x, y=np.asarray(y))
    with pytest.raises(DataError, match=said):
        _open(path, 2, channels=1)


@pytest.mark.parametrize("other", [["a", "b"], [np.nan, 1.0], np.zeros(2, "M8[s]"), [1j, 2j]])
def test_labels_of_the_other_split_must_be_integers_too(tmp_path, other):
    path = tmp_path / "data.npz"
    zeros = np.zeros((2, 8, 8), np.uint8)
    np.savez(path, x_train=zeros, y_train=np.asarray(other), x_test=zeros, y_test=[0, 1])
    with pytest.raises(DataError, match="y_train should hold integer labels"):
        _open(path, 2, channels=1)


@pytest.mark.parametrize(
    "kind", [bool, np.int64, np.uint16, ">f4", "<f8", np.float16, np.longdouble]
)
def test_pixels_of_any_type_of_numbers_are_read(tmp_path, kind):
    path = tmp_path / "data.npz"
    pixels = np.random.default_rng(0).integers(0, 2, (2, 8, 8))
    np.savez(path, x=pixels.astype(kind), y=[0, 1])
    for index in range(2):
        wanted = (torch.from_numpy(pixels[index]).float() - 0.5) / 0.25
        assert torch.equal(_open(path, 2, channels=1)[index][0][0], wanted)


def test_arrays_with_a_label_beyond_the_head_say_both_numbers(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x=np.zeros((2, 8, 8), np.uint8), y=[0, 5])
    with pytest.raises(DataError, match=r"label 5.* 3 classes"):
        _open(path, 3, channels=1)


def test_channels_first_arrays_are_understood(tmp_path):
    path = tmp_path / "data.npz"
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8), dtype=np.uint8)
    np.savez(path, x=pixels, y=[0, 1])
    wanted = (torch.from_numpy(pixels[1]).float() / 255 - 0.5) / 0.25
    assert torch.equal(_open(path, 2)[1][0], wanted)


def test_subset_is_seeded_and_keeps_the_order(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x=np.zeros((50, 8, 8), np.uint8), y=np.arange(50) % 2)
    first = _open(path, 2, channels=1, subset=10, seed=1).indices
    assert first == _open(path, 2, channels=1, subset=10, seed=1).indices
    assert first != _open(path, 2, channels=1, subset=10, seed=2).indices
    assert first == sorted(set(first))
    assert len(first) == 10


def test_direct_arrays_equal_timms_transform():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    preprocessing = read_preprocessing(
        {
            "input_size": (3, 32, 32),
            "mean": (0.4, 0.5, 0.6),
            "std": (0.2, 0.3, 0.4),
            "crop_pct": 1.0,
        }
    )
    direct = array_transform(preprocessing)(pixels)
    assert torch.equal(direct, image_transform(preprocessing)(Image.fromarray(pixels)))


def test_arrays_are_resized_only_for_another_input_size(tmp_path):
    path = tmp_path / "data.npz"
    np.savez(path, x=np.full((1, 8, 8, 3), 128, np.uint8), y=[0])
    larger = read_preprocessing(small_cfg(size=16))
    assert open_data(DataSpec(str(path)), larger, 2)[0][0].shape == (3, 16, 16)
    free = read_preprocessing({"mean": (0.5,) * 3, "std": (0.25,) * 3})
    assert open_data(DataSpec(str(path)), free, 2)[0][0].shape == (3, 8, 8)


def test_preprocessing_refuses_numbers_that_do_not_fit():
    with pytest.raises(DataError, match=r"2 values .* 3"):
        read_preprocessing({"input_size": (3, 8, 8), "mean": (0.5, 0.5)})
    grey = read_preprocessing({"input_size": (1, 8, 8), "mean": (0.3, 0.5, 0.7), "std": (0.2,) * 3})
    assert grey.mean == pytest.approx((0.5,))


def test_augmentation_depends_on_seed_epoch_and_position_only(tmp_path):
    path = tmp_path / "data.npz"
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    np.savez(path, x=pixels, y=[0, 1])
    preprocessing = read_preprocessing(small_cfg())
    data = open_data(DataSpec(str(path)), preprocessing, 2, Augmentation(re_prob=0.5))
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = data[0][0]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    data[1]
    assert torch.equal(data[0][0], first)
    data.epoch = 1
    assert not torch.equal(data[0][0], first)


def test_torchvision_datasets_by_name(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    images = np.arange(2 * 28 * 28).astype(np.uint8).reshape(2, 28, 28)
    header = bytes([0, 0, 8, 3]) + b"".join(n.to_bytes(4, "big") for n in (2, 28, 28))
    for part in ("train", "t10k"):
        (raw / f"{part}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = bytes([0, 0, 8, 1]) + (2).to_bytes(4, "big") + bytes([3, 7])
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(labels)
    preprocessing = read_preprocessing({"mean": (0.5,), "std": (0.5,), "in_chans": 1})
    data = open_data(DataSpec("mnist", root=str(tmp_path)), preprocessing, 10)
    assert _labels(data) == [3, 7]
    wanted = (torch.from_numpy(images[1]).float() / 255 - 0.5) / 0.5
    assert torch.equal(data[1][0][0], wanted)


def test_absent_and_unknown_datasets_are_one_line_errors(tmp_path):
    with pytest.raises(DataError, match=f"cifar10: not found in {tmp_path}"):
        _open("cifar10", 10, root=str(tmp_path))
    with pytest.raises(DataError, match="did you mean cifar10"):
        _open("cifer10", 10)


def test_images_without_labels_are_read_where_labels_do_not_matter(tmp_path):
    _write(tmp_path / "files/b.png", value=7)
    _write(tmp_path / "files/a.png", value=9)
    (tmp_path / "files/notes.txt").write_text("no image")
    np.savez(tmp_path / "bare.npz", x=np.zeros((5, 8, 8, 3), np.uint8))
    preprocessing = read_preprocessing(small_cfg())
    for name, count in (("files", 2), ("bare.npz", 5)):
        source = str(tmp_path / name)
        data = open_data(DataSpec(source), preprocessing, 10, labelled=False)
        assert len(data) == count
        with pytest.raises(DataError):
            open_data(DataSpec(source), preprocessing, 10)
    assert [
        path.name
        for path in open_data(
            DataSpec(str(tmp_path / "files")), preprocessing, 10, labelled=False
        ).source.paths
    ] == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("word", "values"),
    [
        ("input_size", [[3, "a", 8], [[3], 8, 8], [3, 10**400, 8], [None] * 3, {"a": 1}, "abc", 5]),
        ("input_size", [[3, 8.5, 8], [3, True, 8], [3, 0, 8], [3, 8], [3, 10**9, 8]]),
        ("crop_pct", ["0.9", [1], float("nan"), 0, 2, 1e400, {}]),
        ("mean", ["abc", 3, [[1], [2], [3]], [None] * 3, [], [float("nan")] * 3, {"a": 1}]),
        ("std", [[0, 0, 0], ["a"] * 3, [float("inf")] * 3, [float("nan")] * 3, 1]),
        ("in_chans", ["3", 10**12, -1, 1.5, [3]]),
        ("interpolation", [["bicubic"], {}, 5, "x" * 10_000]),
        ("crop_mode", [["center"], {}, "y"]),
    ],
)
def test_preprocessing_of_a_stranger_is_refused_by_its_word(word, values):
    for value in values:
        with pytest.raises(DataError, match=word):
            read_preprocessing({word: value})


def test_preprocessing_as_timm_writes_it_is_read():
    found = read_preprocessing(
        {"input_size": [3, 32, 40], "mean": [0.5, 0, 1], "std": [1, 0.5, 2], "crop_pct": 1,
         "interpolation": "bilinear", "crop_mode": "border", "in_chans": 3}
    )  # fmt: skip
    assert (found.input_size, found.mean, found.crop_pct) == ((3, 32, 40), (0.5, 0.0, 1.0), 1.0)
    assert read_preprocessing({}).crop_pct == 0.875


@pytest.mark.parametrize(
    ("pixels", "labels"),
    [
        ("x_{}", "y_{}"),
        ("{}_images", "{}_labels"),  # MedMNIST
        ("X_{}", "y_{}"),
        ("images_{}", "labels_{}"),
    ],
)
def test_splits_of_an_archive_are_called_as_usual(tmp_path, pixels, labels):
    path = tmp_path / "all.npz"
    arrays = {}
    for number, split in enumerate(("train", "test")):
        arrays[pixels.format(split)] = np.full((3, 8, 8), number, np.uint8)
        arrays[labels.format(split)] = np.full((3, 1), 4 + number)
    np.savez(path, **arrays)
    for number, split in enumerate(("train", "test")):
        assert choose_part(str(path), None, "fit" if split == "train" else "measure").split == split
        found = read_npz(path, split)
        assert set(found.pixels.flat) == {number}
        assert found.labels == [4 + number] * 3
    assert npz_classes(path) == 6


@pytest.mark.parametrize(
    ("pixels", "labels"), [("images", "labels"), ("data", "targets"), ("arr_0", "arr_1")]
)
def test_arrays_of_an_archive_are_called_as_usual(tmp_path, pixels, labels):
    path = tmp_path / "some.npz"
    np.savez(path, **{pixels: np.zeros((2, 8, 8, 3), np.uint8), labels: np.array([1, 3])})
    assert read_npz(path, "test").labels == [1, 3]
    assert npz_classes(path) == 4
    np.savez(path, **{pixels: np.zeros((2, 8, 8, 3), np.uint8)})
    assert read_npz(path, "test", labelled=False).labels == [0, 0]
    with pytest.raises(DataError, match="of labels"):
        read_npz(path, "test")


def test_gaps_are_filled_as_timm_fills_them() -> None:
    import_timm()
    from timm.data import resolve_data_config
    from timm.models import get_pretrained_cfg, list_models

    known = [get_pretrained_cfg(name).to_dict() for name in list_models()[::20]]
    partial = [{}, {"mean": [0.5] * 3}, {"crop_pct": 0.9, "interpolation": None}, {"std": None}]
    for cfg in (*known, *partial):
        wanted = resolve_data_config({}, pretrained_cfg=cfg or {"input_size": None})
        found = read_preprocessing(cfg)
        assert (found.mean, found.std) == (tuple(wanted["mean"]), tuple(wanted["std"]))
        assert found.crop_pct == wanted["crop_pct"]
        assert (found.crop_mode, found.interpolation) == (
            wanted["crop_mode"], wanted["interpolation"],
        )  # fmt: skip
