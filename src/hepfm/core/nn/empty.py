"""Networks of which only the shapes are wanted, because weights are to be read: nothing is allocated, nothing drawn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode


@contextmanager
def without_weights() -> Iterator[None]:
    """Networks that are built inside have empty parameters on the device ``meta``.

    Draws on that device do nothing, but import torch's compiler for it, which takes more than a second; they are left
    out.
    """
    with torch.device("meta"), _NoDraws():
        yield


class _NoDraws(TorchFunctionMode):
    """Functions of ``torch.nn.init`` give back the tensor that they were to fill."""

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        named = kwargs or {}
        if getattr(function, "__module__", "") == "torch.nn.init":
            return args[0] if args else named["tensor"]
        return function(*args, **named)
