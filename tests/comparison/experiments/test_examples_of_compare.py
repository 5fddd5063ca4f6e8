"""The examples of one process train; those of several are tried in together_worker.py."""

import math
import sys
from pathlib import Path

from libraries import lightning

from normwise.comparison import compare

sys.path.insert(0, str(Path(__file__).parents[3] / "examples" / "compare"))
SMALL = {"batch_sizes": [32], "seeds": 1, "epochs": 1}


def test_diabetes():
    import diabetes

    rows = compare(
        train=diabetes.train, norms=["batch", "none"], metric="rmse", direction="min", lrs=[1e-3, 1e-2], **SMALL
    )
    assert [row["status"] for row in rows] == ["finished", "finished"]
    assert all(40 < row["value"] < 90 and math.isfinite(row["metrics"]["validation_rmse"]) for row in rows)
    assert all(row["curve"][0].keys() == {"epoch", "train_loss", "validation_rmse"} for row in rows)


def test_a_lightning_module():
    lightning()
    import lightning_module

    rows = compare(train=lightning_module.train, norms=["batch", "group"], metric="accuracy", direction="max", **SMALL)
    assert [row["status"] for row in rows] == ["finished", "finished"]
    assert all(row["value"] > 0.2 and row["curve"][0]["train_loss"] < 2.3 for row in rows)
