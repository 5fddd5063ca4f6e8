import pytest
import torch

from normwise.comparison import compare

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

SMALL = {
    "model": "resnet8",
    "data": "digits",
    "norms": ["batch", "group", "none"],
    "batch_sizes": [8, 64],
    "seeds": 1,
    "epochs": 2,
}


def test_a_gpu_gives_complete_rows_and_keeps_the_callers_random_state():
    torch.cuda.manual_seed(1)
    expected = torch.rand(2, device="cuda")
    torch.cuda.manual_seed(1)
    rows = compare(**SMALL)
    assert torch.equal(torch.rand(2, device="cuda"), expected)
    for row in rows:
        assert row["status"] == "finished"
        assert row["memory_kind"] == "CUDA caching allocator"
        assert row["peak_memory_bytes"] > 8 * row["parameters"]
        assert row["step_ms"] > 0
    assert min(row["test_accuracy"] for row in rows) > 0.3


def test_learning_rates_are_chosen_on_a_gpu():
    rows = compare(**(SMALL | {"norms": ["batch"], "batch_sizes": [64], "epochs": 1, "lrs": [0.1, 0.5]}))
    assert [row["status"] for row in rows] == ["finished"]


def test_the_accelerator_is_not_seeded_by_a_comparison_on_the_cpu():
    torch.cuda.manual_seed(1)
    expected = torch.rand(2, device="cuda")
    torch.cuda.manual_seed(1)
    compare(**(SMALL | {"epochs": 1, "batch_sizes": [64], "device": "cpu"}))
    assert torch.equal(torch.rand(2, device="cuda"), expected)
