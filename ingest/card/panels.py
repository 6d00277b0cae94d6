"""A card's panels: histograms of all quantities by class, filled in one pass and in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from hepfm.core.progress import progress
from hepfm.ingest.card.axes import Axis, axis_of
from hepfm.ingest.card.classes import Classes
from hepfm.ingest.card.sample import Quantity, Sample, stored
from hepfm.ingest.card.showers import derived
from hepfm.ingest.corpus import Split
from hepfm.ingest.manifest import Manifest

SCOUTS = 8


@dataclass
class Panel:
    """A histogram by class.

    Attributes:
        quantity, axis: what is counted, and in which bins.
        counts: (classes, bins + 2) counts, or sums of weights of a profile; first and last lie outside the axis.
        records: (classes,) records looked at.
        nulls: values that are missing.
    """

    quantity: Quantity
    axis: Axis
    counts: np.ndarray
    records: np.ndarray
    nulls: int = 0

    def add(self, sample: Sample, classes: np.ndarray, records: np.ndarray) -> None:
        """Take in a block, given the class (n,) of each record and the records of each class."""
        cell = classes[sample.owner] * self.counts.shape[1] + self.axis.place(sample.values)
        self.counts += np.bincount(cell, sample.weights, minlength=self.counts.size).reshape(self.counts.shape)
        self.records += records
        self.nulls += sample.nulls

    @property
    def heights(self) -> np.ndarray:
        """(classes, bins) share of a class's values in each bin; of a profile the mean sum over its records."""
        total = self.records if self.quantity.form == "profile" else self.counts.sum(axis=1)
        return self.counts[:, 1:-1] / np.maximum(total, 1)[:, None]

    @property
    def outside(self) -> float:
        """Share of all values (of a profile's weights) outside the axis."""
        return float(self.counts[:, [0, -1]].sum() / self.counts.sum())

    @property
    def null_share(self) -> float:
        """Share of the values that are missing."""
        return 0.0 if self.quantity.form == "profile" else float(self.nulls / (self.nulls + self.counts.sum()))


def quantities_of(manifest: Manifest) -> list[Quantity]:
    """What is shown of a corpus: all that is stored, and for showers what follows from their points."""
    return stored(manifest.schema) + (derived(manifest.schema) if manifest.kind == "showers" else [])


def sampled_blocks(split: Split, records: int) -> list[int]:
    """Blocks evenly over a split that together hold at most ``records`` records, one at least."""
    total = len(split)
    most = int(split.block_records.max())
    count = total if split.records <= records else max(1, min(total, records // most))
    return [number * total // count for number in range(count)]


def fill(split: Split, blocks: Sequence[int], wanted: Sequence[Quantity], classes: Classes) -> list[Panel]:
    """Fill one panel a quantity from some blocks of a split; those that have no value at all are left out."""
    shape = (len(classes.names),)
    panels = [
        Panel(quantity, axis, np.zeros((*shape, axis.bins + 2)), np.zeros(shape, dtype=np.int64))
        for quantity, axis in zip(wanted, _axes(split, blocks, wanted, len(classes.names)), strict=True)
    ]
    with progress("fill plots", len(blocks), "blocks") as task:
        for block in blocks:
            batch = split.read(block)
            of_record = classes.of(batch)
            records = np.bincount(of_record, minlength=len(classes.names))
            for panel in panels:
                panel.add(panel.quantity.take(batch), of_record, records)
            task.advance()
    return [panel for panel in panels if panel.counts.any()]


def _axes(split: Split, blocks: Sequence[int], wanted: Sequence[Quantity], classes: int) -> list[Axis]:
    """Axes from a look at a few of the blocks."""
    count = min(SCOUTS, len(blocks))
    batches = [split.read(blocks[number * len(blocks) // count]) for number in range(count)]
    axes = []
    for quantity in wanted:
        samples = [quantity.take(batch) for batch in batches]
        seen = sum(len(sample.values) for sample in samples)
        values = [sample.values for sample in samples]
        expected = seen * len(blocks) / (count * classes)
        axes.append(axis_of(quantity.name, quantity.form, samples[0].names, values, expected))
    return axes
