import numpy as np
import pytest
import small_problems
import torch
from sklearn.datasets import load_digits
from torch.utils.data import TensorDataset

from normwise.comparison.data.sources import load_data
from normwise.comparison.settings import InputError


def load(source):
    return load_data(source, image_size=8)


def test_digits_are_the_real_ones_split_by_class_and_standardized():
    data = load("digits")
    assert data.x_train.shape == (599, 1, 8, 8)
    assert data.x_test.shape == (1198, 1, 8, 8)
    assert data.x_train.mean().item() == pytest.approx(0, abs=1e-5)
    assert data.x_train.std(correction=0).item() == pytest.approx(1, abs=1e-5)
    images, labels = load_digits(return_X_y=True)
    shares = np.bincount(data.y_test) / np.bincount(labels)
    assert shares == pytest.approx(np.full(10, 2 / 3), abs=0.01)
    raw = images[load_order(data)]
    together = torch.cat([data.x_train, data.x_test]).flatten(1).numpy()
    slope, offset = np.polyfit(raw.ravel(), together.ravel(), 1)
    np.testing.assert_allclose(together, slope * raw + offset, atol=1e-5)


def load_order(data):
    """Which image each sample is, found by matching pixels."""
    images, _ = load_digits(return_X_y=True)
    known = {tuple(image): i for i, image in enumerate(images)}
    together = torch.cat([data.x_train, data.x_test]).flatten(1)
    low, high = together.min(), together.max()
    restored = ((together - low) / (high - low) * 16).round().numpy()
    order = [known[tuple(row)] for row in restored]
    assert len(set(order)) == len(set(known.values()))
    return order


def test_loading_twice_gives_the_same_split_and_leaves_the_random_state_alone():
    torch.manual_seed(5)
    first = load("digits")
    after = torch.rand(3)
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(3))
    assert load("digits").fingerprint == first.fingerprint


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    return rng.integers(0, 255, (20, 5, 6), dtype=np.uint8), np.arange(20) % 2


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((20, 5, 6), (1, 5, 6)),
        ((20, 5, 6, 3), (3, 5, 6)),
        ((20, 3, 5, 6), (3, 5, 6)),
        ((20, 1, 5, 3), (1, 5, 3)),
        ((20, 7, 5, 6), (7, 5, 6)),
        ((20, 9), (9,)),
    ],
)
def test_npz_layouts(tmp_path, arrays, shape, expected):
    x = np.random.default_rng(0).normal(3, 2, shape)
    np.savez(tmp_path / "a.npz", x=x, y=arrays[1])
    data = load(str(tmp_path / "a.npz"))
    assert data.sample_shape == expected
    assert (len(data.x_train), len(data.x_test)) == (16, 4)
    axes = [0, *range(2, data.x_train.dim())]
    torch.testing.assert_close(data.x_train.mean(axes), torch.zeros(expected[0]), atol=1e-5, rtol=0)
    torch.testing.assert_close(data.x_train.std(axes, correction=0), torch.ones(expected[0]))


def test_npz_channels_last_pixels_land_in_their_place(tmp_path, arrays):
    x = np.random.default_rng(0).normal(size=(20, 5, 6, 3))
    np.savez(tmp_path / "a.npz", x_train=x, y_train=arrays[1], x_test=x[:4], y_test=arrays[1][:4])
    first = x.transpose(0, 3, 1, 2)
    np.savez(tmp_path / "b.npz", x_train=first, y_train=arrays[1], x_test=first[:4], y_test=arrays[1][:4])
    assert load(str(tmp_path / "a.npz")).fingerprint == load(str(tmp_path / "b.npz")).fingerprint


def test_npz_named_labels_and_constant_channel(tmp_path):
    y = np.array(["dog", "cat"] * 10)
    np.savez(tmp_path / "a.npz", x=np.ones((20, 2)), y=y)
    data = load(str(tmp_path / "a.npz"))
    assert data.classes == ("cat", "dog")
    assert torch.isfinite(data.x_train).all()


def test_fingerprint_follows_the_content(tmp_path, arrays):
    x, y = arrays
    np.savez(tmp_path / "a.npz", x=x, y=y)
    first = load(str(tmp_path / "a.npz")).fingerprint
    x[3, 2, 2] ^= 1
    np.savez(tmp_path / "a.npz", x=x, y=y)
    assert load(str(tmp_path / "a.npz")).fingerprint != first


def bad_npz(tmp_path, **held):
    np.savez(tmp_path / "a.npz", **held)
    return str(tmp_path / "a.npz")


@pytest.mark.parametrize(
    ("held", "message"),
    [
        ({"a": np.ones(3)}, "holds a; save it with x_train, y_train, x_test and y_test, or with x and y"),
        ({"x": np.ones((4, 2)), "y": np.zeros(3, int)}, "x has 4 samples and y 3 labels"),
        ({"x": np.ones((4, 2)), "y": np.zeros(4, int)}, "all training samples are of one class"),
        ({"x": np.ones((4, 2)), "y": np.array([0, 0, 0, 1])}, "class '1' has a single sample"),
        ({"x": np.ones((4, 2)), "y": np.zeros(4)}, "labels are of type float64; save integers or names"),
        ({"x": np.ones((4, 2, 2, 2, 2)), "y": np.array([0, 1] * 2)}, r"x has shape \[4, 2, 2, 2, 2\]; save"),
        ({"x": np.array(["a", "b"] * 2), "y": np.array([0, 1] * 2)}, "x is of type <U1; save numbers"),
        (
            {"x": np.where(np.arange(16) == 5, np.nan, 1.0).reshape(8, 2), "y": np.array([0, 1] * 4)},
            "1 of 8 samples hold NaN or infinity .the first is number 2.; remove them or fill them in",
        ),
        (
            {"x_train": np.ones((4, 2)), "y_train": [0, 1, 0, 1], "x_test": np.ones((2, 2)), "y_test": [0, 5]},
            "held-out samples of class 5, but none to train on",
        ),
        (
            {"x_train": np.ones((4, 2)), "y_train": [0, 1, 0, 1], "x_test": np.ones((2, 3)), "y_test": [0, 1]},
            r"training samples have shape \[2\], held-out samples \[3\]",
        ),
        (
            {"x_train": np.ones((4, 2)), "y_train": [0, 1, 0], "x_test": np.ones((2, 2)), "y_test": [0, 1]},
            r"the training split has 4 samples and labels of shape \[3\]",
        ),
    ],
)
def test_bad_npz(tmp_path, held, message):
    with pytest.raises(InputError, match=message):
        load(bad_npz(tmp_path, **held))


