"""Weighted mixtures of corpora: a small JSON file that says how often each record comes, and reading by it.

A weight is the mean number of times that a record of the training split comes in an epoch; the reading order turns it
into whole numbers (:class:`hepfm.ingest.order.Order`). Weights of all records add up to the records of an epoch.

- An entry with share s (shares divided by their sum) whose corpus has n records with the wanted labels gives each of
  them epoch_records * s / n.
- With flat reweighting entries have neither shares nor labels: they are one set, and a table over (group, pt bin,
  soft-drop mass bin) gives the weight (:mod:`hepfm.ingest.reweight`).

Validation and test splits are read without weights: each record that training could meet comes once, the others never.
Repeats would tell nothing new there, and so a loss can be compared between mixtures of the same corpora.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hepfm.core.errors import HepfmError
from hepfm.core.files import digest_of, read_json, write_text
from hepfm.core.progress import progress
from hepfm.ingest.corpus import Corpus, Split, remote_url
from hepfm.ingest.held_out import check_held_out
from hepfm.ingest.manifest import Manifest
from hepfm.ingest.reader import Reader
from hepfm.ingest.reweight import FlatWeights, Group, flat_from_data, flat_to_data, group_numbers

FORMAT = 1
KIND = "mixture"
TRAIN = "train"
_MEND = "make it again: hepfm corpus mix"


@dataclass(frozen=True)
class Entry:
    """One corpus of a mixture.

    Attributes:
        path: its folder, or its address.
        digest: of the corpus.
        labels: only records with these labels; empty for all.
        share: share of an epoch's records; None under flat reweighting.
        records: records of the training split with these labels.
    """

    path: Path
    digest: str
    labels: tuple[str, ...]
    share: float | None
    records: int


@dataclass(frozen=True)
class Mixture:
    """A mixture that was read from its file.

    Attributes:
        path: the file.
        entries: the corpora with their shares.
        epoch_records: mean number of records of an epoch.
        flat: weights by (group, pt, soft-drop mass), if it is reweighted.
        corpora: of the entries, opened.
    """

    path: Path
    entries: tuple[Entry, ...]
    epoch_records: int
    flat: FlatWeights | None
    corpora: tuple[Corpus, ...]

    @classmethod
    def open(cls, path: Path) -> Mixture:
        """Read a mixture and open its corpora.

        Raises:
            HepfmError: no such file, it was altered, or a corpus is not the one that it names.
        """
        path = Path(path)
        data = read_json(path)
        try:
            _check(data, path)
            entries = tuple(_entry(entry, path) for entry in data["corpora"])
            flat = None if data["reweight"] is None else flat_from_data(data["reweight"])
            epoch_records = int(data["epoch_records"])
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise HepfmError(f"is no mixture of format {FORMAT}: {error!r}", path, _MEND) from error
        return cls(path, entries, epoch_records, flat, tuple(_opened(entry, path) for entry in entries))

    @cached_property
    def digest(self) -> str:
        """SHA-256 that names the mixture: all it says but where the corpora lie, which their own digests tell."""
        return digest_of(_without_paths(self._content()))

    def save(self) -> None:
        """Write the file atomically."""
        text = json.dumps({**self._content(), "digest": self.digest}, indent=2, ensure_ascii=False, allow_nan=False)
        # Innermost lists (a row of weights) stand on one line.
        rows = re.sub(r"\[[^\[\]{}]*\]", lambda match: re.sub(r"\n\s*", " ", match[0]), text)
        write_text(self.path, rows + "\n")

    def splits(self, name: str) -> list[Split]:
        """The split of all corpora that have it, in the order of the entries."""
        return [corpus.split(name) for corpus in self.corpora if name in corpus.splits()]

    def reader(
        self,
        split: str,
        seed: int,
        columns: Sequence[str] | None = None,
        window: int = 16,
        schema: pa.Schema | None = None,
    ) -> Reader:
        """Records of a split in the order of this mixture: ``train`` by weight, others once each.

        Args:
            split: ``train``, ``val`` or ``test``.
            seed: of the order.
            columns: what to read, as in :class:`hepfm.ingest.reader.Reader`.
            window: blocks that are shuffled together.
            schema: in place of ``columns``, as in :class:`hepfm.ingest.reader.Reader`.

        Raises:
            HepfmError: no corpus has the split, or none of its records belongs to the mixture.
        """
        splits = self.splits(split)
        if not splits:
            raise HepfmError(f"no corpus has a split '{split}'", self.path)
        weights = self.weights(split)
        if weights is not None and not weights.any():
            raise HepfmError(f"no record of split '{split}' belongs to it", self.path, "take more labels or corpora")
        return Reader(splits, seed, columns, window, weights, schema)

    def weights(self, split: str) -> np.ndarray | None:
        """How often the records of a split come in an epoch on average.

        Returns:
            float32: one number a corpus that has the split (all its records alike), or one a record, corpora one after
            another; None where every record comes once.
        """
        entries = [entry for entry, corpus in zip(self.entries, self.corpora, strict=True) if split in corpus.splits()]
        if self.flat is None and not any(entry.labels for entry in entries):
            if split != TRAIN:
                return None
            return np.array([self._record_weight(entry) for entry in entries], dtype=np.float32)
        splits = self.splits(split)
        weights = np.zeros(sum(part.records for part in splits), dtype=np.float32)
        blocks = sum(len(part) for part in splits)
        at = 0
        with progress("weigh records", blocks, "blocks", visible=blocks > 1000) as task:
            for entry, part in zip(entries, splits, strict=True):
                wanted = (Group("wanted", 1.0, entry.labels),)
                for block in part:
                    here = weights[at : at + len(block)]
                    here[:] = self._record_weight(entry) if self.flat is None else self.flat.of(block)
                    if entry.labels:
                        here[group_numbers(block, wanted) < 0] = 0
                    at += len(block)
                    task.advance()
        return weights if split == TRAIN else (weights > 0).astype(np.float32)

    def summary(self) -> dict[str, Any]:
        """What provenance has to keep of it."""
        return {"digest": self.digest, "epoch_records": self.epoch_records, "reweighted": self.flat is not None} | {
            "corpora": [_entry_to_data(entry) for entry in self.entries]
        }

    def _record_weight(self, entry: Entry) -> float:
        total = sum(other.share or 0 for other in self.entries)
        return self.epoch_records * (entry.share or 0) / total / entry.records

    def _content(self) -> dict[str, Any]:
        return {
            "format": FORMAT,
            "kind": KIND,
            "corpora": [{"path": _path_in(self.path, entry.path), **_entry_to_data(entry)} for entry in self.entries],
            "epoch_records": self.epoch_records,
            "reweight": None if self.flat is None else flat_to_data(self.flat),
        }


def define(entries: Sequence[Entry], out: Path, epoch_records: int, flat: FlatWeights | None = None) -> Mixture:
    """Write a mixture and open it.

    Args:
        entries: from :func:`entry_of`.
        out: the file, ``*.json``.
        epoch_records: mean number of records of an epoch.
        flat: table of weights, scaled to ``epoch_records``.

    Raises:
        HepfmError: entries that cannot be mixed.
    """
    if out.suffix != ".json":
        raise HepfmError("is no name of a mixture, which is a JSON file", out, "name it *.json")
    if out.exists() and not _is_mixture(out):
        raise HepfmError("is there already and is no mixture", out, "name another --out")
    corpora = tuple(Corpus.open(entry.path) for entry in entries)
    kinds = {corpus.manifest.kind for corpus in corpora}
    if len(kinds) > 1:
        raise HepfmError(f"corpora of {' and '.join(sorted(kinds))} cannot be mixed", out)
    if flat is not None and any(entry.share is not None or entry.labels for entry in entries):
        raise HepfmError("flat reweighting sets how often each record comes", out, "name corpora without '='")
    for number, entry in enumerate(entries):
        if any(_overlap(entry, other) for other in entries[:number]):
            raise HepfmError("is named twice", entry.path, "name a corpus once, or with different labels")
    check_held_out(corpora, [entry.labels for entry in entries])
    mixture = Mixture(out, tuple(entries), epoch_records, flat, corpora)
    mixture.save()
    return Mixture.open(out)


def entry_of(path: Path, share: float | None, labels: tuple[str, ...]) -> Entry:
    """An entry for a corpus.

    Raises:
        HepfmError: no corpus, no training split, or a label that it does not have.
    """
    if path.is_file():
        raise HepfmError("is a file, not a corpus", path, "name corpora; of a mixture those that it is made of")
    corpus = Corpus.open(path)
    records = _labelled(corpus.manifest, corpus.split(TRAIN).name, labels, path)
    return Entry(path, corpus.digest, labels, share, records)


def _is_mixture(path: Path) -> bool:
    """May it be written anew? A corpus's manifest, say, may not."""
    try:
        data = read_json(path)
    except (HepfmError, OSError):
        return False
    return isinstance(data, dict) and data.get("kind") == KIND


