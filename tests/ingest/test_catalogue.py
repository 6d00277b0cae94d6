"""The catalogue says what is true of every data set."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from hepfm.core.config import parse
from hepfm.core.errors import HepfmError
from hepfm.ingest.fetch import catalogue as catalogue_module
from hepfm.ingest.fetch.catalogue import DataSet, catalogue, find, is_glob
from hepfm.ingest.fetch.command import FetchConfig, details, main, table

NAMES = {
    "jetclass", "jetclass2", "aspenopenjets", "calochallenge-1-photons", "calochallenge-1-pions", "calochallenge-2",
    "calochallenge-3", "ild-photons", "jetnet-30", "jetnet-150", "toplandscape", "quarkgluon", "lhco", "lhco-extra",
    "hls4ml",
}  # fmt: skip
SOURCES = {
    "jetclass", "jetclass2", "aspenopenjets", "calochallenge", "ildgrid", "jetnet", "toplandscape", "quarkgluon",
    "lhco", "hls4ml",
}  # fmt: skip
ASPEN = Path(__file__).resolve().parents[2].parent / "shared/data/catalogue/aspenopenjets_record_16505.tsv"


def test_the_catalogue_has_every_data_set() -> None:
    assert set(catalogue()) == NAMES
    assert {entry.source for entry in catalogue().values()} == SOURCES


@pytest.mark.parametrize("name", sorted(NAMES))
def test_an_entry_is_complete(name: str) -> None:
    entry = catalogue()[name]
    assert entry.name == name
    assert entry.title
    assert entry.citation.text
    assert re.fullmatch(r"CC-BY-4\.0|MIT|as the record states", entry.licence)
    assert re.fullmatch(r"10\.\d{4,5}/[\w.]+", entry.citation.doi or "10.5281/none")
    assert re.fullmatch(r"\d{4}\.\d{5}", entry.citation.arxiv)
    assert entry.splits
    assert set(entry.default) <= set(entry.splits)
    names = [file for split in entry.splits.values() for file in split.names()]
    assert names
    assert len(names) == len(set(names))
    for split in entry.splits.values():
        assert [bool(split.files), bool(split.zenodo), bool(split.huggingface)].count(True) == 1
        assert bool(split.base) == bool(split.files)
        assert split.base.startswith("https://" if split.files else "")
        assert bool(split.patterns) != bool(split.files)
        assert all("{" not in pattern for pattern in split.names())
        for file in split.files:
            assert file.md5 or file.sha256
            assert re.fullmatch(r"[0-9a-f]{32}", file.md5 or "0" * 32)
            assert re.fullmatch(r"[0-9a-f]{64}", file.sha256 or "0" * 64)
            assert file.bytes is None or file.bytes > 0
    sums = [file.stated.checksums.popitem()[1] for split in entry.splits.values() for file in split.files]
    assert len(sums) == len(set(sums))


def test_aspenopenjets_is_the_published_list() -> None:
    if not ASPEN.exists():
        pytest.skip(f"{ASPEN} is not there")
    text = ASPEN.read_text().splitlines()
    rows = [line.split("\t") for line in text if not line.startswith("#")]
    entry = catalogue()["aspenopenjets"]
    files = [file for split in entry.splits.values() for file in split.files]
    assert [(file.name, file.md5, file.bytes) for file in files] == [(name, md5, int(size)) for name, md5, size in rows]
    assert len(files) == 80
    assert entry.bytes() == sum(int(size) for _, _, size in rows)
    assert {split.base for split in entry.splits.values()} == {text[1].split(": ")[1]}


def test_jetclass2_has_the_published_numbers_of_files() -> None:
    splits = {name: split.names() for name, split in catalogue()["jetclass2"].splits.items()}
    assert {name: len(names) for name, names in splits.items()} == {"train": 1340, "val": 335, "test": 335}
    assert splits["val"][0] == "Res2P_0200.parquet"
    assert splits["test"][-1] == "QCD_0419.parquet"
    assert "Res34P_0859.parquet" in splits["train"]


def test_the_list_shows_every_data_set_and_where_its_checksums_are(capsys: pytest.CaptureFixture[str]) -> None:
    main(parse(FetchConfig, ["--list"], "hepfm fetch"))
    text = capsys.readouterr().out
    assert text == table()
    rows = {line.split()[0]: line for line in text.splitlines() if line}
    assert set(rows) > NAMES
    assert "207.3 GB" in rows["aspenopenjets"]
    assert "80" in rows["aspenopenjets"]
    assert "from the record" in rows["jetclass2"]
    assert "MD5" in rows["jetclass"]
    main(parse(FetchConfig, ["lhco", "--list"], "hepfm fetch"))
    assert capsys.readouterr().out == details(catalogue()["lhco"])


@pytest.mark.parametrize(
    "text", ["", "[]", "title: t\n", "splits: {a: {base: x, colour: red}}\n", "splits: {a: {files: 3}}\n", "a: [\n"]
)
def test_a_broken_entry_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "broken.yaml").write_text(text)
    with pytest.raises(HepfmError, match=r"broken\.yaml"):
        catalogue_module.read_entry(tmp_path / "broken.yaml")


def test_find_takes_the_default_split_where_there_is_one() -> None:
    assert find("quarkgluon")[1] == ["uds"]
    assert find("quarkgluon/udscb")[1] == ["udscb"]
    assert find("jetclass")[1] == ["train", "val", "test"]
    assert is_glob("a*")
    assert not is_glob("a.h5")
    assert isinstance(find("lhco")[0], DataSet)
