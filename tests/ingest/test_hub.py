"""Data sets of the hub: streamed whole or in part, kept after a kill, and one line when something is wrong."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from hepfm.core.errors import HepfmError
from hepfm.ingest import hub
from hepfm.ingest.hub import is_hub_address, local_files, stage_from_hub
from hepfm.ingest.sources.jetclass2 import JetClass2Source

ROWS = 10_000
SAMPLE = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "jetclass2" / "JetClassII_example.parquet"


def make_table(rows: int, seed: int) -> pa.Table:
    """Numbers, flags and lists, with a NaN, in one row group when written."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(0, 4, rows)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]), pa.int32())
    pt = rng.normal(0, 1, lengths.sum()).astype(np.float32)
    pt[3] = np.nan
    return pa.table(
        {
            "part_px": pa.ListArray.from_arrays(offsets, pa.array(pt)),
            "part_isMuon": pa.ListArray.from_arrays(offsets, pa.array(pt > 0)),
            "jet_label": pa.array(rng.integers(0, 188, rows), pa.int32()),
        }
    )


@pytest.fixture(scope="module")
def tables() -> list[pa.Table]:
    return [make_table(ROWS, seed) for seed in range(3)]


@pytest.fixture(scope="module")
def remote(tables: list[pa.Table], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("remote")
    for number, table in enumerate(tables):
        pq.write_table(table, folder / f"Res2P_{number:04d}.parquet", row_group_size=ROWS)
    (folder / "README.md").write_text("# no table, but long enough to be looked into")
    return folder


def bits(table: pa.Table) -> dict[str, list[bytes]]:
    """Lengths and values of every column as bytes, so that NaN equals itself and nothing else is let pass."""
    found = {}
    for name, column in zip(table.column_names, table.combine_chunks().columns, strict=True):
        array = column.combine_chunks()
        flat = [array.value_lengths(), array.flatten()] if pa.types.is_list(array.type) else [array]
        found[name] = [part.to_numpy(zero_copy_only=False).tobytes() for part in flat]
    return found


def same(path: Path, table: pa.Table) -> bool:
    return bits(pq.read_table(path)) == bits(table)


def staged_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and not path.name.startswith("."))


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_every_file_is_staged_with_its_rows(scheme: str, remote: Path, tables: list[pa.Table], tmp_path: Path) -> None:
    paths = stage_from_hub([f"{scheme}{remote}/*.parquet"], tmp_path)
    assert [path.name for path in paths] == [f"Res2P_{number:04d}.parquet" for number in range(3)]
    for path, table in zip(paths, tables, strict=True):
        assert same(path, table)
        metadata = pq.read_metadata(path)
        assert max(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)) <= 4_096


def test_a_file_that_two_addresses_name_is_staged_once(remote: Path, tmp_path: Path) -> None:
    addresses = [f"{remote}/Res2P_0001.parquet", f"{remote}/*_000[12].parquet"]
    assert [path.name for path in stage_from_hub(addresses, tmp_path)] == ["Res2P_0001.parquet", "Res2P_0002.parquet"]


