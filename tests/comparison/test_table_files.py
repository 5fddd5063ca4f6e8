"""Tables as data, against NumPy and scikit-learn's own arrays; what is wrong with a file is said in a sentence."""

import csv

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_wine
from torch import nn

from normwise.comparison import InputError, SweepStarted, compare
from normwise.comparison.data.sources import load_data


def write(path, names, rows, delimiter=","):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, delimiter=delimiter).writerows([names, *rows])
    return str(path)


def wine_csv(folder, delimiter=",", target="class", first=False):
    wine = load_wine()
    labels = [str(wine.target_names[label]) for label in wine.target]
    rows = [[*x, y] for x, y in zip(wine.data.tolist(), labels, strict=True)]
    names = [*wine.feature_names, target]
    if first:
        rows, names = [[row[-1], *row[:-1]] for row in rows], [target, *wine.feature_names]
    return write(folder / "wine.csv", names, rows, delimiter)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("first", [False, True])
def test_a_csv_holds_what_scikit_learn_has(tmp_path, delimiter, first):
    data = load_data(wine_csv(tmp_path, delimiter, "class", first), 8)
    wine = load_wine()
    assert data.classes == ("class_0", "class_1", "class_2")
    assert data.sample_shape == (13,)
    both = torch.cat([data.x_train, data.x_test]).numpy()
    np.testing.assert_array_equal(np.sort(both, axis=0), np.sort(wine.data.astype(np.float32), axis=0))
    where = {tuple(x): y for x, y in zip(wine.data.astype(np.float32).tolist(), wine.target.tolist(), strict=True)}
    for x, y in zip(data.x_train.tolist(), data.y_train.tolist(), strict=True):
        assert where[tuple(x)] == y
    # A quarter of each class is held out.
    assert data.y_test.bincount().tolist() == [round(0.25 * n) for n in np.bincount(wine.target)]


def test_the_target_is_named(tmp_path):
    path = wine_csv(tmp_path, target="cultivar")
    with pytest.raises(
        InputError, match=r"say which column holds the target \(--target NAME\); the columns are alcohol"
    ):
        load_data(path, 8)
    with pytest.raises(InputError, match="there is no column 'klass'"):
        load_data(path, 8, "klass")
    assert load_data(path, 8, "cultivar").classes == ("class_0", "class_1", "class_2")


