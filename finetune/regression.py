"""Regression: a quantity of each record (a jet's mass, a shower's incident energy), by the networks of taggers."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch

from hepfm.core.artifacts import Artifact, read_artifact
from hepfm.core.config import from_dict
from hepfm.core.draws import hashed_uniform, key_of
from hepfm.core.errors import HepfmError
from hepfm.core.progress import progress
from hepfm.core.records import values_of
from hepfm.core.resolve import resolve
from hepfm.core.statistics import REPLICAS, Estimate, Values, quantiles_replicated
from hepfm.finetune.judging import MEND
from hepfm.finetune.labelled import TRAIN, InputReader, LabelledCorpora, LabelledJets
from hepfm.finetune.tagger import Features, about_axis_of, load_network, outputs, save_network
from hepfm.ingest.corpus import Corpus, Split
from hepfm.ingest.reader import Reader
from hepfm.pretrain.conditions import transformed
from hepfm.pretrain.survey import NUMBERS
from hepfm.tokenize.contract import unit_of

KIND = "regressor"
QUOTIENTS = {"pt_correction": ("pt", "pt_constituents")}
CENTRAL = (0.158655, 0.841345)  # the central 68.27%: one standard deviation of a Gaussian on either side
SMALLEST_STD = 1e-9


@dataclass(frozen=True)
class Target:
    """A quantity of records, and what training made of it.

    Attributes:
        name: what users call it: ``jet_mass``, ``softdrop_mass``, ``incident_energy``, ``pt_correction``, ...
        column: of the records.
        over: column that it is divided by; empty for none.
        unit: of it.
        transform: of a value x before it is standardised: ``signed_log``, sign(x) ln(1 + abs(x)), or ``identity``.
        mean, std: of the transformed values in training.
        low, high: range in training.
    """

    name: str
    column: str
    over: str = ""
    unit: str = "1"
    transform: Literal["identity", "signed_log"] = "identity"
    mean: float = 0.0
    std: float = 1.0
    low: float = 0.0
    high: float = 0.0

    @classmethod
    def of(cls, name: str, corpora: Sequence[Corpus]) -> Target:
        """The quantity of this name: one of :data:`hepfm.pretrain.survey.NUMBERS`, ``pt_correction`` (calibrated pt
        over that of the constituents), or a column of numbers.

        Raises:
            HepfmError: a corpus does not have it; names what there is.
        """
        column, over = QUOTIENTS.get(name, (NUMBERS.get(name, name), ""))
        for corpus in corpora:
            schema = corpus.manifest.schema
            there = [field.name for field in schema if pa.types.is_floating(field.type)]
            missing = [wanted for wanted in (column, over) if wanted and wanted not in there]
            if missing:
                raise HepfmError(
                    f"has no number '{missing[0]}' for --target {name}", corpus.path, f"it has: {', '.join(there)}"
                )
        unit = "1" if over else unit_of(corpora[0].manifest.schema.field(column))
        return cls(name, column, over, unit, "signed_log" if unit in ("GeV", "MeV") else "identity")

    @property
    def columns(self) -> list[str]:
        """Columns of records that are read."""
        return [self.column, *([self.over] if self.over else [])]

    @property
    def is_relative(self) -> bool:
        """Is it judged by the ratio of estimate and truth, not by their difference?"""
        return self.transform == "signed_log" or bool(self.over)

    def values(self, batch: pa.RecordBatch) -> np.ndarray:
        """(n,) float64 in its unit; NaN where unknown."""
        values = values_of(batch.column(self.column)).astype(np.float64)
        if self.over:
            with np.errstate(divide="ignore", invalid="ignore"):
                values = values / values_of(batch.column(self.over)).astype(np.float64)
        return values

    def known(self, batch: pa.RecordBatch, where: object, first: int = 0) -> np.ndarray:
        """Which records (n,) bool have it.

        Raises:
            HepfmError: a value that is neither null nor finite; names the record.
        """
        null = np.zeros(len(batch), dtype=bool)
        for name in self.columns:
            null |= batch.column(name).is_null().to_numpy(zero_copy_only=False)
        bad = ~null & ~np.isfinite(self.values(batch))
        if bad.any():
            told = f"{self.name} of record {first + int(bad.argmax())} is not finite"
            raise HepfmError(told, where, "leave such records out: hepfm corpus filter")
        return ~null

    def surveyed(self, values: np.ndarray) -> Target:
        """With mean, spread and range of training's values (n,)."""
        found = transformed(values, self.transform)
        if found.std() < SMALLEST_STD:
            value = f"{values[0]:g}" + (f" {self.unit}" if self.unit != "1" else "")
            raise HepfmError(f"{self.name} is {value} in every training record", "--target", "name another quantity")
        return dataclasses.replace(
            self, mean=float(found.mean()), std=float(found.std()), low=float(values.min()), high=float(values.max())
        )

    def standardised(self, values: np.ndarray) -> np.ndarray:
        """What the network is to give (n,) float32 for values in the unit."""
        return ((transformed(values, self.transform) - self.mean) / self.std).astype(np.float32)

    def physical(self, numbers: np.ndarray) -> np.ndarray:
        """Values (n,) float64 in the unit of what the network gave: the inverse of :meth:`standardised`."""
        found = numbers.astype(np.float64) * self.std + self.mean
        return np.copysign(np.expm1(np.abs(found)), found) if self.transform == "signed_log" else found


