"""Labelled corpora as batches for the engine: inputs and classes of jets; which records are read, and how many."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch

from hepfm.core.draws import hashed_uniform, key_of
from hepfm.core.errors import HepfmError
from hepfm.core.records import values_of
from hepfm.ingest.corpus import Corpus, Split
from hepfm.ingest.held_out import check_held_out
from hepfm.ingest.mixture import Mixture
from hepfm.ingest.reader import Reader
from hepfm.ingest.reweight import Group, group_numbers

LABEL = "label"
TRAIN = "train"


class Inputs(Protocol):
    """What a network reads of jets: packed tensors, or what becomes such on the way to a device."""

    def to(self, device: torch.device | str) -> Any:
        """Packed tensors on a device."""
        ...


class InputReader(Protocol):
    """Makes inputs of records: features of particles, tokens for a pretrained backbone, ..."""

    @property
    def columns(self) -> list[str]:
        """Columns of records that it needs."""
        ...

    def check(self, corpus: Corpus) -> None:
        """Refuse a corpus that cannot provide them."""
        ...

    def read(self, batch: pa.RecordBatch, where: object, first: int = 0) -> Inputs:
        """Inputs of records, the first of which has this number in messages."""
        ...

    def contract(self) -> dict[str, Any]:
        """What an artifact says of them."""
        ...


@dataclass(frozen=True)
class LabelledJets:
    """Jets and their classes.

    Attributes:
        inputs: of the network.
        targets: (n,) int64, numbers of the classes; or float32, standardised quantities to be estimated.
        update: number (from 0) of the update that they are for.
    """

    inputs: Any
    targets: torch.Tensor
    update: int = 0

    def to(self, device: torch.device | str) -> LabelledJets:
        """The same jets on another device."""
        return LabelledJets(self.inputs.to(device), self.targets.to(device, non_blocking=True), self.update)


@dataclass(frozen=True)
class Classes:
    """The classes of a head, and which labels each takes.

    Attributes:
        names: in order.
        labels: label -> class; several labels may be one class.
    """

    names: tuple[str, ...]
    labels: Mapping[str, str]

    @classmethod
    def of(cls, labels: Mapping[str, str]) -> Classes:
        """Classes in the order in which they first come."""
        return cls(tuple(dict.fromkeys(labels.values())), labels)

    @property
    def groups(self) -> tuple[Group, ...]:
        """One group of labels a class, as corpora count them."""
        return tuple(
            Group(name, 1.0, tuple(label for label, own in self.labels.items() if own == name)) for name in self.names
        )

    def numbers(self, batch: pa.RecordBatch) -> np.ndarray:
        """Class (n,) int64 of each record; -1 for another label or none."""
        return group_numbers(batch, self.groups)


class LabelledBatches:
    """Batches of labelled records in reading order (the engine's ``Batches``); a jet is one term of the loss.

    Args:
        reader: of records that all have one of the labels.
        classes: of the labels.
        inputs: what is read of a record.
        batch_records: records of an update.
    """

    def __init__(self, reader: Reader, classes: Classes, inputs: InputReader, batch_records: int = 1) -> None:
        self.reader, self.inputs, self.batch_records = reader, inputs, batch_records
        self.names = ", ".join(str(split.corpus.path) for split in reader.splits)
        table = {label: classes.names.index(name) for label, name in classes.labels.items()}
        self.table = np.array([*(table.get(label, -1) for label in reader.labels), -1], dtype=np.int64)

    def batch(self, start: int, stop: int) -> LabelledJets:
        """Records [start, stop) of the reading order."""
        records = self.reader.take(start, stop).batch
        targets = self.table[values_of(records.column(LABEL))]
        inputs = self.inputs.read(records, self.names, start)
        return LabelledJets(inputs, torch.from_numpy(targets), start // self.batch_records)

    def tokens(self, start: int, stop: int) -> int:
        """Jets."""
        return stop - start


@dataclass(frozen=True)
class LabelledCorpora:
    """Corpora of labelled jets, or one mixture of them.

    Attributes:
        corpora: as opened.
        mixture: how often each record comes, if a mixture was named.
    """

    corpora: tuple[Corpus, ...]
    mixture: Mixture | None = None

    @classmethod
    def open(cls, paths: Sequence[Path], labelled: bool = True) -> LabelledCorpora:
        """Open corpora, or the one mixture file that stands for them; ``labelled``: they must have labels.

        Raises:
            HepfmError: none given, records without labels where they must have some, one that holds out what
                another trains on, or a mixture beside others.
        """
        if not paths:
            raise HepfmError("no corpus given", "", "name one or several")
        files = [path for path in paths if path.is_file() or path.suffix == ".json"]
        if files and len(paths) > 1:
            raise HepfmError("a mixture stands alone", files[0], "name all corpora in it: hepfm corpus mix")
        mixture = Mixture.open(files[0]) if files else None
        corpora = mixture.corpora if mixture else tuple(Corpus.open(path) for path in paths)
        for corpus in corpora:
            if labelled and (LABEL not in corpus.manifest.schema.names or not corpus.manifest.labels):
                raise HepfmError("its records have no labels", corpus.path, "name a corpus of labelled jets")
        if not mixture:
            check_held_out(corpora, [()] * len(corpora))
        return cls(corpora, mixture)

    @property
    def labels(self) -> tuple[str, ...]:
        """Label names of all corpora, in order."""
        return tuple(dict.fromkeys(name for corpus in self.corpora for name in corpus.manifest.labels))

    @property
    def digests(self) -> list[str]:
        """What names the content of each corpus, and of the mixture if there is one."""
        return [corpus.digest for corpus in self.corpora] + ([self.mixture.digest] if self.mixture else [])

    def classes(self, labels: Sequence[str] = (), merged: Mapping[str, str] | None = None) -> Classes:
        """The classes to be told apart, all of which training has.

        Args:
            labels: to use, in this order; all by default.
            merged: class of each label; by default each label is its own.

        Raises:
            HepfmError: a label that no corpus has, fewer than two classes, or a class without training records.
        """
        where = ", ".join(str(corpus.path) for corpus in self.corpora)
        for label in labels:
            if label not in self.labels:
                raise HepfmError(
                    f"no record can have the label '{label}'", where, f"there is: {', '.join(self.labels)}"
                )
        chosen = list(dict.fromkeys(labels)) or list(self.labels)
        for label in chosen:
            if merged is not None and label not in merged:
                raise HepfmError(
                    f"has the label '{label}', which the set of classes does not know",
                    where,
                    "leave --ladder out (its sets are of JetClass-II's labels), or choose --labels",
                )
        made = Classes.of({label: label if merged is None else merged[label] for label in chosen})
        counts = self.counts(TRAIN, made)
        absent = [name for name, count in zip(made.names, counts, strict=True) if not count]
        if absent:
            present = [label for label in chosen if label not in absent and made.labels[label] not in absent]
            listed = ", ".join(f"'{name}'" for name in absent[:4]) + (", ..." if len(absent) > 4 else "")
            mend = f"--labels {' '.join(present)}" if len(present) <= 12 else "name those that it has: --labels"
            raise HepfmError(f"has no training record of class {listed}", where, mend)
        if len(made.names) < 2:
            raise HepfmError(f"has one class only ({made.names[0]})", where, "two are needed to tell anything apart")
        return made

    def counts(self, split: str, classes: Classes) -> list[int]:
        """Records of each class in a split, by the manifests."""
        groups = classes.groups
        return [
            sum(
                corpus.manifest.splits[split].labels.get(label, 0)
                for corpus in self.corpora
                if split in corpus.splits()
                for label in group.labels
            )
            for group in groups
        ]

    def splits(self, name: str) -> list[Split]:
        """The splits of this name, of the corpora that have it."""
        return [corpus.split(name) for corpus in self.corpora if name in corpus.splits()]

    def weights(self, name: str, splits: Sequence[Split]) -> np.ndarray | None:
        """How often each record (n,) of the splits of this name comes; None: each once."""
        weights = self.mixture.weights(name) if self.mixture else None
        if weights is not None and len(weights) == len(splits):
            weights = np.repeat(weights, [part.records for part in splits])
        return weights

    def batches(
        self, split: str, classes: Classes, inputs: InputReader, seed: int, jets: int = 0, batch_records: int = 1
    ) -> LabelledBatches | None:
        """The batches of a split; None where no corpus has it.

        Args:
            split: which.
            classes: records of other labels are not read.
            inputs: what is read of a record.
            seed: of the order, and of the choice of jets.
            jets: how many different ones are used, the same number of each class; 0 for all. More jets include
                those that fewer of the same seed are.
            batch_records: records of an update.

        Raises:
            HepfmError: fewer records of a class than are asked for, or a mixture that leaves none.
        """
        splits = self.splits(split)
        if not splits:
            return None
        weights = self.weights(split, splits)
        records = sum(part.records for part in splits)
        if jets or sum(self.counts(split, classes)) < records:
            numbers = np.concatenate([classes.numbers(block) for part in splits for block in part])
            wanted = numbers >= 0
            if jets:
                wanted = _chosen(
                    numbers, wanted if weights is None else wanted & (weights > 0), classes, jets, seed, splits
                )
            weights = wanted.astype(np.float32) if weights is None else np.where(wanted, weights, np.float32(0))
        if weights is not None and not weights.any():
            where = ", ".join(str(part.corpus.path) for part in splits)
            raise HepfmError(f"no record of split '{split}' has one of the labels", where, "choose other --labels")
        reader = Reader(splits, seed, [*inputs.columns, LABEL], weights=weights)
        return LabelledBatches(reader, classes, inputs, batch_records)


def _chosen(
    numbers: np.ndarray, usable: np.ndarray, classes: Classes, jets: int, seed: int, splits: Sequence[Split]
) -> np.ndarray:
    """Which records (n,) bool are among ``jets`` of them, drawn by record: the same number of each class."""
    where = ", ".join(str(part.corpus.path) for part in splits)
    if jets < len(classes.names):
        told = f"{jets} of {len(classes.names)} classes leave '{classes.names[jets]}' without a training record"
        raise HepfmError(told, "--jets", f"at least {len(classes.names)}")
    each, over = divmod(jets, len(classes.names))
    draws = hashed_uniform(
        key_of("labelled jets", *(part.corpus.digest for part in splits), seed), np.arange(len(numbers))
    )
    chosen = np.zeros(len(numbers), dtype=bool)
    for number, name in enumerate(classes.names):
        own = np.flatnonzero(usable & (numbers == number))
        count = each + (number < over)
        if len(own) < count:
            raise HepfmError(
                f"has {len(own):,} records of class '{name}', {count:,} are asked for", where, "ask for fewer"
            )
        chosen[own[np.argsort(draws[own], kind="stable")[:count]]] = True
    return chosen
