"""Data of each task: where they come from, what is made of them, and what is wrong with them."""

import numpy as np
import pytest
import task_problems
import torch
from PIL import Image
from task_problems import Endless, Items, Stream, numbers, splits
from torch.utils.data import DataLoader, WeightedRandomSampler

from normwise.comparison import InputError
from normwise.comparison.data.in_memory import Data
from normwise.comparison.data.sources import load_data
from normwise.comparison.data.streams import StreamedData
from normwise.comparison.tasks import IGNORED

X, Y = numbers(20)
IMAGES, MASKS = torch.rand(6, 1, 8, 8), torch.arange(6 * 64).view(6, 8, 8) % 3


def load(data, task=None, **options):
    return load_data(data, 8, task=task, **options)


@pytest.mark.parametrize(
    ("name", "task", "shape", "classes"),
    [
        ("diabetes", "regression", (10,), 1),
        ("shapes", "segmentation", (3, 32, 32), 3),
        ("words", "labelling", (64,), 2),
    ],
)
def test_embedded_data_say_their_task(name, task, shape, classes):
    data = load(name)
    assert (data.task, data.sample_shape, len(data.classes)) == (task, shape, classes)
    assert load(name, task).fingerprint == data.fingerprint
    with pytest.raises(InputError, match=f"are for {task}, not for classification; write 'digits'"):
        load(name, "classification")


def test_text_is_what_follows(tmp_path):
    text = "the quick brown fox jumps over the lazy dog, " * 40
    (tmp_path / "fox.txt").write_text(text)
    data = load(str(tmp_path / "fox.txt"))
    assert data.classes == tuple(sorted(set(text)))
    read = "".join(data.classes[token] for token in data.x_train.flatten().tolist())
    assert text.startswith(read)
    assert torch.equal(data.x_train.flatten()[1:], data.y_train.flatten()[:-1])
    held_out = "".join(data.classes[token] for token in data.x_test.flatten().tolist())
    assert text[len(text) - round(0.1 * len(text)) :].startswith(held_out)
    by_function = load(str(tmp_path / "fox.txt"), tokenizer="task_problems:tokens")
    assert by_function.x_train[0, :3].tolist() == task_problems.tokens("the")
    (tmp_path / "short.txt").write_text("abc")
    for options, said in (
        ({"tokenizer": lambda text: [0.5]}, "must return a list of whole numbers from 0"),
        ({"tokenizer": lambda text: text["a"]}, "fails on fox.txt: TypeError"),
        ({"task": "regression"}, "is text, which is for language"),
    ):
        with pytest.raises(InputError, match=said):
            load(str(tmp_path / "fox.txt"), **options)
    with pytest.raises(InputError, match="has 3 tokens; a tenth of them is held out"):
        load(str(tmp_path / "short.txt"))


def test_a_tables_target_says_the_task(tmp_path):
    lines = [f"{i},{i / 7:.3f},{'ab'[i % 2]},{i % 3}" for i in range(60)]
    (tmp_path / "t.csv").write_text("\n".join(["f,amount,kind,y", *lines]))
    (tmp_path / "n.csv").write_text("\n".join(["f,amount,y", *(f"{i},{i / 7:.3f},{i % 3}" for i in range(60))]))
    assert load(str(tmp_path / "n.csv")).task == "classification"
    amount = load(str(tmp_path / "n.csv"), target="amount")
    assert (amount.task, amount.classes) == ("regression", ("amount",))
    assert sorted(torch.cat([amount.y_train, amount.y_test]).flatten().tolist()) == pytest.approx(
        [round(i / 7, 3) for i in range(60)]
    )
    assert load(str(tmp_path / "n.csv"), target="f").task == "regression"  # more whole numbers than classes are
    assert load(str(tmp_path / "n.csv"), "regression").y_train.unique().tolist() == [0.0, 1.0, 2.0]
    with pytest.raises(InputError, match="must be a number, and one is 'a'; name another column"):
        load(str(tmp_path / "t.csv"), "regression", target="kind")
    np.save(tmp_path / "a.npy", np.array([[i, i / 7] for i in range(9)]))
    with pytest.raises(
        InputError, match=r"classes are not whole numbers, such as 0\.142857; name another target column"
    ):
        load(str(tmp_path / "a.npy"), "classification")
    with pytest.raises(InputError, match="is a table, which is for classification or regression"):
        load(str(tmp_path / "n.csv"), "language")


def test_parquet_is_as_csv(tmp_path):
    pandas = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    path = tmp_path / "t.parquet"
    table = pandas.DataFrame(
        {"f": range(60), "g": [i / 7 for i in range(60)], "kind": pandas.Categorical(["u", "v"] * 30)}
    )
    table.to_parquet(path)
    assert load(str(path), target="kind").classes == ("u", "v")
    table.drop(columns="kind").to_parquet(path)
    data = load(str(path), target="g")
    assert (data.task, data.sample_shape) == ("regression", (1,))
    table.to_parquet(path)
    with pytest.raises(InputError, match="column 'kind' holds category where a number must be"):
        load(str(path), target="g")
    table.assign(f=[None, *range(59)]).to_parquet(path)
    with pytest.raises(InputError, match="column 'f' has no number in 1 of 60 lines"):
        load(str(path), target="kind")
    with pytest.raises(InputError, match="line 1 has no 'f'"):
        load(str(path), target="f")
    path.write_bytes(b"PAR1 no table")
    with pytest.raises(InputError, match="not a readable"):
        load(str(path), target="f")


