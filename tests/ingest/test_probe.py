from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_source import ToySource, write_files

from hepfm.core.errors import HepfmError
from hepfm.ingest import probe as probe_module
from hepfm.ingest.build import BuildOptions, build
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.jobs import REJECTED
from hepfm.ingest.keys import key
from hepfm.ingest.probe import probe
from hepfm.ingest.verify import verify

Options = Callable[..., BuildOptions]


@dataclass(frozen=True)
class KeyedSource(ToySource):
    """A toy source whose entries have given keys, by name of the file."""

    keyed: dict[str, list[int]] = field(default_factory=dict)
    shares_events: bool = False

    def keys(self, path: Path) -> np.ndarray:
        return key(np.array(self.keyed[path.name]))


def kept_of(keyed: dict[str, list[int]], shared: bool) -> dict[str, list[bool]]:
    """What an independent walk through the files keeps: the first entry of a key, or its first unbroken row of them."""
    seen: set[int] = set()
    kept: dict[str, list[bool]] = {}
    for name in sorted(keyed):
        before, flags = None, list[bool]()
        for value in keyed[name]:
            flags.append(flags[-1] if shared and value == before else value not in seen)
            seen.add(value)
            before = value
        kept[name] = flags
    return kept


keys = st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=25), min_size=1, max_size=3)


@given(keys, st.booleans(), st.integers(1, 40))
@settings(max_examples=60)
def test_entries_that_come_again_are_found(
    tmp_path_factory: pytest.TempPathFactory, keyed: list[list[int]], shared: bool, partition: int
) -> None:
    files = write_files(tmp_path_factory.mktemp("raw"), tuple(map(len, keyed)))
    named = {file.name: values for file, values in zip(files, keyed, strict=True)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe_module, "PARTITION_KEYS", partition)
        probed = probe(KeyedSource(keyed=named, shares_events=shared), files, "skip")
    for number, file in enumerate(probed.files):
        flags = np.ones(file.entries, dtype=bool)
        for start, stop in probed.repeated.get(number, ()):
            flags[start:stop] = False
        assert flags.tolist() == kept_of(named, shared)[file.name]


def test_an_entry_that_comes_again_stops_or_is_left_out(tmp_path: Path, toy_options: Options) -> None:
    files = write_files(tmp_path / "raw", (300, 200))
    keyed = {"000.toy": list(range(300)), "001.toy": [*range(1000, 1150), 7, 8, *range(1152, 1200)]}
    source = KeyedSource(keyed=keyed)
    with pytest.raises(HepfmError, match=r"001.toy, entry 150: came before.*2 such entries.*--on-bad skip"):
        build(source, files, tmp_path / "c", toy_options())
    assert not (tmp_path / "c").exists()
    corpus = build(source, files, tmp_path / "c", toy_options(on_bad="skip"))
    flow = dict(corpus.manifest.provenance["cut_flow"])
    assert flow["read"] - flow["possible"] == flow["rejected: came a second time"] == 2
    assert corpus.manifest.provenance["notes"] == ["2 entries came a second time and were left out"]
    listed = [json.loads(line) for line in (corpus.path / REJECTED).read_text().splitlines()]
    assert listed == [{"file": "001.toy", "entry": entry, "what": "came a second time"} for entry in (150, 151)]
    assert verify(corpus.path) == []
    (corpus.path / REJECTED).write_text("")
    assert any(REJECTED in problem for problem in verify(corpus.path))


def splits_of(corpus: Corpus) -> dict[tuple[int, int], str]:
    """Split of each entry, by (file, entry)."""
    found: dict[tuple[int, int], str] = {}
    for name in corpus.splits():
        for block in corpus.split(name):
            rows = zip(block["source_file"].to_pylist(), block["source_entry"].to_pylist(), strict=True)
            found.update(dict.fromkeys(rows, name))
    return found


