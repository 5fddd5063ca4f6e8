"""The hooks of trainers: a watch is a callback of Lightning's and Hugging Face's Trainer; neither is imported."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

from torch import nn


class TrainerHooks(ABC):
    """Both trainers call their callbacks' hooks by name; hooks that a watch does not use do nothing."""

    @abstractmethod
    def begin_step(self, step: int, around: nn.Module | None = None) -> None:
        """A trainer's step begins; ``around`` is the module whose parts the trainer may call directly."""

    @abstractmethod
    def end_forward(self) -> None:
        """The forward passes of the step are over."""

    @abstractmethod
    def close(self) -> None: ...

    def __getattr__(self, name: str) -> Callable[..., None]:
        # `teardown` among them, because Lightning also calls it after a validation.
        if name.startswith("on_") or name in ("setup", "teardown", "load_state_dict"):
            return _nothing
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    # Hugging Face
    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.begin_step(int(state.global_step))

    # Lightning, whose module may train without calling its own forward
    def on_train_batch_start(self, trainer: Any, pl_module: nn.Module, batch: Any, batch_idx: int) -> None:
        self.begin_step(int(trainer.global_step), pl_module)

    def on_before_backward(self, trainer: Any, pl_module: nn.Module, loss: Any) -> None:
        self.end_forward()

    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        self.end_forward()

    def on_exception(self, *args: Any, **kwargs: Any) -> None:
        self.close()

    @property
    def state_key(self) -> str:
        """A unique key, which Lightning requires; there is no state to save."""
        return f"{type(self).__qualname__}({id(self)})"

    def state_dict(self) -> dict[str, Any]:
        return {}

    # both
    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.close()


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None
