"""The table of a Parquet or ROOT file, whichever it is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from hepfm.core.errors import HepfmError
from hepfm.ingest.formats.parquet_table import ParquetTable
from hepfm.ingest.formats.ragged import Table
from hepfm.ingest.formats.root_table import RootTable


def open_table(path: Path, needed: Sequence[str], format_name: str) -> Table:
    """The table of a file that has the columns needed.

    Args:
        path: a Parquet or ROOT file.
        needed: columns it must have.
        format_name: what such files are called, for messages.

    Raises:
        HepfmError: no such file; neither Parquet nor ROOT; truncated or damaged; empty; columns that are missing.
    """
    try:
        with path.open("rb") as file:
            head = file.read(20)
    except OSError as error:
        raise HepfmError(f"cannot be opened ({error.strerror})", path) from error
    table: Table
    if head[:4] == b"PAR1":
        table = ParquetTable(path)
    elif head[:4] == b"root":
        table = RootTable(path, needed)
    else:
        what = "neither a Parquet nor a ROOT file" if head else "an empty file"
        raise HepfmError(what, path, f"{format_name} files are one or the other")
    try:
        if missing := [name for name in needed if name not in table.names]:
            names = ", ".join(f"'{name}'" for name in missing)
            present = ", ".join(sorted(table.names)) or "none"
            raise HepfmError(f"has no column {names}", path, f"is this a {format_name} file? its columns: {present}")
        if not table.entries:
            raise HepfmError("has no entries", path, "leave the file out")
    except HepfmError:
        table.close()
        raise
    return table
