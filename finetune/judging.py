"""What every tagger can do, whatever it is made of: score the jets of a corpus, and be asked for any discriminant."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from hepfm.core.errors import HepfmError
from hepfm.core.progress import progress
from hepfm.finetune.labelled import LABEL, Classes
from hepfm.finetune.sophon import discriminant
from hepfm.finetune.tagging_metrics import Scored
from hepfm.ingest.corpus import Corpus, Split

KIND = "tagger"
MEND = "get the artifact again"


class Judge(ABC):
    """A tagger.

    Attributes:
        classes: of its scores, in order.
        labels: the corpus labels that each class takes (label -> class).
    """

    classes: tuple[str, ...]
    labels: dict[str, str]

    @abstractmethod
    def scores(self, records: pa.RecordBatch, where: object = "records") -> np.ndarray:
        """Probabilities (n, classes) of jet records."""

    @abstractmethod
    def check(self, corpus: Corpus) -> None:
        """Refuse a corpus that cannot provide what this tagger reads."""

    def __call__(self, signal: str | Sequence[str], against: str | Sequence[str]) -> Callable[[np.ndarray], np.ndarray]:
        """A discriminant of scores (n, classes): ``tagger("X_bb", against="QCD")(tagger.scores(records))``.

        Raises:
            HepfmError: a label or group that this head does not know.
        """
        discriminant(np.ones((1, len(self.classes))), self.classes, signal, against)  # the names are looked at now
        return lambda scores: discriminant(scores, self.classes, signal, against)

    def judge(self, split: Split, limit: int = 0) -> Scored:
        """Scores and classes of the jets of a split whose label is one of this tagger's.

        Args:
            split: whose blocks mix all classes, as in every corpus.
            limit: judge the first so many jets; 0 for all.

        Raises:
            HepfmError: a corpus that lacks a feature, or none of whose labels this head knows.
        """
        corpus = split.corpus
        self.check(corpus)
        self.check_labels(corpus)
        classes = Classes(self.classes, self.labels)
        scores, truth, left = [], [], limit or split.records
        with progress(f"judge {split.name}", min(left, split.records), "jets") as task:
            for block in split:
                numbers = classes.numbers(block)
                known = np.flatnonzero(numbers >= 0)[:left]
                left -= len(known)
                if len(known):
                    scores.append(self.scores(block.take(pa.array(known)), corpus.path))
                    truth.append(numbers[known])
                task.advance(len(known))
                if left <= 0:
                    break
        if not scores:
            raise HepfmError(f"its split '{split.name}' has no jet of a class that this head knows", corpus.path)
        return Scored(np.concatenate(scores), np.concatenate(truth), self.classes)

    def check_labels(self, corpus: Corpus) -> None:
        """Refuse a corpus with labels that this head does not know.

        Raises:
            HepfmError: names the first.
        """
        if LABEL not in corpus.manifest.schema.names:
            raise HepfmError("its records have no labels", corpus.path, "name a corpus of labelled jets")
        counted = {label for entry in corpus.manifest.splits.values() for label, count in entry.labels.items() if count}
        unknown = sorted(counted - self.labels.keys())
        if unknown:
            raise HepfmError(
                f"has jets of label '{unknown[0]}', which this head does not know",
                corpus.path,
                f"it knows {', '.join(list(self.labels)[:12])}; leave the others out: hepfm corpus filter",
            )
