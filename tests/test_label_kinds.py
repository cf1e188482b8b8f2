"""Labels of every kind as they are read: CSV columns, masks in folders and arrays, in memory."""

import numpy as np
import pytest
import torch
from PIL import Image

from filtersurgeon.data.data import DataSpec, open_data
from filtersurgeon.data.generated import cells, findings
from filtersurgeon.data.images import batches, make_loader
from filtersurgeon.data.kinds import ALL_KINDS, IGNORED, class_index
from filtersurgeon.data.preprocess import (
    Augmentation,
    image_transform,
    mask_transform,
    read_preprocessing,
)
from filtersurgeon.errors import DataError, OptionError
from filtersurgeon.networks.devices import seeded

CHEXPERT = """Path,Sex,Age,Frontal/Lateral,AP/PA,No Finding,Edema,Fracture,Support Devices
{0}train/a.png,Female,68,Frontal,AP,1.0,0.0,,
{0}train/b.png,Male,87,Frontal,AP,,-1.0,,1.0
{0}train/c.png,Male,59,Lateral,,U,1.0,,0.0
"""


def grey(channels=1, side=16):
    cfg = {
        "input_size": (channels, side, side),
        "mean": (0.0,) * channels,
        "std": (1.0,) * channels,
    }
    return read_preprocessing(cfg)


def opened(source, n_classes, channels=1, side=16, **options):
    spec = source if isinstance(source, DataSpec) else DataSpec(source, **options)
    return open_data(spec, grey(channels, side), n_classes, kinds=ALL_KINDS)


def batch(data):
    return next(iter(batches(make_loader(data, len(data)))))


