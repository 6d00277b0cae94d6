"""Flat reweighting: how often a jet has to come for each group to be flat over (pt, soft-drop mass).

A group is a set of labels with a share of the jets that are read. Inside a group every populated bin of
(pt, soft-drop mass) comes equally often, so a network cannot tell classes by them (Sophon, arXiv 2405.12972).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from hepfm.core.errors import HepfmError
from hepfm.core.progress import progress
from hepfm.core.records import values_of
from hepfm.ingest.corpus import Split

PT, MASS, LABEL = "pt", "softdrop_mass", "label"
UNLABELLED = "unlabelled"  # stands for a record without label in a group's list


@dataclass(frozen=True)
class Group:
    """Labels that are made flat together.

    Attributes:
        name: of the group.
        share: share of the records that are read; shares of all groups are divided by their sum.
        labels: its labels; :data:`UNLABELLED` for records that have none.
    """

    name: str
    share: float
    labels: tuple[str, ...]


@dataclass(frozen=True)
class Bins:
    """Bins of transverse momentum and soft-drop mass [GeV]; a bin holds its lower edge, not its upper one."""

    pt: tuple[float, ...]
    mass: tuple[float, ...]

    def __post_init__(self) -> None:
        for name, edges in (("pt", self.pt), ("mass", self.mass)):
            if len(edges) < 2 or not np.all(np.diff(edges) > 0) or not np.isfinite(edges).all():
                raise HepfmError("edges must rise, and be two or more", f"{name} bins")

    @property
    def shape(self) -> tuple[int, int]:
        return len(self.pt) - 1, len(self.mass) - 1

    def place(self, pt: np.ndarray, mass: np.ndarray) -> np.ndarray:
        """Bin (n,) int64 of each jet, pt-major; -1 outside or where a value is missing."""
        rows, columns = self.shape
        row = np.searchsorted(self.pt, pt, side="right") - 1
        column = np.searchsorted(self.mass, mass, side="right") - 1
        inside = (row >= 0) & (row < rows) & (column >= 0) & (column < columns)
        return np.where(inside, row * columns + column, -1)


@dataclass(frozen=True)
class FlatWeights:
    """Mean number of times that a jet comes in an epoch, by group and bin.

    Attributes:
        groups: no label is in two of them.
        bins: of pt and soft-drop mass.
        cap_percentile: see :func:`flat_weights`.
        table: (groups, pt bins, mass bins) float32; 0 for bins without training jets.
    """

    groups: tuple[Group, ...]
    bins: Bins
    cap_percentile: float
    table: np.ndarray

    def of(self, batch: pa.RecordBatch) -> np.ndarray:
        """Weights (n,) float32 of jets; 0 outside the bins and for labels of no group."""
        cell = cells(batch, self.groups, self.bins)
        return np.where(cell < 0, np.float32(0), self.table.ravel()[cell])


def cells(batch: pa.RecordBatch, groups: Sequence[Group], bins: Bins) -> np.ndarray:
    """Cell (n,) int64 of each jet in (group, pt bin, mass bin), row-major; -1 outside of all."""
    group = group_numbers(batch, groups)
    place = bins.place(values_of(batch.column(PT)), values_of(batch.column(MASS)))
    return np.where((group < 0) | (place < 0), -1, group * np.prod(bins.shape) + place)


def group_numbers(batch: pa.RecordBatch, groups: Sequence[Group]) -> np.ndarray:
    """Number (n,) int64 of each record's group, -1 for none."""
    known = {label: number for number, group in enumerate(groups) for label in group.labels}
    without = known.get(UNLABELLED, -1)
    if LABEL not in batch.schema.names:
        return np.full(len(batch), without, dtype=np.int64)
    column = batch.column(LABEL)
    numbers = [known.get(name, -1) for name in column.dictionary.to_pylist()]
    return np.array([*numbers, without], dtype=np.int64)[values_of(column)]  # a null label is index -1


