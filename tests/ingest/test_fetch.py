"""``hepfm fetch`` leaves verified files or none."""

from __future__ import annotations

import hashlib
import io
import json
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections import namedtuple
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from rough_server import RoughServer, body, cut, held, redirect, slow, status, whole

from hepfm.core import http_get
from hepfm.core.config import parse
from hepfm.core.errors import HepfmError
from hepfm.ingest.fetch import catalogue as catalogue_module
from hepfm.ingest.fetch import records
from hepfm.ingest.fetch.catalogue import catalogue
from hepfm.ingest.fetch.command import FetchConfig, main, patterns


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], r"needs the name of a data set \(there is: aspenopenjets, "),
        (["nothing"], r"no data set is called 'nothing' \(there is: aspenopenjets, .*toplandscape\)"),
        (["jetclass/valid"], r"jetclass has no split 'valid' \(there is: train, val, test\)"),
        (["jetclass", "--jobs", "0"], "--jobs: must be at least 1"),
        (["jetclass", "--mirror", "ftp://x"], "--mirror: must begin with https"),
        (["jetclass", "--mirror", "file:///data"], "--mirror: must begin with https"),
        (["jetclass", "--mirror", "https://"], "--mirror: .* name a host"),
        (["jetclass", "--mirror", "http://[::1"], "--mirror: .* name a host"),
        (
            ["aspenopenjets", "--files", "nothing*"],
            r"no file is like 'nothing\*' \(there is: RunG_batch0.h5, .*80 in all",
        ),
    ],
)
def test_a_wrong_request_is_told_before_anything_happens(tmp_path: Path, words: list[str], message: str) -> None:
    with pytest.raises(HepfmError, match=message):
        main(parse(FetchConfig, [*words, "--dest", str(tmp_path / "data")], "hepfm fetch"))
    assert not (tmp_path / "data").exists()


# A data set of our own on the misbehaving server, in each of the ways that the catalogue knows.

CONTENTS = {
    split: {f"{split}_{number}.h5": random.Random(f"{split}{number}").randbytes(40_000 + number) for number in range(3)}
    for split in ("train", "test")
}
ALL = {**CONTENTS["train"], **CONTENTS["test"]}


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def zenodo_record(url: str, files: dict[str, bytes]) -> bytes:
    rows = [
        {"key": name, "size": len(data), "checksum": f"md5:{md5(data)}", "links": {"self": f"{url}/files/{name}"}}
        for name, data in files.items()
    ]
    return json.dumps({"files": rows, "metadata": {"license": {"id": "cc-by-4.0"}}}).encode()


