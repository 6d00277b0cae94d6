"""Token corpora as batches for the engine: packed inputs and targets, and what is cut, counted beforehand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch

from hepfm.core.artifacts import Artifact, read_artifact
from hepfm.core.errors import HepfmError
from hepfm.core.nn.ragged import Layout
from hepfm.core.progress import progress
from hepfm.core.records import offsets_of, values_of
from hepfm.ingest.corpus import Corpus, Split
from hepfm.ingest.held_out import check_held_out
from hepfm.ingest.mixture import Mixture
from hepfm.ingest.order import Order
from hepfm.ingest.reader import Reader

COLUMN = "tokens"
LABEL = "label"

# Gives the features (C, F) float32 of records by their keys (n, 2), codes (C,) and offsets (n + 1,).
FeatureSource = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


@dataclass(frozen=True)
class TokenBatch:
    """Sequences of token ids, packed.

    Attributes:
        inputs: (T,) int64, what is read.
        targets: (T,) int64, what comes next.
        layout: which token belongs to which sequence.
        keys: (n, 2) int64, epoch and record of each sequence, what draws are keyed by; stays on the CPU.
        labels: (n,) int64, class of each, -1 where unknown; if asked for.
        features: (C, F) float32, columns of the tokenizer's contract of the constituents that are kept; if asked for.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    layout: Layout
    keys: np.ndarray | None = None
    labels: torch.Tensor | None = None
    features: torch.Tensor | None = None

    def to(self, device: torch.device | str) -> TokenBatch:
        """The same batch on another device."""
        names = [name for name in ("inputs", "targets", "labels", "features") if getattr(self, name) is not None]
        parts = {name: getattr(self, name).to(device, non_blocking=True) for name in names}
        return replace(self, **parts, layout=self.layout.to(device))


def terms(lengths: np.ndarray, max_length: int) -> np.ndarray:
    """Terms of the loss (n,) of jets with so many constituents: one each and one for the stop.

    A jet with more than ``max_length`` constituents keeps its leading ``max_length`` and has no stop, because it
    does not stop there.
    """
    return np.where(lengths > max_length, max_length, lengths + 1)


def pack(codes: np.ndarray, offsets: np.ndarray, vocabulary_codes: int, max_length: int) -> TokenBatch:
    """Inputs [start, c1, ..., cn] and targets [c1, ..., cn, stop] of jets with codes c1..cn.

    Args:
        codes: (N,) codes of all jets, one after another.
        offsets: (n + 1,) jet i owns ``codes[offsets[i]:offsets[i + 1]]``.
        vocabulary_codes: number of codes; start and stop come after them.
        max_length: constituents that are kept of a jet, see :func:`terms`.
    """
    start, stop = vocabulary_codes, vocabulary_codes + 1
    lengths = np.diff(offsets)
    kept = terms(lengths, max_length)
    layout = Layout.of(kept)
    position = layout.positions.numpy()
    source = np.repeat(offsets[:-1], kept) + position  # index of the code that is this token's target
    padded = np.append(codes.astype(np.int64), stop)
    targets = np.where(position < np.repeat(lengths, kept), padded[np.minimum(source, len(codes))], stop)
    inputs = np.where(position == 0, start, padded[np.maximum(source - 1, 0)])
    return TokenBatch(torch.from_numpy(inputs), torch.from_numpy(targets), layout)


class TokenBatches:
    """Batches of token corpora, in reading order (the engine's ``Batches``).

    Args:
        reader: of token records.
        codes: codes of the tokenizer.
        max_length: constituents that are kept of a jet, see :func:`terms`.
        features: what gives the constituents' continuous features, if they are wanted.
    """

    def __init__(self, reader: Reader, codes: int, max_length: int, features: FeatureSource | None = None) -> None:
        self.reader, self.codes, self.max_length, self.features = reader, codes, max_length, features

    def batch(self, start: int, stop: int) -> TokenBatch:
        """Records [start, stop) of the reading order.

        Raises:
            HepfmError: a token that the tokenizer does not have; names the record.
        """
        taken = self.reader.take(start, stop)
        column = taken.batch.column(COLUMN)
        codes, offsets = column.flatten().to_numpy(), offsets_of(column)
        if len(codes) and int(codes.max()) >= self.codes:
            record = int(np.searchsorted(offsets, int(codes.argmax()), side="right")) - 1
            raise HepfmError(
                f"record {int(taken.keys[record, 1])} has token {int(codes.max())}, its tokenizer {self.codes} codes",
                ", ".join(str(split.corpus.path) for split in self.reader.splits),
                "make the token corpus again",
            )
        packed = replace(pack(codes, offsets, self.codes, self.max_length), keys=taken.keys)
        if LABEL in taken.batch.schema.names:
            packed = replace(packed, labels=torch.from_numpy(values_of(taken.batch.column(LABEL)).astype(np.int64)))
        if self.features is not None:
            layout = Layout.of(np.diff(offsets))
            kept = layout.positions < self.max_length
            packed = replace(packed, features=torch.from_numpy(self.features(taken.keys, codes, offsets))[kept])
        return packed

    def lengths(self, start: int, stop: int) -> np.ndarray:
        """Constituents (n,) that records [start, stop) have."""
        return self.reader.lengths(start, stop)

    def tokens(self, start: int, stop: int) -> int:
        """Terms of the loss in records [start, stop)."""
        return int(terms(self.reader.lengths(start, stop), self.max_length).sum())


