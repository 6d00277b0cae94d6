"""The classes that a card's plots tell apart: labels, or families of them where there are too many for one picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from hepfm.core.records import values_of
from hepfm.ingest.manifest import Manifest
from hepfm.ingest.sophon_groups import FAMILIES, family_of, is_jetclass2

MOST = 12
UNLABELLED = "unlabelled"


@dataclass(frozen=True)
class Classes:
    """Classes of records.

    Attributes:
        names: of the classes.
        numbers: (labels + 1,) class of each label index, and last that of records without label.
    """

    names: tuple[str, ...]
    numbers: np.ndarray

    def of(self, batch: pa.RecordBatch) -> np.ndarray:
        """Class (n,) of each record."""
        if "label" not in batch.schema.names:
            return np.zeros(len(batch), dtype=np.int64)
        return self.numbers[values_of(batch.column("label"))]  # a null label is index -1


def classes_of(manifest: Manifest, split: str) -> Classes:
    """The classes of a split: its labels if there are at most :data:`MOST`; else families or the most frequent."""
    entry = manifest.splits[split]
    counts = {label: entry.labels.get(label, 0) for label in manifest.labels}
    present = [label for label, count in counts.items() if count]
    if not present:
        return Classes((f"all {manifest.records_name}",), np.zeros(len(manifest.labels) + 1, dtype=np.int64))
    without = sum(counts.values()) < entry.records
    room = MOST - without
    if len(present) <= room:
        group = {label: label for label in present}
        names = tuple(present)
    elif is_jetclass2(tuple(present)):
        group = {label: family_of(label) for label in present}
        names = tuple(name for name in FAMILIES if name in group.values())
    else:
        frequent = sorted(present, key=lambda label: -counts[label])[: room - 1]
        other = f"{len(present) - len(frequent)} other labels"
        group = {label: label if label in frequent else other for label in present}
        names = (*(label for label in present if label in frequent), other)
    names += (UNLABELLED,) if without else ()
    numbers = [names.index(group[label]) if label in group else 0 for label in manifest.labels]
    return Classes(names, np.array([*numbers, len(names) - 1], dtype=np.int64))