def test_parquet_without_pandas_is_one_sentence(tmp_path, monkeypatch):
    (tmp_path / "t.parquet").touch()
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(InputError, match="pandas, which is not installed; run `pip install pandas pyarrow`"):
        load(str(tmp_path / "t.parquet"))


def test_npz_files_of_each_task(tmp_path):
    np.savez(tmp_path / "r.npz", x=X, y=Y)
    assert load(str(tmp_path / "r.npz"), "regression").y_train.shape == (15, 1)
    np.savez(tmp_path / "s.npz", x_train=IMAGES, y_train=MASKS, x_test=IMAGES, y_test=MASKS == 1)
    assert load(str(tmp_path / "s.npz"), "segmentation").classes == ("0", "1", "2")
    np.savez(tmp_path / "v.npz", x=torch.rand(4, 1, 3, 4, 5), y=torch.arange(240).view(4, 3, 4, 5) % 2)
    assert load(str(tmp_path / "v.npz"), "segmentation").sample_shape == (1, 3, 4, 5)
    np.savez(tmp_path / "l.npz", x=np.arange(200) % 7)
    assert load(str(tmp_path / "l.npz"), "language").sample_shape == (64,)
    with pytest.raises(InputError, match="for labelling save it with x and y"):
        load(str(tmp_path / "l.npz"), "labelling")


def test_a_folder_of_images_and_masks(tmp_path):
    for part in ("images", "masks"):
        (tmp_path / part).mkdir()
    for i in range(8):
        Image.fromarray(np.full((10, 12, 3), 20 * i, np.uint8)).save(tmp_path / "images" / f"{i}.png")
        mask = np.zeros((10, 12), np.uint8)
        mask[:5] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / f"{i}.png")
    data = load(str(tmp_path), "segmentation")
    assert (data.classes, data.sample_shape, len(data.x_test)) == (("0", "255"), (3, 8, 8), 2)
    assert torch.equal(data.y_train[0], (torch.arange(8) < 4).long()[:, None].expand(8, 8))
    Image.fromarray(np.zeros((10, 11), np.uint8)).save(tmp_path / "masks" / "3.png")
    with pytest.raises(InputError, match="the mask is of size 11×10, its image of 12×10"):
        load(str(tmp_path), "segmentation")
    (tmp_path / "masks" / "3.png").unlink()
    with pytest.raises(InputError, match="1 of 8 images have no mask of the same name, such as 3"):
        load(str(tmp_path), "segmentation")
    with pytest.raises(InputError, match="must hold the directories 'images' and 'masks'"):
        load(str(tmp_path / "images"), "segmentation")


def test_sequences_of_different_lengths_are_padded():
    rows = [(torch.arange(1, n), torch.ones(n - 1, dtype=torch.long) * (n % 2)) for n in (3, 5, 4, 6)]
    data = load((Items(rows), Items(rows)), "labelling")
    assert data.x_train.tolist()[0] == [1, 2, 0, 0, 0]
    assert data.y_train.tolist()[0] == [1, 1, *[IGNORED] * 3]
    assert data.in_channels == 6


def test_what_is_read_anew_is_what_is_held():
    held = load(splits, "regression")
    for made in (
        lambda: tuple(Stream(*split) for split in splits()),
        lambda: tuple(DataLoader(Items(zip(*split, strict=True)), batch_size=3) for split in splits()),
    ):
        data = load(made, "regression")
        assert isinstance(data, StreamedData)
        torch.testing.assert_close(data.objective.statistics, held.objective.statistics)
        assert (data.train_samples, data.test_samples, data.steps(16)) == (40, 20, 2)
        assert torch.equal(torch.cat([b.x for b in data.in_order("train")]), held.x_train)
        batches = list(data.full_batches(8))
        assert [(len(batch.x), counted) for batch, counted in batches] == [(8, 8), (8, 8), (8, 4)]
        assert torch.equal(batches[2][0].x[4:], batches[0][0].x[:4])
        assert [len(batch.x) for batch in data.epoch(16, 0, 1)] == [16, 16]


def test_an_epoch_of_a_data_set_is_the_same_for_all_and_another_each_time():
    data = load(tuple(Items(zip(*split, strict=True)) for split in splits()), "regression", workers=0)
    first, again, second, other = (
        torch.cat([batch.x for batch in data.epoch(4, seed, epoch)]) for seed, epoch in ((0, 1), (0, 1), (0, 2), (1, 1))
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, second)
    assert not torch.equal(first, other)
    assert sorted(first[:, 0].tolist()) == sorted(second[:, 0].tolist())


def empty_last(items):
    """What some loaders give at their end."""
    x, y = (torch.stack(part) for part in zip(*items, strict=True))
    return (x, y) if len(x) == 128 else (x[:0], y[:0])


