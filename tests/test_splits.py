"""Which images are read: train to choose weights, test to measure; and whose classes they are."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open
from small_data import LENET, write_folders
from small_data import digits as digits  # a fixture

import filtersurgeon as fs
from filtersurgeon.banks import FilterBank
from filtersurgeon.data.data import DataSpec, find_held_out, new_head, open_data, part_of
from filtersurgeon.data.preprocess import read_preprocessing
from filtersurgeon.data.splits import FIT, MEASURE
from filtersurgeon.errors import DataError
from filtersurgeon.studies._lab import Lab

GREY = {"mean": (0.5,), "std": (0.5,), "input_size": (1, 8, 8)}


def _npz(path: Path, **counts: int) -> Path:
    """Write an archive of these numbers of images, all of one value for each pair of arrays."""
    arrays = {}
    for value, (suffix, count) in enumerate(counts.items(), 1):
        end = "" if suffix == "plain" else f"_{suffix}"
        arrays[f"x{end}"] = np.full((count, 8, 8), 40 * value, np.uint8)
        arrays[f"y{end}"] = np.arange(count) % 2
    np.savez(path, **arrays)
    return path


def _open(source: Path, n_classes: int = 2, use: str = MEASURE, labelled: bool = True, **options):
    spec = DataSpec(str(source), **options)
    return open_data(spec, read_preprocessing(GREY), n_classes, use=use, labelled=labelled)


def _folders(root: Path, *splits: str) -> Path:
    for number, split in enumerate(splits, 1):
        for name in "ab":
            (root / split / name).mkdir(parents=True)
            for image in range(number):
                Image.new("L", (8, 8)).save(root / split / name / f"{image}.png")
    return root


# Which split


def test_an_archive_with_both_splits(tmp_path):
    path = _npz(tmp_path / "d.npz", train=6, test=4)
    assert (len(_open(path, use=FIT)), len(_open(path))) == (6, 4)
    assert _open(path, use=FIT).notes == ["reads the train split of d.npz"]
    assert _open(path).notes == ["reads the test split of d.npz"]
    assert _open(path, split="train").notes == []
    assert part_of(DataSpec(str(path)), FIT).described() == {"name": "d.npz", "split": "train"}


@pytest.mark.parametrize("use", [FIT, MEASURE])
@pytest.mark.parametrize(
    ("name", "counts", "split"),
    [
        ("d.npz", {"plain": 3}, {}),
        ("d.npz", {"train": 3}, {"split": "train"}),
        ("d.npz", {"test": 3}, {"split": "test"}),
        ("val.npz", {"plain": 3}, {"split": "test"}),
        ("train_10k.npz", {"plain": 3}, {"split": "train"}),
        ("latest.npz", {"plain": 3}, {}),
    ],
)
def test_an_archive_with_one_part_gives_that_part(tmp_path, use, name, counts, split):
    path = _npz(tmp_path / name, **counts)
    images = _open(path, use=use)
    assert len(images) == 3
    assert part_of(DataSpec(str(path)), use).described() == {"name": name, **split}
    warns = use == FIT and split == {"split": "test"}
    assert [note.startswith("warning") for note in images.notes] == [True] * warns


@pytest.mark.parametrize("other", ["val", "test"])
def test_a_folder_with_a_folder_for_each_split(tmp_path, other):
    root = _folders(tmp_path / "photos", "train", other)
    assert (len(_open(root, use=FIT)), len(_open(root))) == (2, 4)
    assert len(_open(root, split="train")) == 2
    assert find_held_out(DataSpec(str(root))) == DataSpec(str(root), "test")


def test_class_folders_that_are_called_like_splits_stay_classes(tmp_path):
    write_folders(tmp_path / "vehicles" / "x", "ab")
    (tmp_path / "vehicles" / "x" / "a").rename(tmp_path / "vehicles" / "train")
    (tmp_path / "vehicles" / "x" / "b").rename(tmp_path / "vehicles" / "test")
    (tmp_path / "vehicles" / "x").rmdir()
    assert len(_open(tmp_path / "vehicles")) == 4


def test_test_is_measured_where_there_is_val_too(tmp_path):
    root = _folders(tmp_path / "photos", "train", "val", "test")
    assert part_of(DataSpec(str(root))).folder == root / "test"


def test_a_split_that_is_not_there_is_an_error(tmp_path):
    path = _npz(tmp_path / "d.npz", train=3)
    with pytest.raises(DataError, match="has no test split, only train"):
        _open(path, split="test")


def test_names_have_both_splits_and_no_test_image_is_read_to_fit():
    assert len(_open("dashes:6", use=FIT)) == len(_open("dashes:6")) == 6
    fitted, measured = (_open("dashes:6", use=use).source.pixels for use in (FIT, MEASURE))
    assert not np.array_equal(fitted, measured)


# What commands do with it


def _history(path: Path) -> list[dict]:
    with safe_open(path, "np") as file:
        return json.loads(file.metadata()["history"])


CUT = ("prune", "le.safetensors", *LENET, "--per-layer", "--sparsity", 0.3, "--subset", 32)


def test_pruning_calibrates_on_train_images_and_records_it(digits, fsurgeon):
    words = (*CUT, "--method", "l2", "--compensate", "least-squares", "--data", "digits.npz")
    done = fsurgeon(*words, "-o", "a.safetensors")
    assert b"note: reads the train split of digits.npz\n" in done.stderr
    assert b"warning" not in done.stderr
    (entry,) = _history(digits / "a.safetensors")
    assert entry["data"] == {"name": "digits.npz", "split": "train"}
    assert "warning" not in entry
    done = fsurgeon(*words, "--split", "test", "--quiet", "-o", "b.safetensors")
    text = "weights are scored or fitted with the test split of digits.npz"
    assert done.stderr.decode().startswith(f"warning: {text};")
    assert _history(digits / "b.safetensors")[0]["warning"] == text
    assert text in fsurgeon("inspect", "b.safetensors", "--table").stdout.decode()
    words = ("--data", "digits.npz", "--subset", 20)
    seen = [fsurgeon("eval", f"{name}.safetensors", *LENET, *words) for name in "ab"]
    assert [b"reads the test split" in done.stderr for done in seen] == [True, True]
    assert [b"prune scored or fitted weights" in done.stderr for done in seen] == [False, True]


def test_a_stored_ranking_and_stored_scores_carry_their_images(digits, fsurgeon):
    saliency = (*LENET, "--data", "digits.npz", "--subset", 8, "--split", "test")
    ranked = fsurgeon("rank", "le.safetensors", "-m", "saliency", *saliency, "--annotate", "-o",
                      "r.safetensors")  # fmt: skip
    assert b"warning: weights are scored" in ranked.stderr
    fsurgeon("prune", "r.safetensors", *LENET, "--per-layer", "-s", 0.3, "-o", "a.safetensors")
    fsurgeon("prune", "le.safetensors", "-s", 0.3, *saliency, "--scores", "s.safetensors", "-o",
             "b.safetensors")  # fmt: skip
    fsurgeon("prune", "le.safetensors", *LENET, "-s", 0.3, "--scores", "s.safetensors", "-o",
             "c.safetensors")  # fmt: skip
    for name in "abc":
        entry = _history(digits / f"{name}.safetensors")[-1]
        assert entry["data"] == {"name": "digits.npz", "split": "test"}, name
        assert "test split of digits.npz" in entry["warning"], name


@pytest.mark.usefixtures("digits")
def test_saliency_and_a_search_read_the_train_split():
    from filtersurgeon.banks.search import SearchData, search_bank

    kernels = np.random.default_rng(0).normal(size=(3, 5, 5))
    bank = FilterBank("three", kernels, ("a", "b", "c"))
    with fs.load("le.safetensors", arch="factory:examples.zoo.networks:lenet5") as network:
        default = fs.kernel_scores(network, data=DataSpec("digits.npz", subset=8))
        train = fs.kernel_scores(network, data=DataSpec("digits.npz", "train", subset=8))
        test = fs.kernel_scores(network, data=DataSpec("digits.npz", "test", subset=8))
        found = search_bank(
            network, bank, SearchData(DataSpec("digits.npz", subset=20), "le.safetensors"),
            to=2, all_spatial=True,
        )  # fmt: skip
    name = next(iter(default.layers))
    np.testing.assert_array_equal(default.layers[name], train.layers[name])
    assert not np.array_equal(default.layers[name], test.layers[name])
    train_images = {"name": "digits.npz", "split": "train"}
    assert default.data == found.to_json()["data"] == train_images
    assert found.bank.description.endswith("(accuracy on digits.npz train)")


def test_the_epoch_that_patience_chooses_by_test_images_is_warned_of(digits, fsurgeon):
    words = ("tune", "le.safetensors", *LENET, "--data", "digits.npz", "--subset", 64, "--device",
             "cpu", "--epochs", 1, "--patience", 1)  # fmt: skip
    done = fsurgeon(*words, "-o", "a.safetensors")
    text = "the best epoch is chosen with the test split of digits.npz"
    assert f"warning: {text};" in done.stderr.decode()
    assert _history(digits / "a.safetensors")[0]["warning"] == text


# Whose classes


def _classes(path: Path, count: int, images: int = 100) -> Path:
    np.savez(path, x=np.zeros((images, 8, 8), np.uint8), y=np.arange(images) % count)
    return path


@pytest.mark.parametrize(("count", "n_classes"), [(10, 1000), (5, 10), (100, 1000)])
def test_labels_of_other_classes_are_an_error_that_names_the_remedies(tmp_path, count, n_classes):
    path = _classes(tmp_path / "d.npz", count)
    pattern = rf"d.npz has {count} classes .* {n_classes}; .*tune --classes {count}.*`labels`"
    with pytest.raises(DataError, match=pattern) as caught:
        _open(path, n_classes)
    assert len(str(caught.value)) < 160
    assert new_head(DataSpec(str(path)), n_classes) == count
    assert len(_open(path, n_classes, labelled=False)) == 100
    assert _open(path, n_classes, labels="indices").source.labels == [i % count for i in range(100)]


def test_labels_beyond_the_head_name_the_remedies(tmp_path):
    with pytest.raises(DataError, match=r"label 3.* 3 classes .*tune --classes 5.*`skip_bad`"):
        _open(_classes(tmp_path / "d.npz", 5), 3)


def test_a_few_images_may_lack_the_last_classes(tmp_path):
    assert len(_open(_classes(tmp_path / "d.npz", 8, images=8), 10)) == 8
    assert new_head(DataSpec(str(tmp_path / "d.npz")), 10) is None


def test_a_split_that_lacks_a_class_of_the_other_fits(tmp_path):
    zeros = np.zeros((200, 8, 8), np.uint8)
    labels = np.arange(200)
    np.savez(tmp_path / "d.npz", x_train=zeros, y_train=labels % 4, x_test=zeros, y_test=labels % 3)
    assert len(_open(tmp_path / "d.npz", 4)) == 200


def test_a_map_of_labels_and_of_class_folders(tmp_path):
    path = _classes(tmp_path / "d.npz", 2, images=4)
    (tmp_path / "map.json").write_text(json.dumps({"0": 281, "1": 207}))
    assert _open(path, 1000, labels=str(tmp_path / "map.json")).source.labels == [281, 207] * 2
    (tmp_path / "part.csv").write_text("0,281\n")
    with pytest.raises(DataError, match="does not say which output is class 1"):
        _open(path, 1000, labels=str(tmp_path / "part.csv"))
    write_folders(tmp_path / "pets", "ab", 1)
    (tmp_path / "pets.csv").write_text("a,n02123045\nb,n02099601\n")
    assert _open(tmp_path / "pets", 1000, labels=str(tmp_path / "pets.csv")).source.labels == [
        281, 207
    ]  # fmt: skip
    with pytest.raises(DataError, match=r"2 classes .* 1000"):
        _open(tmp_path / "pets", 1000)
    with pytest.raises(DataError, match="'a' is no index"):
        _open(tmp_path / "pets", 1000, labels="indices")


def test_commands_refuse_other_classes_and_tune_takes_a_new_head(digits, fsurgeon, refuse):
    _classes(digits / "two.npz", 2)
    for words in (
        ("eval", "le.safetensors"),
        ("compare", "le.safetensors", "le.safetensors"),
        ("tune", "le.safetensors", "-o", "out.safetensors"),
        ("rank", "le.safetensors", "-m", "saliency"),
        ("explain", "le.safetensors"),
        ("study", "position", "le.safetensors"),
    ):
        assert "two.npz has 2 classes" in refuse(*words, *LENET, "--data", "two.npz"), words
    done = fsurgeon("tune", "le.safetensors", *LENET, "--data", "two.npz", "--classes", 2,
                    "--epochs", 1, "--device", "cpu", "-o", "out.safetensors")  # fmt: skip
    assert done.returncode == 0, done.stderr
    cut = fsurgeon("prune", "le.safetensors", *LENET, "--per-layer", "-s", 0.3, "-m", "l2",
                   "--compensate", "batchnorm", "--data", "two.npz", "--dry-run")  # fmt: skip
    assert b"classes" not in cut.stderr


@pytest.mark.parametrize("name", ["frozen", "fabricate", "fixed-filters"])
def test_transfer_studies_put_on_a_new_head(digits, name):
    from small_data import write_network

    write_network(digits / "net.safetensors", "depthwise")
    for part in ("train", "test"):
        pixels = np.zeros((40, 28, 28), np.uint8)
        pixels[::2, :14] = 255
        np.savez(digits / f"{part}.npz", x=pixels, y=np.arange(40) % 2)
    options = {
        "frozen": {"ways": "tuned", "bank": "dct-4"},
        "fabricate": {"starts": "original"},
        "fixed-filters": {"methods": "learned", "starts": "pretrained"},
    }[name]
    told: list[str] = []
    network = fs.load("net.safetensors", arch="factory:mine:depthwise")
    lab = Lab(network, "net.safetensors", DataSpec("test.npz"), tell=told.append)
    common = {"train": "train.npz", "epochs": 15, "repeats": 1, "lr": 0.02}
    found = fs.study(name, lab, options | common)
    text = "a new head of 2 classes replaces the network's head of 10"
    assert text in told
    assert text in found.remarks
    content = json.dumps(found.to_json())
    assert '"original"' not in content or name != "frozen"
    assert "1.0" in content  # learnt: with ten outputs or old labels it could not be


def test_a_study_whose_training_images_are_its_test_images_says_so(digits):
    told: list[str] = []
    _classes(digits / "ten.npz", 10)
    np.savez(digits / "ten.npz", x=np.zeros((100, 28, 28), np.uint8), y=np.arange(100) % 10)
    network = fs.load("le.safetensors", arch="factory:examples.zoo.networks:lenet5")
    lab = Lab(network, "le.safetensors", DataSpec("ten.npz"), tell=told.append)
    found = fs.study("zeroing", lab, {"zeroed": "50", "orders": "least", "train_subset": 4})
    assert any("has no training images of its own" in text for text in told)
    assert any("has no training images of its own" in text for text in found.remarks)