@dataclass(frozen=True)
class TokenCorpora:
    """One or several token corpora of one tokenizer.

    Attributes:
        corpora: as opened.
        codes: codes of the tokenizer.
        tokenizer: its artifact, the copy inside the first corpus.
        mixture: how often each record comes, if a mixture was named.
    """

    corpora: tuple[Corpus, ...]
    codes: int
    tokenizer: Artifact
    mixture: Mixture | None = None

    @classmethod
    def open(cls, paths: Sequence[Path]) -> TokenCorpora:
        """Open token corpora, or the one mixture file that stands for them.

        Raises:
            HepfmError: none given, one that holds no tokens, two of different tokenizers, one that holds out what
                another trains on, or a mixture beside others.
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
        first = made[0]["tokenizer"]
        for corpus, entry in zip(corpora, made, strict=True):
            if entry["tokenizer"] != first:
                raise HepfmError(
                    f"was made by tokenizer {entry['tokenizer'][:12]}, {corpora[0].path} by {first[:12]}",
                    corpus.path,
                    "apply one tokenizer to all corpora",
                )
        if not mixture:  # which was looked at when it was defined
            check_held_out(corpora, [()] * len(corpora))
        tokenizer = read_artifact(corpora[0].path / "tokenizer", "tokenizer")
        if tokenizer.hash != first:
            raise HepfmError(
                f"is tokenizer {tokenizer.hash[:12]}, the corpus was made by {first[:12]}",
                tokenizer.path,
                "restore the corpus from a copy",
            )
        return cls(corpora, int(made[0]["codes"]), tokenizer, mixture)

    def batches(
        self,
        split: str,
        max_length: int,
        seed: int,
        labels: bool = False,
        features: Callable[[Sequence[Split]], FeatureSource] | None = None,
    ) -> TokenBatches:
        """The batches of a split of all corpora that have it; weighted if it is a mixture's training split.

        Args:
            split: its name.
            max_length: constituents that are kept of a jet.
            seed: of the order.
            labels: whether batches have labels.
            features: makes, of the splits, what gives the continuous features; None for batches without.

        Raises:
            HepfmError: no corpus has it, or labels are wanted and one has none.
        """
        columns = [COLUMN, LABEL] if labels else [COLUMN]
        for corpus in self.corpora if labels else ():
            if LABEL not in corpus.manifest.schema.names:
                raise HepfmError("has no labels", corpus.path, "build it from a source with labels, or set no --probe")
        splits = [corpus.split(split) for corpus in self.corpora if split in corpus.splits()]
        if not splits:
            raise HepfmError(f"no corpus has a split '{split}'", ", ".join(str(c.path) for c in self.corpora))
        reader = self.mixture.reader(split, seed, columns) if self.mixture else Reader(splits, seed, columns)
        return TokenBatches(reader, self.codes, max_length, features and features(reader.splits))

    @property
    def digests(self) -> list[str]:
        """What names the content of each corpus, and of the mixture if there is one."""
        return [corpus.digest for corpus in self.corpora] + ([self.mixture.digest] if self.mixture else [])


def _tokens_entry(corpus: Corpus) -> dict[str, str]:
    if corpus.manifest.kind != "tokens" or corpus.manifest.tokens is None:
        raise HepfmError(
            f"holds {corpus.manifest.kind}, not tokens",
            corpus.path,
            "make a token corpus of it first: hepfm tokenizer apply TOKENIZER CORPUS --out TOKENS",
        )
    streams = corpus.manifest.tokens.get("streams")
    if streams:
        raise HepfmError(
            f"has {len(streams)} ids a point ({', '.join(streams)}), a backbone reads one",
            corpus.path,
            "apply a tokenizer with one id list",
        )
    return corpus.manifest.tokens


def length_counts(reader: Reader) -> np.ndarray:
    """How many records of an epoch have 0, 1, 2, ... constituents, on average where they are weighted.

    Reads offsets only.
    """
    counts = np.zeros(1)
    blocks = sum(len(split) for split in reader.splits)
    number = 0
    with progress("count constituents", blocks, "blocks", visible=blocks > 1000) as task:
        for split in reader.splits:
            for block in split:
                counts = _added(counts, np.bincount(_lengths(block), _weights(reader.order, number)))
                number += 1
                task.advance()
    return counts


def _lengths(block: pa.RecordBatch) -> np.ndarray:
    return np.diff(offsets_of(block.column(COLUMN)))


def _weights(order: Order, block: int) -> np.ndarray:
    """How often each record of a block comes in an epoch on average."""
    first, stop = order.block_starts[block : block + 2].tolist()
    if order.weights is None:
        return np.ones(stop - first)
    of_records = len(order.weights) == order.records
    return order.weights[first:stop] if of_records else np.full(stop - first, order.weights[block])


def _added(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    longer, shorter = (first, second) if len(first) >= len(second) else (second, first)
    total = longer.copy()
    total[: len(shorter)] += shorter
    return total


def length_statistics(counts: np.ndarray, max_length: int) -> dict[str, float]:
    """Statistics of constituents per jet, and what ``max_length`` cuts.

    Returns:
        ``jets`` of an epoch, ``mean``, ``std``, ``longest``; ``cut_jets`` and ``cut_constituents``; ``terms`` of the
        loss in an epoch; ``mean_sequence``, the mean over terms of the length of the sequence that a term is in.
    """
    lengths = np.arange(len(counts))
    jets = float(counts.sum())
    mean = float((counts * lengths).sum() / jets)
    sequences = terms(lengths, max_length)
    total = float((counts * sequences).sum())
    return {
        "jets": round(jets),
        "mean": mean,
        "std": float(np.sqrt((counts * (lengths - mean) ** 2).sum() / jets)),
        "longest": int(lengths[counts > 0].max()),
        "cut_jets": round(float(counts[lengths > max_length].sum())),
        "cut_constituents": round(float((counts * np.maximum(lengths - max_length, 0)).sum())),
        "terms": round(total),
        "mean_sequence": float((counts * sequences**2).sum() / total),
    }
