"""Choosing a backend: visible, explicit, and undone."""

import threading

import pytest
import torch

import normwise as nw
from normwise import backends as package
from normwise.backends import available_backends, forced, reference, select, use_backend


def test_the_automatic_choice_is_the_first_that_is_available_and_serves():
    usable = [name for name, reason in available_backends().items() if reason is None]
    assert "reference" in usable
    assert select(torch.randn(2, 3, 4)).name in usable


def test_the_choice_ends_with_the_block_also_after_an_error():
    def fail_inside():
        with use_backend("reference"):
            assert forced() is reference
            raise KeyError

    with pytest.raises(KeyError):
        fail_inside()
    assert forced() is None


def test_the_choice_is_the_threads_own():
    seen = []
    with use_backend("reference"):
        thread = threading.Thread(target=lambda: seen.append(forced()))
        thread.start()
        thread.join()
    assert seen == [None]


def test_an_unknown_backend_names_the_known_ones():
    with pytest.raises(ValueError, match=r"Unknown backend 'cuda'; the backends are: .*reference"), use_backend("cuda"):
        pass


def test_an_unavailable_backend_is_an_error_with_the_reason_not_a_fallback(monkeypatch):
    class Missing:
        name = "missing"

        def unavailable(self):
            return "no compiler was found; install g++."

    monkeypatch.setitem(package._BACKENDS, "missing", Missing())
    with (
        pytest.raises(RuntimeError, match="not available: no compiler was found"),
        use_backend("missing"),
    ):
        pass
    assert select(torch.randn(2, 3)).name != "missing"


def test_a_chosen_backend_runs_its_own_kernels(monkeypatch):
    calls = []
    monkeypatch.setattr(reference, "apply", lambda x, *rest: calls.append(x.shape) or x)
    with use_backend("reference"):
        nw.GroupNorm(2, 4)(torch.randn(2, 4, 3))
    assert calls == [(2, 4, 3)]
