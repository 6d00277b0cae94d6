"""``hepfm ingest auto``: what lies in a file is told by its contents, also where it is not quite what it should be."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uproot

from hepfm.core.errors import HepfmError
from hepfm.ingest.command import IngestConfig, ingest, ingest_config


def archive() -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("Pythia/val_5M/HToBB_120.root"), io.BytesIO())
    return stream.getvalue()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"", r"is empty \(fetch it again\)"),
        (b"\n<!DOCTYPE html><html>404</html>", r"is a web page, not data \(fetch it again\)"),
        (b"<HTML><body>log in</body></HTML>", "is a web page, not data"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "is a pointer of Git LFS"),
        (b"root\x00\x00", "looks like root but cannot be read: truncated or damaged"),
        (b"\x1f\x8b\x08\x00", r"is an archive \(unpack it and name the files in it\)"),
        (archive(), "is an archive"),
        (b"PK\x03\x04 no zip", "looks like npz but cannot be read: truncated or damaged"),
        (b"pt,eta,phi\n1,2,3\n", "its format is not recognised"),
    ],
)
def test_what_is_no_data_is_told(content: bytes, what: str, tmp_path: Path) -> None:
    path = tmp_path / "jets.root"
    path.write_bytes(content)
    with pytest.raises(HepfmError, match=what) as caught:
        ingest(IngestConfig("auto", (path,), tmp_path / "out"))
    assert str(path) in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("source", ["jetclass", "jetclass2", "cms", "toplandscape", "showerclouds"])
def test_a_page_in_the_place_of_data_is_told_whatever_source_is_named(source: str, tmp_path: Path) -> None:
    path = tmp_path / "data"
    path.write_bytes(b"<!DOCTYPE html><html>404</html>" * 30)
    with pytest.raises(HepfmError, match=r"is a web page, not data \(fetch it again\)"):
        ingest(ingest_config([source])(source, (path,), tmp_path / "out"))


def test_a_folder_is_told(tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match=r"is a folder \(name the files in it\)"):
        ingest(IngestConfig("auto", (tmp_path,), tmp_path / "out"))


def test_a_file_that_lacks_a_branch_is_recognised_and_told_which(tmp_path: Path) -> None:
    path = tmp_path / "jets.root"
    with uproot.recreate(path) as file:
        file["tree"] = {name: np.zeros(3, np.float32) for name in ("part_px", "part_deta", "jet_pt", "label_QCD")}
    with pytest.raises(HepfmError, match=r"has no branch 'part_pz', .*'label_Hbb'"):
        ingest(IngestConfig("auto", (path,), tmp_path / "out"))
    with pytest.raises(HepfmError, match=r"is no jetclass2 file but JetClass.*say hepfm ingest jetclass\)"):
        ingest(IngestConfig("jetclass2", (path,), tmp_path / "out"))


def test_a_table_that_lacks_a_column_is_recognised_and_told_which(tmp_path: Path) -> None:
    path = tmp_path / "jets.parquet"
    names = ("part_px", "part_deta", "jet_pt", "jet_label")
    pq.write_table(pa.table({name: pa.array([1.0]) for name in names}), path)
    with pytest.raises(HepfmError, match=r"has no column 'part_py', .*is this a JetClass-II file"):
        ingest(IngestConfig("auto", (path,), tmp_path / "out"))


def test_files_of_several_formats_are_not_taken_together(tmp_path: Path) -> None:
    tree, table = tmp_path / "jets.root", tmp_path / "jets.parquet"
    with uproot.recreate(tree) as file:
        file["tree"] = {name: np.zeros(3, np.float32) for name in ("part_px", "part_deta", "jet_pt", "label_QCD")}
    names = ("part_px", "part_deta", "jet_pt", "jet_label")
    pq.write_table(pa.table({name: pa.array([1.0]) for name in names}), table)
    with pytest.raises(HepfmError, match="the files are of several formats: jetclass, jetclass2"):
        ingest(IngestConfig("auto", (tree, table), tmp_path / "out"))
