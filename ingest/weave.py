"""New corpora from the records of finished ones: which stretches are read side by side, and the reading itself.

A new split is woven from *strands*: splits of one or several corpora. It is cut into rounds, and round r of R takes
from a strand of n records those from floor(r n / R) to floor((r + 1) n / R): every round mixes the strands in
proportion to their sizes, whatever these are. The records of a round are changed or cut as asked and permuted; a shard
is a stretch of rounds.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from hepfm.core.draws import generator
from hepfm.core.errors import HepfmError
from hepfm.core.files import sha256_file
from hepfm.ingest.corpus import Corpus, Split
from hepfm.ingest.gather import gather
from hepfm.ingest.jobs import REJECTED
from hepfm.ingest.plan import Job
from hepfm.ingest.shards import concatenate
from hepfm.ingest.tally import Tally

ROUND_BLOCKS = 8  # blocks' worth of records that are held and permuted at a time
FEWEST_SHARDS = 8  # of a split that fills as many blocks, so that several processes have work


class Change(Protocol):
    """What is done to the records of a corpus (by number) on their way to a split of the new one. Picklable."""

    def __call__(self, batch: pa.RecordBatch, corpus: int, split: str, tally: Tally) -> pa.RecordBatch:
        """The records that stay; ``tally`` is told counts for the cut flow."""
        ...


@dataclass(frozen=True)
class Strand:
    """The records of a split of a corpus (by number), all read in order."""

    corpus: int
    split: str
    records: int


@dataclass(frozen=True)
class Weaving:
    """How a split is woven.

    Attributes:
        split: its name.
        strands: what is read.
        kept: records that stay, about: what the number of shards and rounds is made for.
        expected: records of each shard are known: all are kept.
    """

    split: str
    strands: tuple[Strand, ...]
    kept: int
    expected: bool = False


def woven_jobs(weaving: Weaving, block_records: int, shard_records: int) -> list[Job]:
    """The shards of a split, each with about ``shard_records`` records. The payload is a list of rounds, each a list of
    [corpus, split, first record, stop]."""
    kept = weaving.kept
    shards = max(1, -(-kept // shard_records), min(FEWEST_SHARDS, kept // block_records))
    rounds = max(shards, round(kept / (ROUND_BLOCKS * block_records)))
    laid: list[list[list[Any]]] = [
        [
            [strand.corpus, strand.split, first, stop]
            for strand in weaving.strands
            if (first := number * strand.records // rounds) < (stop := (number + 1) * strand.records // rounds)
        ]
        for number in range(rounds)
    ]
    edges = [shard * rounds // shards for shard in range(shards + 1)]
    jobs = []
    for number, (first, stop) in enumerate(pairwise(edges)):
        size = sum(piece[3] - piece[2] for pieces in laid[first:stop] for piece in pieces)
        payload = [pieces for pieces in laid[first:stop] if pieces]
        jobs.append(Job(weaving.split, number, payload, size, expected=size if weaving.expected else None))
    return jobs


@dataclass(frozen=True)
class Woven:
    """Reads the rounds of a shard. Records of a round keep their order where it has one strand, else are permuted."""

    corpora: tuple[Corpus, ...]
    change: Change
    seed: int
    block_records: int

    def __call__(self, job: Job) -> Generator[pa.RecordBatch, None, Tally]:
        tally = Tally()
        for number, pieces in enumerate(job.payload):
            parts = (
                self.change(batch, corpus, job.split, tally)
                for corpus, split, first, stop in pieces
                for batch in stretch(self.corpora[corpus].split(split), first, stop)
            )
            if len(pieces) == 1:
                yield from parts
                continue
            records = concatenate(list(parts))
            order = generator("weave", self.seed, job.split, job.shard, number).permutation(len(records))
            for start in range(0, len(records), self.block_records):
                yield gather(records, order[start : start + self.block_records])
        return tally


def stretch(split: Split, first: int, stop: int) -> Iterator[pa.RecordBatch]:
    """Records ``[first, stop)`` of a split, block by block."""
    starts = np.concatenate([[0], np.cumsum(split.block_records)])
    block = int(np.searchsorted(starts, first, side="right")) - 1
    while first < stop:
        start, end = int(starts[block]), min(int(starts[block + 1]), stop)
        yield split.read(block).slice(first - start, end - first)
        first, block = end, block + 1


def largest_shard(corpora: Sequence[Corpus]) -> int:
    """Records of the largest shard of these corpora: what is made from them has shards of the same size."""
    splits = [split for corpus in corpora for split in corpus.manifest.splits.values()]
    return max(shard.records for split in splits for shard in split.shards)


def lineage(corpus: Corpus) -> dict[str, Any]:
    """What a corpus that is made from another one says of it: digest, records, and its provenance with its cut flow.

    The files are left out (the new corpus lists them itself).
    """
    manifest = corpus.manifest
    known = {name: value for name, value in manifest.provenance.items() if name != "files"}
    records = {name: split.records for name, split in manifest.splits.items()}
    tokens = {name: value for name, value in (manifest.tokens or {}).items() if name != "source_path"}
    return {**known, "digest": corpus.digest, "records": records, **({"tokens": tokens} if tokens else {})}


def tokens_alone(corpus: Corpus) -> dict[str, Any] | None:
    """A token corpus's entry without the corpus that it was made from.

    Record i of a token corpus belongs to record i of that corpus. Records that are merged, filtered or dealt anew have
    other numbers, so the tie is dropped; ``source_file`` and ``source_entry`` still tell where each came from.
    """
    if corpus.manifest.tokens is None:
        return None
    return {name: value for name, value in corpus.manifest.tokens.items() if name not in ("source", "source_path")}


def attached_files(corpora: Sequence[Corpus]) -> dict[str, Path]:
    """The attached files of corpora (a tokenizer) by name, checked, to be attached to what is made from them.

    The list of entries that a build refused stays with the corpus that was built.

    Raises:
        HepfmError: a file is missing or was altered, or two corpora hold different files of one name.
    """
    found: dict[str, Path] = {}
    sums: dict[str, str] = {}
    for corpus in corpora:
        for name, sha256 in corpus.manifest.files.items():
            if name == REJECTED:
                continue
            path = corpus.path / name
            if not path.is_file() or sha256_file(path) != sha256:
                raise HepfmError("is missing or was altered", path, "restore it from a copy")
            if sums.setdefault(name, sha256) != sha256:
                raise HepfmError("differs from the file of this name in another corpus", path, "these do not fit")
            found.setdefault(name, path)
    return found