def test_jets_of_a_collision_share_a_split(tmp_path: Path, toy_options: Options) -> None:
    files = write_files(tmp_path / "raw", (2000, 1500))
    draws = np.random.default_rng(1)
    events = {file.name: np.cumsum(draws.random(2000) < 0.4)[: 2000 - 500 * n] for n, file in enumerate(files)}
    keyed = {name: (values + 10_000 * n).tolist() for n, (name, values) in enumerate(events.items())}
    corpus = build(KeyedSource(keyed=keyed, shares_events=True), files, tmp_path / "c", toy_options(run_entries=40))
    found = splits_of(corpus)
    assert len(found) == 3500
    assert set(found.values()) == {"train", "val", "test"}
    for number, name in enumerate(sorted(keyed)):
        values = keyed[name]
        for entry in range(1, len(values)):
            if values[entry] == values[entry - 1]:
                assert found[number, entry] == found[number, entry - 1]


def test_a_damaged_file_stops_or_is_left_out(tmp_path: Path, toy_options: Options) -> None:
    files = write_files(tmp_path / "raw", (300, 200))
    files[1].write_text("not what it was")
    with pytest.raises(HepfmError, match=r"001.toy: is not a toy file"):
        build(ToySource(), files, tmp_path / "c", toy_options())
    corpus = build(ToySource(), files, tmp_path / "c", toy_options(on_bad="skip"))
    assert [file["name"] for file in corpus.manifest.provenance["files"]] == ["000.toy"]
    assert corpus.manifest.provenance["notes"][0] == "001.toy was left out: is not a toy file"


class FinickySource(ToySource):
    """Opens its files when it is bound to them, as readers of several layouts do."""

    def bind(self, files: Sequence[Path]) -> FinickySource:
        for file in files:
            self.entries(file)
        return self


def test_a_file_that_cannot_be_opened_at_all_is_left_out_too(tmp_path: Path, toy_options: Options) -> None:
    files = write_files(tmp_path / "raw", (300, 200))
    files[1].write_text("not what it was")
    corpus = build(FinickySource(), files, tmp_path / "c", toy_options(on_bad="skip"))
    assert corpus.manifest.provenance["notes"][0] == "001.toy was left out: is not a toy file"
    files[0].write_text("nor this one")
    with pytest.raises(HepfmError, match=r"000.toy: is not a toy file"):
        build(FinickySource(), files, tmp_path / "d", toy_options(on_bad="skip"))


def test_a_copy_of_a_file_stops_or_is_left_out(tmp_path: Path, toy_options: Options) -> None:
    files = write_files(tmp_path / "raw", (300,))
    copy = files[0].with_name("copy.toy")
    copy.write_bytes(files[0].read_bytes())
    with pytest.raises(HepfmError, match=r"copy.toy: is a copy of .*000.toy"):
        build(ToySource(), [*files, copy], tmp_path / "c", toy_options())
    corpus = build(ToySource(), [*files, copy], tmp_path / "c", toy_options(on_bad="skip"))
    assert [file["name"] for file in corpus.manifest.provenance["files"]] == ["000.toy"]
    assert "copy.toy was left out: is a copy of" in corpus.manifest.provenance["notes"][0]


def test_memory_does_not_grow_with_the_files(tmp_path: Path) -> None:
    """Keys are compared a partition at a time: never are all of them in memory."""
    files = write_files(tmp_path, (4000, 4000, 4000))
    keyed = {file.name: list(range(4000 * n, 4000 * n + 4000)) for n, file in enumerate(files)}
    sizes: list[int] = []
    original: Any = np.concatenate
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(probe_module, "PARTITION_KEYS", 1000)
        patch.setattr(
            probe_module.np,
            "concatenate",
            lambda parts, **more: sizes.append(sum(map(np.size, parts))) or original(parts, **more),
        )
        assert probe(KeyedSource(keyed=keyed), files).repeated == {}
    assert 0 < max(sizes) < 3 * 2000
