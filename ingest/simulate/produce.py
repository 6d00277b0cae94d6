"""Simulated jets as JetClass ROOT files: one file a job, each with a seed of its own."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pyarrow as pa

from hepfm.core import draws
from hepfm.core.errors import HepfmError
from hepfm.core.files import digest_of, locked, read_json, sweep, write_json
from hepfm.core.progress import progress
from hepfm.ingest.formats.jetclass import write_jetclass
from hepfm.ingest.simulate.detector import detect
from hepfm.ingest.simulate.jets import cluster, in_acceptance, matched, records_of
from hepfm.ingest.simulate.processes import COMMON, Process, process_for
from hepfm.ingest.simulate.pythia import Generator, require_pythia

JETS_PER_FILE = 5_000
SETTINGS_FILE = "settings.json"
# Raised whenever the same settings give other jets than before.
SIMULATION_VERSION = 2

_EVENTS_PER_BATCH = 200
_FRUITLESS_BATCHES = 25
_POLL_S = 0.5


@dataclass(frozen=True)
class Job:
    """One file: ``jets`` jets of one class; label, index and seed alone decide what is in it."""

    path: Path
    label: str
    index: int
    jets: int
    seed: int


def simulate_jetclass(
    out: Path,
    labels: Sequence[str],
    jets_per_label: int,
    seed: int,
    processes: int,
    jets_per_file: int = JETS_PER_FILE,
) -> list[Path]:
    """Simulate jets with Pythia 8 and a parametrised detector; write them as JetClass ROOT files.

    13 TeV, anti-kt R = 0.8, 500 < pt < 1000 GeV, abs(eta) < 2, no pileup; jets of a resonance hold all its decay
    products within 0.8 of their axis. Files are named like ``QCD_000.root``; a file is there only when complete. Called
    again, it makes the missing files only. Equal arguments give equal bytes for any number of processes.

    Args:
        out: folder of the files, new or begun with the same settings.
        labels: classes, of ``processes.LABELS``.
        jets_per_label: jets of each class.
        seed: names the random sequence.
        processes: how many processes share the work.
        jets_per_file: jets in a file; the last one of a class has what remains.

    Returns:
        All files, class by class.

    Raises:
        HepfmError: Pythia is not installed; no such class; a number below 1; ``out`` holds something else; another
            process is writing there.
    """
    _check(labels, jets_per_label, processes, jets_per_file)
    require_pythia()
    with locked(out):
        _claim(out, _identity(labels, jets_per_label, seed, jets_per_file))
        sweep(out)
        jobs = [
            Job(out / f"{label}_{index:03d}.root", label, index, min(jets_per_file, jets_per_label - first), seed)
            for label in labels
            for index, first in enumerate(range(0, jets_per_label, jets_per_file))
        ]
        missing = [job for job in jobs if not job.path.exists()]
        total = jets_per_label * len(labels)
        if missing:
            with progress("simulate", total, "jets") as bar:
                bar.advance(total - sum(job.jets for job in missing))
                if processes == 1 or len(missing) == 1:
                    for job in missing:
                        make_file(job, bar.advance)
                else:
                    _make_files(missing, processes, bar.advance)
    return [job.path for job in jobs]


def make_file(job: Job, advance: Callable[[int], None] = lambda jets: None) -> None:
    """Make one file, atomically; ``advance`` is told of jets as they are made."""
    write_jetclass(job.path, _jets(job, advance))


def _jets(job: Job, advance: Callable[[int], None]) -> Iterator[pa.RecordBatch]:
    process = process_for(job.label)
    generator = Generator(process, draws.key_of("pythia", job.seed, job.label, job.index))
    rng = draws.generator("detector", job.seed, job.label, job.index)
    wanted, fruitless = job.jets, 0
    while wanted:
        batch = _batch(generator, process, rng)
        fruitless = 0 if len(batch) else fruitless + 1
        if fruitless == _FRUITLESS_BATCHES:
            raise HepfmError(f"no jet in {fruitless * _EVENTS_PER_BATCH:,} events", f"class {job.label}")
        batch = batch.slice(0, wanted)
        wanted -= len(batch)
        advance(len(batch))
        yield batch


def _batch(generator: Generator, process: Process, rng: Any) -> pa.RecordBatch:
    particles, partons = generator.events(_EVENTS_PER_BATCH)
    candidates = detect(particles, rng)
    jets = cluster(candidates)
    jets = jets.select(in_acceptance(jets))
    if process.products:
        jets = jets.select(matched(jets, partons, process.products))
    return records_of(jets, candidates, process.label)


def _check(labels: Sequence[str], jets_per_label: int, processes: int, jets_per_file: int) -> None:
    for label in labels:
        process_for(label)
    if not labels or len(set(labels)) != len(labels):
        raise HepfmError("name at least one class, and each only once", "labels")
    for name, value in (
        ("jets_per_label", jets_per_label),
        ("processes", processes),
        ("jets_per_file", jets_per_file),
    ):
        if value < 1:
            raise HepfmError(f"must be at least 1, is {value}", name)


def _identity(labels: Sequence[str], jets_per_label: int, seed: int, jets_per_file: int) -> dict[str, Any]:
    rows = {label: {**asdict(process_for(label)), "common": COMMON} for label in labels}
    return {
        "simulation": SIMULATION_VERSION,
        "labels": list(labels),
        "jets_per_label": jets_per_label,
        "jets_per_file": jets_per_file,
        "seed": seed,
        "physics": digest_of(rows),
        "versions": {name: metadata.version(name) for name in ("pythia8mc", "fastjet")},
    }


def _claim(out: Path, identity: dict[str, Any]) -> None:
    """Make the folder this simulation's, or see that it already is."""
    settings = out / SETTINGS_FILE
    if settings.exists():
        found = read_json(settings)
        changed = [name for name in identity if found.get(name) != identity[name]]
        if changed:
            differences = ", ".join(f"{name} {found.get(name)} (now {identity[name]})" for name in changed)
            raise HepfmError(
                f"holds a simulation with other settings: {differences}", out, "name another folder, or remove it"
            )
    elif any(not path.name.startswith(".") for path in out.iterdir()):
        raise HepfmError("holds other files", out, "name a new or empty folder")
    else:
        write_json(settings, identity)


def _make_files(jobs: Sequence[Job], processes: int, advance: Callable[[int], None]) -> None:
    # Spawned, not forked: a fork would copy the state of threads and libraries of whoever calls.
    context = multiprocessing.get_context("spawn")
    made = context.Value("q", 0)
    workers = min(processes, len(jobs))
    with ProcessPoolExecutor(workers, context, initializer=_start_worker, initargs=(made,)) as pool:
        waiting = {pool.submit(_make_file_counted, job) for job in jobs}
        shown = 0
        try:
            while waiting:
                finished, waiting = wait(waiting, timeout=_POLL_S, return_when=FIRST_EXCEPTION)
                now = made.value
                advance(now - shown)
                shown = now
                for future in finished:
                    future.result()
        except BrokenProcessPool as error:
            raise HepfmError(
                "a simulating process was killed", jobs[0].path.parent, "run again: it continues"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


_made: Any = None


def _start_worker(made: Any) -> None:
    global _made
    _made = made
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave_with_parent() -> None:
        # A worker whose parent was killed would wait for its next job for ever.
        parent.join()
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()


def _make_file_counted(job: Job) -> None:
    def advance(jets: int) -> None:
        with _made.get_lock():
            _made.value += jets

    make_file(job, advance)
