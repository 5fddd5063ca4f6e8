"""Sweeps on a Ray cluster, here one of two processors on this machine."""

import importlib.util
import os
import re
import socket
import sys
from types import ModuleType, SimpleNamespace

import pytest
import small_jobs

from normwise.comparison import InputError, compare

OWN = {"metric": "score", "direction": "max", "norms": ["batch", "group", "none"], "batch_sizes": [4], "seeds": 2}
SMALL = {"model": "small_problems:net", "data": "small_problems:blobs", "norms": ["batch", "group"], "epochs": 1}
TIMES = ("step_ms", "seconds", "started")


@pytest.fixture(scope="module")
def cluster():
    spec = importlib.util.find_spec("ray")
    if spec is None or spec.origin is None:
        pytest.skip("ray is not installed")
    import ray

    # Other tests run beside: its processes may take long to start.
    os.environ.setdefault("RAY_raylet_start_wait_time_s", "180")
    environment = {"env_vars": {"PYTHONPATH": ":".join(filter(None, sys.path))}}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=environment)
    yield ray
    ray.shutdown()


def untimed(rows):
    return [{name: value for name, value in row.items() if name not in TIMES} for row in rows]


def test_rows_are_those_of_one_process(cluster, tmp_path):
    rows = compare(train=small_jobs.score, **OWN, ray="auto", out=tmp_path)
    assert untimed(rows) == untimed(compare(train=small_jobs.score, **OWN))
    sweep = SMALL | {"batch_sizes": [8], "seeds": 1}
    assert untimed(compare(**sweep, ray="auto")) == untimed(compare(**sweep))
    again = []
    compare(train=small_jobs.score, **OWN, ray="auto", out=tmp_path, on_event=again.append)
    assert [type(event).__name__ for event in again] == ["SweepStarted", *["RunSkipped"] * 6]


def test_the_run_of_a_killed_worker_is_repeated(cluster, tmp_path):
    train = small_jobs.killing_once(tmp_path)
    rows = compare(train=train, **OWN, ray="auto")
    assert (tmp_path / "killed once").exists()
    # The function, and with it name and key, is another than the one that kills nobody.
    undisturbed = compare(train=small_jobs.score, **OWN)
    own = {"key", "train"}
    for row, expected in zip(untimed(rows), untimed(undisturbed), strict=True):
        assert {k: v for k, v in row.items() if k not in own} == {k: v for k, v in expected.items() if k not in own}


def test_a_run_that_kills_its_worker_each_time_has_failed(cluster):
    rows = compare(train=small_jobs.always_deadly, **(OWN | {"norms": ["batch", "none"], "seeds": 1}), ray="auto")
    assert [row["status"] for row in rows] == ["finished", "failed"]
    assert rows[1]["message"] == "Its process ended 3 times: WorkerCrashedError."


def test_without_ray_or_a_cluster_one_sentence(monkeypatch):
    def unreachable(**_):
        raise ConnectionError("timed out")

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=unreachable))
    with pytest.raises(InputError, match=r"ray='auto': no cluster can be reached there \(ConnectionError\)"):
        compare(train=small_jobs.score, **OWN, ray="auto")
    with socket.create_server(("127.0.0.1", 0)) as server:
        used = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(InputError, match=rf"ray='{used}': .*\(ConnectionError\)"):
            compare(train=small_jobs.score, **OWN, ray=used)
    # Nothing listens: said at once, without Ray, which would try for minutes.
    monkeypatch.setattr(sys.modules["ray"], "init", None)
    for address in (used, f"ray://{used}", "127.0.0.1:99999", "[::1]:1", "nowhere.invalid:6379"):
        with pytest.raises(InputError, match=rf"ray='{re.escape(address)}': no cluster can be reached there \("):
            compare(train=small_jobs.score, **OWN, ray=address)
    for found in (None, ModuleType("ray")):  # the second is what a folder of this name is to Python
        monkeypatch.setitem(sys.modules, "ray", found)
        with pytest.raises(InputError, match="ray= needs Ray, which is not installed; run `pip install ray`"):
            compare(train=small_jobs.score, **OWN, ray="auto")
    with pytest.raises(InputError, match="jobs= and ray= are two ways to run in parallel"):
        compare(train=small_jobs.score, **OWN, ray="auto", jobs=2)
    with pytest.raises(InputError, match="ray= starts other processes, which must be able to import train="):
        compare(train=lambda run: {"score": 1.0}, **OWN, ray="auto")
