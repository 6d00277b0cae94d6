"""Simulated records as corpora and raw files, whatever simulates them."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from derived import content, rows
from toy_simulation import ToySimulation, square_in_steps

from hepfm.core.config import parse
from hepfm.core.errors import HepfmError
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.held_out import check_held_out
from hepfm.ingest.simulate import command
from hepfm.ingest.simulate.raw import write_raw
from hepfm.ingest.simulate.straight import Layout, simulate_corpus
from hepfm.ingest.sources.jetclass import JetClassSource
from hepfm.ingest.sources.registry import recognised
from hepfm.ingest.verify import verify
from hepfm.ingest.workers import Workers

LAYOUT = Layout(shard_records=150, block_records=40)
RECORDS = 500


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    return simulate_corpus(ToySimulation(), tmp_path_factory.mktemp("simulated") / "corpus", RECORDS, LAYOUT)


class TestCorpora:
    def test_each_split_has_its_share_of_each_class(self, corpus: Corpus) -> None:
        counts = {name: Counter(row["label"] for row in rows(corpus, name)) for name in corpus.splits()}
        assert counts == {
            "train": {"QCD": 400, "Tbqq": 400},
            "val": {"QCD": 50, "Tbqq": 50},
            "test": {"QCD": 50, "Tbqq": 50},
        }
        assert max(shard.records for shard in corpus.manifest.splits["train"].shards) <= 150
        assert verify(corpus.path) == []

    def test_no_record_comes_twice_and_each_says_where_it_comes_from(self, corpus: Corpus) -> None:
        listed = corpus.manifest.provenance["files"]
        found = Counter((row["source_file"], row["source_entry"]) for row in rows(corpus))
        assert set(found.values()) == {1}
        assert len(found) == sum(file["entries"] for file in listed) == 2 * RECORDS
        assert len({(row["pt"], row["eta"]) for row in rows(corpus)}) == 2 * RECORDS
        assert all(row["label"] == listed[row["source_file"]]["name"].split("_")[0] for row in rows(corpus))

    def test_classes_are_mixed_in_every_block(self, corpus: Corpus) -> None:
        for block in corpus.split("train"):
            share = block.column("label").to_pylist().count("QCD") / len(block)
            assert 0.2 < share < 0.8

    def test_processes_do_not_change_a_byte(self, corpus: Corpus, tmp_path: Path) -> None:
        simulate_corpus(ToySimulation(), tmp_path / "two", RECORDS, LAYOUT, Workers(2))
        assert content(tmp_path / "two") == content(corpus.path)

    def test_a_killed_simulation_keeps_its_shards_and_ends_with_the_same_bytes(
        self, corpus: Corpus, tmp_path: Path, subprocess_env: dict[str, str]
    ) -> None:
        script = (
            "import sys\nfrom pathlib import Path\nfrom toy_simulation import KillingSimulation\n"
            "from hepfm.ingest.simulate.straight import Layout, simulate_corpus\n"
            "layout = Layout(shard_records=150, block_records=40)\n"
            "simulate_corpus(KillingSimulation(spared=3), Path(sys.argv[1]), 500, layout)"
        )
        out = tmp_path / "corpus"
        assert (
            subprocess.run([sys.executable, "-c", script, str(out)], env=subprocess_env, check=False).returncode == -9
        )
        kept = {path: path.stat().st_mtime_ns for path in out.glob("*/*.tar")}
        assert kept
        assert not (out / "corpus.json").exists()
        simulate_corpus(ToySimulation(), out, RECORDS, LAYOUT)
        assert content(out) == content(corpus.path)
        assert all(path.stat().st_mtime_ns == stamp for path, stamp in kept.items())

    def test_other_settings_are_refused_in_a_begun_folder(self, corpus: Corpus) -> None:
        for simulation, records in ((replace(ToySimulation(), seed=2), RECORDS), (ToySimulation(), 2 * RECORDS)):
            with pytest.raises(HepfmError, match="holds another corpus"):
                simulate_corpus(simulation, corpus.path, records, LAYOUT)

    def test_the_sequences_of_a_seed_are_not_held_out_by_one_corpus_and_trained_on_by_another(
        self, corpus: Corpus, tmp_path: Path
    ) -> None:
        other = simulate_corpus(ToySimulation(), tmp_path / "more", 2 * RECORDS, LAYOUT)
        with pytest.raises(HepfmError, match="holds out"):
            check_held_out([corpus, other], [(), ()])
        fresh = simulate_corpus(ToySimulation(seed=2), tmp_path / "fresh", RECORDS, LAYOUT)
        check_held_out([corpus, fresh], [(), ()])

    def test_a_few_records_make_a_corpus_of_what_splits_they_fill(self, tmp_path: Path) -> None:
        few = simulate_corpus(ToySimulation(), tmp_path / "few", 3)
        assert {name: split.records for name, split in few.manifest.splits.items()} == {"train": 4, "val": 2}

    def test_a_small_corpus_has_work_for_several_processes(self, tmp_path: Path) -> None:
        small = simulate_corpus(ToySimulation(), tmp_path / "small", 8_000)
        largest = max(shard.records for split in small.manifest.splits.values() for shard in split.shards)
        assert len(small.manifest.splits["train"].shards) == 7
        assert 1_024 <= largest <= 2_000

    @pytest.mark.parametrize(
        "layout", [Layout(splits=(0.8, 0.8, 0.1)), Layout(shard_records=0), Layout(block_records=-1)]
    )
    def test_impossible_layouts_leave_nothing(self, layout: Layout, tmp_path: Path) -> None:
        with pytest.raises(HepfmError, match=r"--(splits|shard-records|block-records)"):
            simulate_corpus(ToySimulation(), tmp_path / "c", 10, layout)
        with pytest.raises(HepfmError, match="--impossible"):
            simulate_corpus(ToySimulation(impossible=True), tmp_path / "c", 10)
        assert not list(tmp_path.iterdir())

    def test_more_files_or_shards_than_a_folder_holds_are_refused_at_once(self, tmp_path: Path) -> None:
        with pytest.raises(HepfmError, match=r"244,140,625 shards.*--shard-records"):
            simulate_corpus(ToySimulation(), tmp_path / "c", 10**12)
        with pytest.raises(HepfmError, match=r"400,000,000 files.*--records-per-file"):
            write_raw(ToySimulation(), "jetclass", tmp_path / "c", 10**12)
        assert not list(tmp_path.iterdir())


class TestRawFiles:
    def test_they_hold_the_records_of_the_corpus(self, corpus: Corpus, tmp_path: Path) -> None:
        files = write_raw(ToySimulation(), "jetclass", tmp_path / "raw", 300, 100)
        assert [path.name for path in files] == [f"{label}_{n:03d}.root" for label in ("QCD", "Tbqq") for n in range(3)]
        listed = corpus.manifest.provenance["files"]
        straight = {(listed[row["source_file"]]["name"], row["source_entry"]): row for row in rows(corpus)}
        compared = 0
        for path in files:
            for row in JetClassSource().read(path, 0, 100).to_pylist():
                if same := straight.get((path.stem, row["source_entry"])):
                    assert row["pt"] == pytest.approx(same["pt"], rel=1e-6)
                    assert len(row["constituents"]) == len(same["constituents"])
                    compared += 1
        assert compared > 100

    def test_work_is_told_while_it_goes_on(self) -> None:
        for processes in (1, 2):
            told: list[int] = []
            results = dict(Workers(processes).results(square_in_steps, [3, 4], "here", told.append))
            assert results == {3: 9, 4: 16}
            assert sum(told) == 7


class TestCommand:
    def test_an_unknown_sample_or_format_is_named_with_those_there_are(self, tmp_path: Path) -> None:
        with pytest.raises(HepfmError, match=r"'nosuch'.*jetclass"):
            command.pythia_config(["nosuch", "--out", "x"])
        with pytest.raises(HepfmError, match=r"'lhco'.*jetclass"):
            write_raw(ToySimulation(), "lhco", tmp_path / "raw", 5)

    def test_a_sample_that_stands_last_is_not_taken_for_another(self, tmp_path: Path) -> None:
        out = tmp_path / "c"
        with pytest.raises(HepfmError, match=r"'jetclass2' has to come first.*pythia jetclass2"):
            run(["--out", str(out), "--records", "3", "jetclass2"], "pythia")
        (tmp_path / "settings.yaml").write_text("sample: aspenopenjets\n")
        with pytest.raises(HepfmError, match="'jetclass' has to come first"):
            run(["--config", str(tmp_path / "settings.yaml"), "--out", str(out), "jetclass"], "pythia")
        assert not out.exists()

    @pytest.mark.parametrize(
        ("program", "words"),
        [
            ("pythia", ["jetclass", "--classes", "Wqq", "--records", "10"]),
            ("pythia", ["jetclass2", "--parts", "Res2P", "--keep", "X_bb", "X_gg", "--records", "4"]),
            ("pythia", ["aspenopenjets", "--records", "6"]),
            ("gflash", ["--particles", "electron", "--energy", "10", "20.5", "--records", "30"]),
        ],
    )
    def test_a_corpus_says_the_command_that_makes_it(self, program: str, words: list[str], tmp_path: Path) -> None:
        pytest.importorskip("pythia8mc")
        run([*words, "--seed", "5", "--splits", "0.5", "0", "0.5", "--out", str(tmp_path / "c")], program)
        told = Corpus.open(tmp_path / "c").manifest.provenance["command"].split()
        assert told[:3] == ["hepfm", "ingest", program]
        run([word if word != "CORPUS" else str(tmp_path / "again") for word in told[3:]], program)
        assert content(tmp_path / "again") == content(tmp_path / "c")

    @pytest.mark.parametrize("form", ["ildgrid", "showerclouds", "showerdata"])
    def test_showers_as_files_are_read_as_the_format_they_were_asked_in(self, form: str, tmp_path: Path) -> None:
        run(["--records", "20", "--format", form, "--out", str(tmp_path / "raw")], "gflash")
        (file,) = (tmp_path / "raw").glob("*.h5")
        assert recognised(file) == [form]


def run(words: list[str], program: str) -> None:
    """``hepfm ingest PROGRAM WORDS``."""
    config_type = getattr(command, f"{program}_config")(words)
    command.main(parse(config_type, [*words, "--processes", "1"], f"hepfm ingest {program}"))
