"""Token corpora that a backbone is trained on: one tokenizer or several side by side, weights, source corpora."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from hepfm.core.artifacts import Artifact, read_artifact
from hepfm.core.errors import HepfmError
from hepfm.core.records import LABEL_TYPE
from hepfm.ingest.corpus import Corpus, Split
from hepfm.ingest.held_out import check_held_out
from hepfm.ingest.mixture import Mixture
from hepfm.ingest.reader import Reader
from hepfm.pretrain.batches import (
    COLUMN,
    LABEL,
    FeatureSource,
    IdRange,
    TokenBatch,
    TokenBatches,
    pack,
    terms,
)
from hepfm.pretrain.condition_columns import ConditionColumns
from hepfm.pretrain.conditions import Condition
from hepfm.pretrain.lengths import length_counts, length_statistics
from hepfm.pretrain.stream_batches import StreamBatches, streams_of
from hepfm.pretrain.streams import Streams
from hepfm.tokenize.registry import load_tokenizer
from hepfm.tokenize.tokens import CONTINUOUS

__all__ = [
    "COLUMN",
    "LABEL",
    "FeatureSource",
    "TokenBatch",
    "TokenBatches",
    "TokenCorpora",
    "length_counts",
    "length_statistics",
    "pack",
    "terms",
]

VocabularyName = Literal["one", "joined"]


@dataclass(frozen=True)
class TokenCorpora:
    """One or several token corpora.

    Attributes:
        corpora: as opened.
        tokenizers: artifacts of their tokenizers, each once: the copies inside the corpora.
        ranges: of each corpus, its tokenizer's ids in the vocabulary: tokenizers stand one after another.
        names: what each corpus is called as a data set: its folder's name.
        codes: codes of the vocabulary: of all tokenizers together.
        mixture: how often each record comes, if a mixture was named.
        streams: what a point is made of where it is several ids, and a number perhaps.
    """

    corpora: tuple[Corpus, ...]
    tokenizers: tuple[Artifact, ...]
    ranges: tuple[IdRange, ...]
    names: tuple[str, ...]
    codes: int
    mixture: Mixture | None = None
    streams: Streams | None = None

    @classmethod
    def open(cls, paths: Sequence[Path], vocabulary: VocabularyName = "one") -> TokenCorpora:
        """Open token corpora, or the one mixture file that stands for them.

        Args:
            paths: token corpora, or a mixture.
            vocabulary: ``one``: all are of one tokenizer; ``joined``: those of several tokenizers stand side by side.

        Raises:
            HepfmError: none given, one that holds no tokens, one given twice, two of different tokenizers, one that
                holds out what another trains on, or a mixture beside others.
        """
        if not paths:
            raise HepfmError("no token corpus given", "", "name one or several")
        files = [path for path in paths if path.is_file() or path.suffix == ".json"]
        if files and len(paths) > 1:
            raise HepfmError(
                "a mixture stands alone", files[0], "name all corpora in it: hepfm corpus mix, or give no mixture"
            )
        mixture = Mixture.open(files[0]) if files else None
        corpora = mixture.corpora if mixture else tuple(Corpus.open(path) for path in paths)
        made = [_tokens_entry(corpus) for corpus in corpora]
        if not mixture:  # which was looked at when it was defined
            _check_different(corpora)
            check_held_out(corpora, [()] * len(corpora))
        hashes = list(dict.fromkeys(str(entry["tokenizer"]) for entry in made))
        if len(hashes) > 1 and vocabulary == "one":
            other = next(n for n, entry in enumerate(made) if entry["tokenizer"] != hashes[0])
            raise HepfmError(
                f"was made by tokenizer {hashes[1][:12]}, {corpora[0].path} by {hashes[0][:12]}",
                corpora[other].path,
                "apply one tokenizer to all corpora, or read them side by side: --vocabulary joined",
            )
        owners = [next(n for n, entry in enumerate(made) if entry["tokenizer"] == known) for known in hashes]
        tokenizers = tuple(_tokenizer(corpora[n], hash) for n, hash in zip(owners, hashes, strict=True))
        first, ranges = 0, {}
        for hash, owner in zip(hashes, owners, strict=True):
            ranges[hash] = IdRange(first, int(made[owner]["codes"]))
            first += ranges[hash].codes
        own = tuple(ranges[entry["tokenizer"]] for entry in made)
        return cls(corpora, tokenizers, own, _names(corpora), first, mixture, streams_of(corpora))

    @property
    def tokenizer(self) -> Artifact:
        """The tokenizer; the first where there are several."""
        return self.tokenizers[0]

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that hold what points are made of."""
        if self.streams is None:
            return (COLUMN,)
        return (*self.streams.names, *([CONTINUOUS] if self.streams.number else []))

    @property
    def kind(self) -> Literal["jets", "showers", "records"]:
        """What all corpora were made from; ``records`` where these are jets and showers."""
        of_jets = any(tokenizer.contract.get("kind") != "showers" for tokenizer in self.tokenizers)
        of_showers = any(tokenizer.contract.get("kind") == "showers" for tokenizer in self.tokenizers)
        return "records" if of_jets and of_showers else "showers" if of_showers else "jets"

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the classes in all corpora: what labels of batches are indices of."""
        return tuple(dict.fromkeys(name for corpus in self.corpora for name in corpus.manifest.labels))

    def reader(self, split: str, seed: int, columns: Sequence[str] = (COLUMN,)) -> Reader:
        """Records of a split of all corpora that have it; weighted if it is a mixture's training split.

        A column that a corpus lacks is null in its records.

        Raises:
            HepfmError: no corpus has the split.
        """
        schema = self._schema(columns)
        if self.mixture:
            return self.mixture.reader(split, seed, schema=schema)
        splits = [corpus.split(split) for corpus in self._with(split)]
        if not splits:
            raise HepfmError(f"no corpus has a split '{split}'", ", ".join(str(c.path) for c in self.corpora))
        return Reader(splits, seed, schema=schema)

    def batches(
        self,
        split: str,
        max_length: int,
        seed: int,
        labels: bool = False,
        features: Callable[[Sequence[Split]], FeatureSource] | None = None,
        conditions: Sequence[Condition] = (),
        dropout: float = 0.0,
        streams: Streams | None = None,
    ) -> TokenBatches:
        """The batches of a split of all corpora that have it; weighted if it is a mixture's training split.

        Args:
            split: its name.
            max_length: constituents that are kept of a jet.
            seed: of the order, and of what is left unknown.
            labels: whether batches have labels.
            features: makes, of the splits, what gives the continuous features; None for batches without.
            conditions: what the backbone is told of each record.
            dropout: how often a condition is left unknown, see
                :class:`hepfm.pretrain.condition_columns.ConditionColumns`.
            streams: those of the backbone, where a point has several; by default as the corpora have them.

        Raises:
            HepfmError: no corpus has the split, labels are wanted and none has them, or features of several tokenizers.
        """
        columns = dict.fromkeys([*self.columns, *(known.column for known in conditions if known.column)])
        if labels and not self.labels:
            raise HepfmError(
                "has no labels", ", ".join(str(corpus.path) for corpus in self.corpora), "leave --probe out"
            )
        if features and len(self.tokenizers) > 1:
            raise HepfmError(
                "continuous features are those of one tokenizer", self.corpora[0].path, "leave out --vocabulary joined"
            )
        reader = self.reader(split, seed, tuple(columns | ({LABEL: None} if labels else {})))
        number = {corpus.digest: n for n, corpus in enumerate(self.corpora)}
        here = [number[part.corpus.digest] for part in reader.splits]
        names = [self.names[n] for n in here]
        told = ConditionColumns(reader, conditions, names, dropout, seed) if conditions else None
        if self.streams:
            return StreamBatches(reader, streams or self.streams, max_length, told)
        own = [self.ranges[n] for n in here]
        return TokenBatches(reader, self.codes, max_length, features and features(reader.splits), own, told)

    def _with(self, split: str) -> list[Corpus]:
        return [corpus for corpus in self.corpora if split in corpus.splits()]

    def _schema(self, columns: Sequence[str]) -> pa.Schema:
        """The columns with the widest type of any corpus."""
        fields = []
        for name in columns:
            known = [c.manifest.schema.field(name) for c in self.corpora if name in c.manifest.schema.names]
            if name == "label":
                fields.append(pa.field("label", LABEL_TYPE))
                continue
            absent = [] if known else [pa.field(name, pa.float32())]
            fields.append(max(known + absent, key=lambda found: _bits(found.type)))
        return pa.schema(fields, metadata={"kind": "tokens"})

    def in_vocabulary_of(self, tokenizers: Sequence[tuple[Artifact, IdRange]]) -> TokenCorpora:
        """The same corpora in the vocabulary of a backbone that reads these tokenizers.

        Raises:
            HepfmError: a corpus was made by none of them.
        """
        ranges = {tokenizer.hash: ids for tokenizer, ids in tokenizers}
        made = [str(_tokens_entry(corpus)["tokenizer"]) for corpus in self.corpora]
        for corpus, hash in zip(self.corpora, made, strict=True):
            if hash not in ranges:
                raise HepfmError(
                    f"was made by tokenizer {hash[:12]}, the backbone reads tokenizer "
                    f"{' and '.join(known[:12] for known in ranges)}",
                    corpus.path,
                    f"apply the backbone's to its source: hepfm tokenizer apply {tokenizers[0][0].path} ...",
                )
        codes = max(ids.first + ids.codes for ids in ranges.values())
        own = tuple(ranges[hash] for hash in made)
        return replace(self, tokenizers=tuple(known for known, _ in tokenizers), ranges=own, codes=codes)

    def data_sets(self) -> list[dict[str, Any]]:
        """Of each corpus what generation has to know: name, tokenizer and its ids, labels, geometry."""
        entries = {}
        places = {tokenizer.hash: place for place, tokenizer in enumerate(self.tokenizers, 1)}
        for corpus, name, ids in zip(self.corpora, self.names, self.ranges, strict=True):
            place = places[str((corpus.manifest.tokens or {})["tokenizer"])]
            entries[name] = {
                "name": name,
                "tokenizer": "tokenizer" if place == 1 else f"tokenizer_{place}",
                "first": ids.first,
                "codes": ids.codes,
                "geometry": corpus.manifest.geometry,
            }
        return list(entries.values())

    @property
    def digests(self) -> list[str]:
        """What names the content of each corpus, and of the mixture if there is one."""
        return [corpus.digest for corpus in self.corpora] + ([self.mixture.digest] if self.mixture else [])


def _check_different(corpora: Sequence[Corpus]) -> None:
    seen: dict[str, Corpus] = {}
    for corpus in corpora:
        if corpus.digest in seen:
            raise HepfmError(
                f"holds the same records as {seen[corpus.digest].path}",
                corpus.path,
                "name it once; hepfm corpus mix gives it more weight",
            )
        seen[corpus.digest] = corpus


def _bits(kind: pa.DataType) -> int:
    inner = kind.value_type if pa.types.is_list(kind) else kind
    return int(inner.bit_width)


def _names(corpora: Sequence[Corpus]) -> tuple[str, ...]:
    """The corpora's folders by name; with a number where two have the same."""
    names: dict[str, str] = {}
    for corpus in corpora:
        name, again = corpus.path.name, 2
        while name in names.values() and corpus.digest not in names:
            name, again = f"{corpus.path.name}-{again}", again + 1
        names.setdefault(corpus.digest, name)
    return tuple(names[corpus.digest] for corpus in corpora)


