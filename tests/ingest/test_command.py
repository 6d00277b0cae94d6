from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest
from toy_source import ToySource, write_files

from hepfm.core.config import from_dict, parse, to_dict
from hepfm.core.errors import HepfmError
from hepfm.ingest import command
from hepfm.ingest.command import IngestConfig, InspectConfig, VerifyConfig
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.sources import registry
from hepfm.ingest.sources.contents import Contents


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry.SOURCES, "toy", registry.Entry("toy", "jets", "toy", "toy_source", "ToySource"))


def test_files_become_a_corpus_that_verifies_and_can_be_inspected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write_files(tmp_path / "raw", (400, 400))
    words = ["toy", *map(str, files), "--out", str(tmp_path / "c"), "--run-entries", "20", "--seed", "3"]
    words += ["--pt-min", "600", "--splits", "0.6", "0.2", "0.2", "--labels", "qcd", "top", "--processes", "1"]
    config = parse(IngestConfig, words, "hepfm ingest")
    command.ingest(config)
    assert capsys.readouterr().out == f"{tmp_path / 'c'}\n"
    command.verify_corpus(parse(VerifyConfig, [str(tmp_path / "c")], "hepfm corpus verify"))
    assert "sound" in capsys.readouterr().out
    command.inspect_corpus(parse(InspectConfig, [str(tmp_path / "c")], "hepfm corpus inspect"))
    text = capsys.readouterr().out
    for part in ("constituents.pt", "GeV", "pt >= 600 GeV", "qcd", "--seed 3 --splits 0.6 0.2 0.2", "entries: 800"):
        assert part in text
    assert Corpus.open(tmp_path / "c").manifest.provenance["selection"] == {
        "pt_min": 600.0,
        "labels": ["qcd", "top"],
    }


def test_a_damaged_corpus_is_an_error_that_lists_the_damage(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = write_files(tmp_path / "raw", (100,))
    command.ingest(IngestConfig("toy", tuple(files), tmp_path / "c", processes=1))
    (tmp_path / "c" / "train" / "000000.tar").unlink()
    capsys.readouterr()
    with pytest.raises(HepfmError, match="1 problem found"):
        command.verify_corpus(VerifyConfig(tmp_path / "c"))
    assert "000000.tar: this shard is missing" in capsys.readouterr().out


def test_a_configuration_survives_a_file() -> None:
    config = parse(IngestConfig, ["toy", "a", "b", "--out", "c", "--max-constituents", "128"], "hepfm ingest")
    assert config.files == (Path("a"), Path("b"))
    assert from_dict(IngestConfig, to_dict(config)) == config


def test_an_unknown_source_lists_those_there_are() -> None:
    with pytest.raises(HepfmError, match=r"no source is called 'root' \(there is: auto, jetclass"):
        registry.source("root")


@pytest.mark.parametrize("name", list(registry.SOURCES))
def test_every_source_keeps_the_contract(name: str) -> None:
    source = registry.source(name)
    assert source.name == name
    assert source.kind == registry.SOURCES[name].kind
    assert json.loads(json.dumps(source.settings())) == source.settings()
    assert pickle.loads(pickle.dumps(source)).settings() == source.settings()  # noqa: S301
    assert not source.recognises(Contents())


def test_the_toy_source_is_what_it_says() -> None:
    assert ToySource().schema.names[0] == "constituents"