def _overlap(first: Entry, second: Entry) -> bool:
    """Would a record belong to both?"""
    apart = first.labels and second.labels and not set(first.labels) & set(second.labels)
    return first.digest == second.digest and not apart


def _labelled(manifest: Manifest, split: str, labels: tuple[str, ...], path: Path) -> int:
    """Records of a split with one of these labels; all without labels."""
    if not labels:
        return manifest.splits[split].records
    unknown = [label for label in labels if label not in manifest.labels]
    if unknown or "label" not in manifest.schema.names:
        raise HepfmError(f"has no label '{unknown[0] if unknown else labels[0]}'", path, _known(manifest))
    found = sum(manifest.splits[split].labels.get(label, 0) for label in labels)
    if not found:
        raise HepfmError(f"its split '{split}' has no record labelled {' or '.join(labels)}", path, "take other labels")
    return found


def _known(manifest: Manifest) -> str:
    shown = ", ".join(manifest.labels[:20]) + (", ..." if len(manifest.labels) > 20 else "")
    return f"there is: {shown}" if shown else "its records have no labels"


def _entry_to_data(entry: Entry) -> dict[str, Any]:
    return {
        "digest": entry.digest,
        "labels": list(entry.labels),
        "share": None if entry.share is None else float(entry.share),
        "records": entry.records,
    }


