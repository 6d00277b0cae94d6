"""The HDF5 format of AspenOpenJets (arXiv:2412.10504, DOI 10.25592/uhhfdm.16505), and its writer.

Conventions of the files: GeV, cm, rad; candidates zero-padded, in order of pt without their PUPPI weights, which are
stored and not applied; impact parameters in CMS's sign and -1 where there is no track; a jet keeps the first 150
candidates, in the order of its event, before they are ordered. The jets of a collision follow one another.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal

import h5py
import numpy as np
import pyarrow as pa

from hepfm.core import records
from hepfm.core.errors import HepfmError
from hepfm.core.progress import say
from hepfm.ingest.formats.arrays import pt_order, segment_sums
from hepfm.ingest.formats.hdf5_written import hdf5_written
from hepfm.ingest.formats.particle_flow import IMPACT, NO_TRACK, PDG, collision_numbers
from hepfm.ingest.shards import reblock

CANDIDATES = 150
EVENT_INFO = ("run", "lumi", "event")
KINEMATICS = ("pt", "eta", "phi", "softdrop_mass")
CANDIDATE = ("px", "py", "pz", "energy", "d0", "d0err", "dz", "dzerr", "charge", "pdg", "puppi_weight")
# The last one is the mass that ParticleNet's regression gives, not that of the jet's four-vector.
TAGGING = (
    "constituents",
    "tau1",
    "tau2",
    "tau3",
    "tau4",
    "particlenet_h4q",
    "particlenet_hbb",
    "particlenet_hcc",
    "particlenet_qcd",
    "particlenet_t",
    "particlenet_w",
    "particlenet_z",
    "particlenet_mass",
)
# Shape of one jet in each data set.
SHAPES = {
    "event_info": (len(EVENT_INFO),),
    "jet_kinematics": (len(KINEMATICS),),
    "PFCands": (CANDIDATES, len(CANDIDATE)),
    "jet_tagging": (len(TAGGING),),
}
NOT_THERE = -1.0

# What records from these files provide.
SCHEMA = records.schema(
    "jets",
    ("pt", "deta", "dphi", "energy", "d0", "d0err", "dz", "dzerr", "charge", "species", "puppi_weight"),
    (
        "pt",
        "pt_constituents",
        "eta",
        "phi",
        "mass",
        "softdrop_mass",
        "tau1",
        "tau2",
        "tau3",
        "tau4",
        "event_id",
        "jet_index",
        "run",
        "lumi",
        "event",
    ),
)

WRITE_JETS = 1_024
CHUNK_JETS = 64


def write_aspenopenjets(
    path: Path, batches: Iterable[pa.RecordBatch], weights: Literal["applied", "not_applied"] = "applied"
) -> int:
    """Write jet records as an AspenOpenJets HDF5 file: the four data sets, gzip, equal records in equal bytes.

    Lengths are turned into cm and impact parameters into CMS's sign; nulls become -1. The files hold four-vectors
    without the PUPPI weights, so they are divided by ``puppi_weight`` where records have them multiplied in, as the
    readers of AspenOpenJets and CMS do by default.

    deta and dphi must be about the jet's own eta and phi (axis ``stored``). What the records lack, or have as null, is
    written as -1 (impact parameters, soft-drop mass, tau1 to tau4) or 0 (charge; PDG id of no species); a missing
    constituent energy is that of a massless one, a missing PUPPI weight 1, a missing jet pt that of the constituents'
    sum. The ParticleNet columns, which records do not carry, are -1. For a jet without event number ``event_id``
    stands for it, or else it is its own event; then the luminosity block is the number of the source file.

    A jet keeps its 150 hardest constituents, which are then put in order of the pt in the file; how many jets had more
    is said, and ``nConstituents`` has their number.

    Args:
        path: the file; replaced if it exists.
        batches: jet records, read one batch at a time.
        weights: are the records' four-vectors multiplied by their PUPPI weights?

    Returns:
        Number of jets written.

    Raises:
        HepfmError: no jets; a jet without eta or phi; constituents without pt, deta or dphi.
    """
    written = cut = 0
    with hdf5_written(path) as file:
        for batch in reblock(batches, WRITE_JETS):
            rows = _rows(batch, weights == "applied", path)
            if not written:
                _create(file, rows)
            for name, values in rows.items():
                file[name].resize(written + len(batch), axis=0)
                file[name][written:] = values
            written += len(batch)
            cut += int((rows["jet_tagging"][:, 0] > CANDIDATES).sum())
        if not written:
            raise HepfmError("no jets to write", path)
    if cut:
        say(f"{path}: {cut:,} of {written:,} jets were cut to their {CANDIDATES} hardest constituents")
    return written


def _create(file: h5py.File, rows: dict[str, np.ndarray]) -> None:
    for name, values in rows.items():
        file.create_dataset(
            name,
            shape=(0, *SHAPES[name]),
            maxshape=(None, *SHAPES[name]),
            chunks=(CHUNK_JETS, *SHAPES[name]),
            dtype=values.dtype,
            compression="gzip",
            track_times=False,
        )


def _rows(batch: pa.RecordBatch, applied: bool, path: Path) -> dict[str, np.ndarray]:
    """The four data sets of a batch."""
    column = batch.column(records.POINTS_COLUMN["jets"])
    points, offsets = column.flatten(), records.offsets_of(column)
    for name in ("pt", "deta", "dphi"):
        if points.type.get_field_index(name) < 0:
            raise HepfmError(f"the records have no constituent {name}", path)
    for name in ("eta", "phi"):
        if name not in batch.schema.names or batch.column(name).null_count:
            raise HepfmError(f"the records have no jet {name}", path, "AspenOpenJets needs the jet's direction")
    candidates, sums = _candidates(batch, points, offsets, applied)
    lengths = np.diff(offsets)
    kept = np.minimum(lengths, CANDIDATES)
    padded = np.zeros((len(batch), *SHAPES["PFCands"]), dtype=np.float32)
    padded[np.arange(CANDIDATES) < kept[:, None]] = _hardest(candidates, lengths, kept)
    kinematics = [_jet(batch, "pt", sums), *(_jet(batch, name) for name in KINEMATICS[1:])]
    tagging = np.full((len(batch), len(TAGGING)), NOT_THERE)
    tagging[:, 0] = lengths
    for name in ("tau1", "tau2", "tau3", "tau4"):
        tagging[:, TAGGING.index(name)] = _jet(batch, name)
    return {
        "event_info": collision_numbers(batch).T,
        "jet_kinematics": np.stack(kinematics, axis=1).astype(np.float32),
        "PFCands": padded,
        "jet_tagging": tagging.astype(np.float32),
    }


def _candidates(
    batch: pa.RecordBatch, points: pa.StructArray, offsets: np.ndarray, applied: bool
) -> tuple[np.ndarray, np.ndarray]:
    """The columns ``CANDIDATE`` (N, 11) of all constituents, and the pt (n,) of their sums as the records have them."""
    lengths = np.diff(offsets)
    eta = np.repeat(_jet(batch, "eta"), lengths) + _point(points, "deta")
    phi = np.repeat(_jet(batch, "phi"), lengths) + _point(points, "dphi")
    pt, weight = _point(points, "pt"), _point(points, "puppi_weight", 1.0)
    energy = _point(points, "energy", np.nan)
    energy = np.where(np.isnan(energy), pt * np.cosh(eta), energy)
    sums = np.hypot(segment_sums(pt * np.cos(phi), offsets), segment_sums(pt * np.sin(phi), offsets))
    divisor = np.where(weight > 0, weight, 1.0) if applied else np.ones(len(pt))
    pt, energy = pt / divisor, energy / divisor
    impact = {name: _point(points, name, np.nan) / factor for name, factor in IMPACT.items()}
    untracked = np.isnan(np.stack(list(impact.values()))).any(axis=0)
    columns = {
        "px": pt * np.cos(phi),
        "py": pt * np.sin(phi),
        "pz": pt * np.sinh(eta),
        "energy": energy,
        **{name: np.where(untracked, NO_TRACK, values) for name, values in impact.items()},
        "charge": _point(points, "charge"),
        "pdg": _pdg(points),
        "puppi_weight": weight,
    }
    return np.stack([columns[name] for name in CANDIDATE], axis=1), sums


def _hardest(candidates: np.ndarray, lengths: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """The first ``kept`` (n,) of each jet's candidates, in order of the pt that they are written with."""
    rank = np.arange(len(candidates)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    candidates = candidates[rank < np.repeat(kept, lengths)]
    pt = np.hypot(candidates[:, CANDIDATE.index("px")], candidates[:, CANDIDATE.index("py")])
    order = pt_order(pt.astype(np.float32), np.concatenate([[0], np.cumsum(kept)]))
    return candidates if order is None else candidates[order]


def _pdg(points: pa.StructArray) -> np.ndarray:
    """PDG id (N,) by species and charge; 0 where the species is unknown."""
    index = points.type.get_field_index("species")
    if index < 0:
        return np.zeros(len(points))
    numbers = np.array([*(PDG[name] for name in records.SPECIES), 0])
    pdg = numbers[records.values_of(points.field(index))]
    charge = _point(points, "charge")
    sign = np.where(np.isin(pdg, (PDG["electron"], PDG["muon"])), -charge, charge)
    return np.where(sign < 0, -pdg, pdg)


def _jet(batch: pa.RecordBatch, name: str, otherwise: np.ndarray | float = NOT_THERE) -> np.ndarray:
    if name not in batch.schema.names:
        return np.full(len(batch), otherwise, dtype=np.float64)
    column = batch.column(name)
    values = records.values_of(column).astype(np.float64)
    return np.where(column.is_null().to_numpy(zero_copy_only=False), otherwise, values)


def _point(points: pa.StructArray, name: str, otherwise: float = 0.0) -> np.ndarray:
    index = points.type.get_field_index(name)
    if index < 0:
        return np.full(len(points), otherwise)
    return points.field(index).fill_null(otherwise).to_numpy(zero_copy_only=False).astype(np.float64)
