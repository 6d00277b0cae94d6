"""Flat reweighting: flat where there are jets, in the stated proportions, with Sophon's groups."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from mass_jets import mass_jets

from hepfm.core.errors import HepfmError
from hepfm.ingest.reweight import UNLABELLED, Bins, FlatWeights, Group, count, flat_weights
from hepfm.ingest.sophon_groups import FAMILIES, GROUPS, family_of, group_of, is_jetclass2

REFERENCE = Path(__file__).resolve().parents[2].parent / "shared" / "reference" / "jets.md"
tables = hnp.arrays(np.int64, (2, 3, 4), elements=st.integers(0, 500)).filter(lambda counts: counts.any())

MEMBERS = {
    "X_QQ": ("X_bb", "X_qq", "X_bc", "X_sq"),
    "X_gg": ("X_gg",),
    "X_ll": ("X_ee", "X_mm"),
    "X_tauhtaul": ("X_tauhtaue", "X_tauhtaum"),
    "X_tauhtauh": ("X_tauhtauh",),
    "X_YY_QQQQ": ("X_YY_bbbb", "X_YY_qqqb", "X_YY_bcsq"),
    "X_YY_QQgg": ("X_YY_bbgg", "X_YY_qqgg"),
    "X_YY_gggg": ("X_YY_gggg",),
    "X_YY_QQQ": ("X_YY_bbs", "X_YY_csq"),
    "X_YY_QQg": ("X_YY_bbg",),
    "X_YY_Qgg": ("X_YY_ggb", "X_YY_ggq"),
    "X_YY_ggg": ("X_YY_ggg",),
    "X_YY_QQll": ("X_YY_bbee", "X_YY_qqmm"),
    "X_YY_QQl": ("X_YY_bbe", "X_YY_ssm"),
    "X_YY_Qll": ("X_YY_bee", "X_YY_qmm"),
    "X_YY_QQtauhtaul": ("X_YY_bbtauhtaue", "X_YY_sstauhtaum"),
    "X_YY_QQtauhtauh": ("X_YY_cctauhtauh",),
    "X_YY_Qtauhtaul": ("X_YY_btauhtaue", "X_YY_qtauhtaum"),
    "X_YY_Qtauhtauh": ("X_YY_stauhtauh",),
    "X_YY_ggll": ("X_YY_ggee", "X_YY_ggmm"),
    "X_YY_ggl": ("X_YY_gge",),
    "X_YY_gll": ("X_YY_gee", "X_YY_gmm"),
    "X_YY_ggtauhtaul": ("X_YY_ggtauhtaum",),
    "X_YY_ggtauhtauh": ("X_YY_ggtauhtauh",),
    "X_YY_gtauhtaul": ("X_YY_gtauhtaue",),
    "X_YY_gtauhtauh": ("X_YY_gtauhtauh",),
    "X_YY_QQlv": ("X_YY_bcev", "X_YY_qqmv"),
    "X_YY_QQtaulv": ("X_YY_bctauev", "X_YY_sqtaumv"),
    "X_YY_QQtauhv": ("X_YY_bqtauhv",),
    "QCD": ("QCD_bbccss", "QCD_bs", "QCD_light"),
}


def test_labels_are_in_the_groups_that_their_decays_say() -> None:
    assert list(MEMBERS) == list(GROUPS)
    for group, labels in MEMBERS.items():
        for label in labels:
            assert group_of(label) == group_of(f"label_{label}") == group


def test_every_label_of_the_reference_has_one_group() -> None:
    if not REFERENCE.is_file():
        pytest.skip(f"{REFERENCE} is not there")
    text = REFERENCE.read_text().split("### 2.2")[1].split("### 2.3")[0]
    labels = [name for _, name in re.findall(r"`(\d+):(\w+)`", text)]
    assert len(labels) == 188
    found = [group_of(label) for label in labels]
    assert set(found) == set(GROUPS)
    assert {group_of(label) for label in labels[161:]} == {"QCD"}
    assert found.count("QCD") == 27
    stated = text.split("sampling weights:")[1].split(";")[0].replace("\n", " ")
    weights = [float(weight) for weight in re.findall(r"\w+ ([0-9.]+)(?:,|$)", stated.strip())]
    assert weights == list(GROUPS.values())
    # How many labels each group has, counted by hand in the published list of reweighting groups.
    sizes = [9, 1, 2, 2, 1, 22, 4, 1, 20, 4, 4, 1, 8, 8, 8, 8, 4, 8, 4, 2, 2, 2, 2, 1, 2, 1, 12, 12, 6, 27]
    assert [found.count(group) for group in GROUPS] == sizes
    assert {family_of(label) for label in labels} == set(FAMILIES)
    assert is_jetclass2(tuple(labels))


@pytest.mark.parametrize("label", ["Tbqq", "X_", "X_bbb", "X_YY_bb", "QCD_", "QCD_sb", "QCD_bbb", "X_YY_bbtau", ""])
def test_names_that_are_no_labels_are_refused(label: str) -> None:
    with pytest.raises(HepfmError, match="is no label of JetClass-II"):
        group_of(label)
    assert not is_jetclass2((label,))


@given(tables, st.lists(st.floats(0.01, 5), min_size=2, max_size=2), st.integers(1, 10_000))
def test_without_cap_all_populated_bins_come_equally_often(
    counts: np.ndarray, shares: list[float], epoch_records: int
) -> None:
    weights = flat_weights(counts, shares, 0, epoch_records)
    drawn = weights * counts
    assert drawn.sum() == pytest.approx(epoch_records)
    assert not weights[counts == 0].any()
    total = sum(share for share, group in zip(shares, counts, strict=True) if group.any())
    for group, table, share in zip(drawn, counts, shares, strict=True):
        if table.any():
            assert group.sum() == pytest.approx(epoch_records * share / total)
            assert group[table > 0] == pytest.approx(group.sum() / (table > 0).sum())


@given(tables, st.floats(0, 100))
def test_the_cap_bounds_repeats_and_leaves_common_bins_flat(counts: np.ndarray, percentile: float) -> None:
    weights = flat_weights(counts, [1, 1], percentile, 1000)
    for weight, table in zip(weights, counts, strict=True):
        populated = table[table > 0]
        if not len(populated):
            continue
        least = np.percentile(populated, percentile)
        common = (weight * table)[(table > 0) & (table >= least)]
        assert common == pytest.approx(common.max())
        rare = weight[(table > 0) & (table <= least)]
        assert rare == pytest.approx(weight.max())


def test_jets_find_their_bin_edges_included_below_only() -> None:
    bins = Bins((200, 300, 500), (20, 60, 100, 140))
    pt = np.array([200, 299.9, 300, 499, 500, 199, 250, 250, np.nan], dtype=np.float32)
    mass = np.array([20, 59, 60, 139, 50, 50, 140, 19, 50], dtype=np.float32)
    assert bins.place(pt, mass).tolist() == [0, 0, 4, 5, -1, -1, -1, -1, -1]
    with pytest.raises(HepfmError, match="edges must rise"):
        Bins((200, 200), (20, 60))


@given(st.lists(st.tuples(st.floats(100, 600), st.floats(0, 200)), min_size=1, max_size=30))
def test_bins_agree_with_numpy(jets: list[tuple[float, float]]) -> None:
    bins = Bins((200, 300, 500), (20, 60, 100, 140))
    pt, mass = np.array(jets).T
    below_last = (pt < 500) & (mass < 140)  # numpy's last bin holds its upper edge
    expected, _, _ = np.histogram2d(pt[below_last], mass[below_last], [bins.pt, bins.mass])
    place = bins.place(pt, mass)
    assert np.bincount(place[place >= 0], minlength=6).tolist() == expected.ravel().tolist()


def test_a_corpus_is_counted_by_group_and_bin(tmp_path: Path) -> None:
    corpus = mass_jets(tmp_path / "c", ("qcd", "top", "higgs"), records=2000)
    groups = (Group("boson", 1, ("higgs",)), Group("rest", 1, ("qcd", UNLABELLED)))
    bins = Bins((200, 250, 400, 1000), (20, 100, 180))
    counts = count([corpus.split("train")], groups, bins)
    rows = [row for block in corpus.split("train") for row in block.to_pylist()]
    expected = np.zeros((2, 3, 2), dtype=int)
    outside = 0
    for row in rows:
        group = {"higgs": 0, "qcd": 1, None: 1}.get(row["label"])
        if group is None:
            continue
        pt, mass = row["pt"], row["softdrop_mass"]
        if not (200 <= pt < 1000 and 20 <= mass < 180):
            outside += 1
            continue
        expected[group, sum(pt >= edge for edge in (250, 400)), int(mass >= 100)] += 1
    assert counts.table.tolist() == expected.tolist()
    assert counts.outside == outside > 0
    assert counts.ungrouped == sum(row["label"] == "top" for row in rows) > 0
    table = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    weights = FlatWeights(groups, bins, 0, table).of(corpus.split("train").read(0))
    assert weights.dtype == np.float32
    for weight, row in zip(weights.tolist(), rows, strict=False):
        if row["label"] == "top" or not 200 <= row["pt"] < 1000 or not 20 <= row["softdrop_mass"] < 180:
            assert weight == 0


def test_what_flat_reweighting_needs_is_named(tmp_path: Path) -> None:
    corpus = mass_jets(tmp_path / "c", ("qcd",), records=100, columns=("pt", "label"))
    with pytest.raises(HepfmError, match="its records have no softdrop_mass"):
        count([corpus.split("train")], (Group("all", 1, ("qcd",)),), Bins((200, 300), (20, 60)))