def _path_in(file: Path, corpus: Path) -> str:
    """What the file says of where a corpus is: its address, or its path from the file's folder."""
    return remote_url(corpus) or Path(os.path.relpath(corpus.resolve(), file.resolve().parent)).as_posix()


def _entry(data: dict[str, Any], file: Path) -> Entry:
    share = None if data["share"] is None else float(data["share"])
    path = Path(data["path"])
    if not remote_url(path):
        path = Path(os.path.normpath(file.resolve().parent / path))
    return Entry(path, str(data["digest"]), tuple(data["labels"]), share, int(data["records"]))


def _opened(entry: Entry, file: Path) -> Corpus:
    corpus = Corpus.open(entry.path)
    if corpus.digest != entry.digest:
        raise HepfmError(
            f"is not the corpus that {file} was made for: digest {corpus.digest[:12]}, expected {entry.digest[:12]}",
            entry.path,
            f"restore it, or {_MEND}",
        )
    return corpus


def _check(data: dict[str, Any], path: Path) -> None:
    if data["kind"] != KIND:
        raise ValueError(f"kind {data['kind']!r}")
    if isinstance(data["format"], int) and data["format"] > FORMAT:
        raise HepfmError(f"mixture format {data['format']} is newer than this hepfm", path, "update hepfm")
    stated = data.pop("digest")
    if digest_of(_without_paths(data)) != stated:
        raise HepfmError("was altered: its own digest disagrees", path, _MEND)


def _without_paths(data: dict[str, Any]) -> dict[str, Any]:
    corpora = [{name: value for name, value in entry.items() if name != "path"} for entry in data["corpora"]]
    return {**data, "corpora": corpora}
