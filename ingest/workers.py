"""Who does the work: this process, worker processes on this machine, or workers of a Dask cluster."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from typing import Any, TypeVar

import pyarrow as pa

from hepfm.core.errors import HepfmError
from hepfm.core.progress import say
from hepfm.core.versions import versions

Item = TypeVar("Item")
Result = TypeVar("Result")
LOCAL = "local"
CONNECT_S = 30
POLL_S = 0.5
Advance = Callable[[int], None]


@dataclass
class Workers:
    """How work is spread; no result depends on it.

    As a context, worker processes stay from one piece of work to the next; otherwise they end with each.

    Attributes:
        processes: worker processes on this machine; one means this process.
        scheduler: address of a Dask scheduler (``tcp://host:8786``) whose workers see the same files under the same
            paths; ``local`` for a Dask cluster of ``processes`` workers on this machine; None for plain processes.
    """

    processes: int = 1
    scheduler: str | None = None
    _kept: ExitStack | None = field(default=None, init=False, repr=False)
    _executor: ProcessPoolExecutor | None = field(default=None, init=False, repr=False)

    def __enter__(self) -> Workers:
        self._kept = ExitStack()
        return self

    def __exit__(self, *_: object) -> None:
        if self._kept is not None:
            self._kept.close()
        self._kept = self._executor = None

    def results(
        self, function: Callable[[Item], Result], items: Sequence[Item], where: object, advance: Advance | None = None
    ) -> Iterator[tuple[Item, Result]]:
        """Each item with its result, as they come.

        Args:
            function: picklable.
            items: picklable.
            where: what is worked on, for messages.
            advance: is told how far work on items that are not finished is, where :func:`moved` tells it (but for
                workers of a cluster).

        Raises:
            HepfmError: a worker died (on a cluster: four of them over the same item) or has other versions than this
                process, or no scheduler answers (any more).
        """
        if self.scheduler is not None:
            return _cluster(function, items, self, where)
        if min(self.processes, len(items)) <= 1:
            return self._here(function, items, advance)
        return self._by_processes(function, items, where, advance)

    def _here(
        self, function: Callable[[Item], Result], items: Sequence[Item], advance: Advance | None
    ) -> Iterator[tuple[Item, Result]]:
        before = _MOVED.tell
        _MOVED.tell = advance
        try:
            for item in items:
                yield item, function(item)
        finally:
            _MOVED.tell = before

    def _by_processes(
        self, function: Callable[[Item], Result], items: Sequence[Item], where: object, advance: Advance | None
    ) -> Iterator[tuple[Item, Result]]:
        with ExitStack() as stack, _deaths_told(where):
            executor = self._pool(stack)
            shown = _moved_by_workers()
            futures = {executor.submit(function, item): item for item in items}
            waiting = set(futures)
            try:
                while waiting:
                    finished, waiting = wait(waiting, POLL_S if advance else None, FIRST_COMPLETED)
                    now = _moved_by_workers()
                    if advance and now > shown:
                        advance(now - shown)
                        shown = now
                    for future in finished:
                        yield futures[future], future.result()
            finally:
                for future in futures:
                    future.cancel()

    def _pool(self, stack: ExitStack) -> ProcessPoolExecutor:
        """The processes that are kept, or new ones that end with ``stack``."""
        if self._kept is None:
            return stack.enter_context(_pool(self.processes))
        if self._executor is None:
            self._executor = self._kept.enter_context(_pool(self.processes))
        return self._executor


def moved(count: int) -> None:
    """Called by long work on one item: ``count`` more units of it are done. The user sees it; nothing depends on it."""
    if _MOVED.tell is not None:
        _MOVED.tell(count)


@dataclass
class _Moved:
    tell: Advance | None = None


_MOVED = _Moved()


SLOTS = 4096


@cache
def _slots() -> Any:
    """Counters that this process shares with its workers, one for each by its process id.

    Without a lock, which a worker that is killed might take with it.
    """
    return _context().RawArray("q", SLOTS)


def _moved_by_workers() -> int:
    return sum(_slots())


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_order(function: Callable[[Item], Result], items: Iterable[Item], processes: int) -> Iterator[Result]:
    """``function`` of each item, in order; few results wait at a time, so that memory stays bounded.

    Args:
        function: picklable; with more than one process it runs in spawned workers.
        items: picklable.
        processes: worker processes; one means this one.

    Raises:
        HepfmError: a worker died.
    """
    if processes <= 1:
        yield from map(function, items)
        return
    with _deaths_told(""), _pool(processes) as executor:
        left = iter(items)
        waiting: deque[Future[Result]] = deque(executor.submit(function, item) for item in islice(left, 4 * processes))
        while waiting:
            result = waiting.popleft().result()
            waiting.extend(executor.submit(function, item) for item in islice(left, 1))
            yield result


@contextmanager
def _pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    executor = ProcessPoolExecutor(processes, mp_context=_context(), initializer=_start_worker, initargs=(_slots(),))
    try:
        yield executor
    finally:
        executor.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _deaths_told(where: object) -> Iterator[None]:
    try:
        yield
    except BrokenProcessPool as error:
        raise HepfmError(
            "a worker process died (killed, or out of memory)",
            where,
            "run again: it continues; give fewer --processes if memory ran out",
        ) from error


@cache
def _context() -> multiprocessing.context.BaseContext:
    """Workers are forked from a server that has imported what they need: spawning each would import it anew."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # pandas: Arrow and uproot import it at their first conversion.
    context.set_forkserver_preload(["hepfm.ingest.build", "hepfm.ingest.sources.jetclass", "pandas"])
    return context


def _start_worker(slots: Any) -> None:
    """Workers end with their parent, however it ends, die quietly at Ctrl-C, and keep to one core each."""

    def add(count: int) -> None:
        slots[os.getpid() % SLOTS] += count

    _MOVED.tell = add
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    pa.set_cpu_count(1)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _cluster(
    function: Callable[[Item], Result], items: Sequence[Item], workers: Workers, where: object
) -> Iterator[tuple[Item, Result]]:
    # Here, because it takes a second to import and most builds need no cluster.
    from distributed import KilledWorker
    from distributed import as_completed as as_done

    with ExitStack() as stack:
        client = _client(workers, stack)
        # Keys are new in each run: a scheduler that lives on must not answer with results of an older one.
        futures = client.map(_Alone(function, versions()), items, pure=False)
        of = {future.key: item for future, item in zip(futures, items, strict=True)}
        try:
            for future in as_done(futures):
                yield of[future.key], future.result()
        except KilledWorker as error:
            raise HepfmError(
                f"workers died again and again over one piece of work ({error})",
                where,
                "look at the memory of the workers; run again: it continues",
            ) from error
        except CancelledError as error:
            raise HepfmError("the Dask scheduler is gone", where, "start it and run again: it continues") from error
        finally:
            client.cancel(futures)


@dataclass(frozen=True)
class _Alone:
    """The same function, one call at a time in a process: what it keeps open is not made for several threads.

    Asked of each worker at work, because workers come and go: does it have the versions of the process that asks?
    """

    function: Callable[[Any], Any]
    versions: dict[str, str]

    def __call__(self, item: Any) -> Any:
        here = versions()
        changed = sorted(name for name in here.keys() | self.versions if here.get(name) != self.versions.get(name))
        if changed:
            raise HepfmError(
                f"has another {', '.join(changed)}",
                f"the Dask worker on {socket.gethostname()}",
                "workers need the environment of this process: the bytes depend on it",
            )
        with _BUSY:
            return self.function(item)


_BUSY = threading.Lock()


def _client(workers: Workers, stack: ExitStack) -> Any:
    from distributed import Client

    if workers.scheduler == LOCAL:
        return stack.enter_context(Client(_local_cluster(workers.processes)))
    try:
        client = stack.enter_context(Client(workers.scheduler, timeout=CONNECT_S))
    except (OSError, ValueError) as error:
        where = f"--scheduler {workers.scheduler}"
        raise HepfmError(f"no Dask scheduler answers: {error}", where, "give the address of one that runs") from error
    found = len(client.scheduler_info(n_workers=-1)["workers"])
    say(f"{found} workers at {workers.scheduler}" + ("" if found else ": waiting for some"))
    return client


@cache
def _local_cluster(processes: int) -> Any:
    """A cluster on this machine; it stays until the process ends, as a build needs it more than once.

    Raises:
        HepfmError: a worker died while it started, or there is no memory or port for it.
    """
    from distributed import LocalCluster

    try:
        return LocalCluster(n_workers=processes, threads_per_worker=1, dashboard_address=":0", silence_logs="ERROR")
    except (RuntimeError, OSError) as error:  # a worker that dies at its start is not replaced
        raise HepfmError(
            f"the workers do not start: {error}",
            f"--scheduler {LOCAL}",
            "run again: it continues; give fewer --processes if memory ran out",
        ) from error