def test_npz_that_is_none(tmp_path):
    (tmp_path / "a.npz").write_bytes(b"PK nonsense")
    with pytest.raises(InputError, match=r"not a readable \.npz file"):
        load(str(tmp_path / "a.npz"))
    with pytest.raises(InputError, match="there is no such file"):
        load(str(tmp_path / "b.npz"))


def test_function_and_reference():
    data = load("small_problems:blobs")
    assert data.name == "small_problems:blobs"
    assert data.classes == ("0", "1", "2")
    x, y = small_problems.pair(48, 1)
    assert torch.equal(data.x_train, x)
    assert torch.equal(data.y_train, y)
    assert load(small_problems.blobs).fingerprint == data.fingerprint


def test_function_that_returns_datasets():
    def datasets():
        return tuple(TensorDataset(*split) for split in small_problems.blobs())

    assert load(datasets).fingerprint == load(small_problems.blobs).fingerprint


class Raw:
    """A data set of whatever it is given."""

    def __init__(self, *items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, i):
        return self.items[i]


GOOD = (torch.rand(4, 2), torch.tensor([0, 1, 0, 1]))


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (None, r"must return \(train, test\), it returned NoneType"),
        (
            ((torch.ones(4, 2, dtype=torch.uint8), GOOD[1]), GOOD),
            r"type torch.uint8; return floating point, such as x.float\(\) / 255",
        ),
        (((GOOD[0], torch.rand(4)), GOOD), "labels are of type torch.float32; return integers"),
        (((torch.rand(4), GOOD[1]), GOOD), r"samples have shape \[4\]"),
        (((GOOD[0], torch.tensor([0, -1, 0, 1])), GOOD), "training labels go from -1 to 1.*number the classes from 0"),
        ((GOOD, (GOOD[0], torch.tensor([0, 1, 2, 1]))), "held-out labels go from 0 to 2.*has the classes 0 to 1"),
        (((GOOD[0], torch.zeros(4, dtype=torch.long)), (GOOD[0], torch.zeros(4, dtype=torch.long))), "of one class"),
        (((torch.rand(0, 2), torch.zeros(0, dtype=torch.long)), GOOD), "the training split is empty"),
        ((Raw(), GOOD), "a split is empty"),
        ((iter([1]), GOOD), "a torch dataset with a length"),
        ((Raw((np.ones(2), 0)), GOOD), "samples are ndarray; let the dataset return tensors"),
        ((Raw((torch.ones(2), 0), (torch.ones(3), 1)), GOOD), "samples differ in shape"),
        (((torch.tensor([[1.0, torch.inf]] * 4), GOOD[1]), GOOD), "4 of 4 training samples hold NaN or infinity"),
    ],
)
def test_bad_functions(made, message):
    with pytest.raises(InputError, match=message):
        load(lambda: made)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "digitz",
            "data='digitz': there is no such folder. Write 'digits', 'mixed-digits', 'diabetes', .*, a folder",
        ),
        ("no_such_module:f", "there is no module 'no_such_module' to import"),
        ("small_problems.deeper:f", "there is no module 'small_problems.deeper'|'small_problems' is not a package"),
        ("small_problems:missing", "the module 'small_problems' has no 'missing'"),
        ("small_problems:not_a_function", "is not a function"),
        (3, "data must be a name, a path or a function, received int"),
    ],
)
def test_bad_sources(source, message):
    with pytest.raises(InputError, match=message):
        load(source)


SPARSE = torch.eye(6).to_sparse()
LABELS = torch.arange(6) % 2


@pytest.mark.parametrize(
    ("part", "said"),
    [
        ((SPARSE, LABELS), r"samples are a sparse tensor; return dense ones, such as x\.to_dense\(\)"),
        ((torch.stack([SPARSE, SPARSE]), LABELS[:2]), "samples are a sparse tensor"),
        ((torch.eye(6), LABELS.to_sparse()), "labels are a sparse tensor"),
        (([[1.0, 2.0], [3.0]], LABELS), "the items of a split are pairs"),
        ([{"x": torch.eye(2), "y": 0}], "the items of a split are pairs .x, label. .* received dict"),
        ((object(), LABELS), "samples are object, which is no tensor"),
        ((torch.eye(6, device="meta"), LABELS), "samples are a tensor without values"),
        ([(torch.eye(2).to_sparse(), 0), (torch.eye(2).to_sparse(), 1)], "samples are a sparse tensor"),
    ],
)
def test_what_is_no_dense_tensor_is_told_as_such(part, said):
    with pytest.raises(InputError, match=said):
        load_data(lambda: (part, part), 8)
