"""Jets that are known by the four-vectors of their constituents alone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from hepfm.ingest.formats.arrays import pt_order, segment_sums, wrapped
from hepfm.ingest.tally import Tally

# A squared mass below this share of the squared energy is rounding.
RESOLVED = 1e-14


@dataclass(frozen=True)
class FourVectors:
    """Constituents of jets: px, py, pz, energy (N,) float64 [GeV]; jet i owns ``offsets[i]:offsets[i + 1]``."""

    px: np.ndarray
    py: np.ndarray
    pz: np.ndarray
    energy: np.ndarray
    offsets: np.ndarray

    def quantities(self) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Quantities of constituents and of jets; the jet is the sum of its constituents (axis ``constituent_sum``).

        Constituents: pt, deta, dphi, energy. Jets: pt and pt_constituents (the same), eta, phi, mass (0 where its
        square is negative or below what float64 resolves). A jet without constituents has eta NaN.
        """
        lengths = np.diff(self.offsets)
        px, py, pz, energy = (segment_sums(part, self.offsets) for part in (self.px, self.py, self.pz, self.energy))
        with np.errstate(invalid="ignore", divide="ignore", over="ignore"):  # the builder judges what is not finite
            jet_pt, momentum = np.hypot(px, py), np.sqrt(px**2 + py**2 + pz**2)
            eta, phi = np.arcsinh(pz / jet_pt), np.arctan2(py, px)
            square = (energy - momentum) * (energy + momentum)
            mass = np.sqrt(np.where(square <= RESOLVED * energy**2, 0, square))
            pt = np.hypot(self.px, self.py)
            points = {
                "pt": pt.astype(np.float32),
                "deta": np.arcsinh(self.pz / pt) - np.repeat(eta, lengths),
                "dphi": rounded_angle(np.arctan2(self.py, self.px) - np.repeat(phi, lengths)),
                "energy": self.energy,
            }
            jets = {"pt": jet_pt, "pt_constituents": jet_pt, "eta": eta, "phi": rounded_angle(phi), "mass": mass}
        return points, jets


def massless(pt: np.ndarray, eta: np.ndarray, phi: np.ndarray, offsets: np.ndarray) -> FourVectors:
    """Four-vectors of massless constituents, whose rapidity and pseudorapidity are the same."""
    pt, eta, phi = (values.astype(np.float64) for values in (pt, eta, phi))
    with np.errstate(over="ignore", invalid="ignore"):
        return FourVectors(pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt * np.cosh(eta), offsets)


def rounded_angle(angle: np.ndarray) -> np.ndarray:
    """The angle as float32 in [-pi, pi); rounding to float32 can reach pi itself."""
    return wrapped(wrapped(angle).astype(np.float32))


def unpadded(padded: np.ndarray, filled: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows (N, k) of a padded array (n, most, k) where ``filled`` (n, most), and their offsets (n + 1,)."""
    offsets = np.zeros(len(filled) + 1, dtype=np.int64)
    np.cumsum(filled.sum(axis=1), out=offsets[1:])
    return padded[filled], offsets


def any_in(flags: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Whether (n,) any of the flags (N,) is set between consecutive offsets (n + 1,)."""
    return segment_sums(flags, offsets) > 0


def in_pt_order(points: Mapping[str, np.ndarray], offsets: np.ndarray) -> dict[str, np.ndarray]:
    """Constituent quantities with each jet's in descending pt."""
    order = pt_order(points["pt"], offsets)
    return dict(points) if order is None else {name: values[order] for name, values in points.items()}


def kept_entries(faults: Mapping[str, np.ndarray], start: int, path: Path, tally: Tally | None) -> np.ndarray:
    """Which entries (n,) have none of the faults; each fault's are refused, an entry for its first fault.

    Args:
        faults: (n,) for each fault, whether an entry has it.
        start: entry of the file that the first stands for.
        path: the file.
        tally: is told; by default a fault is an error.

    Raises:
        HepfmError: there is a fault, and the tally stops at one.
    """
    tally = tally or Tally()
    kept = np.ones(len(next(iter(faults.values()))), dtype=bool)
    for what, bad in faults.items():
        bad = bad & kept
        tally.reject(what, start + np.flatnonzero(bad), path)
        kept &= ~bad
    return kept


def origin(entries: np.ndarray) -> dict[str, np.ndarray]:
    """The columns that name the place of records: entries (n,) of the file; the builder names the file."""
    return {"source_file": np.zeros(len(entries)), "source_entry": entries}
