"""A tokenizer trained on a selection sees just that: about its axis, inside its cuts, the leading points."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from toy_jets import ToyJets

from hepfm.core import records
from hepfm.core.errors import HepfmError
from hepfm.core.records import offsets_of, points_of
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.formats.batches import jet_batch
from hepfm.tokenize.contract import KINEMATIC
from hepfm.tokenize.selection import SelectingContract, about_the_sum

SCHEMA = records.schema("jets", ("pt", "deta", "dphi", "energy"), ("eta",))
CONTRACT = SelectingContract(features=KINEMATIC, axis="constituent_sum")


def batch_of(lengths: list[int], seed: int, eta: list[float] | None = None) -> pa.RecordBatch:
    """Random jets about an axis that is not their sum."""
    draws = np.random.default_rng(seed)
    total = sum(lengths)
    points = {
        "pt": draws.exponential(20, total) + 0.1,
        "deta": draws.normal(0.1, 0.3, total),
        "dphi": draws.normal(-0.1, 0.3, total),
        "energy": draws.exponential(50, total),
    }
    columns = {
        "eta": draws.uniform(-2, 2, len(lengths)) if eta is None else np.array(eta),
        "source_file": np.zeros(len(lengths)),
        "source_entry": np.arange(len(lengths)),
    }
    return jet_batch(SCHEMA, (), np.concatenate([[0], np.cumsum(lengths)]), points, columns)


@given(st.lists(st.integers(0, 6), min_size=1, max_size=5), st.integers(0, 1000))
def test_angles_about_the_sum_are_those_of_cartesian_sums(lengths: list[int], seed: int) -> None:
    batch = batch_of(lengths, seed)
    turned = about_the_sum(batch)
    assert turned.schema == batch.schema
    offsets = offsets_of(turned.column(0))
    assert offsets.tolist() == offsets_of(batch.column(0)).tolist()
    for name in ("pt", "energy"):
        np.testing.assert_array_equal(points_of(turned, name), points_of(batch, name))
    for jet in range(len(lengths)):
        part = slice(offsets[jet], offsets[jet + 1])
        pt, deta, dphi = (points_of(batch, name)[part].astype(float) for name in ("pt", "deta", "dphi"))
        eta = batch.column("eta")[jet].as_py() + deta
        vectors = np.stack([pt * np.cos(dphi), pt * np.sin(dphi), pt * np.sinh(eta)])
        if not len(pt):
            continue
        x, y, z = vectors.sum(axis=1)
        expected_eta = eta - np.arctanh(z / np.sqrt(x**2 + y**2 + z**2))
        difference = points_of(turned, "dphi")[part] - (dphi - np.arctan2(y, x))
        np.testing.assert_allclose(points_of(turned, "deta")[part], expected_eta, atol=2e-6)
        np.testing.assert_allclose(np.sin(difference / 2), 0, atol=1e-6)


def test_turning_twice_needs_the_new_axis_but_a_balanced_jet_stays() -> None:
    points = {"pt": [5, 5], "deta": [0.2, -0.2], "dphi": [0.3, -0.3], "energy": [9, 9]}
    columns = {"eta": [0.0], "source_file": [0], "source_entry": [0]}
    batch = jet_batch(
        SCHEMA,
        (),
        np.array([0, 2]),
        {name: np.array(values, float) for name, values in points.items()},
        {name: np.array(values, float) for name, values in columns.items()},
    )
    turned = about_the_sum(batch)
    np.testing.assert_allclose(points_of(turned, "deta"), [0.2, -0.2], atol=1e-7)
    np.testing.assert_allclose(points_of(turned, "dphi"), [0.3, -0.3], atol=1e-7)


def test_a_jet_without_eta_is_named() -> None:
    with pytest.raises(HepfmError, match="record 1 has no eta"):
        about_the_sum(batch_of([2, 2], 0, eta=[0.0, np.nan]))


def test_only_a_corpus_about_the_stored_axis_is_turned() -> None:
    batch = batch_of([3, 2], 0)
    assert CONTRACT.prepared(batch, "constituent_sum") is batch
    assert CONTRACT.prepared(batch, "stored").equals(about_the_sum(batch))


@given(
    st.lists(st.integers(0, 8), min_size=1, max_size=6),
    st.integers(0, 1000),
    st.sampled_from([None, -0.2]),
    st.sampled_from([None, 0.4]),
    st.integers(0, 4),
)
def test_points_inside_the_cuts_and_of_them_the_hardest_are_kept(
    lengths: list[int], seed: int, low: float | None, high: float | None, most: int
) -> None:
    batch = batch_of(lengths, seed).slice(1) if len(lengths) > 1 else batch_of(lengths, seed)
    contract = replace(CONTRACT, cuts={"deta": [low, high]}, max_points=most)
    expected = []
    for jet in batch.column(0).to_pylist():
        inside = [
            point for point in jet if (low is None or point["deta"] > low) and (high is None or point["deta"] < high)
        ]
        hardest = sorted((point["pt"] for point in inside), reverse=True)[: most or None]
        expected.append([point for point in inside if point["pt"] in hardest])
    kept = contract.kept(batch)
    assert kept.column(0).to_pylist() == expected
    assert kept.schema == batch.schema
    assert kept.column("eta").equals(batch.column("eta"))
    assert contract.kept(kept).column(0).to_pylist() == expected


def test_what_is_no_number_is_not_left_out_in_silence() -> None:
    batch = batch_of([2], 0)
    bad = jet_batch(
        SCHEMA,
        (),
        np.array([0, 2]),
        {**{name: points_of(batch, name) for name in ("pt", "dphi", "energy")}, "deta": np.array([np.nan, 0.1])},
        {"eta": np.zeros(1), "source_file": np.zeros(1), "source_entry": np.zeros(1)},
    )
    contract = replace(CONTRACT, cuts={"deta": [-0.8, 0.8]})
    with pytest.raises(HepfmError, match="deta is nan"):
        contract.encode(contract.kept(bad))


def test_a_corpus_about_the_stored_axis_needs_eta(make_corpus: Callable[..., Corpus]) -> None:
    corpus = make_corpus(60)
    with pytest.raises(HepfmError, match=r"corpus: has no 'eta' of the jets"):
        CONTRACT.check(corpus.manifest)
    CONTRACT.check(make_corpus(60, axis="constituent_sum").manifest)
    with pytest.raises(HepfmError, match="refer to the axis 'constituent_sum'"):
        replace(CONTRACT, axis="stored").check(make_corpus(60, axis="constituent_sum").manifest)


def test_plain_data_brings_it_back() -> None:
    contract = replace(CONTRACT, cuts={"deta": [None, 0.8]}, max_points=5)
    assert SelectingContract.from_dict(contract.to_dict()) == contract


def test_pt_relative_to_the_jet_is_refused(make_corpus: Callable[..., Any]) -> None:
    seen = {"min": 0.5, "max": 400.0, "mean": 14.0, "std": 30.0}
    contract = replace(CONTRACT, features=(replace(KINEMATIC[0], seen=seen), *KINEMATIC[1:]))
    assert ToyJets().pt_scale == 1
    contract.check(make_corpus(60, axis="constituent_sum").manifest)
    with pytest.raises(HepfmError, match=r"'constituents.pt' has values of about .* fitted on about"):
        contract.check(make_corpus(60, axis="constituent_sum", pt_scale=1 / 700).manifest)
