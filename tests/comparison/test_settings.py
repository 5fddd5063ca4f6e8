import pytest

from normwise.comparison.experiments.protocol import protocol_of
from normwise.comparison.settings import InputError, make_settings, named_norms
from normwise.layers import GroupNorm


def settings(**changes):
    arguments = {
        "model": "m",
        "data": "d",
        "norms": ["batch", "group"],
        "batch_sizes": [8, 2],
        "seeds": 2,
        "epochs": 3,
        "learning_rate": 0.4,
        "weight_decay": 0.0,
        "image_size": 32,
        "device": "cpu",
    }
    return make_settings(**(arguments | changes))


def test_sizes_are_sorted_and_a_count_of_seeds_is_spelled_out():
    made = settings(seeds=3)
    assert made.batch_sizes == (2, 8)
    assert made.seeds == (0, 1, 2)
    assert settings(seeds=[7, 5]).seeds == (7, 5)


def test_rate_is_linear_up_to_32_and_constant_beyond():
    made = settings(learning_rate=0.32)
    assert [made.rate(size) for size in (1, 8, 32, 64, 1000)] == pytest.approx([0.01, 0.08, 0.32, 0.32, 0.32])
    assert any("0.02 at 2, 0.08 at 8" in sentence for sentence in protocol_of(made))


def test_identity_holds_what_decides_a_result_and_not_the_rest_of_the_sweep():
    assert settings().identity() == settings(batch_sizes=[4], seeds=5, norms=["none"]).identity()
    for change in ({"epochs": 4}, {"learning_rate": 0.5}, {"weight_decay": 1e-4}):
        assert settings().identity() != settings(**change).identity()


def my_norm(channels):
    return GroupNorm(1, channels)


def test_norms_are_named():
    assert list(named_norms(["group:4", my_norm, GroupNorm])) == ["group:4", "my_norm", "GroupNorm"]


@pytest.mark.parametrize(
    ("norms", "message"),
    [
        (["bacth"], "did you mean 'batch'"),
        (["group", "group"], "'group' is given twice"),
        ("group", r"must be a list such as \['batch', 'group'\]"),
        ([], "must be a list"),
        ([lambda c: None], "nor a named function"),
        ([3], "neither a name nor a class"),
    ],
)
def test_bad_norms(norms, message):
    with pytest.raises(InputError, match=message):
        named_norms(norms)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"batch_sizes": [0]}, "batch_sizes: 0 is not an integer of at least 1"),
        ({"batch_sizes": [2.5]}, "2.5 is not an integer"),
        ({"batch_sizes": [True]}, "True is not an integer"),
        ({"batch_sizes": []}, r"must be a list of integers such as \[2, 8, 64\]"),
        ({"batch_sizes": 8}, "must be a list of integers"),
        ({"batch_sizes": [4, 4]}, "give each value once"),
        ({"lrs": [0.1]}, "lrs must be a list of different learning rates such as"),
        ({"lrs": [0.1, 0.1]}, "lrs must be a list of different learning rates such as"),
        ({"lrs": [0.1, 0.0]}, "lrs must be a positive number, received 0.0"),
        ({"seeds": 0}, "seeds: 0 is not an integer of at least 1"),
        ({"seeds": [-1]}, "seeds: -1 is not an integer of at least 0"),
        ({"seeds": []}, "seeds must be a list"),
        ({"epochs": 0}, "epochs: 0 is not an integer"),
        ({"epochs": "3"}, "epochs: '3' is not an integer"),
        ({"learning_rate": 0}, "learning_rate must be a positive number"),
        ({"learning_rate": float("nan")}, "learning_rate must be a positive number"),
        ({"learning_rate": float("inf")}, "learning_rate must be a positive number"),
        ({"weight_decay": -1.0}, "weight_decay must be a 0 or positive number"),
        ({"image_size": 0}, "image_size: 0 is not"),
        ({"device": "gpu"}, "device='gpu' is not available here; write 'cpu'"),
        ({"device": "cuda:99"}, "device='cuda:99' is not available here"),
    ],
)
def test_bad_settings(changes, message):
    with pytest.raises(InputError, match=message):
        settings(**changes)


def test_the_protocol_says_how_the_learning_rate_was_chosen():
    assert any("may not suit all of them (--lrs chooses for each)" in sentence for sentence in protocol_of(settings()))
    chosen = " ".join(protocol_of(settings(lrs=[0.1, 0.5])))
    assert "Peak learning rate: of 0.1, 0.5 (× min(1, batch size / 32)) the one with the highest accuracy" in chosen