def loaders(**options):
    return tuple(DataLoader(Items(zip(*split, strict=True)), **options) for split in splits())


PAIR = (X, Y)
BAD = {
    "target not numeric": ((("x", "y"), PAIR), "regression", "samples are str, which is no tensor"),
    "NaN in the target": (((X, Y * float("nan")), PAIR), "regression", "20 targets are NaN or infinite"),
    "one number": (((X, Y * 0), PAIR), "regression", "all training targets are the same number"),
    "too many targets": (((X, Y[:, None, None]), PAIR), "regression", "give one number per sample"),
    "fewer targets": (((X, Y[:-1]), PAIR), "regression", "20 samples and 19 targets"),
    "floats as classes": ((PAIR, PAIR), "classification", "or write task='regression'"),
    "masks of another size": (
        ((IMAGES, MASKS[:, :6]),) * 2,
        "segmentation",
        r"of size 8×8 and masks of shape \[6, 8\]",
    ),
    "no images": (((X, MASKS[0, 0, :1].expand(20)),) * 2, "segmentation", "give images"),
    "labels beyond": (
        ((IMAGES, MASKS), (IMAGES, MASKS + 1)),
        "segmentation",
        "labels go from 1 to 3, but the training",
    ),
    "labels below": (((IMAGES, MASKS - 1), (IMAGES, MASKS)), "segmentation", "labels go from -1 to 1"),
    "half a class": (((IMAGES, MASKS / 2),) * 2, "segmentation", "masks are of type torch.float32; give whole numbers"),
    "no labels per token": (((MASKS[0], MASKS[0, 0]),) * 2, "labelling", "a label for each token"),
    "sequences of length 0": (((torch.zeros(4, 0).long(),) * 2,) * 2, "labelling", "length 0"),
    "an empty sequence": ((Items([(torch.zeros(0).long(),) * 2]),) * 2, "labelling", "sequence 0 is of length 0"),
    "nothing counts": (((MASKS[0], MASKS[0] * 0 + IGNORED),) * 2, "labelling", "without a label that counts"),
    "float tokens": ((X, X), "language", "tokens are torch.float32"),
    "negative tokens": ((-MASKS[0], MASKS[0]), "language", "token numbers go down to -2"),
    "a short row": ((MASKS[0, 0], MASKS[0, 0]), "language", "a row of 8 tokens is too short"),
    "no length": ((Endless(), Endless()), "regression", "Endless has no length"),
    "too long a length": (
        (Stream(X, Y, 30), Stream(X, Y)),
        "regression",
        "an epoch had 20 samples and the length is 30",
    ),
    "an empty stream": ((Stream(X[:0], Y[:0]),) * 2, "regression", "a split is empty"),
    "streamed and held": ((Stream(X, Y), PAIR), "regression", "read again in each epoch and the other is in memory"),
    "an empty batch": (loaders(batch_size=8, collate_fn=empty_last), "regression", "has no samples; let the loader"),
    "a loader's own batches": (loaders(batch_size=None), "regression", "has a custom batch sampler"),
    "NaN in a stream": ((Stream(X * float("inf"), Y), Stream(X, Y)), "regression", "batch 1 holds NaN or infinity"),
    "samples of two shapes": ((Stream([X[0], X[0, :1]], Y[:2]),) * 2, "regression", "batch 1 cannot be read"),
    "a stream of lists": ((Stream(["a", "b"], Y[:2]),) * 2, "regression", "let the data set give pairs"),
}


@pytest.mark.parametrize(("data", "task", "said"), BAD.values(), ids=BAD)
def test_what_is_wrong_with_data_is_said(data, task, said):
    with pytest.raises(InputError, match=said):
        load(data, task)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"workers": -1}, "workers must be how many"),
        ({"workers": 2}, "is held in memory; leave workers out"),
        ({"tokenizer": len}, "tokenizer= goes with a .txt file"),
    ],
)
def test_options_that_do_not_go_with_digits(options, said):
    with pytest.raises(InputError, match=said):
        load("digits", **options)


def test_tensors_need_no_workers_and_streams_are_not_standardized():
    with pytest.raises(InputError, match="gives tensors, which are in memory already"):
        load(splits, "regression", workers=0)
    with pytest.raises(InputError, match="standardize: works on data in memory"):
        load(lambda: tuple(Stream(*split) for split in splits()), "regression", standardize=True)
    with pytest.raises(InputError, match="are token numbers; leave it out"):
        load("text", standardize=True)


def test_a_loaders_sampler_is_kept():
    x, y = splits()[0]
    sampler = WeightedRandomSampler([1.0, *[0.0] * 39], 12)
    loader = DataLoader(Items(zip(x, y, strict=True)), batch_size=2, sampler=sampler)
    data = load((loader, DataLoader(Items(zip(x, y, strict=True)))), "regression")
    assert data.train_samples == 12
    assert all(torch.equal(batch.x, x[:1].expand(4, 2)) for batch in data.epoch(4, 0, 1))


def test_held_data_are_a_data():
    assert isinstance(load(splits, "regression"), Data)
