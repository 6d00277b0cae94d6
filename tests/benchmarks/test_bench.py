"""A benchmark reads the same jets in every way, and says what it measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from hepfm.benchmarks import corpus_read
from hepfm.benchmarks.bench import BenchConfig, main
from hepfm.benchmarks.workload import Way, Workload, measure
from hepfm.core.errors import HepfmError


def test_rates_and_ratios_are_those_of_the_ways() -> None:
    calls: list[str] = []
    ways = {name: Way(lambda name=name: calls.append(name), 10.0) for name in ("ours", "theirs")}  # type: ignore[misc]
    result = measure("toy", Workload("jets/s", ways, "ours", {"theirs": ("ours", "theirs")}), repeats=3)
    assert calls == ["ours", "theirs"] * 4
    assert result["value"] == result["rates"]["ours"]
    assert result["ratios"]["theirs"] == result["rates"]["ours"] / result["rates"]["theirs"]
    assert {"name", "value", "unit", "ratios", "spread", "machine", "versions"} <= result.keys()


def test_every_way_of_corpus_read_reads_every_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus_read, "JETS", 4_096)
    monkeypatch.setattr(corpus_read, "JETS_PER_SHARD", 2_048)
    monkeypatch.setattr(corpus_read, "JETS_ALONE", 4_096)
    with corpus_read.corpus_read() as workload:
        assert len({way.call() for way in workload.ways.values()}) == 1


def test_an_unknown_benchmark_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match="there is: corpus-read"):
        main(BenchConfig("warp-drive", tmp_path / "out.json"))