@pytest.fixture
def toy(server: RoughServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[RoughServer]:
    """Data sets ``pinned`` (catalogue has the checksums), ``zenodo`` and ``hub``, of the same six files."""
    folder = tmp_path / "catalogue"
    folder.mkdir()
    entry = {"title": "toy", "source": "toy", "licence": "MIT", "citation": {"text": "we"}}
    pinned = {
        split: {
            "base": f"{server.url}/files",
            "files": [{"name": name, "md5": md5(data), "bytes": len(data)} for name, data in files.items()],
        }
        for split, files in CONTENTS.items()
    }
    zenodo = {
        "train": {"zenodo": 7, "patterns": ["train_{0..2}.h5"]},
        "test": {"zenodo": 7, "patterns": ["test_*.h5"], "ingested": False},
    }
    hub = {split: {"huggingface": "team/toy", "patterns": [f"{split}_*.h5"]} for split in CONTENTS}
    for name, splits in (("pinned", pinned), ("zenodo", zenodo), ("hub", hub)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump({**entry, "splits": splits}, sort_keys=False))
    for name, data in ALL.items():
        server.add(f"/files/{name}", data)
        server.add(f"/datasets/team/toy/resolve/main/part/{name}", data)
    server.add("/api/records/7", zenodo_record(server.url, {**ALL, "README.md": b"hello"}))
    tree = [
        {
            "type": "file", "path": f"part/{name}", "size": len(data), "oid": "0" * 40,
            "lfs": {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130},
        }
        for name, data in ALL.items()
    ]  # fmt: skip
    tree += [{"type": "directory", "path": "part", "oid": "1" * 40}]
    tree += [{"type": "file", "path": "README.md", "size": 5, "oid": "2" * 40}]
    server.add("/api/datasets/team/toy/tree/main", json.dumps(tree).encode())
    monkeypatch.setattr(catalogue_module, "FOLDER", folder)
    monkeypatch.setattr(records, "ZENODO", server.url)
    monkeypatch.setattr(records, "HUGGINGFACE", server.url)
    monkeypatch.setattr(http_get, "CHUNK_BYTES", 1 << 12)
    catalogue.cache_clear()
    yield server
    catalogue.cache_clear()


def fetch(*words: object) -> None:
    main(parse(FetchConfig, [str(word) for word in words], "hepfm fetch"))


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*.h5")}


def asked(server: RoughServer) -> list[str]:
    return [path.rsplit("/", 1)[1] for path, _ in server.requests if path.endswith(".h5")]


@pytest.mark.parametrize("name", ["pinned", "zenodo", "hub"])
def test_a_data_set_arrives_whole_with_its_origin(
    toy: RoughServer, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch(name, "--dest", tmp_path / "data")
    folder = tmp_path / "data" / name
    assert content(folder) == ALL
    told = capsys.readouterr()
    assert [Path(line).name for line in told.out.splitlines()] == list(ALL)
    assert all(Path(line).is_file() for line in told.out.splitlines())
    assert "licence: MIT; cite: we" in told.err
    source = json.loads((folder / "hepfm-source.json").read_text())
    assert {key: source[key] for key in ("name", "licence", "source")} == {
        "name": name,
        "licence": "MIT",
        "source": "toy",
    }
    assert source["licences_of_records"] == ({"Zenodo record 7": "cc-by-4.0"} if name == "zenodo" else {})
    assert {Path(file).name: entry["bytes"] for file, entry in source["files"].items()} == {
        file: len(data) for file, data in ALL.items()
    }
    algorithm = "sha256" if name == "hub" else "md5"
    for file, entry in source["files"].items():
        assert entry[algorithm] == hashlib.new(algorithm, ALL[Path(file).name]).hexdigest()
        assert entry["url"].startswith(toy.url)
    hidden = {path.name for path in folder.rglob(".*")}
    assert hidden == {".lock", ".hepfm-fetch.json"}


def test_the_next_command_names_just_the_records(
    toy: RoughServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch("zenodo", "--dest", tmp_path / "my data")
    names = " ".join(f"'{tmp_path}/my data/zenodo/{name}'" for name in CONTENTS["train"])
    assert f"next: hepfm ingest toy {names} --out corpora/zenodo\n" in capsys.readouterr().err
    fetch("pinned", "--dest", tmp_path / "data")
    assert f"next: hepfm ingest toy {tmp_path}/data/pinned/*.h5 --out corpora/pinned\n" in capsys.readouterr().err
    fetch("zenodo/test", "--dest", tmp_path / "data")
    assert "next:" not in capsys.readouterr().err


def test_shell_words_mean_exactly_the_files(tmp_path: Path) -> None:
    for name in ("a1.h5", "a2.h5", "a3.h5", "a4.h5", "b1.h5", "b2.h5", "b3.h5", "b4.h5", "b5.h5", "notes.txt"):
        (tmp_path / name).touch()
    paths = sorted(tmp_path.glob("*.h5"))
    assert patterns(paths) == [f"{tmp_path}/*.h5"]
    assert patterns(paths[:4]) == [f"{tmp_path}/a*"]
    assert patterns(paths[:2]) == [f"{tmp_path}/a1.h5", f"{tmp_path}/a2.h5"]
    assert patterns(paths[1:6]) == [str(path) for path in paths[1:6]]


def test_what_is_there_is_kept_and_what_lacks_is_fetched(
    toy: RoughServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch("pinned/train", "--dest", tmp_path)
    assert sorted(asked(toy)) == sorted(CONTENTS["train"])
    toy.requests.clear()
    fetch("pinned", "--dest", tmp_path)
    assert sorted(asked(toy)) == sorted(CONTENTS["test"])
    assert set(json.loads((tmp_path / "pinned" / "hepfm-source.json").read_text())["files"]) == set(ALL)
    toy.requests.clear()
    before = (tmp_path / "pinned" / "hepfm-source.json").read_bytes()

    def hashed(*_: object) -> None:
        raise AssertionError("a verified file was read again")

    monkeypatch.setattr("hepfm.ingest.fetch.fetching.checksums_of", hashed)
    fetch("pinned", "--dest", tmp_path)
    assert asked(toy) == []
    assert (tmp_path / "pinned" / "hepfm-source.json").read_bytes() == before


def test_a_file_from_elsewhere_is_verified_and_kept(toy: RoughServer, tmp_path: Path) -> None:
    folder = tmp_path / "pinned"
    folder.mkdir()
    for name, data in ALL.items():
        (folder / name).write_bytes(data)
    fetch("pinned", "--dest", tmp_path)
    assert asked(toy) == []


def test_a_file_that_was_damaged_is_fetched_again(
    toy: RoughServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch("pinned", "--dest", tmp_path)
    toy.requests.clear()
    data = bytearray(ALL["test_1.h5"])
    data[5] ^= 1
    (tmp_path / "pinned" / "test_1.h5").write_bytes(data)
    (tmp_path / "pinned" / "train_0.h5").write_bytes(b"short")
    fetch("pinned", "--dest", tmp_path)
    assert content(tmp_path / "pinned") == ALL
    assert sorted(asked(toy)) == ["test_1.h5", "train_0.h5"]
    assert "test_1.h5: has md5" in capsys.readouterr().err


@pytest.mark.parametrize("ledger", ["", "{", "[]", '{"files": {"train_0.h5": {}}, "unpacked": {}}', '{"files": 3}'])
def test_a_broken_ledger_costs_time_only(toy: RoughServer, tmp_path: Path, ledger: str) -> None:
    fetch("pinned", "--dest", tmp_path)
    (tmp_path / "pinned" / ".hepfm-fetch.json").write_text(ledger)
    toy.requests.clear()
    fetch("pinned", "--dest", tmp_path)
    assert asked(toy) == []
    assert content(tmp_path / "pinned") == ALL


def test_what_a_killed_fetch_was_writing_is_swept_and_nothing_of_others(toy: RoughServer, tmp_path: Path) -> None:
    folder = tmp_path / "pinned"
    (folder / "inside").mkdir(parents=True)
    for name in ("..hepfm-fetch.json.partial-2867-e817bcd8", ".hepfm-source.json.partial-12-0123abcd"):
        (folder / name).write_text("{")
    others = (".notes.partial-1-0a", "inside/..hepfm-fetch.json.partial-1-0a")
    for name in others:
        (folder / name).write_text("not fetch's")
    fetch("pinned", "--dest", tmp_path)
    left = {path.relative_to(folder).as_posix() for path in folder.rglob(".*")}
    assert left == {".lock", ".hepfm-fetch.json", *others}


def test_some_of_the_files(toy: RoughServer, tmp_path: Path) -> None:
    fetch("pinned", "--dest", tmp_path, "--files", "*_1.h5", "test_0*")
    assert sorted(content(tmp_path / "pinned")) == ["test_0.h5", "test_1.h5", "train_1.h5"]


def test_one_wrong_file_does_not_hold_up_the_others(toy: RoughServer, tmp_path: Path) -> None:
    toy.always["/files/train_1.h5"] = body(bytes(len(ALL["train_1.h5"])))
    with pytest.raises(HepfmError, match=r"/files/train_1\.h5: has md5 .*the partial file is removed"):
        fetch("pinned", "--dest", tmp_path)
    assert set(content(tmp_path / "pinned")) == set(ALL) - {"train_1.h5"}
    assert not list((tmp_path / "pinned").rglob(".train_1*"))
    toy.always["/files/test_0.h5"] = status(404)
    shutil.rmtree(tmp_path / "pinned")
    with pytest.raises(HepfmError, match=r"^2 of 6 downloads failed, first: http"):
        fetch("pinned", "--dest", tmp_path)
    del toy.always["/files/train_1.h5"], toy.always["/files/test_0.h5"]
    toy.requests.clear()
    fetch("pinned", "--dest", tmp_path)
    assert sorted(asked(toy)) == ["test_0.h5", "train_1.h5"]
    assert content(tmp_path / "pinned") == ALL


def test_a_rough_network_does_not_show(toy: RoughServer, tmp_path: Path) -> None:
    for name in ALL:
        toy.faults[f"/files/{name}"] = [status(503), cut(20_000), whole, cut(30_000)]
    toy.faults["/api/records/7"] = [status(429, Retry_After="0"), cut(100), redirect("/api/records/7")]
    fetch("zenodo", "--dest", tmp_path)
    assert content(tmp_path / "zenodo") == ALL


def test_a_mirror_is_a_folder_that_was_fetched_before(toy: RoughServer, tmp_path: Path) -> None:
    fetch("zenodo", "--dest", tmp_path / "first")
    for path in (tmp_path / "first").rglob("*"):
        if path.is_file():
            toy.add(f"/mirror/{path.relative_to(tmp_path / 'first')}", path.read_bytes())
    toy.requests.clear()
    fetch("zenodo", "--dest", tmp_path / "second", "--mirror", f"{toy.url}/mirror/")
    assert content(tmp_path / "second") == ALL
    assert {path for path, _ in toy.requests if path.endswith(".h5")} == {f"/mirror/zenodo/{name}" for name in ALL}
    source = "zenodo/hepfm-source.json"
    assert (tmp_path / "first" / source).read_bytes() == (tmp_path / "second" / source).read_bytes()


def test_a_mirror_will_do_alone_but_cannot_replace_stated_checksums(
    toy: RoughServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fetch("zenodo", "--dest", tmp_path / "first")
    for path in (tmp_path / "first").rglob("*"):
        if path.is_file():
            toy.add(f"/mirror/{path.relative_to(tmp_path / 'first')}", path.read_bytes())
    toy.always["/api/records/7"] = status(503)
    fetch("zenodo", "--dest", tmp_path / "second", "--mirror", f"{toy.url}/mirror")
    assert content(tmp_path / "second") == ALL
    assert "sizes and checksums are those that the mirror states" in capsys.readouterr().err
    del toy.always["/api/records/7"]
    toy.files["/mirror/zenodo/train_0.h5"] = bytes(len(ALL["train_0.h5"]))
    with pytest.raises(HepfmError, match=r"/mirror/zenodo/train_0\.h5: has md5"):
        fetch("zenodo/train", "--dest", tmp_path / "third", "--mirror", f"{toy.url}/mirror")
    assert not (tmp_path / "third" / "zenodo" / "train_0.h5").exists()


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (b"<html>", "answers something else than JSON"),
        (b"[]", "answers something else than a record"),
        (b'{"files": [{"key": "a"}]}', "answers something else than a record"),
        (b'{"files": []}', r"zenodo/train: Zenodo record 7 does not list train_0\.h5 and 2 more \("),
        ({"../train_0.h5": b"x"}, "lists a file outside its folder"),
        ({"/etc/train_0.h5": b"x"}, "lists a file outside its folder"),
        ({".hepfm-fetch.json": b"x"}, "lists a file outside its folder"),
        ({"a\nb": b"x"}, "lists a file outside its folder"),
    ],
)
def test_a_record_that_says_something_else_is_refused(
    toy: RoughServer, tmp_path: Path, answer: bytes | dict[str, bytes], message: str
) -> None:
    toy.files["/api/records/7"] = answer if isinstance(answer, bytes) else zenodo_record(toy.url, {**ALL, **answer})
    with pytest.raises(HepfmError, match=message) as told:
        fetch("zenodo/train", "--dest", tmp_path / "data")
    assert "\n" not in str(told.value)
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize("checksum", ["md5:xyz", "md5:", "crc:1234", "sha256:12"])
def test_a_record_with_a_checksum_that_is_none_is_refused(toy: RoughServer, tmp_path: Path, checksum: str) -> None:
    record = json.loads(toy.files["/api/records/7"])
    record["files"][0]["checksum"] = checksum
    toy.files["/api/records/7"] = json.dumps(record).encode()
    with pytest.raises(HepfmError, match=r"checksum that is none|something else than a record"):
        fetch("zenodo", "--dest", tmp_path)


def test_a_hub_that_does_not_answer_is_one_line(toy: RoughServer, tmp_path: Path) -> None:
    toy.always["/api/datasets/team/toy/tree/main"] = status(404)
    with pytest.raises(HepfmError, match=r"/datasets/team/toy: cannot be asked for its files: .*take --mirror") as told:
        fetch("hub", "--dest", tmp_path)
    assert "\n" not in str(told.value)


def forget_sizes() -> None:
    """Take the sizes out of data set ``pinned``."""
    path = catalogue_module.FOLDER / "pinned.yaml"
    data = yaml.safe_load(path.read_text())
    for split in data["splits"].values():
        for file in split["files"]:
            del file["bytes"]
    path.write_text(yaml.safe_dump(data, sort_keys=False))


def test_sizes_that_are_not_stated_are_asked_and_the_disk_is_checked_first(
    toy: RoughServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_sizes()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 100_000))
    with pytest.raises(
        HepfmError, match=r"needs 0\.00 GB, 0\.00 GB are free on this disk \(free space, name another --dest"
    ):
        fetch("pinned", "--dest", tmp_path)
    assert content(tmp_path / "pinned") == {}
    fetch("pinned", "--dest", tmp_path, "--files", "train_[01].h5")  # 80 kB
    assert len(content(tmp_path / "pinned")) == 2
    fetch("pinned", "--dest", tmp_path, "--files", "t*_[01].h5")  # what is there needs no room
    assert len(content(tmp_path / "pinned")) == 4


def test_a_size_that_cannot_be_asked_does_not_hold_up_the_other_files(toy: RoughServer, tmp_path: Path) -> None:
    forget_sizes()
    toy.always["/files/train_1.h5"] = status(404)
    with pytest.raises(HepfmError, match=r"/files/train_1\.h5: cannot be downloaded: no such file there \(404\)"):
        fetch("pinned", "--dest", tmp_path)
    assert set(content(tmp_path / "pinned")) == set(ALL) - {"train_1.h5"}
    for name in ALL:
        toy.always[f"/files/{name}"] = status(404)
    with pytest.raises(HepfmError, match=r"/files/train_0\.h5: cannot be downloaded: no such file there \(404\)"):
        fetch("pinned", "--dest", tmp_path / "other")


def tar_of(files: dict[str, bytes], mode: str = "w") -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return sink.getvalue()


@pytest.fixture
def archived(toy: RoughServer) -> Callable[[dict[str, bytes]], RoughServer]:
    """Makes data set ``tars`` with one archive of the given files."""

    def make(files: dict[str, bytes]) -> RoughServer:
        data = tar_of(files, "w:gz")
        toy.add("/files/inside.tar.gz", data)
        split = {"base": f"{toy.url}/files", "files": [{"name": "inside.tar.gz", "md5": md5(data)}]}
        entry = {"title": "t", "source": "toy", "licence": "MIT", "citation": {"text": "we"}, "splits": {"all": split}}
        (catalogue_module.FOLDER / "tars.yaml").write_text(yaml.safe_dump(entry))
        catalogue.cache_clear()
        return toy

    return make


def test_archives_are_unpacked_on_request_and_once(
    archived: Callable[[dict[str, bytes]], RoughServer],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    files = {f"Pythia/val_5M/a_{number}.root": bytes([number]) * 1000 for number in range(5)}
    archived(files)
    fetch("tars", "--dest", tmp_path)
    told = capsys.readouterr()
    assert told.out == f"{tmp_path}/tars/inside.tar.gz\n"
    assert f"next: hepfm fetch tars --dest {tmp_path} --unpack" in told.err
    fetch("tars", "--dest", tmp_path, "--unpack")
    told = capsys.readouterr()
    folder = tmp_path / "tars" / "inside"
    assert told.out.splitlines() == [str(folder / name) for name in files]
    assert {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.root")} == files
    assert f"next: hepfm ingest toy {folder}/Pythia/val_5M/*.root --out" in told.err
    (tmp_path / "tars" / ".hepfm-fetch.json").unlink()  # as if killed before it was written
    fetch("tars", "--dest", tmp_path, "--unpack")
    assert capsys.readouterr().out == told.out

    def unpacked(*_: object) -> None:
        raise AssertionError("an archive was unpacked again")

    monkeypatch.setattr("hepfm.ingest.fetch.fetching.unpack", unpacked)
    monkeypatch.setattr("hepfm.ingest.fetch.fetching.matches", unpacked)
    fetch("tars", "--dest", tmp_path, "--unpack")
    assert capsys.readouterr().out == told.out


def test_what_a_killed_unpacking_left_does_not_stand_in_the_way(
    archived: Callable[[dict[str, bytes]], RoughServer], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archived({"a.root": b"1"})
    left = tmp_path / "tars" / ".inside.unpacking"
    left.mkdir(parents=True)
    (left / "a.root").write_bytes(b"half")
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 0 if left.exists() else 10**6))
    fetch("tars", "--dest", tmp_path, "--unpack")
    assert (tmp_path / "tars" / "inside" / "a.root").read_bytes() == b"1"
    left.mkdir()
    fetch("tars", "--dest", tmp_path)
    assert not left.exists()


def test_a_folder_of_the_archives_name_is_not_overwritten(
    archived: Callable[[dict[str, bytes]], RoughServer], tmp_path: Path
) -> None:
    archived({"a.root": b"1"})
    (tmp_path / "tars" / "inside").mkdir(parents=True)
    (tmp_path / "tars" / "inside" / "a.root").write_bytes(b"mine")
    with pytest.raises(HepfmError, match=r"tars/inside: exists already \(move it away"):
        fetch("tars", "--dest", tmp_path, "--unpack")
    assert (tmp_path / "tars" / "inside" / "a.root").read_bytes() == b"mine"


def test_an_archive_that_leads_out_is_refused(
    archived: Callable[[dict[str, bytes]], RoughServer], tmp_path: Path
) -> None:
    archived({"good": b"1", "../../evil": b"2"})
    with pytest.raises(HepfmError, match=r"inside\.tar\.gz: refused: its member '\.\./\.\./evil' leads out"):
        fetch("tars", "--dest", tmp_path / "data", "--unpack")
    assert not list(tmp_path.rglob("evil"))
    assert not list(tmp_path.rglob("good"))


def test_two_fetches_into_the_same_folder_are_refused(toy: RoughServer, tmp_path: Path) -> None:
    from hepfm.core.files import locked

    with locked(tmp_path / "pinned"), pytest.raises(HepfmError, match="another process is writing here"):
        fetch("pinned", "--dest", tmp_path)


SCRIPT = """
import signal, sys
from pathlib import Path
from hepfm.core import http_get
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
from hepfm.ingest.fetch import catalogue, records
http_get.CHUNK_BYTES = 1 << 12
records.ZENODO, catalogue.FOLDER = sys.argv[1], Path(sys.argv[2])
from hepfm import cli
sys.argv = ["hepfm", "fetch", *sys.argv[3:]]
cli.main()
"""


def command(server: RoughServer, *words: object) -> list[str]:
    return [sys.executable, "-c", SCRIPT, server.url, str(catalogue_module.FOLDER), *map(str, words)]


def partial_bytes(folder: Path) -> int:
    total = 0
    for path in [*folder.glob("*_?.h5"), *folder.glob(".*.part")] if folder.exists() else []:
        try:
            total += path.stat().st_size
        except FileNotFoundError:  # renamed in between
            continue
    return total


@pytest.mark.parametrize("deadly", [signal.SIGKILL, signal.SIGINT])
def test_a_fetch_that_is_killed_at_random_moments_continues(
    toy: RoughServer, tmp_path: Path, deadly: signal.Signals
) -> None:
    gate = threading.Event()
    for name in ALL:
        toy.always[f"/files/{name}"] = slow(0.03)
    toy.always["/files/test_2.h5"] = held(20_000, gate, 0.03)  # so no fetch is done before the signal comes
    words = command(toy, "zenodo", "--dest", tmp_path / "data", "--jobs", 2)
    folder = tmp_path / "data" / "zenodo"
    for share in (0.15, 0.5, 0.87):  # the last time, only a part of the last file is there
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        while process.poll() is None and partial_bytes(folder) < share * sum(map(len, ALL.values())):
            time.sleep(0.005)
        process.send_signal(deadly)
        told = process.communicate(timeout=40)[1]  # it does not wait for what the server holds back
        assert process.returncode == (130 if deadly == signal.SIGINT else -signal.SIGKILL), told
        assert deadly == signal.SIGKILL or "interrupted; the same command continues" in told
        for name, data in content(folder).items():
            assert data == ALL[name]
    gate.set()
    toy.requests.clear()
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert content(folder) == ALL
    assert [Path(line).name for line in done.stdout.splitlines()] == list(ALL)
    assert {path.name for path in folder.rglob(".*")} == {".lock", ".hepfm-fetch.json"}
    if deadly == signal.SIGKILL:
        assert toy.ranges("/files/test_2.h5")[0]  # what was there was not fetched again


def test_a_wrong_request_on_the_command_line_is_one_line_and_exit_code_2(toy: RoughServer, tmp_path: Path) -> None:
    toy.always["/files/train_0.h5"] = status(404)
    words = command(toy, "pinned/train", "--dest", tmp_path, "--files", "train_0.h5")
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"hepfm: {toy.url}/files/train_0.h5: cannot be downloaded: no such file there (404)")
    assert "Traceback" not in done.stderr