def test_standardize_gives_each_feature_mean_0_and_variance_1(tmp_path):
    data = load_data(wine_csv(tmp_path), 8, standardize=True)
    np.testing.assert_allclose(data.x_train.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(data.x_train.numpy().std(0), 1, rtol=1e-5)


@pytest.mark.parametrize("target", [None, "-1", "30"])
def test_an_npy_table_has_its_classes_in_a_column(tmp_path, target):
    cancer = load_breast_cancer()
    np.save(tmp_path / "cancer.npy", np.column_stack([cancer.data, cancer.target]))
    data = load_data(str(tmp_path / "cancer.npy"), 8, target)
    assert (data.classes, data.sample_shape) == (("0", "1"), (30,))
    assert len(data.y_train) + len(data.y_test) == 569


def test_an_npy_array_with_names_has_a_named_target(tmp_path):
    array = np.array([(i, i % 2, 2.0 * i) for i in range(12)], dtype=[("a", "f4"), ("kind", "i8"), ("b", "f4")])
    np.save(tmp_path / "named.npy", array)
    data = load_data(str(tmp_path / "named.npy"), 8, "kind")
    assert (data.classes, data.sample_shape) == (("0", "1"), (2,))


BAD = {
    "a word among the numbers": ("a,y\n1,0\nx,1\n", None, "column 'a' has 'x' where a number must be"),
    "an empty entry": ("a,y\n1,0\n,1\n", None, "column 'a' has an empty entry where a number must be"),
    "a short line": ("a,b,y\n1,2,0\n1,1\n", None, "line 3 has 2 entries, the first has 3 names"),
    "no names": ("1,2\n3,4\n", None, "the first line holds numbers; write the names"),
    "only names": ("a,y\n", None, "holds no lines of data"),
    "empty": ("", None, "holds no lines of data"),
    "only the target": ("y\n1\n0\n", None, "has no column beside the target"),
    "no classes": ("a,b\n1,x\n2,y\n3,z\n", "b", "3 different values in 3 lines, so they are no classes"),
    "not finite": ("a,y\n1,0\nnan,1\n2,0\n3,1\n", None, "hold NaN or infinity"),
    "no class in a line": ("a,y\n1,0\n2,\n3,1\n", None, "line 3 has no 'y'; fill it in or leave the line out"),
    "two targets": ("a,y,y\n1,0,1\n2,1,0\n", "y", "2 columns are called 'y'; give each its own name"),
    "more than fp32 holds": ("a,y\n1e39,0\n1,1\n2,0\n3,1\n", None, "1 of 4 samples hold NaN or infinity"),
    "one class": ("a,y\n1,0\n2,0\n", None, "all training samples are of one class"),
}


@pytest.mark.parametrize(("text", "target", "said"), BAD.values(), ids=BAD)
def test_what_is_wrong_with_a_csv_is_said(tmp_path, text, target, said):
    (tmp_path / "table.csv").write_text(text)
    with pytest.raises(InputError, match=said):
        load_data(str(tmp_path / "table.csv"), 8, target)


@pytest.mark.parametrize(
    ("array", "target", "said"),
    [
        (np.zeros((3, 4, 5)), None, "save a table"),
        (np.array([["a", "b"]]), None, "save a table"),
        (np.zeros((9, 3)), "3", "has the columns 0 to 2; write the number of one"),
        (np.zeros((9, 3)), "x", "has the columns 0 to 2; write the number of one"),
        (np.zeros(9, [("a", "U3"), ("y", "i8")]), None, r"column 'a' holds <U3 of shape \[9\] where one number"),
        (np.zeros(9, [("a", "f4", 2), ("y", "i8")]), None, r"column 'a' holds float32 of shape \[9, 2\] where one"),
        (np.zeros(9, [("y", "i8")]), None, "has no column beside the target"),
    ],
)
def test_what_is_wrong_with_an_npy_is_said(tmp_path, array, target, said):
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(InputError, match=said):
        load_data(str(tmp_path / "a.npy"), 8, target)


@pytest.mark.parametrize("name", ["a.npz", "a.npy"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.95])
def test_a_truncated_file_is_told_as_such(tmp_path, name, share):
    path = tmp_path / name
    if name.endswith(".npz"):
        np.savez_compressed(path, x=np.random.rand(40, 8), y=np.arange(40) % 2)
    else:
        np.save(path, np.random.rand(40, 8))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(
        InputError, match=rf"not a readable \.{name[-3:]} file .* it may be cut off: write it again with"
    ):
        load_data(str(path), 8)


def test_an_npz_by_the_name_of_an_npy_is_told_as_such(tmp_path):
    with (tmp_path / "a.npy").open("wb") as file:
        np.savez(file, x=np.random.rand(40, 8), y=np.arange(40) % 2)
    with pytest.raises(InputError, match=r"holds several arrays under the name of an \.npy file"):
        load_data(str(tmp_path / "a.npy"), 8)


def test_a_damaged_npz_is_told_as_such(tmp_path):
    np.savez_compressed(tmp_path / "a.npz", x=np.random.rand(400, 8), y=np.arange(400) % 2)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "a.npz").write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"not a readable \.npz file"):
        load_data(str(tmp_path / "a.npz"), 8)


@pytest.mark.parametrize("name", ["missing.csv", "missing.npy"])
def test_a_missing_table_is_a_missing_file(name):
    with pytest.raises(InputError, match="there is no such file"):
        load_data(name, 8)


def test_a_path_is_taken_as_a_path(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("a,b,y\n" + "1,2,0\n2,1,1\n" * 8)
    options = {"norms": ["batch"], "batch_sizes": [4], "seeds": 1, "epochs": 1}
    (by_path,), (by_name,) = (compare(perceptron, data, **options) for data in (path, str(path)))
    assert by_path["key"] == by_name["key"]


def test_only_a_table_has_a_target():
    with pytest.raises(InputError, match=r"only a table, \.csv, \.parquet or \.npy, has columns"):
        load_data("digits", 8, "class")


def perceptron(in_channels, classes):
    return nn.Sequential(nn.Linear(in_channels, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, classes))


def notes(**changes):
    events = []
    small = {"model": perceptron, "norms": ["batch", "layer"], "batch_sizes": [16], "seeds": 1, "epochs": 1}
    compare(**(small | changes), on_event=events.append)
    return next(event.about for event in events if isinstance(event, SweepStarted))["notes"]


def test_features_on_different_scales_are_remarked_on(tmp_path):
    (note,) = notes(data=wine_csv(tmp_path))
    assert "lie on very different scales (root mean squares 0.3" in note
    assert "--standardize" in note
    assert notes(data=wine_csv(tmp_path), standardize=True) == []
