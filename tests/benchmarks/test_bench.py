"""A benchmark reads the same jets in every way, and says what it measured."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest

from hepfm.benchmarks import corpus_build, corpus_read, corpus_scale, simulate_jets
from hepfm.benchmarks.bench import BenchConfig, main
from hepfm.benchmarks.memory import peak_anonymous_mb
from hepfm.benchmarks.workload import Way, Workload, measure, read_details, write_result
from hepfm.core.errors import HepfmError
from hepfm.ingest.corpus import Corpus

TOKEN_WAYS = ("sequential", "shuffled", "slice_copy_and_sum", "webdataset_per_jet")


def test_rates_and_ratios_are_those_of_the_ways(tmp_path: Path) -> None:
    calls: list[str] = []
    ways = {name: Way(lambda name=name: calls.append(name), 10.0) for name in ("ours", "theirs")}  # type: ignore[misc]
    result = measure("toy", Workload("jets/s", ways, "ours", {"theirs": ("ours", "theirs")}), repeats=3)
    assert calls == ["ours", "theirs"] * 4
    assert result["value"] == result["rates"]["ours"]
    assert result["ratios"]["theirs"] == result["rates"]["ours"] / result["rates"]["theirs"]
    assert result["spread"] == result["rate_spread"]["ours"]
    write_result(result, tmp_path / "speed.json")
    written = json.loads((tmp_path / "speed.json").read_text())
    assert written.keys() == {"name", "value", "unit", "ratios", "spread", "machine", "versions"}
    assert {**written, **read_details(tmp_path / "speed.json")} == json.loads(json.dumps(result))


def test_a_call_may_say_how_much_it_did() -> None:
    result = measure("toy", Workload("jets/s", {"one": Way(lambda: 7)}, "one", {"self": ("one", "one")}), repeats=1)
    assert result["value"] > 0
    assert result["ratios"]["self"] == 1


def test_every_way_of_corpus_read_reads_every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_read, "JETS", 4_096)
    monkeypatch.setattr(corpus_read, "JETS_PER_SHARD", 2_048)
    monkeypatch.setattr(corpus_read, "JETS_ALONE", 4_096)
    monkeypatch.setattr(corpus_read, "FULL_JETS", 1_000)
    with corpus_read.corpus_read() as workload:
        found = {name: way.call() for name, way in workload.ways.items()}
        assert len({found[name] for name in TOKEN_WAYS}) == 1
        assert found["full_features_shuffled"] > 1_000 * 30
        assert found.get("weaver", 1_000) == 1_000
        assert 1 < workload.figures["disk_per_content"]() < 1.2  # shards of 2,048 jets are mostly headers


def test_building_is_measured_on_whole_corpora(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_build, "FILES", 2)
    monkeypatch.setattr(corpus_build, "JETS_PER_FILE", 1_000)
    with corpus_build.corpus_build() as workload:
        assert workload.ways["uproot_decode"].call() == 2_000
        one, two = (workload.ways[name].call for name in ("one_process", "two_processes"))
        one(), two()
        assert isinstance(one, corpus_build.Build)
        assert isinstance(two, corpus_build.Build)
        built = [Corpus.open(way.out) for way in (one, two)]
        assert built[0].digest == built[1].digest
        assert sum(split.records for split in built[0].manifest.splits.values()) == 2_000


def test_memory_of_work_that_fails_is_an_error_not_a_wait() -> None:
    with pytest.raises(RuntimeError, match="the work failed"):
        peak_anonymous_mb(partial(int, "x"))


def test_scale_reads_as_many_jets_from_each_corpus(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SIZES": (1_000, 4_000), "SHARDS": (1, 4), "SHARDED_JETS": 4_000, "READ": 3_000}.items():
        monkeypatch.setattr(corpus_scale, name, value)
    monkeypatch.setattr(corpus_scale, "SHOWERS", 40)
    with corpus_scale.corpus_scale() as workload:
        assert set(workload.ways) == {"jets_1000", "jets_4000", "shards_1", "shards_4"}
        assert all(80_000 < int(way.call()) < 190_000 for way in workload.ways.values())  # type: ignore[call-overload]
        assert workload.figures["anonymous_memory_mb_showers"]() > 10


def test_an_unknown_benchmark_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match="there is: corpus-build, corpus-read"):
        main(BenchConfig("warp-drive", tmp_path / "out.json"))


def test_every_class_of_jets_is_simulated_and_compared_with_pythia(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("pythia8mc")
    monkeypatch.setattr(simulate_jets, "LABELS", ("Zqq", "Hqql"))
    monkeypatch.setattr(simulate_jets, "EVENTS", 5)
    with simulate_jets.simulate_jets() as workload:
        assert set(workload.ways) == {"Zqq", "Zqq_pythia_events", "Hqql", "Hqql_pythia_events"}
        assert workload.ratios == {label: (label, f"{label}_pythia_events") for label in ("Zqq", "Hqql")}
        assert int(workload.ways["Zqq"].call()) > 60
        assert len(workload.ways["Hqql_pythia_events"].call()) == 5
