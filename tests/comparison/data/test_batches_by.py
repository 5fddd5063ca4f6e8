"""Mini-batches of one group each: how they are made, where the groups come from, what is refused."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

import normwise as nw
from normwise.comparison import SweepStarted, compare
from normwise.comparison.contestants.bank import remembering
from normwise.comparison.contestants.models import Network
from normwise.comparison.data.batches import batches_of_epoch, by_group, steps_of_epoch
from normwise.comparison.data.in_memory import Data
from normwise.comparison.data.sources import load_data
from normwise.comparison.data.validation import validation_part
from normwise.comparison.groups import Groups
from normwise.comparison.settings import InputError
from normwise.comparison.storage import read_sweep
from normwise.comparison.training.measure import evaluate, evaluate_in_training

GROUPS = torch.tensor([0, 1, 0, 2, 1, 0, 0, 1, 0, 1])


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_a_mini_batch_is_of_one_group(size):
    for epoch in range(1, 6):
        batches = batches_of_epoch(len(GROUPS), GROUPS, size, seed=3, epoch=epoch)
        assert all(len(batch) == size for batch in batches)
        assert all(len(GROUPS[batch].unique()) == 1 for batch in batches)
        # 5 samples of group 0, 4 of group 1, and 1 of group 2, which fills its batch alone.
        assert len(batches) == 5 // size + 4 // size + 1 == steps_of_epoch(len(GROUPS), GROUPS, size)
        of_large = torch.cat([batch for batch in batches if GROUPS[batch[0]] != 2])
        assert len(of_large.unique()) == len(of_large)


def test_without_groups_the_epoch_is_the_permutation_in_pieces():
    order = torch.cat(batches_of_epoch(10, None, 3, seed=1, epoch=2))
    assert len(order.unique()) == 9
    assert steps_of_epoch(10, None, 3) == 3
    assert not torch.equal(order, torch.cat(batches_of_epoch(10, None, 3, seed=1, epoch=3)))


def test_the_order_of_the_groups_is_drawn_and_the_same_each_time():
    def turns(epoch):
        return [int(GROUPS[batch[0]]) for batch in batches_of_epoch(len(GROUPS), GROUPS, 1, 0, epoch)]

    assert turns(1) == turns(1)
    assert len({tuple(turns(epoch)) for epoch in range(1, 9)}) > 4


def test_groups_in_the_order_given():
    parts = by_group(torch.tensor([9, 8, 3, 0, 1]), GROUPS)
    assert [part.tolist() for part in parts] == [[8, 0], [9, 1], [3]]


def shifted(samples, seed):
    """Two classes by the sign of the first feature, two groups whose features lie 6 apart."""
    x = torch.randn(samples, 4, generator=torch.Generator().manual_seed(seed))
    groups = torch.arange(samples) % 2
    y = (x[:, 0] > 0).long()
    return x + 6.0 * groups[:, None], y, groups


def two_domains():
    return shifted(160, 0), shifted(120, 1)


def small_net(norm, classes):
    hidden = torch.nn.Linear(4, 16)
    head = torch.nn.Linear(16, classes)
    return torch.nn.Sequential(nw.layers.make_norm(norm, 4, rank=1), hidden, torch.nn.ReLU(), head)


def sweep(norms, batches_by="group", **options):
    events = []
    options = {"batch_sizes": [16], "seeds": 2, "epochs": 12} | options
    rows = compare(small_net, two_domains, batches_by=batches_by, norms=norms, on_event=events.append, **options)
    return rows, next(event.about for event in events if isinstance(event, SweepStarted))


def test_batch_norm_fails_by_group_and_a_bank_for_each_mends_it():
    rows, about = sweep(["batch", "bank"])
    accuracy = {norm: [r["test_accuracy"] for r in rows if r["norm"] == norm] for norm in ("batch", "bank")}
    gap = {norm: [r["train_eval_gap"] for r in rows if r["norm"] == norm] for norm in ("batch", "bank")}
    assert max(accuracy["batch"]) < 0.75
    assert min(accuracy["bank"]) > 0.9
    assert min(gap["batch"]) > 0.2
    assert max(map(abs, gap["bank"])) < 0.1
    assert about["data"]["groups"] == ["0", "1"]
    assert all(row["batches_by"] == "group" for row in rows)
    assert any("one group alone (group)" in sentence for sentence in about["protocol"])
    assert any("bank is BatchNorm" in sentence for sentence in about["protocol"])


def test_without_groups_no_gap_arises_and_bank_is_left_out():
    rows, about = sweep(["batch", "bank"], batches_by=None)
    assert [row["norm"] for row in rows] == ["batch", "batch"]
    assert max(abs(row["train_eval_gap"]) for row in rows) < 0.1
    assert "without --batches-by there are no groups" in about["left_out"][0]
    assert {row["batches_by"] for row in rows} == {None}


def test_bank_is_left_out_where_the_held_out_split_has_a_group_of_its_own():
    def data():
        (x, y, groups), (x_test, y_test, groups_test) = two_domains()
        return (x, y, groups), (x_test, y_test, groups_test + 1)

    events = []
    rows = compare(
        small_net,
        data,
        batches_by="group",
        norms=["batch", "bank"],
        batch_sizes=[16],
        seeds=1,
        epochs=1,
        on_event=events.append,
    )
    assert [row["norm"] for row in rows] == ["batch"]
    about = next(event.about for event in events if isinstance(event, SweepStarted))
    assert "it has no statistics for 2: the training split has no such samples" in about["left_out"][0]


def in_groups(x, y, groups):
    return Data("groups", x, y, x, y, ("0", "1"), groups=Groups("group", ("0", "1"), groups, groups))


def test_evaluation_by_banks_is_each_group_by_its_own_statistics():
    x, y, groups = shifted(60, 2)
    model = small_net("batch", 2).eval()
    for group in (0, 1):
        with remembering(model, group):
            bank = model[0].banks[f"group{group}"]
            bank.running_mean.copy_(x[groups == group].mean(0))
            bank.running_var.copy_(x[groups == group].var(0))
    correct = loss = 0.0
    for group in (0, 1):
        part = x[groups == group]
        z = (part - part.mean(0)) / (part.var(0) + model[0].eps).sqrt()
        logits = model[1:](z)
        correct += float((logits.argmax(1) == y[groups == group]).sum())
        loss += torch.nn.functional.cross_entropy(logits, y[groups == group], reduction="sum").item()
    data = in_groups(x, y, groups)

    def evaluated(by_group):
        values = data.objective.values(evaluate(model, data.objective, data.in_order("test", by_group)).sum(0))
        return values["accuracy"], values["loss"]

    assert evaluated(by_group=True) == pytest.approx((correct / 60, loss / 60), abs=1e-6)
    assert evaluated(by_group=False) != pytest.approx((correct / 60, loss / 60), abs=1e-3)


def test_the_gap_is_taken_by_group():
    """In training mode the held-out batches are of one group, too, the last one filled up from its own."""
    x, y, groups = shifted(30, 3)
    seen = []

    class Watching(torch.nn.Module):
        def forward(self, batch):
            seen.append(batch[:, 0])
            return torch.stack([batch[:, 0], -batch[:, 0]], 1)

    data = in_groups(x, y, groups)
    evaluate_in_training(Network(Watching(), ()), data.objective, data.full_batches(8))
    assert [len(batch) for batch in seen] == [8, 8, 8, 8]
    assert all(len({bool(value > 3) for value in batch}) == 1 for batch in seen)


def test_the_option_changes_the_key_and_resumes_with_it(tmp_path):
    options = {"norms": ["batch"], "seeds": 1, "epochs": 1, "out": tmp_path}
    (by_group_row,), _ = sweep(**options)
    (mixed,), _ = sweep(**options, batches_by=None)
    assert by_group_row["key"] != mixed["key"]
    assert sweep(**options)[0] == [by_group_row]
    rows, about = read_sweep(tmp_path)
    assert rows == [by_group_row]
    assert json.loads((tmp_path / "settings.json").read_text())["settings"]["batches_by"] == "group"
    assert about["settings"]["batches_by"] == "group"
    assert len((tmp_path / "results.jsonl").read_text().splitlines()) == 2


def test_what_is_set_aside_for_the_learning_rates_keeps_its_groups():
    data = load_data(two_domains, 32, batches_by="group")
    part = validation_part(data, 16)
    for x, groups in ((part.x_train, part.groups.train), (part.x_test, part.groups.test)):
        assert len(x) == len(groups)
        assert torch.equal((x.mean(1) > 3).long(), groups)


def test_a_group_that_is_smaller_than_a_batch_is_said_so():
    def data():
        x, y, groups = shifted(60, 0)
        groups = groups.clone()
        groups[:3] = 2
        return (x, y, groups), (x, y, groups)

    events = []
    compare(
        small_net,
        data,
        batches_by="group",
        norms=["batch"],
        batch_sizes=[2, 8, 16],
        seeds=1,
        epochs=1,
        on_event=events.append,
    )
    (note,) = next(event.about for event in events if isinstance(event, SweepStarted))["notes"]
    assert note == (
        "From batch size 8 on, 1 of the 3 groups (group) has fewer training samples than a mini-batch, which repeats "
        "them."
    )


class Items(Dataset):
    def __init__(self, split):
        self.split = split

    def __len__(self):
        return len(self.split[0])

    def __getitem__(self, index):
        x, y, groups = (part[index] for part in self.split)
        return x, int(y), f"site {int(groups)}"


def test_data_sets_give_the_group_of_each_item():
    data = load_data(lambda: tuple(map(Items, two_domains())), 32, batches_by="group")
    assert data.groups.names == ("site 0", "site 1")
    assert torch.equal(data.groups.train, torch.arange(160) % 2)
    assert torch.equal(data.groups.test, torch.arange(120) % 2)


def test_a_third_entry_is_passed_over_where_nobody_asks_for_it():
    plain = load_data(two_domains, 32)
    assert plain.groups is None
    assert plain.fingerprint != load_data(two_domains, 32, batches_by="group").fingerprint
    assert load_data(lambda: tuple(map(Items, two_domains())), 32).groups is None


def test_the_embedded_digits_in_two_domains():
    data = load_data("mixed-digits", 32, batches_by="domain")
    assert data.groups.names == ("as written", "faint negative")
    assert torch.equal(data.x_train, load_data("mixed-digits", 32).x_train)
    plain = load_data("digits", 32)
    assert torch.equal(data.y_train, plain.y_train)
    for group, slope in ((0, 1.0), (1, -1 / 3)):
        mine, theirs = data.x_train[data.groups.train == group], plain.x_train[data.groups.train == group]
        fitted = np.polyfit(theirs.flatten().numpy(), mine.flatten().numpy(), 1)[0]
        assert fitted == pytest.approx(slope * float(scale(data) / scale(plain)), rel=1e-4)


def scale(data):
    """How many standardized units one grey level is."""
    return data.x_train[data.y_train == 0][0].sub(data.x_train[data.y_train == 0][0].min()).max()


@pytest.fixture
def photos(tmp_path):
    def make(*names, folder="photos"):
        rng = np.random.default_rng(0)
        for label in ("cat", "dog"):
            for name in names:
                path = tmp_path / folder / label / name
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(path)
        return str(tmp_path / "photos")

    return make


SITES = ("a/1.png", "a/2.png", "a/3.png", "a/4.png", "b/1.png", "b/2.png", "b/3.png", "b/4.png")
PATIENTS = tuple(f"patient{p}_{i}.png" for p in (7, 12) for i in range(4))


@pytest.mark.parametrize(
    ("names", "key", "groups"),
    [
        (SITES, "(.*)/", ("a", "b")),
        (SITES, "^.", ("a", "b")),
        (PATIENTS, r"patient(\d+)", ("12", "7")),
        (PATIENTS, r"patient\d+", ("patient12", "patient7")),
    ],
)
def test_groups_of_a_folder_by_a_pattern(photos, names, key, groups):
    data = load_data(photos(*names), 8, batches_by=key)
    assert data.groups.names == groups
    assert len(data.groups.train) + len(data.groups.test) == 16
    assert torch.cat([data.groups.train, data.groups.test]).bincount().tolist() == [8, 8]


def test_groups_of_a_folder_with_both_splits(photos):
    photos(*SITES, folder="photos/train")
    data = load_data(photos(*SITES[:5], folder="photos/test"), 8, batches_by="(.*)/")
    assert data.groups.train.tolist() == [0, 0, 0, 0, 1, 1, 1, 1] * 2
    assert data.groups.test.tolist() == [0, 0, 0, 0, 1] * 2


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("(", r"is no pattern for paths \(missing \), unterminated subpattern"),
        ("site", r"is not found in 16 of the 16 paths .* such as 'a/1.png'; write '\(\.\*\)/'"),
        (r"(\d)|x", "has|is of one group|several"),
        ("png", "all samples are of one group, 'png'"),
        ("(a)?/", r"is not found in 8 of the 16 paths"),
        ("", "must say where the groups"),
        (7, "must say where the groups"),
    ],
)
def test_patterns_that_tell_no_groups(photos, key, message):
    folder = photos(*SITES)
    if key == r"(\d)|x":
        assert load_data(folder, 8, batches_by=key).groups.names == ("1", "2", "3", "4")
        return
    with pytest.raises(InputError, match=message):
        compare("resnet8", folder, batches_by=key, image_size=8, batch_sizes=[2], seeds=1, epochs=1)


@pytest.fixture
def table(tmp_path):
    def write(groups, name="t.csv", header="a,b,scanner,class"):
        lines = [f"{i % 7},{(i * 3) % 5},{group},{'xy'[i // 2 % 2]}" for i, group in enumerate(groups)]
        path = tmp_path / name
        path.write_text("\n".join([header, *lines]))
        return str(path)

    return write


def test_a_column_of_a_table_tells_the_groups_and_is_no_feature(table):
    data = load_data(table(["old", "new"] * 10), 32, batches_by="scanner")
    assert data.groups.names == ("new", "old")
    assert data.sample_shape == (2,)
    assert load_data(table(["1", "2"] * 10), 32).sample_shape == (3,)


@pytest.mark.parametrize(
    ("groups", "key", "message"),
    [
        (["old", "new"] * 10, "site", r"there is no column 'site' \(--batches-by NAME\); the columns are a, b"),
        (["old", "new"] * 10, "class", "column 'class' holds the target"),
        (["old"] * 20, "scanner", "all samples are of one group, 'old'"),
        ([f"s{i}" for i in range(20)], "scanner", "20 different values in 20 samples"),
        (["old", " "] * 10, "scanner", "line 3 has no 'scanner'; fill it in or leave the line out"),
    ],
)
def test_columns_that_tell_no_groups(table, groups, key, message):
    with pytest.raises(InputError, match=message):
        load_data(table(groups), 32, batches_by=key)


def test_columns_of_arrays(tmp_path):
    rng = np.random.default_rng(0)
    plain = np.column_stack([rng.normal(size=(24, 2)), np.arange(24) % 2, np.arange(24) // 2 % 2])
    np.save(tmp_path / "plain.npy", plain)
    data = load_data(str(tmp_path / "plain.npy"), 32, batches_by="2")
    assert (data.groups.names, data.sample_shape, data.classes) == (("0", "1"), (2,), ("0", "1"))
    fields = [("site", "U1"), ("v", "f8"), ("y", "i8")]
    named = np.array([("ab"[i % 2], 1.0 * i, i // 2 % 2) for i in range(24)], fields)
    np.save(tmp_path / "named.npy", named)
    data = load_data(str(tmp_path / "named.npy"), 32, batches_by="site")
    assert (data.groups.names, data.sample_shape) == (("a", "b"), (1,))
    for file, key, message in (
        ("plain.npy", "9", "batches_by='9': .* has the columns 0 to 3"),
        ("plain.npy", "site", "batches_by='site': .* has the columns 0 to 3"),
        ("plain.npy", "-1", "holds the target"),
        ("plain.npy", "0", "one whole number or name per sample"),
        ("named.npy", "y", "holds the target"),
    ):
        with pytest.raises(InputError, match=message):
            load_data(str(tmp_path / file), 32, batches_by=key)


def test_arrays_of_an_npz_file(tmp_path):
    x, y = np.random.default_rng(0).normal(size=(24, 3)), np.arange(24) // 2 % 2
    groups = np.array(["left", "right"] * 12)
    np.savez(tmp_path / "whole.npz", x=x, y=y, side=groups, short=groups[:5], deep=np.zeros((24, 2)))
    whole = load_data(str(tmp_path / "whole.npz"), 32, batches_by="side")
    assert whole.groups.names == ("left", "right")
    assert len(whole.groups.train) == len(whole.x_train)
    np.savez(
        tmp_path / "parts.npz",
        **{"x_train": x, "y_train": y, "x_test": x[:8], "y_test": y[:8]},
        **{"side_train": groups, "side_test": groups[:8]},
    )
    parts = load_data(str(tmp_path / "parts.npz"), 32, batches_by="side")
    assert parts.groups.test.tolist() == [0, 1] * 4
    for file, key, message in (
        ("whole.npz", "site", "has no array 'site'"),
        ("whole.npz", "short", "has 5 entries for 24 samples"),
        ("whole.npz", "deep", "one whole number or name per sample"),
        ("parts.npz", "site", "has no array 'site_train'"),
    ):
        with pytest.raises(InputError, match=message):
            load_data(str(tmp_path / file), 32, batches_by=key)


def without_groups():
    return tuple(split[:2] for split in two_domains())


def too_few_groups():
    (x, y, groups), test = two_domains()
    return (x, y, groups[:-1]), test


def groups_of_fractions():
    (x, y, groups), test = two_domains()
    return (x, y, groups + 0.5), test


def with_groups(groups):
    (x, y, _), test = two_domains()
    return lambda: ((x, y, groups), test)


@pytest.mark.parametrize(
    ("data", "key", "message"),
    [
        (with_groups(3), "group", "groups are 3; give one number or name per sample"),
        (with_groups([[0], [0, 1]] * 80), "group", "groups are lists of different lengths"),
        (with_groups(torch.arange(160).to_sparse()), "group", "groups are a sparse tensor; return dense ones"),
        (with_groups(torch.empty(160, device="meta")), "group", "groups are a tensor without values"),
        (two_domains, "site", r"are the third entry of each split, \(x, y, group\); write 'group'"),
        (without_groups, "group", r"needs the group of each sample; return splits \(x, y, group\)"),
        (too_few_groups, "group", "160 and 120 samples, but 159 and 120 groups"),
        (groups_of_fractions, "group", "one whole number or name per sample"),
        ("digits", "domain", "'digits' have no groups"),
        ("mixed-digits", "site", "has no 'site'; its two domains are told apart by 'domain'"),
    ],
)
def test_data_that_give_no_groups(data, key, message):
    with pytest.raises(InputError, match=message):
        load_data(data, 32, batches_by=key)