def save(path, values, mode=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = Image.fromarray(np.asarray(values, np.uint8))
    (picture if mode is None else picture.convert(mode)).save(path)


@pytest.fixture
def chest(tmp_path):
    """A folder as CheXpert's, with its CSV file."""
    for name in "abc":
        save(tmp_path / f"chest/train/{name}.png", np.full((16, 16), 100))
    (tmp_path / "chest/train.csv").write_text(CHEXPERT.format("chest/"))
    return tmp_path / "chest"


def test_columns_of_classes_among_others(chest):
    data = opened(str(chest), 3, labels=str(chest / "train.csv"))
    assert data.kind == "multi-label"
    assert data.class_names == ("No Finding", "Edema", "Support Devices")
    images, labels = batch(data)
    assert images.shape == (3, 1, 16, 16)
    assert labels.dtype == torch.float32
    assert labels.nan_to_num(-1).tolist() == [[1, 0, -1], [-1, -1, 1], [-1, 1, 0]]


def test_a_column_without_known_labels_counts_where_the_network_has_an_output(chest):
    data = opened(str(chest), 4, labels=str(chest / "train.csv"))
    assert data.class_names[2] == "Fracture"
    assert batch(data)[1][:, 2].isnan().all()


def test_columns_by_name_and_order(chest):
    (chest / "plain.csv").write_text(CHEXPERT.format(""))
    for listing in ("train.csv", "plain.csv"):
        chosen = ("Support Devices", "No Finding")
        data = opened(str(chest), 2, labels=str(chest / listing), columns=chosen)
        assert data.class_names == chosen
        assert batch(data)[1][:, 0].nan_to_num(-1).tolist() == [-1, 1, 0]


COLUMNS = {
    "no class columns": ("Path,Sex\na.png,Female\n", 2, {}, "no column is called label or class"),
    "other classes": (CHEXPERT.format(""), 5, {}, "3 label columns .* has 5 outputs"),
    "an unknown column": (CHEXPERT.format(""), 1, {"columns": ("Edma",)}, "did you mean Edema"),
    "a column of words": (CHEXPERT.format(""), 1, {"columns": ("Sex",)}, "'female' .* no label"),
    "no file column": ("Sex,Age\nFemale,3\n", 1, {"columns": ("Sex",)}, "file, image or path"),
    "files outside": ("Path,A\n../a.png,1\n", 1, {}, "outside"),
}


@pytest.mark.parametrize("case", COLUMNS)
def test_csv_files_that_do_not_fit(chest, case):
    text, outputs, options, expected = COLUMNS[case]
    (chest / "x.csv").write_text(text)
    with pytest.raises((DataError, OptionError), match=expected):
        opened(str(chest), outputs, labels=str(chest / "x.csv"), **options)


def test_files_that_are_missing_can_be_left_out(chest):
    (chest / "train/b.png").unlink()
    options = {"labels": str(chest / "train.csv")}
    with pytest.raises(DataError, match=r"b.png: listed in .* but missing"):
        opened(str(chest), 3, **options)
    data = opened(str(chest), 3, **options, skip_bad=True)
    assert batch(data)[1].nan_to_num(-1).tolist() == [[1, 0, -1], [-1, 1, 0]]


def mask(*corners, side=16):
    """Corner boxes of the given values: top left, top right."""
    values = np.zeros((side, side), np.uint8)
    for place, value in enumerate(corners):
        values[:4, 4 * place : 4 * place + 4] = value
    return values


def test_images_beside_masks(tmp_path):
    for name, values in (("a", mask(1, 2)), ("b", mask(255, 1))):
        save(tmp_path / f"images/{name}.jpg", np.full((16, 16, 3), 90))
        save(tmp_path / f"masks/{name}_mask.png", values)
    data = opened(str(tmp_path), 3, channels=3)
    images, masks = batch(data)
    assert data.kind == "masks"
    assert (images.shape, masks.shape, masks.dtype) == ((2, 3, 16, 16), (2, 16, 16), torch.int64)
    assert masks[0, :4, :8].tolist() == mask(1, 2)[:4, :8].tolist()
    assert masks[1].unique().tolist() == [IGNORED, 0, 1]
    beside = opened(str(tmp_path / "images"), 3, channels=3, labels=str(tmp_path / "masks"))
    assert torch.equal(batch(beside)[1], masks)


def test_white_on_black_is_class_1_and_palettes_are_indices(tmp_path):
    save(tmp_path / "white/images/a.png", np.zeros((16, 16)))
    save(tmp_path / "white/masks/a.png", mask(255))
    assert batch(opened(str(tmp_path / "white"), 1))[1].unique().tolist() == [0, 1]
    palette = Image.fromarray(mask(1, 2), "P")
    palette.putpalette([0, 0, 0, 200, 30, 30, 90, 90, 250])
    save(tmp_path / "palette/images/a.png", np.zeros((16, 16)))
    (tmp_path / "palette/masks").mkdir()
    palette.save(tmp_path / "palette/masks/a.png")
    assert batch(opened(str(tmp_path / "palette"), 3))[1].unique().tolist() == [0, 1, 2]


def test_instance_masks_are_merged(tmp_path):
    for name in ("one", "two"):
        save(tmp_path / f"{name}/images/{name}.png", np.full((16, 16, 4), 200))
        save(tmp_path / f"{name}/masks/x.png", mask(255))
        save(tmp_path / f"{name}/masks/y.png", mask(0, 255))
    images, masks = batch(opened(str(tmp_path), 1, channels=3))
    assert images.shape == (2, 3, 16, 16)
    assert masks[0].tolist() == (mask(1, 1) > 0).astype(int).tolist()
    (tmp_path / "three/images").mkdir(parents=True)
    save(tmp_path / "three/images/three.png", np.zeros((16, 16)))
    with pytest.raises(DataError, match=r"three: no masks.*skip_bad"):
        opened(str(tmp_path), 1)
    assert len(opened(str(tmp_path), 1, skip_bad=True)) == 2


def test_splits_of_folders_with_masks(tmp_path):
    for split, value in (("train", 1), ("test", 2)):
        save(tmp_path / f"{split}/images/a.png", np.zeros((16, 16)))
        save(tmp_path / f"{split}/masks/a.png", mask(value))
    data = opened(str(tmp_path), 3)
    assert data.notes == [f"reads the test split of {tmp_path.name}"]
    assert batch(data)[1].max() == 2


MASKS = {
    "a class that the network lacks": (mask(3), (16, 16), "a.png: the mask holds class 3, and"),
    "another size": (mask(1, side=8), (16, 16), "8x8 pixels and the image 16x16"),
    "colours": (np.dstack([mask(1), mask(2), mask(3)]), (16, 16), "a mask in colours"),
}


@pytest.mark.parametrize("case", MASKS)
def test_masks_that_do_not_fit(tmp_path, case):
    values, size, expected = MASKS[case]
    save(tmp_path / "images/a.png", np.zeros(size))
    save(tmp_path / "masks/a.png", values)
    with pytest.raises(DataError, match=expected):
        batch(opened(str(tmp_path), 2))


def test_white_masks_do_not_mix_with_indices(tmp_path):
    for number in range(80):
        save(tmp_path / f"images/{number:02}.png", np.zeros((16, 16)))
        save(tmp_path / f"masks/{number:02}.png", mask(255))
    save(tmp_path / "images/40x.png", np.zeros((16, 16)))
    save(tmp_path / "masks/40x.png", mask(1, 255))
    with pytest.raises(DataError, match=r"40x.png: holds 1, and other masks"):
        batch(opened(str(tmp_path), 2).take([41]))


def test_arrays_of_a_file(tmp_path):
    pixels = np.zeros((4, 16, 16), np.uint8)
    several = np.array([[1, 0, -1]] * 4, np.int8)
    np.savez(tmp_path / "several.npz", x_train=pixels, y_train=several, x_test=pixels[:2],
             y_test=several[:2])  # fmt: skip
    data = opened(str(tmp_path / "several.npz"), 3)
    assert (data.kind, len(data)) == ("multi-label", 2)
    assert batch(data)[1].nan_to_num(-1).tolist() == [[1, 0, -1]] * 2
    masks = np.stack([mask(1, 255)] * 4)
    np.savez(tmp_path / "masks.npz", x=pixels, y=masks)
    assert batch(opened(str(tmp_path / "masks.npz"), 2))[1].unique().tolist() == [IGNORED, 0, 1]
    with pytest.raises(DataError, match="labels of 3 classes but the network has 4 outputs"):
        opened(str(tmp_path / "several.npz"), 4)


PIXELS = np.zeros((4, 16, 16, 1), np.uint8)
PREPARED = torch.zeros(4, 1, 16, 16)
TABLE = np.array([[1, 0]] * 4)
STACK = np.stack([mask(1)] * 4)
IN_MEMORY = {
    "bytes and a table": ((PIXELS, TABLE), "multi-label"),
    "bytes and a table of floats": ((PIXELS, np.array([[1, np.nan]] * 4)), "multi-label"),
    "bytes and masks": ((PIXELS, STACK), "masks"),
    "numbers and a table": ((PREPARED, torch.tensor(TABLE)), "multi-label"),
    "numbers and masks": ((PREPARED, torch.tensor(STACK)), "masks"),
    "masks with a channel": ((PREPARED, torch.tensor(STACK)[:, None].float()), "masks"),
    "truth values": ((PREPARED, torch.tensor(STACK) > 0), "masks"),
    "a list of images with rows": (list(zip(PREPARED, TABLE, strict=True)), "multi-label"),
    "a list of images with masks": (list(zip(PREPARED, STACK, strict=True)), "masks"),
    "classes": ((PREPARED, np.zeros(4, int)), "classes"),
    "a list of batches": ([(PREPARED, np.zeros(4, int))], "classes"),
}  # fmt: skip


@pytest.mark.parametrize("case", IN_MEMORY)
def test_labels_in_memory(case):
    given, kind = IN_MEMORY[case]
    data = opened(given, 2)
    assert (data.kind, len(data)) == (kind, 4)
    labels = batch(data)[1]
    shapes = {"multi-label": (4, 2), "masks": (4, 16, 16), "classes": (4,)}
    assert labels.shape == shapes[kind]
    if kind == "masks":
        assert labels.sum() == 4 * 16


def test_a_loader_in_memory():
    pairs = torch.utils.data.TensorDataset(PREPARED, torch.tensor(STACK))
    data = opened(torch.utils.data.DataLoader(pairs, batch_size=3), 2)
    assert (data.kind, len(data)) == ("masks", 4)


WRONG = {
    "another size": ((PIXELS, STACK[:, :8]), "masks of 16x8 pixels for images of 16x16"),
    "fractions": ((PIXELS, STACK * 0.5), "fractions"),
    "counts": ((PIXELS, TABLE * 3), "3 is no label"),
    "large numbers": ((PIXELS, STACK.astype(int) * 300), "holds 300"),
}


@pytest.mark.parametrize("case", WRONG)
def test_labels_in_memory_that_do_not_fit(case):
    given, expected = WRONG[case]
    with pytest.raises(DataError, match=expected):
        opened(given, 2)


@pytest.mark.parametrize("mode", ["center", "squash", "border"])
@pytest.mark.parametrize("random", [False, True])
def test_masks_move_with_their_images(mode, random):
    cfg = {"input_size": (1, 32, 32), "mean": (0.0,), "std": (1.0,), "interpolation": "nearest"}
    preprocessing = read_preprocessing(cfg, crop_mode=mode, crop_pct=0.9)
    augmentation = Augmentation(vflip=0.5, color_jitter=0.0) if random else None
    found = np.zeros((40, 60), np.uint8)
    found[5:20, 30:50] = 1
    image, values = Image.fromarray(found * 255), Image.fromarray(found)
    move = image_transform(preprocessing, augmentation)
    move_mask = mask_transform(preprocessing, augmentation)
    for seed in range(8):
        with seeded(seed):
            one = move(image)[0]
        with seeded(seed):
            other = move_mask(values)[0]
        inside = other != 255  # margins
        assert torch.equal(one[inside] > 0.5, other[inside] == 1)
    assert one.max() > 0.5


def test_augmentation_that_masks_cannot_follow():
    spec = DataSpec("cells:4")
    augmentation = Augmentation(auto_augment="rand-m9")
    with pytest.raises(OptionError, match="auto_augment"):
        open_data(spec, grey(side=48), 1, augmentation, kinds=ALL_KINDS)


def test_generated_images():
    images, labels = findings(64, seed=3)
    assert images.shape == (64, 48, 48)
    assert 0.02 < np.isnan(labels).mean() < 0.2
    # Something is bright in the corner of each label, and nowhere else.
    bright = (images > 150).reshape(64, 2, 24, 2, 24).any((2, 4)).reshape(64, 4)
    known = ~np.isnan(labels)
    assert (bright[known] == (labels[known] == 1)).all()
    images, masks = cells(16)
    assert set(np.unique(masks)) == {0, 1}
    assert images[masks == 1].mean() > 1.4 * images[masks == 0].mean()
    for name, count in (("findings:5", 4), ("cells:5", 1)):
        tests, trains = (opened(name, count, side=48, split=x) for x in ("test", "train"))
        assert len(tests) == 5
        assert not torch.equal(batch(tests)[0], batch(trains)[0])


def test_analyses_of_classes_refuse_other_labels():
    with pytest.raises(DataError, match="several labels, and this needs one class for each image"):
        open_data(DataSpec("findings:4"), grey(side=48), 4)
    # Where labels play no part, their kind does not matter.
    found = open_data(DataSpec("cells:6"), grey(side=48), 2, labelled=False)
    assert (found.kind, batch(found)[1].tolist()) == ("classes", [0] * 6)


def test_an_output_by_index_and_name():
    assert class_index("b", 2, ("a", "b")) == class_index("1", 2) == class_index(1, 2) == 1
    for target, names, expected in (
        (2, (), "not among the 2"),
        ("-1", (), "not among"),
        ("c", (), "give its index"),
        ("discs", ("disc", "ring"), "did you mean disc"),
    ):
        with pytest.raises(OptionError, match=expected):
            class_index(target, 2, names)
