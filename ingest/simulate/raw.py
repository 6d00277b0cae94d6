"""Simulated records as raw files in public formats: one sequence a file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pyarrow as pa

from hepfm.core.errors import HepfmError
from hepfm.core.files import locked, read_json, sweep, told_when_full, write_json
from hepfm.core.progress import progress
from hepfm.ingest.export.raw_files import RAW_FORMATS, RawFormat
from hepfm.ingest.geometry import Geometry
from hepfm.ingest.simulate.simulation import Simulation, check_pieces, sequence_name
from hepfm.ingest.workers import Workers, moved

RECORDS_PER_FILE = 5_000
SETTINGS_FILE = "settings.json"


@dataclass(frozen=True)
class Sequence:
    """What one file holds."""

    path: Path
    stream: str
    number: int
    records: int


def write_raw(
    simulation: Simulation,
    form: str,
    out: Path,
    records: int,
    records_per_file: int = RECORDS_PER_FILE,
    workers: Workers | None = None,
) -> list[Path]:
    """Simulate records and write them as raw files, named like ``QCD_000.root``.

    A file is there only when complete. Called again, it makes the missing files only. Equal arguments give equal bytes
    for any number of processes.

    Args:
        simulation: what is simulated.
        form: one of its ``formats``.
        out: folder of the files, new or begun with the same settings.
        records: of each stream.
        records_per_file: records in a file; the last one of a stream has what remains.
        workers: who works; this process by default.

    Returns:
        All files, stream by stream.

    Raises:
        HepfmError: a number below 1; a format that does not fit; impossible settings; ``out`` holds something else;
            another process is writing there.
    """
    for name, value in (("--records", records), ("--records-per-file", records_per_file)):
        if value < 1:
            raise HepfmError(f"must be at least 1, is {value}", name)
    if form not in simulation.formats:
        there = ", ".join(simulation.formats) or "corpus only"
        raise HepfmError(f"{simulation.name} is not written as '{form}'", "--format", f"there is: {there}")
    simulation.check()
    check_pieces(-(-records // records_per_file) * len(simulation.streams), "files", "--records-per-file")
    raw = RAW_FORMATS[form]
    identity = {
        "simulation": simulation.name,
        "format": form,
        "records": records,
        "records_per_file": records_per_file,
        **simulation.settings(),
    }
    _check_folder(out)
    with told_when_full(out), locked(out):
        _claim(out, identity)
        sweep(out)
        files = [
            Sequence(
                out / f"{sequence_name(stream, number)}{raw.suffix}",
                stream,
                number,
                min(records_per_file, records - first),
            )
            for stream in simulation.streams
            for number, first in enumerate(range(0, records, records_per_file))
        ]
        _make(simulation, raw, files, workers or Workers(), out)
    return [file.path for file in files]


def _make(simulation: Simulation, raw: RawFormat, files: list[Sequence], workers: Workers, out: Path) -> None:
    missing = [file for file in files if not file.path.exists()]
    if not missing:
        return
    total = sum(file.records for file in files)
    with progress("simulate", total, simulation.kind) as task:
        task.advance(total - sum(file.records for file in missing))
        for _ in workers.results(_Write(simulation, raw), missing, out, task.advance):
            pass


@dataclass(frozen=True)
class _Write:
    """Makes one file, atomically."""

    simulation: Simulation
    raw: RawFormat

    def __call__(self, file: Sequence) -> None:
        writer = getattr(import_module(f"hepfm.ingest.formats.{self.raw.source}"), f"write_{self.raw.source}")
        geometry = self.simulation.geometry
        further: tuple[Any, ...] = () if geometry is None else (Geometry.from_data(geometry),)
        if self.raw.source == "aspenopenjets":
            further = ("applied",)  # simulated candidates carry their PUPPI weights
        writer(file.path, self._batches(file), *further)

    def _batches(self, file: Sequence) -> Iterator[pa.RecordBatch]:
        for batch in self.simulation.batches(file.stream, file.number, file.records):
            yield batch
            moved(len(batch))


def _check_folder(out: Path) -> None:
    """Refuse a folder of other files before anything is written into it."""
    if (out / SETTINGS_FILE).exists() or not out.is_dir():
        return
    if any(not path.name.startswith(".") for path in out.iterdir()):
        raise HepfmError("holds other files", out, "name a new or empty folder")


def _claim(out: Path, identity: dict[str, Any]) -> None:
    """Make the folder this simulation's, or see that it already is."""
    settings = out / SETTINGS_FILE
    if settings.exists():
        found = read_json(settings)
        changed = [name for name in sorted(identity.keys() | found.keys()) if found.get(name) != identity.get(name)]
        if changed:
            differences = ", ".join(f"{name} {found.get(name)} (now {identity.get(name)})" for name in changed)
            raise HepfmError(
                f"holds a simulation with other settings: {differences}", out, "name another folder, or remove it"
            )
    else:
        _check_folder(out)
        write_json(settings, identity)
