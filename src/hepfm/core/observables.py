"""Jet observables on packed constituents: flat values and offsets, no loop over jets.

Constituents are massless and live in the frame of their jet's axis (eta = phi = 0). Transverse momentum, mass and
every angle are unchanged by the boost and the rotation that lead there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from hepfm.core import records
from hepfm.core.errors import HepfmError

CHUNK_JETS = 10_000
# Angles are known to about 1e-16: a tau or e2 below this is 0, so that its ratios are undefined instead of noise.
TAU_ROUNDING = 1e-12
PAIR_ELEMENTS = 1 << 17  # of one table of distances between the constituents of several jets: 1 MB stays in caches


@dataclass(frozen=True)
class Constituents:
    """Constituents of n jets, one after another.

    Attributes:
        pt: (N,) transverse momentum [GeV].
        deta: (N,) eta relative to the jet axis.
        dphi: (N,) phi relative to the jet axis [rad].
        offsets: (n + 1,) jet i owns constituents ``offsets[i]:offsets[i + 1]``.
    """

    pt: np.ndarray
    deta: np.ndarray
    dphi: np.ndarray
    offsets: np.ndarray

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @classmethod
    def from_batch(cls, batch: pa.RecordBatch) -> Constituents:
        """Take the constituents of a batch of jet records (zero-copy).

        Raises:
            HepfmError: the records hold no jets, or lack pt, deta or dphi.
        """
        name = records.POINTS_COLUMN["jets"]
        if name not in batch.schema.names:
            raise HepfmError(f"no column '{name}'", "records", f"columns: {', '.join(batch.schema.names)}")
        inner = batch.schema.field(name).type.value_type
        missing = [quantity for quantity in ("pt", "deta", "dphi") if inner.get_field_index(quantity) < 0]
        if missing:
            present = ", ".join(inner.field(i).name for i in range(inner.num_fields))
            raise HepfmError(f"constituents lack {', '.join(missing)}", "records", f"they have {present}")
        pt, deta, dphi = (records.points_of(batch, quantity) for quantity in ("pt", "deta", "dphi"))
        return cls(pt, deta, dphi, records.offsets_of(batch.column(name)))

    def range(self, start: int, stop: int) -> Constituents:
        """Jets [start, stop), without copying."""
        first, last = self.offsets[start], self.offsets[stop]
        offsets = self.offsets[start : stop + 1] - first
        return Constituents(self.pt[first:last], self.deta[first:last], self.dphi[first:last], offsets)

    def select(self, keep: np.ndarray) -> Constituents:
        """Jets where the (n,) boolean ``keep`` is true, in order."""
        points = np.repeat(keep, multiplicity(self))
        offsets = np.concatenate(([0], np.cumsum(multiplicity(self)[keep])))
        return Constituents(self.pt[points], self.deta[points], self.dphi[points], offsets)

    def check(self, where: object) -> Constituents:
        """Return itself if every value can be a constituent's.

        Raises:
            HepfmError: a value is not finite, or a pt is negative; names the first such jet.
        """
        for name in ("pt", "deta", "dphi"):
            values = getattr(self, name)
            bad = ~np.isfinite(values)
            if name == "pt":
                bad |= values < 0
            if bad.any():
                first = int(np.argmax(bad))
                jet = int(np.searchsorted(self.offsets, first, side="right")) - 1
                raise HepfmError(
                    f"constituent {name} is {values[first]} in jet {jet} ({int(bad.sum())} such values)",
                    where,
                    "leave such jets out, or mend what wrote them",
                )
        return self


def concatenate(parts: Sequence[Constituents]) -> Constituents:
    """All jets of ``parts``, one part after another."""
    lengths = np.concatenate([np.diff(part.offsets) for part in parts])
    pt, deta, dphi = (np.concatenate([getattr(part, name) for part in parts]) for name in ("pt", "deta", "dphi"))
    return Constituents(pt, deta, dphi, np.concatenate(([0], np.cumsum(lengths))))


class FourVectors(NamedTuple):
    """Four-vectors, each component (n,) float64 [GeV]."""

    px: np.ndarray
    py: np.ndarray
    pz: np.ndarray
    energy: np.ndarray


def multiplicity(jets: Constituents) -> np.ndarray:
    """Number of constituents (n,) int64."""
    return np.diff(jets.offsets)


def _jet_index(jets: Constituents) -> np.ndarray:
    return np.repeat(np.arange(len(jets)), multiplicity(jets))


def _constituent_vectors(jets: Constituents) -> FourVectors:
    pt, deta, dphi = (np.asarray(values, dtype=np.float64) for values in (jets.pt, jets.deta, jets.dphi))
    return FourVectors(pt * np.cos(dphi), pt * np.sin(dphi), pt * np.sinh(deta), pt * np.cosh(deta))


def jet_four_vectors(jets: Constituents) -> FourVectors:
    """Sum of the massless constituents of each jet, in the frame of its axis (zero for an empty jet)."""
    index = _jet_index(jets)
    sums = (np.bincount(index, weights=part, minlength=len(jets)) for part in _constituent_vectors(jets))
    return FourVectors(*sums)


def jet_pt(jets: Constituents) -> np.ndarray:
    """Transverse momentum (n,) [GeV] of the sum of the constituents."""
    sums = jet_four_vectors(jets)
    return np.hypot(sums.px, sums.py)


def jet_mass(jets: Constituents) -> np.ndarray:
    """Mass (n,) [GeV] of the sum of the massless constituents; 0 where rounding makes its square negative."""
    px, py, pz, energy = jet_four_vectors(jets)
    # (E - |pz|)(E + |pz|) keeps the digits that E^2 - pz^2 loses far from the axis.
    squared = (energy - np.abs(pz)) * (energy + np.abs(pz)) - px**2 - py**2
    return np.sqrt(np.maximum(squared, 0.0))


def jet_eta_phi(jets: Constituents) -> tuple[np.ndarray, np.ndarray]:
    """Pseudorapidity (n,) and azimuth (n,) [rad] of the sum of the constituents, relative to the stored axis."""
    px, py, pz, _ = jet_four_vectors(jets)
    with np.errstate(invalid="ignore", divide="ignore"):
        eta = np.arcsinh(pz / np.hypot(px, py))
    return eta, np.arctan2(py, px)


def nsubjettiness(
    jets: Constituents, n: Sequence[int] = (1, 2, 3, 4), R0: float = 0.8, beta: float = 1.0
) -> dict[int, np.ndarray]:
    """N-subjettiness about exclusive-kt axes (E scheme).

    tau_N = sum_i pt_i min_k dR(i, k)^beta / (sum_i pt_i R0^beta), with dR in rapidity and azimuth
    (Thaler, Van Tilburg, arXiv:1011.2268, eq. 2.1 and 2.2; beta as in arXiv:1108.2701).

    Args:
        jets: the jets.
        n: numbers of axes.
        R0: characteristic jet radius.
        beta: angular exponent.

    Returns:
        For each N, tau_N (n,) float64; 0 for a jet that has at most N constituents.
    """
    parts = [_nsubjettiness_chunk(chunk, n, R0, beta) for chunk in _chunks(jets)]
    return {count: np.concatenate([part[count] for part in parts]) for count in n}


def tau_ratio(taus: Mapping[int, np.ndarray], upper: int, lower: int) -> np.ndarray:
    """tau_upper / tau_lower (n,); NaN where tau_lower is 0."""
    denominator = np.where(taus[lower] > 0, taus[lower], np.nan)
    return taus[upper] / denominator


def tau21(jets: Constituents, R0: float = 0.8) -> np.ndarray:
    """tau_2 / tau_1 (n,); NaN where tau_1 is 0 (at most one constituent, or all in one direction)."""
    return tau_ratio(nsubjettiness(jets, (1, 2), R0), 2, 1)


def tau32(jets: Constituents, R0: float = 0.8) -> np.ndarray:
    """tau_3 / tau_2 (n,); NaN where tau_2 is 0."""
    return tau_ratio(nsubjettiness(jets, (2, 3), R0), 3, 2)


def energy_correlators(jets: Constituents) -> tuple[np.ndarray, np.ndarray]:
    """Energy correlators e2 and e3 (n,) float64 with beta = 1; 0 for jets of fewer than 2 or 3 constituents.

    e2 = sum_{i<j} z_i z_j R_ij and e3 = sum_{i<j<k} z_i z_j z_k R_ij R_ik R_jk, with z = pt_i / sum pt and R in
    rapidity (of massless constituents: pseudorapidity) and azimuth (Larkoski, Moult, Neill, arXiv:1409.6298). With
    A_ij = sqrt(z_i z_j) R_ij the second is tr(A^3) / 6, which needs no table of triples.
    """
    lengths = multiplicity(jets)
    pairs, triples = np.zeros(len(jets)), np.zeros(len(jets))
    # Jets of similar length share a table, the longest first: its length is that of all in it.
    order = np.argsort(-lengths, kind="stable")
    start, stop = 0, int(np.count_nonzero(lengths > 1))
    while start < stop:
        longest = int(lengths[order[start]])
        chosen = order[start : min(start + max(1, PAIR_ELEMENTS // longest**2), stop)]
        pairs[chosen], triples[chosen] = _correlators(jets, chosen, longest)
        start += len(chosen)
    return pairs, triples


def d2(jets: Constituents) -> np.ndarray:
    """D2 = e3 / e2^3 (n,) with beta = 1 (Larkoski, Moult, Neill, arXiv:1409.6298); NaN where e2 is 0."""
    pairs, triples = energy_correlators(jets)
    return triples / np.where(pairs > TAU_ROUNDING, pairs, np.nan) ** 3


def _correlators(jets: Constituents, chosen: np.ndarray, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """e2 and e3 of the chosen jets, each padded to ``longest`` constituents of no momentum."""
    places = jets.offsets[chosen][:, None] + np.arange(longest)
    real = places < jets.offsets[chosen + 1][:, None]
    places = np.where(real, places, jets.offsets[chosen][:, None])
    pt, deta, dphi = (np.asarray(values, dtype=np.float64)[places] for values in (jets.pt, jets.deta, jets.dphi))
    pt = np.where(real, pt, 0.0)
    total = pt.sum(axis=1, keepdims=True)
    share = pt / np.where(total > 0, total, 1.0)
    around = dphi[:, :, None] - dphi[:, None, :]
    around -= 2 * np.pi * np.round(around / (2 * np.pi))
    distance = np.hypot(deta[:, :, None] - deta[:, None, :], around)
    pairs = np.einsum("ni,nij,nj->n", share, distance, share, optimize=True) / 2
    root = np.sqrt(share)
    weighted = root[:, :, None] * distance * root[:, None, :]
    return pairs, ((weighted @ weighted) * weighted).sum(axis=(1, 2)) / 6


def softdrop_mass(jets: Constituents, zcut: float = 0.1, beta: float = 0.0, R: float = 0.8) -> np.ndarray:
    """Soft-drop mass (n,) [GeV] after Cambridge/Aachen reclustering (Larkoski et al., arXiv:1402.2657, eq. 1.1).

    Args:
        jets: the jets.
        zcut: softness that a subjet needs: min(pt1, pt2) / (pt1 + pt2) > zcut (dR / R)^beta.
        beta: angular exponent; 0 is the modified mass drop.
        R: jet radius.
    """
    masses = [_softdrop_chunk(chunk, zcut, beta, R) for chunk in _chunks(jets)]
    return np.concatenate(masses) if masses else np.zeros(0)


def _chunks(jets: Constituents) -> Iterator[Constituents]:
    # Chunks bound the memory of distances and of fastjet's histories. An empty sample is one empty chunk.
    for start in range(0, max(len(jets), 1), CHUNK_JETS):
        yield jets.range(start, min(start + CHUNK_JETS, len(jets)))


def _nsubjettiness_chunk(jets: Constituents, n: Sequence[int], R0: float, beta: float) -> dict[int, np.ndarray]:
    from hepfm.core.clustering import exclusive_axes

    taus = {count: np.zeros(len(jets)) for count in n}
    lengths = multiplicity(jets)
    busy = lengths > min(n)
    if not busy.any():
        return taus
    chosen = jets.select(busy)
    axes = exclusive_axes(_constituent_vectors(chosen), chosen.offsets, n)
    index = _jet_index(chosen)
    pt = np.asarray(chosen.pt, dtype=np.float64)
    scale = np.bincount(index, weights=pt, minlength=len(chosen)) * R0**beta
    for count in n:
        distance = _nearest_axis(chosen, axes[count][index])
        total = np.bincount(index, weights=pt * distance**beta, minlength=len(chosen))
        tau = total / np.where(scale > 0, scale, 1.0)
        taus[count][busy] = np.where((lengths[busy] <= count) | (tau < TAU_ROUNDING), 0.0, tau)
    return taus


def _nearest_axis(jets: Constituents, axes: np.ndarray) -> np.ndarray:
    """Distance (N,) of every constituent to the nearest of its axes (N, k, 2) in rapidity and azimuth."""
    deta = np.asarray(jets.deta, dtype=np.float64)[:, None] - axes[..., 0]
    dphi = np.asarray(jets.dphi, dtype=np.float64)[:, None] - axes[..., 1]
    dphi -= 2 * np.pi * np.round(dphi / (2 * np.pi))
    return np.sqrt(np.nanmin(deta**2 + dphi**2, axis=1))


def _softdrop_chunk(jets: Constituents, zcut: float, beta: float, R: float) -> np.ndarray:
    from hepfm.core.clustering import softdrop

    masses = np.zeros(len(jets))
    busy = multiplicity(jets) > 1
    if busy.any():
        chosen = jets.select(busy)
        masses[busy] = softdrop(_constituent_vectors(chosen), chosen.offsets, zcut, beta, R)
    return masses
