from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from toy_source import ToySource, write_files

from hepfm.core.errors import HepfmError
from hepfm.core.records import lengths_of
from hepfm.ingest.formats.jetclass2 import LABELS
from hepfm.ingest.plausible import possible_records
from hepfm.ingest.selection import JetSelection
from hepfm.ingest.summary import Summary


@pytest.fixture
def batch(tmp_path: Path) -> pa.RecordBatch:
    return ToySource().read(write_files(tmp_path, (500,))[0], 0, 500)


def test_no_cut_keeps_everything(batch: pa.RecordBatch) -> None:
    flow: dict[str, int] = {}
    assert JetSelection().apply(batch, flow) is batch
    assert flow == {}
    assert JetSelection().settings() == {}


def test_bounds_are_inclusive(batch: pa.RecordBatch) -> None:
    pt = np.sort(batch["pt"].to_numpy()).astype(float)
    kept = JetSelection(pt_min=pt[10], pt_max=pt[20]).apply(batch, {})
    assert sorted(kept["pt"].to_pylist()) == pt[10:21].tolist()


def test_a_jet_without_the_quantity_does_not_pass(batch: pa.RecordBatch) -> None:
    pt = batch["pt"].to_numpy()
    mask = np.arange(len(pt)) < 100
    at = batch.schema.get_field_index("pt")
    holed = batch.set_column(at, batch.schema.field(at), pa.array(pt, mask=mask))
    flow: dict[str, int] = {}
    JetSelection(pt_min=0).apply(holed, flow)
    assert flow == {"pt >= 0 GeV": 400}


@pytest.mark.parametrize("start", [0, 123])
def test_the_leading_constituents_are_kept_and_the_others_counted(batch: pa.RecordBatch, start: int) -> None:
    part = batch.slice(start, 200)
    flow: dict[str, int] = {}
    cut = JetSelection(max_constituents=3).apply(part, flow)
    rows = part["constituents"].to_pylist()
    assert cut["constituents"].to_pylist() == [row[:3] for row in rows]
    assert flow == {
        "jets cut to 3 constituents": sum(len(row) > 3 for row in rows),
        "constituents cut": sum(max(0, len(row) - 3) for row in rows),
    }
    assert cut.schema.equals(part.schema, check_metadata=True)


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        (JetSelection(labels=("qcd", "w")), "toy has no label w.*there is: qcd, top, higgs"),
        (JetSelection(pt_min=5, pt_max=4), "lowest pt 5 lies above the highest 4"),
        (JetSelection(max_constituents=0), "--max-constituents: must be at least 1"),
    ],
)
def test_cuts_that_make_no_sense_are_refused(selection: JetSelection, message: str) -> None:
    with pytest.raises(HepfmError, match=message):
        selection.check(ToySource())


def test_of_many_labels_those_like_the_unknown_one_are_told() -> None:
    many = ToySource(labels=LABELS)
    with pytest.raises(HepfmError, match="no label X_YY_bbqc") as close:
        JetSelection(labels=("X_YY_bbqc",)).check(many)
    assert "X_YY_bbq, " in close.value.mend
    with pytest.raises(HepfmError, match="no label top") as other:
        JetSelection(labels=("top",)).check(many)
    assert other.value.mend == f"there is: {', '.join(LABELS[:20])}, ..."


def test_a_value_that_is_not_finite_is_found_but_a_null_is_none(batch: pa.RecordBatch) -> None:
    assert batch["constituents"].flatten().field(3).null_count > 0
    assert possible_records(batch)[1] == ""
    column = batch["constituents"]
    deta = column.flatten().field(1).to_numpy().copy()
    deta[column.offsets.to_numpy()[17]] = np.inf
    fields = list(column.type.value_type)
    children = [column.flatten().field(i) for i in range(len(fields))]
    children[1] = pa.array(deta)
    points = pa.StructArray.from_arrays(children, fields=fields)
    bad = batch.set_column(0, batch.schema.field(0), pa.ListArray.from_arrays(column.offsets, points, type=column.type))
    possible, fault = possible_records(bad)
    assert fault == "constituents.deta is not finite"
    assert np.flatnonzero(~possible).tolist() == [17]
    assert np.flatnonzero(~possible_records(bad.slice(10))[0]).tolist() == [7]


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (-1.0, "pt is negative"),
        (1e9, "jet pt is not in 5 to 100,000 GeV (is the unit GeV?)"),
        (0.7, "jet pt is not in 5 to 100,000 GeV (is the unit GeV?)"),
    ],
)
def test_an_impossible_momentum_is_found(batch: pa.RecordBatch, value: float, fault: str) -> None:
    pt = batch["pt"].to_numpy().copy()
    pt[5] = value
    at = batch.schema.get_field_index("pt")
    possible, found = possible_records(batch.set_column(at, batch.schema.field(at), pa.array(pt)))
    assert found == fault
    assert np.flatnonzero(~possible).tolist() == [5]


def test_summaries_of_parts_merge_to_that_of_the_whole() -> None:
    draw = np.random.default_rng(0)
    values = draw.normal(3, 2, 1000).astype(np.float32)
    array = pa.array(values, mask=draw.random(1000) < 0.2)
    whole, merged = Summary(), Summary()
    whole.add(array)
    for start in range(0, 1000, 130):
        merged.add(array.slice(start, 130))
    merged.add(array.slice(0, 0))
    kept = array.drop_null().to_numpy().astype(float)
    for summary in (whole, merged):
        figures = summary.figures()
        assert figures["count"] == len(kept)
        assert figures["nulls"] == array.null_count
        assert (figures["min"], figures["max"]) == (kept.min(), kept.max())
        assert (figures["mean"], figures["std"]) == pytest.approx((kept.mean(), kept.std()), rel=1e-12)
    assert Summary().figures() == {"count": 0, "nulls": 0}
    assert lengths_of(pa.array([[1], [2, 3]])).tolist() == [1, 2]
