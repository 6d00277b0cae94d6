"""AspenOpenJets HDF5 files (arXiv:2412.10504, DOI 10.25592/uhhfdm.16505) as jet records."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa

from hepfm.core.errors import HepfmError
from hepfm.ingest.formats.aspenopenjets import CANDIDATE, CANDIDATES, SCHEMA, SHAPES, TAGGING
from hepfm.ingest.formats.particle_flow import IMPACT, Candidates, Puppi, collision_columns, jet_records
from hepfm.ingest.formats.windows import Decoded, OpenFiles, Windows, check_range
from hepfm.ingest.keys import key
from hepfm.ingest.sources.base import Source
from hepfm.ingest.sources.contents import HDF5_MAGIC, Contents
from hepfm.ingest.tally import Tally

OPEN_FILES = 8
# The candidates of as many jets as a window has are held at a time: 6.6 kB a jet.
WINDOW_JETS = 4_096
MOST_WINDOW_JETS = 16_384
KEY_ROWS = 1 << 20
LOOK_BACK = 64
LARGEST_NUMBERS = (127, 1 << 24)  # of charge (int8) and PDG id (exact as float32)

MANY = f"jets with more than {CANDIDATES} candidates, cut to {CANDIDATES} in the file"
NO_NUMBER = "a charge or PDG id is no whole number"
MISCOUNTED = "a jet has more or fewer candidates than its number of constituents says"
TWICE = "a jet that stands twice in its collision"


@dataclass(frozen=True)
class AspenOpenJetsSource(Source):
    """Reader of AspenOpenJets: CMS 2016 collisions, one record an entry, no labels.

    Impact parameters are turned from cm into mm and from CMS's sign into ours; they are null where the files have -1
    (known by ``d0err < 0``), as are soft-drop mass and tau1 to tau4 of -1. Candidates are put in order of the pt that
    records have. ``pt`` is the calibrated one, ``mass`` and ``pt_constituents`` those of the sum of the constituents,
    7 to 11% below (the files' own mass column is ParticleNet's regression and is not read). Species goes by PDG id, and
    is null for ids that particle flow does not use. Axis: the stored jet axis.

    The jets of a collision share ``event_id`` and the key; ``jet_index`` counts them in the order of the file.
    """

    puppi: Puppi = "apply"
    """PUPPI weights of the candidates: apply multiplies the four-vectors by them, and leaves candidates of weight 0
    out; ignore keeps all candidates as they are. The weights are kept as a column either way."""

    name = "aspenopenjets"
    kind = "jets"
    schema = SCHEMA
    axis = "stored"
    shares_events = True

    @classmethod
    def recognises(cls, contents: Contents) -> bool:
        return all(contents.shape(name)[1:] == shape for name, shape in SHAPES.items())

    def settings(self) -> dict[str, Any]:
        return {"puppi": self.puppi}

    def entries(self, path: Path) -> int:
        """Number of jets in a file.

        Raises:
            HepfmError: missing, empty, truncated or not an HDF5 file; a data set that is missing or of another shape.
        """
        return _OPEN.get(path, self.puppi).entries

    def keys(self, path: Path) -> np.ndarray:
        """One for each jet, of run, luminosity block and event: equal for the jets of a collision."""
        return _OPEN.get(path, self.puppi).keys()

    def read(self, path: Path, start: int, stop: int, tally: Tally | None = None) -> pa.RecordBatch:
        """Jets of entries [start, stop).

        Raises:
            HepfmError: as for :meth:`entries`; the range leaves the file; a charge or PDG id that is no whole number;
                a number of constituents that is not that of the candidates (up to 150); the same jet twice in a row.
        """
        opened = _OPEN.get(path, self.puppi)
        check_range(path, start, stop, opened.entries)
        decoded = opened.windows.read(start, stop)
        decoded.tell(tally or Tally(), start, path)
        return decoded.batch


class _OpenFile:
    """An opened, checked file; keeps the window it decoded last."""

    def __init__(self, path: Path, puppi: Puppi) -> None:
        self.path, self._puppi = path, puppi
        self._file = _open(path)
        try:
            self._data = _data_sets(self._file, path)
            self.entries = len(self._data["PFCands"])
            chunk = (self._data["PFCands"].chunks or (1,))[0]
            size = min(max(WINDOW_JETS // chunk, 1) * chunk, MOST_WINDOW_JETS)
            self.windows = Windows(self.entries, size, self._decode)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        self._file.close()

    def keys(self) -> np.ndarray:
        keys = np.empty(self.entries, dtype=np.uint64)
        for start in range(0, self.entries, KEY_ROWS):
            keys[start : start + KEY_ROWS] = key(*self._rows("event_info", start, start + KEY_ROWS).T)
        return keys

    def _rows(self, name: str, start: int, stop: int) -> np.ndarray:
        try:
            return self._data[name][start:stop]
        except Exception as error:  # HDF5 and its filters raise several kinds over a damaged file
            raise HepfmError(
                f"jets {start} to {stop} of '{name}' cannot be decoded ({type(error).__name__})",
                self.path,
                "the file is damaged: fetch it again",
            ) from error

    def _decode(self, start: int, stop: int) -> Decoded:
        rows = {name: self._rows(name, start, stop) for name in SHAPES}
        rows["twice"] = self._twice(start, stop)
        rows["jet_index"] = self._jet_index(start, stop)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):  # the builder judges such values
            return _decoded(rows, start, self._puppi)

    def _twice(self, start: int, stop: int) -> np.ndarray:
        """Which jets (stop - start,) are of the same event, pt, eta and phi as the one before them."""
        first = max(start - 1, 0)
        info, axes = self._rows("event_info", first, stop), self._rows("jet_kinematics", first, stop)[:, :3]
        twice = np.zeros(len(info), dtype=bool)
        twice[1:] = (info[1:] == info[:-1]).all(axis=1) & (axes[1:] == axes[:-1]).all(axis=1)
        return twice[start - first :]

    def _jet_index(self, start: int, stop: int) -> np.ndarray:
        """Place (stop - start,) of each jet among the neighbouring ones of its collision, wherever the range begins."""
        back = LOOK_BACK
        while True:
            first = max(start - back, 0)
            info = self._rows("event_info", first, stop)
            fresh = np.ones(len(info), dtype=bool)
            fresh[1:] = (info[1:] != info[:-1]).any(axis=1)
            if first == 0 or fresh[1 : start - first + 1].any() or start == stop:
                break
            back *= 16
        at = np.arange(len(info))
        index = at - np.maximum.accumulate(np.where(fresh, at, 0))
        return np.minimum(index[start - first :], np.iinfo(np.int16).max)


def _decoded(rows: dict[str, np.ndarray], start: int, puppi: Puppi) -> Decoded:
    size = len(rows["PFCands"])
    used = (rows["PFCands"][:, :, :4] != 0).any(axis=2)  # the rest is padding
    jet = np.flatnonzero(used) // CANDIDATES
    stored = rows["PFCands"][used]
    numbers = stored[:, [CANDIDATE.index("charge"), CANDIDATE.index("pdg")]]
    whole = ((np.abs(numbers) <= LARGEST_NUMBERS) & (numbers == np.rint(numbers))).all(axis=1)
    faults = {NO_NUMBER: np.bincount(jet[~whole], minlength=size) > 0}
    told = rows["jet_tagging"][:, TAGGING.index("constituents")]
    stored_of = np.bincount(jet, minlength=size)
    # NanoAOD keeps the number in one byte: above 255 it starts again from 0, in jets that are cut anyway.
    full = stored_of == CANDIDATES
    many = full & (told != CANDIDATES)
    faults[MISCOUNTED] = (stored_of != told) & ~full & ~faults[NO_NUMBER]
    faults[TWICE] = rows["twice"] & ~faults[NO_NUMBER] & ~faults[MISCOUNTED]
    bad = np.logical_or.reduce(list(faults.values()))
    kept = ~bad[jet]
    flow = {MANY: many & ~bad, "candidates": np.bincount(jet[kept], minlength=size)}
    if puppi == "apply":
        kept &= stored[:, CANDIDATE.index("puppi_weight")] != 0
        flow["candidates of PUPPI weight above 0"] = np.bincount(jet[kept], minlength=size)
    good = np.flatnonzero(~bad)
    offsets = np.concatenate([[0], np.cumsum(np.bincount(jet[kept], minlength=size)[good])])
    flat = dict(zip(CANDIDATE, stored[kept].T, strict=True))
    info = rows["event_info"][good].astype(np.int64)
    pt, eta, phi, softdrop_mass = rows["jet_kinematics"][good].T
    taus = {name: rows["jet_tagging"][good, TAGGING.index(name)] for name in ("tau1", "tau2", "tau3", "tau4")}
    jets = {
        "pt": pt,
        "eta": eta,
        "phi": phi,
        "softdrop_mass": softdrop_mass,
        **taus,
        **collision_columns(*info.T),
        "jet_index": rows["jet_index"][good],
        "source_file": np.zeros(len(good)),
        "source_entry": start + good,
    }
    batch = jet_records(SCHEMA, offsets, _candidates(flat), jets, puppi)
    return Decoded(batch, np.concatenate([[0], np.cumsum(~bad)]), flow, faults)


def _candidates(flat: dict[str, np.ndarray]) -> Candidates:
    px, py, pz = (flat[name].astype(np.float64) for name in ("px", "py", "pz"))
    pt = np.hypot(px, py)
    return Candidates(
        pt=pt,
        eta=np.arcsinh(pz / pt),
        phi=np.arctan2(py, px),
        energy=flat["energy"].astype(np.float64),
        pdg=flat["pdg"].astype(np.int64),
        charge=flat["charge"],
        weight=flat["puppi_weight"],
        impact={name: flat[name] for name in IMPACT},
    )


def _open(path: Path) -> h5py.File:
    try:
        with path.open("rb") as file:
            head = file.read(len(HDF5_MAGIC))
    except OSError as error:
        raise HepfmError(f"cannot be opened ({error.strerror})", path) from error
    if head != HDF5_MAGIC:
        raise HepfmError("an empty file" if not head else "not an HDF5 file", path, "AspenOpenJets files are HDF5")
    try:
        return h5py.File(path, "r")
    except Exception as error:  # h5py raises several kinds over a damaged file
        raise HepfmError("a truncated or damaged HDF5 file", path, "fetch it again") from error


def _data_sets(file: h5py.File, path: Path) -> dict[str, h5py.Dataset]:
    try:
        present = {name: item for name, item in file.items() if isinstance(item, h5py.Dataset)}
    except Exception as error:
        raise HepfmError("a truncated or damaged HDF5 file", path, "fetch it again") from error
    shapes = ", ".join(f"'{name}' {item.shape}" for name, item in present.items()) or "no data sets"
    for name, shape in SHAPES.items():
        if name not in present:
            raise HepfmError(f"has no data set '{name}'", path, f"is this an AspenOpenJets file? it has {shapes}")
        found = present[name]
        if found.shape[1:] != shape or found.dtype.kind not in ("iu" if name == "event_info" else "f"):
            wanted = f"(N, {', '.join(map(str, shape))}) of {'integers' if name == 'event_info' else 'floats'}"
            raise HepfmError(f"'{name}' is {found.shape} of {found.dtype}, not {wanted}", path)
    lengths = {name: len(present[name]) for name in SHAPES}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"{number:,} in '{name}'" for name, number in lengths.items())
        raise HepfmError(f"the numbers of jets disagree: {told}", path, "the file is damaged: fetch it again")
    if not lengths["PFCands"]:
        raise HepfmError("has no jets", path, "leave the file out")
    return {name: present[name] for name in SHAPES}


_OPEN: OpenFiles[_OpenFile] = OpenFiles(OPEN_FILES, _OpenFile)
