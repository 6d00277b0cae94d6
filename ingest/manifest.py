"""The manifest of a corpus: ``corpus.json``, everything one has to know about it, with a digest of itself."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa

from hepfm.core.errors import HepfmError
from hepfm.core.files import digest_of, write_text
from hepfm.core.records import Kind
from hepfm.ingest.schema_json import points_column, quantities, schema_from_data, schema_to_data

FORMAT = 1
FILE = "corpus.json"
SPLITS = ("train", "val", "test")
_SHARD_NAME = re.compile(rf"({'|'.join(SPLITS)})/[0-9]{{6}}\.tar")
_MEND = "restore the corpus from a copy, or build it again"


@dataclass(frozen=True)
class ShardEntry:
    """One shard: its path in the corpus, what it holds, and the checksum of the whole file."""

    name: str
    records: int
    points: int
    blocks: int
    bytes: int
    sha256: str

    @property
    def number(self) -> int:
        return int(self.name.split("/")[1].removesuffix(".tar"))


@dataclass(frozen=True)
class SplitEntry:
    """One split: totals, records per label, shards in order."""

    records: int
    points: int
    labels: dict[str, int]
    shards: tuple[ShardEntry, ...]


@dataclass(frozen=True)
class Manifest:
    """What a corpus is.

    Attributes:
        kind: ``jets``, ``showers`` or ``tokens``.
        schema: Arrow schema of every block, with the unit and meaning of each quantity.
        labels: label names in the order of the label column's indices.
        axis: axis of deta and dphi (``stored``, ``constituent_sum``, or empty).
        block_records: records of a full block.
        splits: the splits that hold records.
        statistics: of the training split, by dotted name (``constituents.pt``, ``mass``): count, nulls, min, max, mean,
            std, or for names how often each occurs; the list column's own name stands for points per record.
        provenance: source and settings, files (name, sha256, bytes, entries), selection, cut flow, command, versions.
        blocks_sha256: checksum of ``blocks.arrow``.
        geometry: of the calorimeter, for showers.
        tokens: of a token corpus: tokenizer hash, codes, digest and path of the corpus it was made from.
        files: further files of the corpus (a token corpus's tokenizer), path inside it -> sha256.
    """

    kind: Kind
    schema: pa.Schema
    labels: tuple[str, ...]
    axis: str
    block_records: int
    splits: dict[str, SplitEntry]
    statistics: dict[str, dict[str, Any]]
    provenance: dict[str, Any]
    blocks_sha256: str
    geometry: dict[str, Any] | None = None
    tokens: dict[str, Any] | None = None
    files: dict[str, str] = field(default_factory=dict)

    @property
    def provides(self) -> tuple[str, ...]:
        """Dotted names of all quantities that the records have (``constituents.pt``, ``mass``)."""
        return tuple(name for name, _ in quantities(self.schema))

    @property
    def records_name(self) -> str:
        """What its records are called: jets, showers, or plain records where a record is a sequence of tokens."""
        return "records" if self.kind == "tokens" else self.kind

    @property
    def points_column(self) -> str:
        """The list column that holds a record's points."""
        return points_column(self.schema)

    @cached_property
    def digest(self) -> str:
        """SHA-256 that names this corpus: it covers the manifest, which covers every other byte."""
        return digest_of(self._content())

    def save(self, folder: Path) -> None:
        """Write ``corpus.json`` atomically; from then on the folder is a finished corpus."""
        write_text(folder / FILE, _text({**self._content(), "digest": self.digest}))

    @classmethod
    def load(cls, folder: Path) -> Manifest:
        """Read ``corpus.json``.

        Raises:
            HepfmError: there is none, it comes from a newer hepfm, or any byte of it was altered.
        """
        path = folder / FILE
        if not path.is_file():
            unfinished = (folder / ".build").is_dir()
            raise HepfmError(
                "is an unfinished corpus" if unfinished else f"is no corpus (it has no {FILE})",
                folder,
                "run the command that builds it again: it continues" if unfinished else "name a corpus folder",
            )
        data = _parse(path)
        try:
            return cls._from_content(data)
        except (KeyError, TypeError, ValueError, AttributeError, pa.ArrowException) as error:
            raise HepfmError(f"is no manifest of format {FORMAT}: {error!r}", path, _MEND) from error

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "kind": self.kind,
            "schema": schema_to_data(self.schema),
            "provides": list(self.provides),
            "labels": list(self.labels),
            "axis": self.axis,
            "block_records": self.block_records,
            "splits": {
                name: {**vars(split), "shards": [vars(shard) for shard in split.shards]}
                for name, split in self.splits.items()
            },
            "statistics": self.statistics,
            "provenance": self.provenance,
            "blocks_sha256": self.blocks_sha256,
            "geometry": self.geometry,
            "tokens": self.tokens,
            "files": self.files,
        }

    @classmethod
    def _from_content(cls, data: dict[str, Any]) -> Manifest:
        splits = {}
        for name in SPLITS:
            if name in data["splits"]:
                split = data["splits"][name]
                shards = tuple(ShardEntry(**shard) for shard in split["shards"])
                splits[name] = SplitEntry(**{**split, "shards": shards})
        _check_names(splits, data["files"])
        return cls(
            kind=data["kind"],
            schema=schema_from_data(data["schema"]),
            labels=tuple(data["labels"]),
            axis=data["axis"],
            block_records=data["block_records"],
            splits=splits,
            statistics=data["statistics"],
            provenance=data["provenance"],
            blocks_sha256=data["blocks_sha256"],
            geometry=data["geometry"],
            tokens=data["tokens"],
            files=data["files"],
        )


def _text(data: dict[str, Any]) -> str:
    return json.dumps(data, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def _parse(path: Path) -> dict[str, Any]:
    """The manifest's data, once every byte of the file is known to be what was written."""
    try:
        text = path.read_bytes().decode()
        data = json.loads(text)
        if isinstance(data, dict) and isinstance(data.get("format"), int) and data["format"] > FORMAT:
            raise HepfmError(f"corpus format {data['format']} is newer than this hepfm", path, "update hepfm")
        stated = data.pop("digest")
        # Spelling that JSON leaves open (1e5 or 1E5, blanks) counts as altered too: nothing may change unseen.
        altered = digest_of(data) != stated or _text({**data, "digest": stated}) != text
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise HepfmError(f"is broken: {error}", path, _MEND) from error
    if altered:
        raise HepfmError("was altered: its own digest disagrees", path, _MEND)
    return data


def _check_names(splits: dict[str, SplitEntry], files: dict[str, str]) -> None:
    for name, split in splits.items():
        for shard in split.shards:
            if not _SHARD_NAME.fullmatch(shard.name) or not shard.name.startswith(f"{name}/"):
                raise ValueError(f"{shard.name!r} is no name of a shard of {name}")
    for file in files:
        if Path(file).is_absolute() or ".." in Path(file).parts:
            raise ValueError(f"{file!r} lies outside the corpus")
