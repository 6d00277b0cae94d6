"""``hepfm corpus merge``: one corpus of all records of several, splits kept, every block a mixture of the parents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hepfm.core.errors import HepfmError
from hepfm.core.records import values_of
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.jobs import check_folder, write_corpus
from hepfm.ingest.keys import key
from hepfm.ingest.manifest import SPLITS
from hepfm.ingest.plan import Plan
from hepfm.ingest.tally import Tally
from hepfm.ingest.unite import Fit, lacking, united_names, united_schema
from hepfm.ingest.weave import (
    Strand,
    Weaving,
    Woven,
    attached_files,
    largest_shard,
    lineage,
    tokens_alone,
    woven_jobs,
)
from hepfm.ingest.workers import Workers


def merge(corpora: Sequence[Corpus], out: Path, common: bool = False, seed: int = 0, processes: int = 1) -> Corpus:
    """Write the merged corpus, or continue it; the bytes do not depend on either, nor on processes.

    Train stays train: what was held out stays held out. Every block mixes the parents in proportion to their sizes.
    ``source_file`` counts through the files of all parents. A quantity that a parent lacks is null in its records; its
    provenance lists these under ``lacks``. A merged token corpus loses the tie of its records to those of other corpora
    (see :func:`hepfm.ingest.weave.tokens_alone`) and keeps its tokenizer.

    Args:
        corpora: the parents, at least two of one kind; label names and source files are listed in their order.
        out: folder of the merged corpus.
        common: keep only the quantities that all parents have.
        seed: of the order of records.
        processes: worker processes.

    Raises:
        HepfmError: parents that do not fit together, or share a source file; or ``out`` holds something else.
    """
    check(corpora)
    check_folder(out)
    files = [source_files(corpus) for corpus in corpora]
    _check_files(corpora, files)
    check_collisions(corpora)
    attached = attached_files(corpora)
    schema, names = united_schema(corpora, common), united_names(corpora)
    plan = make_plan(corpora, files, schema, names["label"], common, seed)
    first = np.cumsum([0, *map(len, files)]).tolist()
    fits = tuple(Fit(schema, names, first[number]) for number in range(len(corpora)))
    produce = Woven(tuple(corpora), Fitted(fits), seed, plan.block_records)
    return write_corpus(out, plan, produce, workers=Workers(processes), attached=attached)


def check(corpora: Sequence[Corpus]) -> None:
    """See that the corpora can be one.

    Raises:
        HepfmError: fewer than two, one of them twice, or another kind, axis, geometry or tokenizer.
    """
    if len(corpora) < 2:
        raise HepfmError("there is nothing to merge", "corpus merge", "name at least two corpora")
    first = corpora[0]
    seen: dict[str, Corpus] = {}
    for corpus in corpora:
        if corpus.digest in seen:
            raise HepfmError(f"is the same corpus as {seen[corpus.digest].path}", corpus.path, "give each once")
        seen[corpus.digest] = corpus
        for what, mine, its in (
            ("holds", corpus.manifest.kind, first.manifest.kind),
            ("has axis", corpus.manifest.axis, first.manifest.axis),
            ("has geometry", corpus.manifest.geometry, first.manifest.geometry),
            ("is of tokenizer", _tokenizer(corpus), _tokenizer(first)),
        ):
            if mine != its:
                raise HepfmError(
                    f"{what} {_short(mine)}, {first.path} {_short(its)}", corpus.path, "these cannot be one corpus"
                )


def _tokenizer(corpus: Corpus) -> str | None:
    return None if corpus.manifest.tokens is None else str(corpus.manifest.tokens["tokenizer"])


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def source_files(corpus: Corpus) -> list[dict[str, Any]]:
    """The source files of a corpus, in the order of ``source_file``; a token corpus's stand in its source corpus.

    Raises:
        HepfmError: they are not known.
    """
    known, tokens = corpus.manifest.provenance.get("files"), corpus.manifest.tokens
    if known is None and tokens is not None and "source_path" in tokens:
        path = corpus.path / tokens["source_path"]
        try:
            source = Corpus.open(path)
        except HepfmError as error:
            raise HepfmError(
                f"its source files stand in the corpus it was made from, which is not there: {error}",
                corpus.path,
                "bring it back, or merge before tokenizing",
            ) from error
        if source.digest != tokens["source"]:
            raise HepfmError(f"was made from another corpus than {path} holds now", corpus.path)
        known = source.manifest.provenance.get("files")
    if known is None:
        raise HepfmError("does not say which source files it comes from", corpus.path, "merge before tokenizing")
    return list(known)


def _check_files(corpora: Sequence[Corpus], files: Sequence[Sequence[dict[str, Any]]]) -> None:
    """No file may be in two parents: its records would come twice, and might be in train and in test."""
    owner: dict[str, Corpus] = {}
    for corpus, listed in zip(corpora, files, strict=True):
        for file in listed:
            other = owner.setdefault(file["sha256"], corpus)
            if other is not corpus:
                raise HepfmError(
                    f"source file {file['name']} is in {other.path} too: its records would come twice",
                    corpus.path,
                    "merge corpora of different files",
                )


COLLISION = ("run", "lumi", "event")
SIMULATED_RUN = 1  # of CMS, in every sample, with events counted from the beginning in each


def check_collisions(corpora: Sequence[Corpus]) -> None:
    """No collision may be in two parents, even from different files: it might be in train and in test.

    Simulated ones, whose numbers come again in every sample, are the same if a jet's pt is the same, too.

    Raises:
        HepfmError: one is; names it.
    """
    seen: np.ndarray = np.zeros(0, np.uint64)
    for corpus in corpora:
        if not set(COLLISION) <= set(corpus.manifest.schema.names):
            continue
        numbers = np.concatenate(
            [_collision_numbers(block) for name in corpus.splits() for block in corpus.split(name)],
            axis=1,
        )
        numbers = numbers[:, numbers[0] > 0]  # there is no run 0: it stands where runs are not known
        keys = key(*numbers)
        again = np.isin(keys, seen)
        if again.any():
            run, lumi, event, _ = numbers[:, int(np.argmax(again))]
            raise HepfmError(
                f"run {run}, luminosity block {lumi}, event {event} is in another of the corpora too",
                corpus.path,
                "merge corpora of different collisions",
            )
        seen = np.union1d(seen, keys)


def _collision_numbers(block: pa.RecordBatch) -> np.ndarray:
    """Run, luminosity block, event, and for simulated jets the bits of their pt, else 0: (4, n) int64."""
    run, lumi, event = (values_of(block.column(name)).astype(np.int64) for name in COLLISION)
    pt = values_of(block.column("pt")) if "pt" in block.schema.names else np.zeros(len(block))
    bits = np.where(run == SIMULATED_RUN, pt.astype(np.float64).view(np.int64), 0)
    return np.stack([run, lumi, event, bits])


def meaning_of(corpora: Sequence[Corpus]) -> dict[str, Any]:
    """The settings of the parents' sources that say what a quantity means, so that they have to agree.

    Raises:
        HepfmError: they differ: constituents with and without their PUPPI weights are not the same thing.
    """
    known = [corpus.manifest.provenance.get("settings", {}).get("puppi") for corpus in corpora]
    told = {value: corpus for value, corpus in zip(known, corpora, strict=True) if value is not None}
    if len(told) > 1:
        (one, first), (other, second) = list(told.items())[:2]
        raise HepfmError(
            f"was built with --puppi {other}, {first.path} with --puppi {one}: their pt is not the same quantity",
            second.path,
            "build one of them again",
        )
    return {"puppi": next(iter(told))} if told else {}


def make_plan(
    corpora: Sequence[Corpus],
    files: Sequence[Sequence[dict[str, Any]]],
    schema: pa.Schema,
    labels: tuple[str, ...],
    common: bool,
    seed: int,
) -> Plan:
    """The merged corpus: blocks and shards as large as the parents' largest."""
    first = corpora[0].manifest
    block_records = max(corpus.manifest.block_records for corpus in corpora)
    shard_records = largest_shard(corpora)
    jobs = []
    for name in SPLITS:
        strands = tuple(
            Strand(number, name, corpus.manifest.splits[name].records)
            for number, corpus in enumerate(corpora)
            if name in corpus.manifest.splits
        )
        if strands:
            records = sum(strand.records for strand in strands)
            jobs += woven_jobs(Weaving(name, strands, records, expected=True), block_records, shard_records)
    sources = dict.fromkeys(str(corpus.manifest.provenance["source"]) for corpus in corpora if _named(corpus))
    return Plan(
        identity={"merge": [corpus.digest for corpus in corpora], "common": common, "seed": seed},
        jobs=tuple(jobs),
        kind=first.kind,
        schema=schema,
        labels=labels if "label" in schema.names else (),
        axis=first.axis,
        block_records=block_records,
        provenance={
            **({"source": " + ".join(sources)} if sources else {}),
            "settings": meaning_of(corpora),
            "files": [file for listed in files for file in listed],
            "parents": [
                {**lineage(corpus), "files": len(listed), "lacks": lacking(corpus, schema)}
                for corpus, listed in zip(corpora, files, strict=True)
            ],
            "command": f"hepfm corpus merge CORPORA --out MERGED --common {common} --seed {seed}",
        },
        geometry=first.geometry,
        tokens=tokens_alone(corpora[0]),
    )


def _named(corpus: Corpus) -> bool:
    return "source" in corpus.manifest.provenance


@dataclass(frozen=True)
class Fitted:
    """Brings the records of each parent under the united schema."""

    fits: tuple[Fit, ...]

    def __call__(self, batch: pa.RecordBatch, corpus: int, split: str, tally: Tally) -> pa.RecordBatch:
        return self.fits[corpus](batch)
