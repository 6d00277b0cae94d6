"""Samples of CMS files, and files made from them: other layouts, containers and contents."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import awkward as ak
import numpy as np
import pyarrow as pa
import pytest
import uproot

from hepfm.ingest.formats.cms_selection import FILTERS, JET_ID_COLUMNS
from hepfm.ingest.sources.cms import CmsSource
from hepfm.ingest.tally import Tally

SAMPLES = Path(__file__).resolve().parents[3].parent / "shared" / "data" / "cms"
PFNANO, NANOAOD, COLLISIONS = (
    "pfnano_2021layout_10events.root",
    "nanoaod_v15_ttbar_200events.root",
    "nanoaod_data2018_40events.root",
)
JET_COLUMNS = ("pt", "eta", "phi", "mass", "msoftdrop", "tau1", "tau2", "tau3", "tau4", "rawFactor", "jetId")
TABLES = ("PFCands_", "FatJetPFCands_", "PFCand_", "FatJetPFCand_")
TRIGGERS = ("HLT_PFJet40", "HLT_PFJet450", "HLT_PFJet500", "HLT_PFJet550", "HLT_AK8PFJet40", "HLT_AK8PFJetFwd40")
SCALARS = ("run", "luminosityBlock", "event", "genWeight", *FILTERS)
Columns = dict[str, ak.Array]


def sample(name: str) -> Path:
    path = SAMPLES / name
    if not path.is_file():
        pytest.skip(f"sample file {path} is not here")
    return path


def columns_of(name: str) -> Columns:
    """What the tests need of a sample."""

    def wanted(column: str) -> bool:
        jets = {f"FatJet_{jet}" for jet in (*JET_COLUMNS, *JET_ID_COLUMNS)}
        return column in SCALARS or column in jets or column in TRIGGERS or column.startswith(TABLES)

    with uproot.open(sample(name)) as file:
        return file["Events"].arrays(filter_name=wanted, library="ak", how=dict)


def write(path: Path, columns: Columns, rntuple: bool = False, pieces: int = 2) -> Path:
    """The columns as a TTree or RNTuple, in as many baskets or clusters as there are pieces."""
    size = len(columns["run"])
    edges = np.linspace(0, size, pieces + 1).astype(int)
    parts = [{name: array[start:stop] for name, array in columns.items()} for start, stop in pairwise(edges)]
    with uproot.recreate(path) as file:
        if rntuple:
            table = file.mkrntuple("Events", parts.pop(0))
        else:
            table = file.mktree("Events", {name: array.type for name, array in columns.items()})
        for part in parts:
            table.extend(part)
    return path


def in_2020_layout(columns: Columns) -> Columns:
    """Candidates copied into the table of links, as PFNano wrote them in 2020."""
    rows = columns["FatJetPFCands_pFCandsIdx"]
    kept = {name: array for name, array in columns.items() if not name.startswith(("PFCands_", "FatJetPFCands_"))}
    kept |= {f"FatJet{name}": array[rows] for name, array in columns.items() if name.startswith("PFCands_")}
    return {**kept, "FatJetPFCands_jetIdx": columns["FatJetPFCands_jetIdx"]}


def as_collisions(columns: Columns, run: int = 278_000) -> Columns:
    """The same events as if they had been recorded: 20 in a luminosity block."""
    size = len(columns["run"])
    kept = {name: array for name, array in columns.items() if name != "genWeight"}
    lumi = ak.Array(1 + np.arange(size, dtype=np.uint32) // 20)
    return {**kept, "run": ak.Array(np.full(size, run, np.uint32)), "luminosityBlock": lumi}


def read_all(path: Path, source: CmsSource | None = None, tally: Tally | None = None) -> pa.RecordBatch:
    source = (source or CmsSource()).bind([path])
    batch = source.read(path, 0, source.entries(path), tally)
    batch.validate(full=True)
    assert batch.schema.equals(source.schema, check_metadata=True)
    return batch