@dataclass(frozen=True)
class Counts:
    """Jets by (group, pt bin, mass bin), and those in none.

    Attributes:
        table: (groups, pt bins, mass bins) int64.
        outside: jets of a group with pt or soft-drop mass outside the bins or missing.
        ungrouped: jets of no group.
    """

    table: np.ndarray
    outside: int
    ungrouped: int


def count(splits: Sequence[Split], groups: Sequence[Group], bins: Bins) -> Counts:
    """Count the jets of splits, block by block.

    Raises:
        HepfmError: a corpus without pt or soft-drop mass.
    """
    shape = (len(groups), *bins.shape)
    table = np.zeros(int(np.prod(shape)), dtype=np.int64)
    outside = ungrouped = 0
    for split in splits:
        check_columns(split)
    blocks = sum(len(split) for split in splits)
    with progress("count jets by pt and mass", blocks, "blocks", visible=blocks > 1000) as task:
        for split in splits:
            for block in split:
                cell = cells(block, groups, bins)
                table += np.bincount(cell[cell >= 0], minlength=len(table))
                missed = group_numbers(block, groups) < 0
                ungrouped += int(missed.sum())
                outside += int((cell < 0).sum() - missed.sum())
                task.advance()
    return Counts(table.reshape(shape), outside, ungrouped)


def check_columns(split: Split) -> None:
    """Does the corpus have what flat reweighting needs?"""
    missing = [name for name in (PT, MASS) if name not in split.corpus.manifest.schema.names]
    if missing:
        raise HepfmError(
            f"its records have no {' and no '.join(missing)}", split.corpus.path, "flat reweighting needs both"
        )


def flat_weights(counts: np.ndarray, shares: Sequence[float], cap_percentile: float, epoch_records: int) -> np.ndarray:
    """Mean number of times that a jet of each cell comes in an epoch, before any rounding.

    A jet of a bin with n jets gets 1/max(n, c), where c is the ``cap_percentile``-th percentile of n over the group's
    populated bins: bins with c jets or more come equally often, rarer ones are lifted only as much as a bin with c
    jets, so that no single jet is repeated without bound. 0 makes all populated bins equal. Each group is then scaled
    to its share.

    Args:
        counts: (groups, pt bins, mass bins) jets.
        shares: of the groups; groups without jets give theirs up to the others.
        cap_percentile: in [0, 100].
        epoch_records: sum over all jets of their weights.

    Returns:
        (groups, pt bins, mass bins) float64.
    """
    weights = np.zeros(counts.shape)
    total = sum(share for share, group in zip(shares, counts, strict=True) if group.any())
    for weight, group, share in zip(weights, counts, shares, strict=True):
        populated = group > 0
        if not populated.any() or not share:
            continue
        weight[populated] = 1 / np.maximum(group[populated], np.percentile(group[populated], cap_percentile))
        weight *= epoch_records * share / total / (weight * group).sum()
    return weights


def flat_to_data(flat: FlatWeights) -> dict[str, Any]:
    """Plain data: numbers are the shortest that give the same float32."""
    return {
        "groups": [
            {"name": group.name, "share": float(group.share), "labels": list(group.labels)} for group in flat.groups
        ],
        "pt_edges": list(map(float, flat.bins.pt)),
        "mass_edges": list(map(float, flat.bins.mass)),
        "cap_percentile": float(flat.cap_percentile),
        "weights": [[[float(str(weight)) for weight in row] for row in group] for group in flat.table],
    }


def flat_from_data(data: dict[str, Any]) -> FlatWeights:
    """What :func:`flat_to_data` described.

    Raises:
        ValueError, KeyError, TypeError: it is not that.
    """
    groups = tuple(Group(group["name"], float(group["share"]), tuple(group["labels"])) for group in data["groups"])
    bins = Bins(tuple(map(float, data["pt_edges"])), tuple(map(float, data["mass_edges"])))
    table = np.array(data["weights"], dtype=np.float32)
    if table.shape != (len(groups), *bins.shape) or not np.isfinite(table).all() or (table < 0).any():
        raise ValueError(f"weights of shape {table.shape} for {len(groups)} groups and {bins.shape} bins")
    return FlatWeights(groups, bins, float(data["cap_percentile"]), table)
