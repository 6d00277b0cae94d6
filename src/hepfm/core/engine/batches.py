"""What the engine asks of data and of objectives, and how a batch is shared out."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol, TypeVar

from torch import Tensor

ItemT = TypeVar("ItemT")


class Batches(Protocol):
    """Records in reading order; a record is named by its position since the beginning of training.

    Both methods must depend on nothing but their arguments (no global random state): they are called from a
    second thread, and again after an interruption.
    """

    def batch(self, start: int, stop: int) -> Any:
        """Records [start, stop) as tensors on the CPU, in an object with ``.to(device)``."""
        ...

    def tokens(self, start: int, stop: int) -> int:
        """How many real tokens (terms of the loss) records [start, stop) hold."""
        ...


class Losses(NamedTuple):
    """What an objective's ``forward(batch)`` returns (a tuple: DeepSpeed looks for tensors in tuples only)."""

    total: Tensor
    """Sum of the loss over the real tokens of this micro-batch (nats), differentiable."""
    figures: dict[str, Tensor]
    """Further figures, under the same names each time: a sum over real tokens, logged per real token; or a pair
    (sum, count), logged as sum / count, and left out of a line where the count is 0."""


def part(start: int, records: int, index: int, parts: int) -> tuple[int, int]:
    """Positions [first, last) of one of ``parts`` contiguous slices of [start, start + records).

    Slices are equal, or differ by one record where ``parts`` does not divide ``records``.
    """
    return start + records * index // parts, start + records * (index + 1) // parts


def prefetch(jobs: Iterable[Callable[[], ItemT]]) -> Generator[ItemT, None, None]:
    """Yield the jobs' results in order; one thread is one job ahead. A job's exception is raised here."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetch") as pool:
        ahead: Future[ItemT] | None = None
        for job in jobs:
            now, ahead = ahead, pool.submit(job)
            if now is not None:
                yield now.result()
        if ahead is not None:
            yield ahead.result()