def _tokenizer(corpus: Corpus, hash: str) -> Artifact:
    tokenizer = read_artifact(corpus.path / "tokenizer", "tokenizer")
    if tokenizer.hash != hash:
        raise HepfmError(
            f"is tokenizer {tokenizer.hash[:12]}, the corpus was made by {hash[:12]}",
            tokenizer.path,
            "restore the corpus from a copy",
        )
    return tokenizer


def _tokens_entry(corpus: Corpus) -> dict[str, Any]:
    if corpus.manifest.kind != "tokens" or corpus.manifest.tokens is None:
        raise HepfmError(
            f"holds {corpus.manifest.kind}, not tokens",
            corpus.path,
            "make a token corpus of it first: hepfm tokenizer apply TOKENIZER CORPUS --out TOKENS",
        )
    return corpus.manifest.tokens


def vocabulary_of(artifact: Artifact, codes: int) -> list[tuple[Artifact, IdRange]]:
    """The tokenizers that a backbone of so many codes carries, each with its ids: they stand one after another."""
    numbered = map("tokenizer_{}".format, itertools.count(2))
    further = itertools.takewhile(lambda name: artifact.inner(name).is_dir(), numbered)
    paths = [artifact.inner(name) for name in ("tokenizer", *further)]
    sizes = [load_tokenizer(path).codes for path in paths] if len(paths) > 1 else [codes]
    firsts = [0, *itertools.accumulate(sizes[:-1])]
    ranges = map(IdRange, firsts, sizes)
    return [(read_artifact(path, "tokenizer"), ids) for path, ids in zip(paths, ranges, strict=True)]
