"""The contract of a tokenizer that was trained on a selection of points: cuts, the leading N, and its own axis.

Such a tokenizer has tokens only for the points it was made for. Which ones these are is a function of the record
alone: :meth:`SelectingContract.prepared` gives the records as the tokenizer sees them, and the tokens of a record are
those of its prepared points, in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

from hepfm.core.errors import HepfmError
from hepfm.core.records import POINTS_COLUMN, offsets_of, points_of, values_of
from hepfm.ingest.manifest import Manifest
from hepfm.tokenize.contract import FeatureContract

SUM = "constituent_sum"
STORED = "stored"


@dataclass(frozen=True)
class SelectingContract(FeatureContract):
    """A feature contract with a selection of points.

    Attributes:
        cuts: by name of a quantity, the open interval [low, high] of values that are kept; None for no bound.
        max_points: points of a record that are kept after the cuts, those that come first in ``order`` (of equal ones
            the earlier); 0 keeps all. They stay in the record's own order.
    """

    cuts: Mapping[str, list[float | None]] = field(default_factory=dict)
    max_points: int = 0

    def check(
        self, manifest: Manifest, statistics: Mapping[str, Mapping[str, Any]] | None = None, where: object = "corpus"
    ) -> None:
        """Refuse a corpus that is not what this contract takes; see :meth:`FeatureContract.check`.

        A corpus about the stored axis passes where the contract's is the sum of the constituents, if it has the jets'
        eta: :meth:`prepared` then turns it.
        """
        turned = self.axis == SUM and manifest.axis == STORED
        super().check(replace(manifest, axis=self.axis) if turned else manifest, statistics, where)
        if turned and "eta" not in manifest.schema.names:
            raise HepfmError(
                "has no 'eta' of the jets, without which deta cannot be taken about the sum of the constituents",
                where,
                "build the corpus with eta, or with that axis",
            )

    def prepared(self, batch: pa.RecordBatch, axis: str) -> pa.RecordBatch:
        """The records as the tokenizer sees them: about its axis, and only the points that get a token.

        Args:
            batch: records.
            axis: what their deta and dphi refer to, as the corpus's manifest says.

        Raises:
            HepfmError: a jet without eta.
        """
        if self.axis == SUM and axis == STORED:
            batch = about_the_sum(batch)
        return self.kept(batch)

    def selection(self) -> dict[str, Any]:
        """The rule by which points get a token; see :meth:`FeatureContract.selection`."""
        return {"axis": self.axis, "cuts": dict(self.cuts), "max_points": self.max_points, "order": self.order}

    def kept(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The records without the points that get no token."""
        name = POINTS_COLUMN[self.kind]
        offsets = offsets_of(batch.column(name))
        keep = np.ones(offsets[-1], dtype=bool)
        for quantity, (low, high) in self.cuts.items():
            values = points_of(batch, quantity)
            # What is no number is kept here, so that encoding refuses it instead of leaving it out.
            if low is not None:
                keep &= ~(values <= low)
            if high is not None:
                keep &= ~(values >= high)
        if self.max_points:
            keep = _leading(keep, points_of(batch, self.order.split()[0]), offsets, self.max_points)
        if keep.all():
            return batch
        before = np.concatenate([[0], np.cumsum(keep)])
        points = batch.column(name).flatten().filter(pa.array(keep))
        return _with_points(batch, name, before[offsets], points)


def about_the_sum(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Jets with deta and dphi about the sum of their constituents' momenta instead of the stored axis.

    The sum's pseudorapidity asinh(pz / pt) needs absolute pseudorapidities, hence the jets' eta; masses do not enter.

    Raises:
        HepfmError: a jet without eta.
    """
    name = POINTS_COLUMN["jets"]
    offsets = offsets_of(batch.column(name))
    jet = np.repeat(np.arange(len(batch)), np.diff(offsets))
    pt, deta, dphi = (points_of(batch, quantity).astype(np.float64) for quantity in ("pt", "deta", "dphi"))
    eta = values_of(batch.column("eta")).astype(np.float64)
    if not np.isfinite(eta).all():
        raise HepfmError(f"record {int(np.argmin(np.isfinite(eta)))} has no eta", "records", "leave such jets out")
    along = (pt * np.cos(dphi), pt * np.sin(dphi), pt * np.sinh(eta[jet] + deta))
    px, py, pz = (np.bincount(jet, component, minlength=len(batch)) for component in along)
    sum_pt = np.hypot(px, py)
    shift = np.arcsinh(np.divide(pz, sum_pt, out=np.sinh(eta), where=sum_pt > 0)) - eta
    turned = {
        "deta": deta - shift[jet],
        "dphi": (dphi - np.arctan2(py, px)[jet] + np.pi) % (2 * np.pi) - np.pi,
    }
    flat = batch.column(name).flatten()
    fields = list(flat.type)
    children = [
        pa.array(turned[item.name].astype(item.type.to_pandas_dtype())) if item.name in turned else flat.field(index)
        for index, item in enumerate(fields)
    ]
    return _with_points(batch, name, offsets, pa.StructArray.from_arrays(children, fields=fields))


def _leading(keep: np.ndarray, values: np.ndarray, offsets: np.ndarray, most: int) -> np.ndarray:
    """Of the kept points (T,) of each record those of the ``most`` largest values."""
    record = np.repeat(np.arange(len(offsets) - 1), np.diff(offsets))
    order = np.lexsort((-values.astype(np.float64), ~keep, record))
    rank = np.empty(len(keep), dtype=np.int64)
    rank[order] = np.arange(len(keep)) - offsets[record]
    return keep & (rank < most)


def _with_points(batch: pa.RecordBatch, name: str, offsets: np.ndarray, points: pa.StructArray) -> pa.RecordBatch:
    item = batch.schema.field(name).type
    column = pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), points, type=item)
    return batch.set_column(batch.schema.get_field_index(name), batch.schema.field(name), column)
