"""Improved precision and recall (arXiv:1904.06991), density and coverage (arXiv:2002.09797) of features."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hepfm.benchmarks.scores.outcome import enough, pair
from hepfm.core.draws import generator
from hepfm.core.progress import progress
from hepfm.core.statistics import REPLICAS, Estimate

NEIGHBOURS = 5
BLOCK_ROWS = 1_024


@dataclass(frozen=True)
class Manifolds:
    """How the manifolds of two samples cover each other; of a perfect sample each is near 1.

    Errors are those of shares over the events of the side that is counted, for these neighbourhoods.

    Attributes:
        precision: share of sample events within the reach of a reference event.
        recall: share of reference events within the reach of a sample event.
        density: reference events within whose reach a sample event lies, over k, on average.
        coverage: share of reference events with a sample event in their reach.
    """

    precision: Estimate
    recall: Estimate
    density: Estimate
    coverage: Estimate


def manifolds(reference: np.ndarray, sample: np.ndarray, neighbours: int = NEIGHBOURS, *, key: object = 0) -> Manifolds:
    """Precision, recall, density and coverage with k nearest neighbours, Euclidean distances.

    The reach of an event is the distance to its k-th nearest neighbour in its own sample, itself not counted. Published
    for CaloChallenge: k = 5, log10 of voxels with 0.1 MeV in empty ones.

    Args:
        reference, sample: features (n, d), (m, d); exact distances, in float64.
        neighbours: k.
        key: names the draws of the bootstrap errors.

    Raises:
        HepfmError: k + 1 events or fewer, features that differ in number or are not finite.
    """
    real, made = pair(reference, sample, "PRDC")
    for name, side in (("reference", real), ("sample", made)):
        enough(len(side), neighbours + 2, "events", f"PRDC with k = {neighbours}", name)
    centre = real.mean(axis=0)
    real, made = real - centre, made - centre
    blocks = sum(-(-len(side) // BLOCK_ROWS) for side in (real, made, real))
    with progress("PRDC", blocks, "blocks") as bar:
        real_reach = _reaches(real, neighbours, bar.advance)
        made_reach = _reaches(made, neighbours, bar.advance)
        norms = _norms(made)
        inside = np.zeros(len(made), dtype=np.int64)  # reference events that reach a sample event
        recalled, covered = np.zeros(len(real), dtype=bool), np.zeros(len(real), dtype=bool)
        for start in range(0, len(real), BLOCK_ROWS):
            rows = slice(start, start + BLOCK_ROWS)
            squared = _squared(real[rows], made, norms)
            reached = squared < real_reach[rows, None]
            inside += reached.sum(axis=0)
            covered[rows] = squared.min(axis=1) < real_reach[rows]
            recalled[rows] = (squared < made_reach[None, :]).any(axis=1)
            bar.advance()
    return Manifolds(
        precision=_share(inside > 0, key, "precision"),
        recall=_share(recalled, key, "recall"),
        density=_share(inside / neighbours, key, "density"),
        coverage=_share(covered, key, "coverage"),
    )


def _share(values: np.ndarray, *key: object) -> Estimate:
    """Mean over events with its bootstrap error."""
    draws = generator("manifolds", *key)
    drawn = [values[draws.integers(0, len(values), len(values))].mean() for _ in range(REPLICAS)]
    return Estimate(float(values.mean()), float(np.std(drawn, ddof=1)))


def _norms(values: np.ndarray) -> np.ndarray:
    return np.einsum("ij,ij->i", values, values)


def _squared(rows: np.ndarray, others: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """Squared distances (rows, others)."""
    found = rows @ others.T
    found *= -2
    found += _norms(rows)[:, None]
    found += norms[None, :]
    return np.maximum(found, 0.0, out=found)


def _reaches(values: np.ndarray, neighbours: int, advance: Callable[[], None]) -> np.ndarray:
    """Squared distance (n,) of each event to its k-th nearest neighbour in the same sample; each pair is taken once."""
    norms, nearest = _norms(values), np.full((len(values), neighbours + 1), np.inf)
    blocks = [slice(start, start + BLOCK_ROWS) for start in range(0, len(values), BLOCK_ROWS)]
    for number, rows in enumerate(blocks):
        for columns in blocks[number:]:
            squared = _squared(values[rows], values[columns], norms[columns])
            if rows == columns:
                np.fill_diagonal(squared, 0.0)
            else:
                nearest[columns] = _smallest(nearest[columns], squared.T)
            nearest[rows] = _smallest(nearest[rows], squared)
        advance()
    return nearest.max(axis=1)


def _smallest(known: np.ndarray, further: np.ndarray) -> np.ndarray:
    """As many of the smallest values of each row as are known."""
    count = known.shape[1]
    return np.partition(np.concatenate([known, further], axis=1), count - 1, axis=1)[:, :count]
