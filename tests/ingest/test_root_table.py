"""ROOT files as ROOT itself writes them: ``std::vector`` branches, and baskets of many entries, read in any ranges.

``files/jetclass_vectors.root`` holds 60 made-up jets (``make_records(60, 5, 8)``), written by RDataFrame's Snapshot of
ROOT 6.40 with AutoFlush 25, so in baskets of 25, 25 and 10 entries; uproot cannot write such branches.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import awkward as ak
import numpy as np
import pytest
import uproot
from tests.ingest.test_jetclass import make_records
from uproot.interpretation.jagged import AsJagged
from uproot.interpretation.numerical import AsDtype

from hepfm.ingest.formats import root_table
from hepfm.ingest.formats.jetclass import BRANCHES, write_jetclass
from hepfm.ingest.formats.ragged import Column, Lists
from hepfm.ingest.formats.root_lists import VectorsInRange, is_vector
from hepfm.ingest.formats.root_table import RootTable
from hepfm.ingest.sources.jetclass import JetClassSource

VECTORS = Path(__file__).parent / "files" / "jetclass_vectors.root"


def same(column: Column, expected: ak.Array) -> bool:
    """The same bits and type."""
    if isinstance(column, Lists):
        flat = ak.to_numpy(ak.flatten(expected))
        return np.array_equal(column.lengths, ak.num(expected)) and same_values(column.values, flat)
    return same_values(column, ak.to_numpy(expected))


def same_values(values: np.ndarray, expected: np.ndarray) -> bool:
    return values.dtype == expected.dtype and values.tobytes() == expected.tobytes()


def test_vectors_give_the_jets_of_variable_length_arrays(tmp_path: Path) -> None:
    with uproot.open(VECTORS) as file:
        assert file["tree"]["part_px"].typename == "std::vector<float>"
        assert list(file["tree"]["part_px"].entry_offsets) == [0, 25, 50, 60]
    write_jetclass(tmp_path / "jets.root", [make_records(60, 5, 8)])
    source = JetClassSource()
    assert source.bind([VECTORS]).read(VECTORS, 0, 60).equals(source.read(tmp_path / "jets.root", 0, 60))


@pytest.mark.parametrize("window", [None, 7, 25, 60])
def test_any_range_of_vectors_is_what_uproot_gives(window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    if window:
        monkeypatch.setattr(root_table, "SMALL_BASKET_ENTRIES", 5)
        monkeypatch.setattr(root_table, "WINDOW_ENTRIES", window)
    table = RootTable(VECTORS, BRANCHES)
    with uproot.open(VECTORS) as file:
        whole = file["tree"].arrays(list(BRANCHES), library="ak")
    for start, stop in ((0, 60), (0, 1), (3, 24), (24, 26), (25, 50), (26, 51), (49, 60), (59, 60), (60, 60), (1, 59)):
        columns = table.read(BRANCHES, start, stop)
        assert all(same(columns[name], whole[name][start:stop]) for name in BRANCHES), (start, stop)
    table.close()


def test_a_window_holds_its_own_entries_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(root_table, "SMALL_BASKET_ENTRIES", 5)
    monkeypatch.setattr(root_table, "WINDOW_ENTRIES", 10)
    monkeypatch.setattr(root_table, "CLUSTER_WINDOW_ENTRIES", 10)
    with uproot.open(VECTORS) as file, uproot.recreate(tmp_path / "ntuple.root") as other:
        other.mkrntuple("tree", file["tree"].arrays(["part_px", "jet_pt"], how=dict))
    for path in (VECTORS, tmp_path / "ntuple.root"):
        table = RootTable(path, ("part_px", "jet_pt"))
        table.read(("part_px", "jet_pt"), 12, 14)
        assert table._window is not None
        pt, px = table._window[2]["jet_pt"], table._window[2]["part_px"]
        assert isinstance(px, Lists)
        assert isinstance(pt, np.ndarray)
        assert [array.base for array in (pt, px.offsets, px.values)] == [None] * 3
        assert len(pt) == len(px.lengths) == 10
        table.close()


@pytest.mark.parametrize("numbers", [">f4", ">f8", ">i4", ">i2", "bool"])
@pytest.mark.parametrize("header", [10, 1])
def test_a_part_of_a_basket_is_cut_out_of_the_whole(numbers: str, header: int) -> None:
    rng = np.random.default_rng(header)
    lists = [rng.integers(0, 2, length).astype(numbers) for length in (3, 0, 1, 5, 0, 2)]
    entries = [rng.bytes(header) + values.tobytes() for values in lists]
    data = np.frombuffer(b"".join(entries), np.uint8)
    byte_offsets = np.cumsum([0, *map(len, entries)]).astype(np.int32)
    whole = AsJagged(AsDtype(numbers), header_bytes=header)
    assert is_vector(whole)
    # The basket is the second of its branch and begins with entry 100.
    basket, branch = SimpleNamespace(basket_num=1), SimpleNamespace(entry_offsets=[0, 100, 106])
    for start, stop in ((100, 106), (0, 200), (101, 105), (102, 103), (0, 102), (104, 300)):
        array = VectorsInRange(whole, start, stop).basket_array(data, byte_offsets, basket, branch)
        assert len(array) == len(lists)
        for index in range(max(start - 100, 0), min(stop - 100, 6)):
            assert array[index].tolist() == lists[index].tolist()
        assert len(array.content) == sum(map(len, lists[max(start - 100, 0) : stop - 100]))


def test_variable_length_arrays_and_numbers_are_left_to_uproot() -> None:
    assert not is_vector(AsJagged(AsDtype(">f4")))
    assert not is_vector(AsDtype(">f4"))
