"""The catalogue: public data sets as data, one YAML file each in ``data_sets/``.

A split either lists its files with their checksums (``base``, ``files``), or names the record that does (``zenodo``,
``huggingface``) and the names of its files there (``patterns``: globs, with ``{0000..0199}`` for a range of numbers).
A size or checksum that is not known stands nowhere: it is asked of the server or the record when it is needed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from braceexpand import braceexpand

from hepfm.core.config import from_dict
from hepfm.core.errors import HepfmError
from hepfm.core.partial import Stated

FOLDER = Path(__file__).parent / "data_sets"


@dataclass(frozen=True)
class PinnedFile:
    """A file whose checksum is known."""

    name: str
    md5: str | None = None
    sha256: str | None = None
    bytes: int | None = None

    @property
    def stated(self) -> Stated:
        return Stated(self.bytes, self.md5, self.sha256)


@dataclass(frozen=True)
class Split:
    """A part of a data set: its files, or where they are listed.

    Attributes:
        base: address that the files' names are appended to.
        files: the files.
        zenodo: number of a Zenodo record that lists them.
        huggingface: data set on the Hugging Face hub that lists them.
        patterns: their names in that list.
        ingested: False for files that hold no records, but derived tables.
    """

    base: str = ""
    files: tuple[PinnedFile, ...] = ()
    zenodo: int | None = None
    huggingface: str = ""
    patterns: tuple[str, ...] = ()
    ingested: bool = True

    def names(self) -> list[str]:
        """Names or globs of its files, ranges of numbers written out."""
        if self.files:
            return [file.name for file in self.files]
        return [name for pattern in self.patterns for name in braceexpand(pattern)]

    @property
    def record(self) -> str:
        """Where its checksums come from, in words; empty if the catalogue has them."""
        return f"Zenodo record {self.zenodo}" if self.zenodo else self.huggingface


@dataclass(frozen=True)
class Citation:
    """What to cite."""

    text: str
    doi: str = ""
    arxiv: str = ""


@dataclass(frozen=True)
class DataSet:
    """A public data set.

    Attributes:
        name: what a user calls it.
        title: what it is.
        source: the source of ``hepfm ingest`` that reads it.
        licence: SPDX identifier, or "as the record states".
        citation: what to cite.
        splits: its parts by name.
        default: the parts that are meant when none is named; empty for all.
        size: in words, where the files' sizes are not all known.
        note: what one should know before using it.
    """

    name: str
    title: str
    source: str
    licence: str
    citation: Citation
    splits: dict[str, Split]
    default: tuple[str, ...] = ()
    size: str = ""
    note: str = ""

    def bytes(self) -> int | None:
        """Sum of the sizes of all files, if they are known."""
        sizes = [file.bytes for split in self.splits.values() for file in split.files]
        pinned = all(split.files for split in self.splits.values())
        return sum(size for size in sizes if size) if pinned and all(sizes) else None


@cache
def catalogue() -> dict[str, DataSet]:
    """Every data set by name, in order.

    Raises:
        HepfmError: a file of the catalogue is broken.
    """
    return {path.stem: read_entry(path) for path in sorted(FOLDER.glob("*.yaml"), key=lambda path: path.stem)}


def read_entry(path: Path) -> DataSet:
    """Read one data set.

    Raises:
        HepfmError: an entry is missing, unknown or of the wrong type.
    """
    try:
        data: dict[str, Any] = yaml.safe_load(path.read_text())
        splits = {str(name): from_dict(Split, split, f"{path}: {name}") for name, split in data.pop("splits").items()}
    except (yaml.YAMLError, KeyError, TypeError, AttributeError) as error:
        raise HepfmError(f"is no entry of the catalogue: {error}", path) from error
    return from_dict(DataSet, {**data, "name": path.stem, "splits": splits}, path)


def find(name: str) -> tuple[DataSet, list[str]]:
    """The data set and the splits that ``NAME`` or ``NAME/SPLIT`` means.

    Raises:
        HepfmError: there is none of this name; lists those there are.
    """
    known = catalogue()
    wanted, _, split = name.partition("/")
    if wanted not in known:
        raise HepfmError(f"no data set is called '{wanted}'", "fetch", f"there is: {', '.join(known)}")
    data_set = known[wanted]
    if not split:
        return data_set, list(data_set.default or data_set.splits)
    if split not in data_set.splits:
        raise HepfmError(f"{wanted} has no split '{split}'", "fetch", f"there is: {', '.join(data_set.splits)}")
    return data_set, [split]


def is_glob(name: str) -> bool:
    """Does it stand for any number of names?"""
    return bool(re.search(r"[*?\[]", name))