class MeasuredBatches:
    """Batches of records whose target is known (the engine's ``Batches``); a record is one term of the loss."""

    def __init__(self, reader: Reader, target: Target, inputs: InputReader, batch_records: int = 1) -> None:
        self.reader, self.target, self.inputs, self.batch_records = reader, target, inputs, batch_records
        self.names = ", ".join(str(split.corpus.path) for split in reader.splits)

    def batch(self, start: int, stop: int) -> LabelledJets:
        """Records [start, stop) of the reading order."""
        records = self.reader.take(start, stop).batch
        targets = torch.from_numpy(self.target.standardised(self.target.values(records)))
        return LabelledJets(self.inputs.read(records, self.names, start), targets, start // self.batch_records)

    def tokens(self, start: int, stop: int) -> int:
        """Records."""
        return stop - start


@dataclass(frozen=True)
class MeasuredCorpora:
    """Corpora of records with a target: batches of its splits.

    Attributes:
        data: the corpora.
        target: surveyed.
        left_out: training records whose target is unknown.
    """

    data: LabelledCorpora
    target: Target
    left_out: int

    @classmethod
    def of(cls, data: LabelledCorpora, name: str) -> MeasuredCorpora:
        """Survey the training split.

        Raises:
            HepfmError: a corpus without the quantity, no training split, or nothing to learn.
        """
        target = Target.of(name, data.corpora)
        splits = data.splits(TRAIN)
        if not splits:
            raise HepfmError("no corpus has a training split", ", ".join(str(c.path) for c in data.corpora))
        known, values = _known(splits, target)
        if not known.any():
            raise HepfmError(f"no training record has {name}", splits[0].corpus.path, "choose another --target")
        return cls(data, target.surveyed(values[known]), int((~known).sum()))

    def batches(
        self, split: str, inputs: InputReader, seed: int, jets: int = 0, batch_records: int = 1
    ) -> MeasuredBatches | None:
        """The batches of a split; None where no corpus has it; see :meth:`LabelledCorpora.batches`."""
        splits = self.data.splits(split)
        if not splits:
            return None
        where = ", ".join(str(part.corpus.path) for part in splits)
        known, _ = _known(splits, self.target)
        weights = self.data.weights(split, splits)
        if jets:
            usable = np.flatnonzero(known if weights is None else known & (weights > 0))
            if len(usable) < jets:
                raise HepfmError(
                    f"has {len(usable):,} records with {self.target.name}, {jets:,} are asked for", where, "--jets"
                )
            key = key_of("measured records", *(part.corpus.digest for part in splits), seed)
            order = np.argsort(hashed_uniform(key, usable), kind="stable")
            known = np.zeros_like(known)
            known[usable[order[:jets]]] = True
        if not known.all():
            ones = known.astype(np.float32)
            weights = ones if weights is None else weights * ones
        if weights is not None and not weights.any():
            raise HepfmError(f"no record of split '{split}' has {self.target.name}", where)
        reader = Reader(splits, seed, list(dict.fromkeys([*inputs.columns, *self.target.columns])), weights=weights)
        return MeasuredBatches(reader, self.target, inputs, batch_records)


def _known(splits: Sequence[Split], target: Target) -> tuple[np.ndarray, np.ndarray]:
    """Which records (n,) of splits have the target, and its values."""
    known, values = [], []
    for split in splits:
        first = 0
        for block in split:
            known.append(target.known(block, split.corpus.path, first))
            values.append(target.values(block))
            first += len(block)
    return np.concatenate(known), np.concatenate(values)


@dataclass(frozen=True)
class Regressor:
    """A network that estimates a quantity of records.

    Attributes:
        network: records to one number, in eval mode.
        architecture: its name in :data:`hepfm.finetune.tagger.NETWORKS`.
        features: that it reads.
        target: what it estimates.
    """

    network: Any
    architecture: str
    features: Features
    target: Target

    def check(self, corpus: Corpus) -> None:
        """Refuse a corpus that cannot provide what is read."""
        self.features.check(corpus)

    def predict(self, records: pa.RecordBatch, where: object = "records") -> np.ndarray:
        """Estimates (n,) float64 in the target's unit."""
        found = outputs(self.network, self.features, records, where, self.network, 1)
        return self.target.physical(found[:, 0])

    def judge(self, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """Estimates (n,) and true values (n,) of all records of a split that have the target.

        Raises:
            HepfmError: a corpus that lacks what is read, or the target.
        """
        corpus = split.corpus
        self.check(corpus)
        Target.of(self.target.name, [corpus])
        reader = dataclasses.replace(self, features=about_axis_of(corpus, self.features))
        found, true, first = [], [], 0
        with progress(f"judge {split.name}", split.records, corpus.manifest.records_name) as task:
            for block in split:
                known = np.flatnonzero(self.target.known(block, corpus.path, first))
                if len(known):
                    block_known = block.take(pa.array(known))
                    found.append(reader.predict(block_known, corpus.path))
                    true.append(self.target.values(block_known))
                first += len(block)
                task.advance(len(block))
        if not found:
            raise HepfmError(f"no record of split '{split.name}' has {self.target.name}", corpus.path)
        return np.concatenate(found), np.concatenate(true)


@dataclass(frozen=True)
class Response:
    """How estimates compare with the truth: estimate / truth of quantities that are relative, else their difference.

    Attributes:
        records: that were compared.
        left_out: records whose true value is not positive, where it has to be.
        median: of the response.
        resolution: half the width of its central 68.27%; where relative, over the median.
        central: where its central 68.27% begin and end.
    """

    records: int
    left_out: int
    median: Estimate
    resolution: Estimate
    central: tuple[float, float]

    @classmethod
    def of(
        cls, found: np.ndarray, true: np.ndarray, relative: bool, *, key: object, replicas: int = REPLICAS
    ) -> Response:
        """Measured, with bootstrap errors over records."""
        usable = true > 0 if relative else np.ones(len(true), dtype=bool)
        if not usable.any():
            raise HepfmError("no true value is positive, so that nothing can be compared", "records")
        response = found[usable] / true[usable] if relative else found[usable] - true[usable]
        here, drawn = quantiles_replicated(
            Values.per_record(response, "response"), (CENTRAL[0], 0.5, CENTRAL[1]), key=key, replicas=replicas
        )

        def width(quantiles: np.ndarray) -> np.ndarray:
            half = (quantiles[..., 2] - quantiles[..., 0]) / 2
            return half / np.abs(quantiles[..., 1]) if relative else half

        median = Estimate(float(here[1]), float(drawn[:, 1].std(ddof=1)))
        resolution = Estimate(float(width(here)), float(width(drawn).std(ddof=1)))
        central = float(here[0]), float(here[2])
        return cls(int(usable.sum()), int((~usable).sum()), median, resolution, central)


def save_regressor(
    path: Path, made: Regressor, *, provenance: dict[str, Any], metrics: dict[str, Any], card: str
) -> Artifact:
    """Write a regressor as an artifact."""
    told = {"target": asdict(made.target)}
    return save_network(path, KIND, made, told, provenance=provenance, metrics=metrics, card=card)


def load_regressor(name: str | Path) -> tuple[Regressor, Artifact]:
    """Load a regressor (on the CPU) and replay its reference; see :func:`hepfm.finetune.tagger.load_tagger`."""
    artifact = read_artifact(resolve(name), KIND)
    network, architecture, features = load_network(artifact)
    if "target" not in artifact.contract:
        raise HepfmError("says not what it estimates", artifact.path, MEND)
    target = from_dict(Target, artifact.contract["target"], artifact.path)
    return Regressor(network, architecture, features, target), artifact
