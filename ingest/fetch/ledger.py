"""What was verified in a folder of downloads, so that 200 GB are not hashed again each time."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from threading import Lock
from typing import Any

from hepfm.core.errors import HepfmError
from hepfm.core.files import read_json, write_json
from hepfm.core.partial import Stated

LEDGER_FILE = ".hepfm-fetch.json"


@dataclass(frozen=True)
class Verified:
    """A file as it was when its checksum was compared."""

    bytes: int
    mtime_ns: int
    checksums: dict[str, str]


class Ledger:
    """The verified files of a folder, and the archives that were unpacked there. Safe to use from several threads.

    A file counts as verified as long as its length, its time and what is stated of it are those of the ledger.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._path, self._lock = folder, folder / LEDGER_FILE, Lock()
        self._files: dict[str, Verified] = {}
        self._unpacked: dict[str, dict[str, str]] = {}
        try:
            data: dict[str, Any] = read_json(self._path)
            self._files = {name: Verified(**entry) for name, entry in data["files"].items()}
            self._unpacked = {str(name): dict(checksums) for name, checksums in data["unpacked"].items()}
        except (HepfmError, KeyError, TypeError, ValueError, AttributeError):
            pass  # absent or torn: the files are hashed once more

    def holds(self, name: str, stated: Stated) -> bool:
        """Is the file there, unchanged since it was verified against these checksums?"""
        path, known = self._folder / name, self._files.get(name)
        if known is None or not path.is_file():
            return False
        status = path.stat()
        same = (status.st_size, status.st_mtime_ns) == (known.bytes, known.mtime_ns)
        return same and stated.bytes in (None, known.bytes) and stated.checksums.items() <= known.checksums.items()

    def add(self, name: str, checksums: dict[str, str]) -> None:
        """Note a file that was verified just now."""
        status = (self._folder / name).stat()
        with self._lock:
            self._files[name] = Verified(status.st_size, status.st_mtime_ns, checksums)
            self._save()

    def checksums(self, name: str) -> dict[str, str]:
        """The checksums of a verified file."""
        return self._files[name].checksums

    def is_unpacked(self, archive: str) -> bool:
        """Was this very archive unpacked?"""
        return archive in self._unpacked and self._unpacked[archive] == self.checksums(archive)

    def unpacked(self, archive: str) -> None:
        """Note an archive that was unpacked."""
        with self._lock:
            self._unpacked[archive] = self.checksums(archive)
            self._save()

    def _save(self) -> None:
        files = {name: asdict(entry) for name, entry in self._files.items()}
        write_json(self._path, {"files": files, "unpacked": self._unpacked})
