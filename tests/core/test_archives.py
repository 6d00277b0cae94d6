"""A tar from somebody else unpacks to its files, or to nothing and a message that names the member."""

from __future__ import annotations

import gzip
import io
import random
import shutil
import subprocess
import tarfile
from collections import namedtuple
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hepfm.core.archives import folder_name, is_archive, unpack
from hepfm.core.errors import HepfmError

FILES = {"Pythia/a.root": b"a" * 1000, "Pythia/deep/b.root": random.Random(2).randbytes(70_000), "c": b""}


def member(name: str, kind: bytes = tarfile.REGTYPE, linkname: str = "", size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, linkname, size
    return info


def write(path: Path, files: dict[str, bytes], *further: tarfile.TarInfo, mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, data in files.items():
            tar.addfile(member(name, size=len(data)), io.BytesIO(data))
        for info in further:
            tar.addfile(info, io.BytesIO(b"x" * info.size))
    return path


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("compression", ["", ":gz", ":bz2", ":xz"])
def test_a_tar_unpacks_to_its_files_in_order(tmp_path: Path, compression: str) -> None:
    archive = write(tmp_path / "a.tar", FILES, mode=f"w{compression}")
    written: list[int] = []
    paths = unpack(archive, tmp_path / "out" / "a", written.append)
    assert paths == [tmp_path / "out" / "a" / name for name in FILES]
    assert content(tmp_path / "out" / "a") == FILES
    assert sum(written) == sum(map(len, FILES.values()))
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["a"]


def test_a_tar_of_the_tar_program_unpacks(tmp_path: Path) -> None:
    for name, data in FILES.items():
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_bytes(data)
    subprocess.run(["tar", "-czf", str(tmp_path / "a.tgz"), "-C", str(tmp_path / "in"), "."], check=True)
    unpack(tmp_path / "a.tgz", tmp_path / "out")
    assert content(tmp_path / "out") == FILES


@pytest.mark.parametrize(
    ("info", "fault"),
    [
        (member("/etc/evil"), "has an absolute path"),
        (member("//etc/evil"), "has an absolute path"),
        (member("../evil"), "leads out of the folder"),
        (member("a/../../evil"), "leads out of the folder"),
        (member("a/.."), "leads out of the folder"),
        (member("a\nb"), "has a name that cannot be printed"),
        (member("a\udcffb"), "has a name that cannot be printed"),
        (member("a", tarfile.SYMTYPE, "/etc"), "is a symbolic link"),
        (member("a", tarfile.SYMTYPE, "c"), "is a symbolic link"),
        (member("a", tarfile.LNKTYPE, "c"), "is a hard link"),
        (member("a", tarfile.CHRTYPE), "is a device"),
        (member("a", tarfile.BLKTYPE), "is a device"),
        (member("a", tarfile.FIFOTYPE), "is a pipe"),
        (member("c", size=3), "comes twice"),
        (member("./c", size=3), "comes twice"),
        (member("Pythia//a.root"), "comes twice"),
        (member("Pythia"), "is a file and a folder at once"),
        (member("c", tarfile.DIRTYPE), "is a file and a folder at once"),
        (member("c/inside", size=1), "is a file and a folder at once"),
        (member("."), "is a file and a folder at once"),
    ],
)
@pytest.mark.parametrize("first", [False, True])
def test_a_member_that_could_do_harm_is_refused_before_anything_is_written(
    tmp_path: Path, info: tarfile.TarInfo, fault: str, first: bool
) -> None:
    archive = tmp_path / "a.tar"
    with tarfile.open(archive, "w") as tar:
        bad = [(info, io.BytesIO(b"x" * info.size))]
        good = [(member(name, size=len(data)), io.BytesIO(data)) for name, data in FILES.items()]
        for header, data in bad + good if first else good + bad:
            tar.addfile(header, data)
    with pytest.raises(
        HepfmError, match=rf"a\.tar: refused: its member .* (?:{fault}|comes twice|is a file and) .*do not unpack"
    ):
        unpack(archive, tmp_path / "out")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.tar"]
    assert not Path("/etc/evil").exists()


def test_a_name_that_is_no_text_is_told_in_plain_letters(tmp_path: Path) -> None:
    archive = write(tmp_path / "a.tar", {}, member("../\udcff\n"))
    with pytest.raises(HepfmError, match="leads out") as told:
        unpack(archive, tmp_path / "out")
    assert str(told.value).isascii()
    assert str(told.value).isprintable()


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_a_cut_archive_leaves_nothing(tmp_path: Path, mode: str) -> None:
    whole = write(tmp_path / "a.tar", FILES, mode=mode).read_bytes()
    for length in (0, 100, 700, 3000, 60_000):
        (tmp_path / "a.tar").write_bytes(whole[:length])
        with pytest.raises(HepfmError, match=r"a\.tar: is no readable tar: .*download it again"):
            unpack(tmp_path / "a.tar", tmp_path / "out")
        assert sorted(file.name for file in tmp_path.iterdir()) == ["a.tar"]


def test_a_damaged_header_is_no_end_of_the_archive(tmp_path: Path) -> None:
    archive = write(tmp_path / "a.tar", FILES)
    with tarfile.open(archive) as tar:
        at = tar.getmember("Pythia/deep/b.root").offset
    data = bytearray(archive.read_bytes())
    data[at + 5] ^= 1
    archive.write_bytes(data)
    with pytest.raises(HepfmError, match=rf"is damaged at byte {at:,}"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(at=st.integers(0, 73_000), bit=st.integers(0, 7))
def test_a_flipped_bit_in_a_compressed_tar_never_passes(tmp_path: Path, at: int, bit: int) -> None:
    whole = bytearray(gzip.compress(write(tmp_path / "a.tar", FILES).read_bytes(), mtime=0))
    header = 10  # what gzip does not check: flags, time, system
    at = header + at % (len(whole) - header)
    whole[at] ^= 1 << bit
    (tmp_path / "b.tar.gz").write_bytes(whole)
    try:
        unpack(tmp_path / "b.tar.gz", tmp_path / "out")
    except HepfmError:
        assert not (tmp_path / "out").exists()
    else:
        assert content(tmp_path / "out") == FILES  # the bit lay behind the end
        shutil.rmtree(tmp_path / "out")


def test_a_folder_that_exists_is_not_touched(tmp_path: Path) -> None:
    archive = write(tmp_path / "a.tar", FILES)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_bytes(b"1")
    with pytest.raises(HepfmError, match="exists already"):
        unpack(archive, tmp_path / "out")
    assert content(tmp_path / "out") == {"mine": b"1"}
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    with pytest.raises(HepfmError, match="exists already"):
        unpack(archive, tmp_path / "link")


def test_what_a_killed_call_left_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".out.unpacking").mkdir()
    (tmp_path / ".out.unpacking" / "c").write_bytes(b"old")
    unpack(write(tmp_path / "a.tar", FILES), tmp_path / "out")
    assert sorted(file.name for file in tmp_path.iterdir()) == ["a.tar", "out"]
    assert content(tmp_path / "out") == FILES


def test_too_little_room_is_told_with_both_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage(0, 0, 10_000_000))
    archive = write(tmp_path / "a.tar", {"big": bytes(20_000_000)})
    with pytest.raises(HepfmError, match=r"needs 0\.02 GB, 0\.01 GB are free"):
        unpack(archive, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_of_archives() -> None:
    assert [folder_name(name) for name in ("a.tar", "a.b.tar.gz", "a.tgz")] == ["a", "a.b", "a"]
    assert is_archive("a.tar.xz")
    assert not is_archive("a.h5")
