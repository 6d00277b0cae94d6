"""Sequential clustering of many jets in one call of fastjet."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import awkward as ak
import fastjet
import numpy as np

# Clusters everything before anything is merged with the beam, as N-subjettiness and soft drop ask for.
WHOLE_JET_RADIUS = 1000.0

# fastjet prints a banner on the C++ stdout at its first use, where a command's results belong.
fastjet._swig.ClusterSequence.set_fastjet_banner_stream(None)


def exclusive_axes(vectors: Sequence[np.ndarray], offsets: np.ndarray, n: Sequence[int]) -> dict[int, np.ndarray]:
    """Exclusive-kt axes (E scheme) of jets that have at least one constituent each.

    Args:
        vectors: px, py, pz, E of all constituents, (N,) each [GeV].
        offsets: (jets + 1,) jet i owns constituents ``offsets[i]:offsets[i + 1]``.
        n: numbers of axes.

    Returns:
        For each number k, rapidity and azimuth (jets, k, 2); NaN for axes that a jet with fewer constituents lacks.
    """
    sequence = _cluster(vectors, offsets, fastjet.kt_algorithm)
    return {count: _directions(_exclusive(sequence, count), count) for count in n}


def _cluster(vectors: Sequence[np.ndarray], offsets: np.ndarray, algorithm: int) -> fastjet.ClusterSequence:
    names = ["px", "py", "pz", "E"]
    content = ak.contents.RecordArray([ak.contents.NumpyArray(part) for part in vectors], names)
    content.parameters["__record__"] = "Momentum4D"
    layout = ak.contents.ListOffsetArray(ak.index.Index64(offsets), content)
    return fastjet.ClusterSequence(ak.Array(layout), fastjet.JetDefinition(algorithm, WHOLE_JET_RADIUS))


def _exclusive(sequence: fastjet.ClusterSequence, count: int) -> ak.Array:
    # fastjet warns about exclusive jets for every algorithm, kt included, and replaces warnings.formatwarning.
    formatter = warnings.formatwarning
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return sequence.exclusive_jets_up_to(count)
    finally:
        warnings.formatwarning = formatter


def _directions(axes: ak.Array, count: int) -> np.ndarray:
    padded = ak.pad_none(axes, count, clip=True)
    px, py, pz, energy = (ak.to_numpy(ak.fill_none(padded[name], np.nan)) for name in ("px", "py", "pz", "E"))
    mass_squared = np.maximum((energy - pz) * (energy + pz) - px**2 - py**2, 0.0)
    # asinh(pz / mt) is the rapidity without the cancellation of log((E + pz) / (E - pz)).
    with np.errstate(invalid="ignore", divide="ignore"):
        rapidity = np.arcsinh(pz / np.sqrt(mass_squared + px**2 + py**2))
    return np.stack([rapidity, np.arctan2(py, px)], axis=-1)


def softdrop(vectors: Sequence[np.ndarray], offsets: np.ndarray, zcut: float, beta: float, R: float) -> np.ndarray:
    """Soft-drop mass (jets,) [GeV] of jets that have at least one constituent each; arguments as above."""
    sequence = _cluster(vectors, offsets, fastjet.cambridge_algorithm)
    groomed = sequence.exclusive_jets_softdrop_grooming(njets=1, beta=beta, symmetry_cut=zcut, R0=R)
    return np.maximum(ak.to_numpy(groomed.msoftdrop), 0.0)
