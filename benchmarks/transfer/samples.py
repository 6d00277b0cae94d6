"""Parts of a token corpus to train on, and samples of jets or showers to compare: one path, the quantities by kind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from hepfm.benchmarks.scores.jet_values import constituent_quantities, defined
from hepfm.benchmarks.scores.shower_features import Axes, shower_features
from hepfm.benchmarks.scores.showers import ShowerSample
from hepfm.core import observables
from hepfm.core.draws import hashed_uniform, key_of
from hepfm.core.errors import HepfmError
from hepfm.core.observables import Constituents
from hepfm.core.progress import progress, say
from hepfm.core.records import offsets_of, values_of
from hepfm.core.statistics import Values
from hepfm.finetune.asked import Asked
from hepfm.finetune.decoded import JetRecords, ShowerRecords
from hepfm.finetune.generator import DATA_SET, Generator
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.gather import gather_from
from hepfm.ingest.geometry import Geometry
from hepfm.ingest.jobs import write_corpus
from hepfm.ingest.plan import Job, Plan
from hepfm.ingest.reader import Reader
from hepfm.pretrain.conditions import Condition, ConditionValues
from hepfm.tokenize.registry import load_tokenizer
from hepfm.tokenize.tokens import CONTINUOUS

KEPT_BACK = 5  # every fifth record is for early stopping
INCIDENT = Condition("incident_energy", "number", "incident_energy", unit="GeV")
WRITTEN_RECORDS = 4_096


def subset(corpus: Corpus, count: int, seed: int, out: Path, kept_back: int = KEPT_BACK) -> Path:
    """A token corpus of ``count`` records of a token corpus's training split, every fifth of them for validation.

    Records are drawn by (seed, record): a larger subset of a seed holds the smaller ones.

    Args:
        corpus: of tokens.
        count, seed: how many records, and which.
        out: folder to write.
        kept_back: of so many records one is for validation; 0: none is.

    Raises:
        HepfmError: the split has fewer.
    """
    split, manifest = corpus.split("train"), corpus.manifest
    if split.records < count:
        raise HepfmError(f"its training split has {split.records:,} records, not {count:,}", corpus.path, "--counts")
    ranks = np.argsort(hashed_uniform(key_of("transfer subset", seed), np.arange(split.records)), kind="stable")[:count]
    held = np.arange(count) % kept_back == kept_back - 1 if kept_back else np.zeros(count, dtype=bool)
    chosen = {"train": np.sort(ranks[~held]), "val": np.sort(ranks[held])}
    starts = np.cumsum(split.block_records) - split.block_records

    def produce(job: Job) -> Iterator[pa.RecordBatch]:
        for first in range(0, job.size, WRITTEN_RECORDS):
            records = chosen[job.split][first : first + WRITTEN_RECORDS]
            block = np.searchsorted(starts, records, side="right") - 1
            yield gather_from(split.read, block, records - starts[block])

    identity = {"subset of": corpus.digest, "records": count, "seed": seed, "kept back": int(held.sum())}
    plan = Plan(
        identity=identity,
        jobs=tuple(Job(name, 0, None, len(records), len(records)) for name, records in chosen.items() if len(records)),
        kind=manifest.kind,
        schema=manifest.schema,
        labels=manifest.labels,
        axis=manifest.axis,
        block_records=manifest.block_records,
        provenance=identity,
        geometry=manifest.geometry,
        tokens=manifest.tokens,
    )
    return write_corpus(out, plan, produce, attached={"tokenizer": corpus.path / "tokenizer"}).path


@dataclass(frozen=True)
class Quantities:
    """A sample as it is compared.

    Attributes:
        kind: jets or showers.
        values: of each quantity.
        records: how many there are.
    """

    kind: str
    values: dict[str, Values]
    records: int


def held_out_split(corpus: Corpus) -> str:
    """The split that nothing is trained on.

    Raises:
        HepfmError: there is none.
    """
    for name in ("test", "val"):
        if name in corpus.splits():
            return name
    raise HepfmError("has neither a test nor a val split", corpus.path, "hepfm corpus split deals records anew")


def held_out(corpus: Corpus, most: int) -> Quantities:
    """Held-out records of a token corpus as their tokens decode, so that what a tokenizer smears counts for nothing.

    Raises:
        HepfmError: no such split, or showers without incident energy.
    """
    split = corpus.split(held_out_split(corpus))
    if most > split.records:
        say(f"judged: {split.records:,} records, all that the split '{split.name}' of {corpus.path} has")
    tokenizer = load_tokenizer(corpus.path / "tokenizer")
    taken = Reader([split], seed=0).take(0, min(most, split.records)).batch
    columns = [taken.column(stream.column) for stream in tokenizer.streams]
    ids = np.stack([column.flatten().to_numpy() for column in columns], axis=1)
    offsets = offsets_of(columns[0])
    number = taken.column(CONTINUOUS).flatten().to_numpy() if CONTINUOUS in taken.schema.names else None
    told = {one.name: values_of(taken.column(one.name)) for one in tokenizer.contract.conditions} or None
    decoded = tokenizer.decode(ids[:, 0] if ids.shape[1] == 1 else ids, offsets, number, told)
    if tokenizer.contract.kind == "jets":
        return quantities(JetRecords(), [JetRecords().of(decoded, offsets, None, 0)])
    if INCIDENT.column not in taken.schema.names or corpus.manifest.geometry is None:
        raise HepfmError("its showers have no incident energy, or no detector", corpus.path, "tokenize them again")
    positions = tuple(name for name in tokenizer.contract.names if name != "energy")
    made = ShowerRecords(Geometry.from_data(corpus.manifest.geometry), (INCIDENT,), positions)
    energies = {INCIDENT.name: values_of(taken.column(INCIDENT.column))}
    known = ConditionValues.of_columns((INCIDENT,), energies, len(taken))
    return quantities(made, [made.of(decoded, offsets, known, 0)])


def generated(run: Path, count: int, seed: int, data_set: str = "") -> Quantities:
    """Records that a backbone generates, conditions drawn as in its training; of a data set, if it knows several.

    Raises:
        HepfmError: showers whose incident energy it is not told.
    """
    generator = Generator(run, Asked({DATA_SET: (data_set,)}) if data_set else Asked(), seed=seed)
    if isinstance(generator.records, ShowerRecords) and INCIDENT.name not in generator.records.schema.names:
        raise HepfmError("is not told the incident energy of its showers", run, "--condition incident_energy")
    with progress("generate", count, generator.records.kind) as task:
        return quantities(generator.records, list(generator.batches(0, count, task)))


def quantities(made: JetRecords | ShowerRecords, batches: list[pa.RecordBatch]) -> Quantities:
    """What samples of jets, or of showers in a detector, are compared by."""
    records = sum(map(len, batches))
    if isinstance(made, ShowerRecords):
        sample = ShowerSample.of_batches("showers", made.detector, records, lambda: batches)
        return Quantities("showers", _shower_values(sample), records)
    jets = observables.concatenate([Constituents.from_batch(batch) for batch in batches])
    return Quantities("jets", _jet_values(jets), records)


def _jet_values(jets: Constituents) -> dict[str, Values]:
    """Jet pt and mass [GeV], multiplicity, tau21, tau32 where defined; pt [GeV], deta, dphi of constituents."""
    taus = observables.nsubjettiness(jets, (1, 2, 3))
    of_jets = {
        "jet_pt": observables.jet_pt(jets),
        "jet_mass": observables.jet_mass(jets),
        "multiplicity": observables.multiplicity(jets).astype(np.float64),
        "tau21": observables.tau_ratio(taus, 2, 1),
        "tau32": observables.tau_ratio(taus, 3, 2),
    }
    return {**defined(of_jets), **constituent_quantities(jets)}


def _shower_values(sample: ShowerSample) -> dict[str, Values]:
    """Response (visible over incident energy), hits, and where the energy lies: mean layer, mean radius [mm]."""
    found = shower_features(sample)
    cells, total = Axes.of(sample.geometry).cells, np.maximum(found.total, 1e-16)
    of_showers = {
        "response": found.response,
        "hits": ((1 - found.sparsity) * cells).sum(axis=1).round(),
        "mean_layer": found.layer_energy @ np.arange(len(cells)) / total,
        "mean_radius": (found.layer_energy * found.centre_r).sum(axis=1) / total,
    }
    return defined(of_showers)
