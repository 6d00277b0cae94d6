from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from derived import batch_corpus, content, rows, showers, token_corpus, toy

from hepfm.core.config import parse
from hepfm.core.errors import HepfmError
from hepfm.ingest import shards, tools
from hepfm.ingest.card.command import CardConfig, card
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.describe import describe
from hepfm.ingest.filter import filter_corpus
from hepfm.ingest.selection import JetSelection, ShowerSelection
from hepfm.ingest.verify import verify

SELECTION = JetSelection(pt_min=700.0, eta_max=1.5, labels=("qcd", "higgs"), min_constituents=2, max_constituents=4)


@pytest.fixture(scope="module")
def parent(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return toy(tmp_path_factory.mktemp("filter"), (1500, 1000, 1500), 1)


@pytest.fixture(scope="module")
def filtered(parent: Corpus, tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return filter_corpus(parent, SELECTION, tmp_path_factory.mktemp("filtered") / "corpus")


def passes(row: dict[str, Any]) -> bool:
    """The same cuts, spelled out."""
    return row["pt"] >= 700 and abs(row["eta"]) <= 1.5 and row["label"] != "top" and len(row["constituents"]) >= 2


def test_what_passes_stays_in_its_split_and_in_order(parent: Corpus, filtered: Corpus) -> None:
    for split in parent.splits():
        expected = [{**row, "constituents": row["constituents"][:4]} for row in rows(parent, split) if passes(row)]
        assert expected
        assert rows(filtered, split) == expected
    assert verify(filtered.path) == []


def test_the_cut_flow_stands_after_the_parents(parent: Corpus, filtered: Corpus) -> None:
    provenance = filtered.manifest.provenance
    flow = dict(provenance["cut_flow"])
    everything = rows(parent)
    assert flow["records"] == 4000
    assert flow["pt >= 700 GeV"] == sum(row["pt"] >= 700 for row in everything)
    assert flow["constituents >= 2"] == sum(map(passes, everything)) == len(rows(filtered))
    cut = [len(row["constituents"]) - 4 for row in everything if passes(row) and len(row["constituents"]) > 4]
    assert (flow["jets cut to 4 constituents"], flow["constituents cut"]) == (len(cut), sum(cut))
    assert provenance["parents"][0]["cut_flow"] == parent.manifest.provenance["cut_flow"]
    assert provenance["parents"][0]["digest"] == parent.digest
    assert provenance["selection"] == SELECTION.settings()
    assert provenance["files"] == parent.manifest.provenance["files"]


def test_all_earlier_cuts_are_told_by_inspect_and_on_the_card(
    parent: Corpus, filtered: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = filter_corpus(filtered, JetSelection(pt_min=800), tmp_path / "again")
    monkeypatch.setattr("hepfm.ingest.card.pictures.picture", lambda *_: b"")
    card(CardConfig(again.path, tmp_path / "card"))
    page = (tmp_path / "card" / "README.md").read_text()
    for depth, corpus in enumerate((filtered, parent)):
        assert f"{'  ' * depth}parent {corpus.digest[:16]}: {len(rows(corpus)):,} records" in describe(again)
        for name, count in corpus.manifest.provenance["cut_flow"]:
            line = f"{'  ' * depth}  {name}: {count:,}\n"
            assert line in describe(again)
            assert f"    {line}" in page


def test_inspect_tells_types_and_units(filtered: Corpus) -> None:
    lines = [line.split() for line in describe(filtered).splitlines()]
    assert ["constituents.d0", "float32", "mm"] in [line[:3] for line in lines]
    assert ["source_entry", "int64"] in [line[:2] for line in lines]
    assert ["constituents", "list", "per", "record"] in [line[:4] for line in lines]


def test_blocks_are_filled_again(parent: Corpus, tmp_path: Path) -> None:
    filtered = filter_corpus(parent, JetSelection(pt_min=950), tmp_path / "c")
    split = filtered.split("train")
    for shard in filtered.manifest.splits["train"].shards:
        records = split.block_records[split.blocks_of(shard.number)]
        assert (records[:-1] == 64).all()
    # A tenth is left, so about a tenth of the blocks, each shard's last one being shorter.
    assert len(split) <= len(parent.split("train")) / 10 + len(filtered.manifest.splits["train"].shards) + 2


def test_bytes_depend_neither_on_processes_nor_on_an_interruption(
    parent: Corpus, filtered: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert content(filter_corpus(parent, SELECTION, tmp_path / "two", processes=2).path) == content(filtered.path)
    encode, calls = shards.encode, []

    def failing(batch: pa.RecordBatch) -> pa.Buffer:
        calls.append(batch)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return encode(batch)

    monkeypatch.setattr(shards, "encode", failing)
    with pytest.raises(KeyboardInterrupt):
        filter_corpus(parent, SELECTION, tmp_path / "c")
    assert list((tmp_path / "c").rglob("*.tar"))
    assert content(filter_corpus(parent, SELECTION, tmp_path / "c").path) == content(filtered.path)


def test_a_filter_that_leaves_nothing_prints_its_cut_flow(parent: Corpus, tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match=r"no record is left.*records: 4000, pt >= 600 GeV: [0-9]+, .*eta.* <= 0: 0"):
        filter_corpus(parent, JetSelection(pt_min=600, eta_max=0.0), tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_a_folder_that_was_there_before_stays(parent: Corpus, tmp_path: Path) -> None:
    (tmp_path / "c").mkdir()
    with pytest.raises(HepfmError, match="no record is left"):
        filter_corpus(parent, JetSelection(pt_min=600, eta_max=0.0), tmp_path / "c")
    assert not list((tmp_path / "c").iterdir())


def test_a_split_of_which_nothing_passes_is_left_out(parent: Corpus, tmp_path: Path) -> None:
    lowest = {name: min(row["pt"] for row in rows(parent, name)) for name in parent.splits()}
    assert lowest["train"] < min(lowest["val"], lowest["test"])
    limit = (lowest["train"] + min(lowest["val"], lowest["test"])) / 2
    filtered = filter_corpus(parent, JetSelection(pt_max=limit), tmp_path / "c")
    assert filtered.splits() == ["train"]
    assert verify(filtered.path) == []


def test_cuts_that_make_no_sense_are_refused(parent: Corpus, tmp_path: Path) -> None:
    for selection, message in (
        (JetSelection(), "no cut was asked for"),
        (JetSelection(labels=("zprime",)), "has no label zprime.*there is: qcd, top, higgs"),
        (JetSelection(pt_min=800, pt_max=700), "lies above"),
        (ShowerSelection(energy_min=1), "holds jets, the cuts are others"),
    ):
        with pytest.raises(HepfmError, match=message):
            filter_corpus(parent, selection, tmp_path / "c")
    assert not (tmp_path / "c").exists()


def test_showers_are_cut_on_energy_and_points(tmp_path: Path) -> None:
    energies, hits = [1.0, 5.0, 10.0, 50.0, 100.0, 7.0], [4, 0, 30, 40, 100, 2]
    parent = batch_corpus(tmp_path / "showers", showers(energies, hits), [10])
    filtered = filter_corpus(parent, ShowerSelection(energy_min=5, energy_max=50, min_points=2), tmp_path / "c")
    assert [row["incident_energy"] for row in rows(filtered)] == [10, 50, 7]
    assert filtered.manifest.provenance["cut_flow"] == [
        ["records", 6],
        ["incident energy >= 5 GeV", 5],
        ["incident energy <= 50 GeV", 4],
        ["points >= 2", 3],
    ]
    assert verify(filtered.path) == []


def test_a_filtered_token_corpus_keeps_its_tokenizer_and_loses_its_tie(parent: Corpus, tmp_path: Path) -> None:
    tokens = token_corpus(parent, tmp_path)
    filtered = filter_corpus(tokens, JetSelection(pt_min=800, labels=("top",)), tmp_path / "c")
    expected = [row for row in rows(tokens) if row["pt"] >= 800 and row["label"] == "top"]
    assert rows(filtered) == expected
    assert filtered.manifest.tokens == {"tokenizer": "a" * 64, "codes": 8}
    assert filtered.manifest.files == tokens.manifest.files
    assert verify(filtered.path) == []


def test_the_command_filters_and_prints_the_cut_flow(
    parent: Corpus, filtered: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(parent.path), "--out", str(tmp_path / "c"), "--pt-min", "700", "--eta-max", "1.5"]
    words += ["--labels", "qcd", "higgs", "--min-constituents", "2", "--max-constituents", "4", "--processes", "1"]
    tools.filter_records(parse(tools.FilterConfig, words, "hepfm corpus filter"))
    told = capsys.readouterr()
    assert told.out == f"{tmp_path / 'c'}\n"
    assert "  records: 4,000\n" in told.err
    assert f"  constituents >= 2: {len(rows(filtered)):,}\n" in told.err
    assert Corpus.open(tmp_path / "c").digest == filtered.digest


def test_the_command_tells_cuts_on_jets_from_cuts_on_showers(parent: Corpus, tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match="holds jets, but --energy-min is no cut on jets"):
        tools.filter_records(tools.FilterConfig(parent.path, tmp_path / "c", energy_min=3.0, processes=1))
    showered = batch_corpus(tmp_path / "showers", showers([10.0], [4]), [10])
    with pytest.raises(HepfmError, match="holds showers, but --pt-max is no cut on showers"):
        config = tools.FilterConfig(showered.path, tmp_path / "c", JetSelection(pt_max=3.0), processes=1)
        tools.filter_records(config)


def test_the_share_that_passes_may_lie_far_from_what_was_sampled(tmp_path: Path) -> None:
    """Only the last of many blocks, of which some are sampled, holds what passes: still every record is found."""
    energies = np.full(4000, 10.0)
    energies[-40:-8] = 90.0
    parent = batch_corpus(tmp_path / "p", showers(energies.tolist(), [1] * 4000), [4000], block_records=8)
    filtered = filter_corpus(parent, ShowerSelection(energy_min=50), tmp_path / "c")
    assert [row["source_entry"] for row in rows(filtered)] == list(range(3960, 3992))