def test_staging_again_takes_what_is_there(remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = stage_from_hub([f"{remote}/*.parquet"], tmp_path)
    (first[1].with_name(f".{first[1].name}.json")).unlink()  # as if it had been killed before the receipt
    first[2].write_bytes(first[2].read_bytes()[:-1])
    streamed: list[str] = []
    original = hub._tables
    monkeypatch.setattr(hub, "_tables", lambda url, columns: streamed.append(url) or original(url, columns))
    assert stage_from_hub([f"{remote}/*.parquet"], tmp_path) == first
    assert [Path(url).name for url in streamed] == [first[1].name, first[2].name]
    pq.read_table(first[2])


def test_a_remote_file_that_changed_is_streamed_again(tables: list[pa.Table], tmp_path: Path) -> None:
    source = tmp_path / "remote.parquet"
    pq.write_table(tables[0], source)
    (staged,) = stage_from_hub([str(source)], tmp_path / "staged")
    pq.write_table(tables[1], source)
    os.utime(source, (1, 1))
    assert stage_from_hub([str(source)], tmp_path / "staged") == [staged]
    assert same(staged, tables[1])


@pytest.mark.parametrize(("limit", "rows"), [(1, [1]), (ROWS, [ROWS]), (ROWS + 5, [ROWS, 5]), (10**6, [ROWS] * 3)])
def test_a_limit_takes_the_first_rows(
    limit: int, rows: list[int], remote: Path, tables: list[pa.Table], tmp_path: Path
) -> None:
    paths = stage_from_hub([f"{remote}/*.parquet"], tmp_path, limit)
    assert [pq.read_metadata(path).num_rows for path in paths] == rows
    for path, table, number in zip(paths, tables, rows, strict=False):
        assert same(path, table.slice(0, number))
    assert stage_from_hub([f"{remote}/*.parquet"], tmp_path, limit) == paths


def test_first_rows_neither_replace_nor_pass_for_a_whole_file(
    remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = [f"{remote}/Res2P_0000.parquet"]
    (part,) = stage_from_hub(address, tmp_path, 100)
    (whole,) = stage_from_hub(address, tmp_path)
    assert part != whole
    assert [pq.read_metadata(path).num_rows for path in (part, whole)] == [100, ROWS]
    streamed: list[str] = []
    original = hub._tables
    monkeypatch.setattr(hub, "_tables", lambda url, columns: streamed.append(url) or original(url, columns))
    (other,) = stage_from_hub(address, tmp_path, 200)
    assert streamed == [str(whole)]  # what is there already is not fetched
    assert same(other, pq.read_table(whole).slice(0, 200))
    assert pq.read_metadata(whole).num_rows == ROWS


def test_only_the_columns_asked_for_are_fetched(remote: Path, tables: list[pa.Table], tmp_path: Path) -> None:
    columns = ["part_px", "jet_label"]
    (path,) = stage_from_hub([f"{remote}/Res2P_0000.parquet"], tmp_path, columns=columns)
    assert same(path, tables[0].select(columns))
    (path,) = stage_from_hub([f"{remote}/Res2P_0000.parquet"], tmp_path)
    assert same(path, tables[0])


@pytest.mark.parametrize("source", [JetClass2Source(), JetClass2Source(generator=True)])
def test_staged_jetclass2_files_give_the_jets_of_the_remote_ones(source: JetClass2Source, tmp_path: Path) -> None:
    if not SAMPLE.exists():
        pytest.skip(f"{SAMPLE} is not there")
    (path,) = stage_from_hub([str(SAMPLE)], tmp_path, columns=source.columns)
    bound = source.bind([path])
    assert bound.read(path, 0, 100).equals(source.read(SAMPLE, 0, 100))
    assert path.stat().st_size < SAMPLE.stat().st_size


def test_a_staging_that_fails_leaves_no_file(remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = hub._tables

    def failing(url: str, columns: Any) -> Iterator[pa.Table]:
        tables = original(url, columns)
        yield next(tables)
        raise ConnectionResetError("peer reset\nand more")

    monkeypatch.setattr(hub, "_tables", failing)
    with pytest.raises(HepfmError, match=r"cannot be read \(ConnectionResetError: peer reset\) .*run again"):
        stage_from_hub([f"{remote}/*.parquet"], tmp_path)
    assert staged_files(tmp_path) == []
    assert not list(tmp_path.rglob("*.partial-*"))


def test_a_full_disk_is_said(remote: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(HepfmError, match="the disk is full"):
        stage_from_hub([f"{remote}/*.parquet"], tmp_path)


@pytest.mark.parametrize(
    ("address", "columns", "what"),
    [
        ("{remote}/*.nothing", None, "no file matches"),
        ("{remote}/absent.parquet", None, "no file matches"),
        ("{remote}/README.md", None, "is not a readable Parquet file"),
        ("{remote}/Res2P_0000.parquet", ["part_px", "part_py"], "has no column 'part_py'"),
        ("hf://datasets/jetclass2", None, "is no address of files on the hub"),
        ("hf://jet-universe/sophon/model.parquet", None, "is no address of files on the hub"),
    ],
)
def test_what_cannot_be_staged_is_named(
    address: str, columns: list[str] | None, what: str, remote: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(HepfmError, match=what) as caught:
        stage_from_hub([address.format(remote=remote)], tmp_path, columns=columns)
    assert Path(address).name in str(caught.value)
    assert "rror" not in capfd.readouterr().err


def test_an_empty_file_and_a_limit_of_nothing_are_refused(
    tables: list[pa.Table], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pq.write_table(tables[0].slice(0, 0), tmp_path / "empty.parquet")
    with pytest.raises(HepfmError, match="has no rows"):
        stage_from_hub([str(tmp_path / "empty.parquet")], tmp_path / "staged")
    with pytest.raises(HepfmError, match="at least 1"):
        stage_from_hub([str(tmp_path / "empty.parquet")], tmp_path / "staged", 0)
    with pytest.raises(HepfmError, match="hf:// addresses"):
        local_files([tmp_path / "empty.parquet"], limit=5)


def test_local_files_pass_untouched_and_addresses_survive_being_paths(tmp_path: Path) -> None:
    assert local_files([tmp_path / "a.root", "b.parquet"]) == [tmp_path / "a.root", Path("b.parquet")]
    address = "hf://datasets/jet-universe/jetclass2/Res2P/*.parquet"
    assert is_hub_address(address)
    assert is_hub_address(Path(address))
    assert not is_hub_address("/data/hf/x.parquet")


KILLED = """
import sys
from pathlib import Path
from hepfm.ingest.hub import stage_from_hub
stage_from_hub([sys.argv[1]], Path(sys.argv[2]))
"""


def test_after_a_kill_finished_files_are_kept_and_the_rest_is_streamed(remote: Path, tmp_path: Path) -> None:
    folder = tmp_path / "staged"
    process = subprocess.Popen([sys.executable, "-c", KILLED, f"{remote}/*.parquet", str(folder)])
    while not staged_files(folder) and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    left = [path for path in folder.rglob("Res2P_0000.parquet") if path.with_name(f".{path.name}.json").exists()]
    stale = next(path for path in folder.iterdir() if path.is_dir()) / ".Res2P_0002.parquet.partial-1"
    stale.write_text("of a process that was killed")
    times = {path: path.stat().st_mtime_ns for path in left}
    paths = stage_from_hub([f"{remote}/*.parquet"], folder)
    assert [pq.read_metadata(path).num_rows for path in paths] == [ROWS] * 3
    assert {path: path.stat().st_mtime_ns for path in left} == times
    assert not list(folder.rglob("*.partial-*"))


COMMIT = "c" * 40


class FakeHub(BaseHTTPRequestHandler):
    """As much of the hub as streaming needs: one data set ``physics/jets`` with one commit."""

    protocol_version = "HTTP/1.1"
    files: dict[str, bytes]
    asked: list[str]

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, content: bytes, code: int = 200, **headers: str) -> None:
        self.send_response(code)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def described(self, path: str) -> dict[str, Any]:
        return {"type": "file", "oid": "d" * 40, "size": len(self.files[path]), "path": path}

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        paths = json.loads(body)["paths"] if body.startswith("{") else parse_qs(body)["paths"]
        self.answer(json.dumps([self.described(path) for path in paths if path in self.files]).encode())

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.asked.append(path)
        if re.fullmatch(r"/api/datasets/physics/jets(/revision/[^/]+)?", path):
            siblings = [{"rfilename": name} for name in self.files]
            self.answer(json.dumps({"id": "physics/jets", "sha": COMMIT, "siblings": siblings}).encode())
        elif listing := re.fullmatch(rf"/api/datasets/physics/jets/tree/{COMMIT}/?(.*)", path):
            inside = [name for name in self.files if name.rpartition("/")[0] == listing[1]]
            folders = {name.rpartition("/")[0] for name in self.files} if not listing[1] else set()
            found = [{"type": "directory", "oid": "e" * 40, "size": 0, "path": name} for name in folders]
            self.answer(json.dumps([*found, *map(self.described, inside)]).encode())
        elif (file := re.fullmatch(rf"/datasets/physics/jets/resolve/{COMMIT}/(.+)", path)) and file[1] in self.files:
            content = self.files[file[1]]
            start, stop = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "bytes=0-")).groups()
            part = content[int(start) : int(stop or len(content)) + 1]
            span = f"bytes {start}-{int(start) + len(part) - 1}/{len(content)}"
            self.answer(part, 206, Content_Range=span, ETag='"1"', X_Repo_Commit=COMMIT)
        else:
            self.answer(b"{}", 404, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET


Ask = Callable[..., subprocess.CompletedProcess[str]]

ASK = """
import sys
from pathlib import Path
from hepfm.core.errors import HepfmError
from hepfm.ingest.hub import local_files
try:
    for path in local_files([Path(address) for address in sys.argv[1:]]):
        print(path)
except HepfmError as error:
    sys.exit(str(error))
"""


@pytest.fixture
def ask(remote: Path, tmp_path: Path) -> Iterator[Ask]:
    """Stages addresses in a process of its own whose hub is a local one; None stands for no network."""
    files = {f"Res2P/{path.name}": path.read_bytes() for path in remote.glob("*.parquet")}
    handler = type("Handler", (FakeHub,), {"files": files, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def make(*addresses: str, network: bool = True) -> subprocess.CompletedProcess[str]:
        port = server.server_port if network else 1
        environment = {
            **os.environ,
            "HF_ENDPOINT": f"http://127.0.0.1:{port}",
            "HF_HOME": str(tmp_path / "huggingface"),
            "HEPFM_CACHE": str(tmp_path / "cache"),
        }
        command = [sys.executable, "-c", ASK, *addresses]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)

    make.asked = handler.asked  # type: ignore[attr-defined]
    yield make
    server.shutdown()
    server.server_close()


def test_addresses_on_the_hub_are_pinned_to_a_commit_and_streamed(
    ask: Ask, tables: list[pa.Table], tmp_path: Path
) -> None:
    done = ask("hf://datasets/physics/jets/Res2P/*.parquet")
    paths = [Path(line) for line in done.stdout.splitlines()]
    folder = tmp_path / "cache" / "staged" / "datasets" / "physics" / f"jets@{COMMIT}" / "Res2P"
    assert paths == [folder / f"Res2P_{number:04d}.parquet" for number in range(3)], done.stderr
    assert all(same(path, table) for path, table in zip(paths, tables, strict=True))
    fetched = len([path for path in ask.asked if "/resolve/" in path])  # type: ignore[attr-defined]
    assert ask(f"hf://datasets/physics/jets@{COMMIT}/Res2P/Res2P_0001.parquet").stdout.split() == [str(paths[1])]
    assert len([path for path in ask.asked if "/resolve/" in path]) == fetched  # type: ignore[attr-defined]


def test_no_network_and_unknown_names_are_one_line(ask: Ask) -> None:
    cases = {
        ("hf://datasets/physics/jets/Res2P/*.parquet", False): "check the network and run again",
        ("hf://datasets/physics/absent/*.parquet", True): "no such data set on the hub",
        ("hf://datasets/physics/jets/Res34P/*.parquet", True): "no file matches",
    }
    for (address, network), what in cases.items():
        done = ask(address, network=network)
        assert done.returncode == 1
        assert done.stdout == ""
        assert what in done.stderr
        assert len(done.stderr.splitlines()) == 1, done.stderr
        assert done.stderr.startswith("hf://")
