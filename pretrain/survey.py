"""What training sees of conditions: a counted pass over the train splits before a backbone is made."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np
import pyarrow as pa

from hepfm.core.config import from_dict
from hepfm.core.draws import hashed_uniform, key_of
from hepfm.core.engine import launch
from hepfm.core.errors import HepfmError
from hepfm.core.progress import progress, say
from hepfm.core.records import values_of
from hepfm.ingest.reader import Reader
from hepfm.pretrain.backbone import BackboneConfig
from hepfm.pretrain.conditions import UNKNOWN, Condition, ConditionValues, transformed
from hepfm.pretrain.data import TokenCorpora
from hepfm.pretrain.lengths import mean_weights
from hepfm.tokenize.contract import unit_of

SAMPLE = 4096  # records whose conditions a backbone keeps, to draw from when it generates
TOLD = ("next-token", "next-streams", "joint")  # objectives whose backbone begins with a start token
NAMED = {"label": "label", "particle": "particle"}
NUMBERS = {
    "jet_pt": "pt",
    "jet_mass": "mass",
    "jet_eta": "eta",
    "jet_softdrop_mass": "softdrop_mass",
    "incident_energy": "incident_energy",
    **{f"direction_{axis}": f"direction_{axis}" for axis in "xyz"},
}
GROUPS = {"direction": ("direction_x", "direction_y", "direction_z")}
NAME_OF = {column: name for name, column in NUMBERS.items()}


@dataclass(frozen=True)
class Survey:
    """Conditions as training sees them.

    Attributes:
        conditions: with names, means and ranges.
        sample: what some records are told, each as likely as it comes in training.
    """

    conditions: tuple[Condition, ...]
    sample: ConditionValues


def columns_of(name: str) -> tuple[str, ...]:
    """The columns of a token corpus that a condition is read from; none of the data set."""
    if name == "data_set":
        return ()
    return tuple(NAMED.get(one) or NUMBERS.get(one, one) for one in GROUPS.get(name, (name,)))


def wanted(names: Sequence[str], data: TokenCorpora) -> tuple[Condition, ...]:
    """The conditions of these names, nothing counted yet.

    ``direction`` stands for its three components; a number of each record may also be named as its column.

    Raises:
        HepfmError: one that no corpus has.
    """
    asked = {one: name for name in reversed(names) for one in GROUPS.get(name, (NAME_OF.get(name, name),))}
    single = dict.fromkeys(one for name in names for one in GROUPS.get(name, (NAME_OF.get(name, name),)))
    return tuple(_wanted(name, data, asked[name]) for name in single)


def _wanted(name: str, data: TokenCorpora, asked: str) -> Condition:
    if name == "data_set":
        return Condition(name, "data_set", names=tuple(dict.fromkeys(data.names)))
    column = NAMED.get(name) or NUMBERS.get(name, name)
    known = [(c, c.manifest.schema.field(column)) for c in data.corpora if column in c.manifest.schema.names]
    if not known or not (name in NAMED or pa.types.is_floating(known[0][1].type)):
        there = [
            NAME_OF.get(found.name, found.name)
            for found in data.corpora[0].manifest.schema
            if found.name in NAMED or pa.types.is_floating(found.type)
        ]
        raise HepfmError(
            f"has no '{column}' for --condition {asked}", data.corpora[0].path, f"it has: data_set, {', '.join(there)}"
        )
    lacking = [str(c.path) for c in data.corpora if column not in c.manifest.schema.names]
    if lacking:
        say(f"{name} is unknown in {', '.join(lacking)}")
    if name in NAMED:
        return Condition(name, "label" if name == "label" else "particle", column)
    unit = unit_of(known[0][1])
    return Condition(
        name, "number", column, unit=unit, transform="signed_log" if unit in ("GeV", "MeV") else "identity"
    )


def survey(data: TokenCorpora, names: Sequence[str], before: Sequence[Condition] = ()) -> Survey:
    """Count what the train splits hold of conditions; a mixture's weights count.

    Args:
        data: the corpora.
        names: of the conditions.
        before: those of a backbone that goes on: they keep their means, and what it has seen adds to their ranges.

    Raises:
        HepfmError: no corpus has one of them, a value that is not finite, or no value at all.
    """
    conditions = wanted(names, data)
    reader = data.reader("train", 0, (data.columns[0], *(known.column for known in conditions if known.column)))
    counts = [_Count(known) for known in conditions]
    sample = _Sample(len(conditions))
    blocks = len(reader.order.block_records)
    with progress("count conditions", blocks, "blocks", visible=blocks > 1000) as task:
        for number, batch in enumerate(reader.blocks()):
            first = int(reader.order.block_starts[number])
            records = np.arange(first, first + len(batch))
            weights = mean_weights(reader.order, number)
            columns = [_values(known, batch, records, reader, data) for known in conditions]
            for count, values in zip(counts, columns, strict=True):
                count.add(values, weights)
            sample.add(np.stack(columns, axis=1), records, weights)
            task.advance()
    earlier = {known.name: known for known in before}
    counted = tuple(count.condition(reader.labels, earlier.get(count.wanted.name)) for count in counts)
    return Survey(counted, sample.values(counted, conditions, reader.labels))


def _values(
    known: Condition, batch: pa.RecordBatch, records: np.ndarray, reader: Reader, data: TokenCorpora
) -> np.ndarray:
    """What is known of records (n,) as float64, NaN where unknown: a number, a PDG id, or an index into names.

    Raises:
        HepfmError: a number that is not finite.
    """
    if known.kind == "data_set":
        ends = np.cumsum([split.records for split in reader.splits])
        place = {corpus.digest: known.names.index(name) for corpus, name in zip(data.corpora, data.names, strict=True)}
        of_split = np.array([place[split.corpus.digest] for split in reader.splits], dtype=np.float64)
        return of_split[np.searchsorted(ends, records, side="right")]
    column = batch.column(known.column)
    null = column.is_null().to_numpy(zero_copy_only=False)
    values = values_of(column).astype(np.float64)
    bad = ~null & ~np.isfinite(values)
    if bad.any():
        at = int(np.argmax(bad))
        split = reader.splits[int(np.searchsorted(np.cumsum([s.records for s in reader.splits]), records[at], "right"))]
        raise HepfmError(
            f"record {int(records[at])} has {known.name} {values[at]:g}",
            split.corpus.path,
            "build it without such records",
        )
    return np.where(null, np.nan, values)


class _Count:
    """Sums over the records of an epoch."""

    def __init__(self, wanted: Condition) -> None:
        self.wanted = wanted
        self.sums = np.zeros(3)
        self.low, self.high = np.inf, -np.inf
        self.names: Counter[int] = Counter()

    def add(self, values: np.ndarray, weights: np.ndarray) -> None:
        there = np.isfinite(values) & (weights > 0)
        values, weights = values[there], weights[there].astype(np.float64)
        if not len(values):
            return
        if not self.wanted.is_number:
            self.names.update({int(value): 1 for value in np.unique(values)})
            return
        moved = transformed(values, self.wanted.transform)
        self.sums += np.array([weights.sum(), (weights * moved).sum(), (weights * moved**2).sum()])
        self.low, self.high = min(self.low, float(values.min())), max(self.high, float(values.max()))

    def condition(self, labels: Sequence[str], before: Condition | None) -> Condition:
        """What was counted, and what a backbone knew before."""
        known = self.wanted
        if not known.is_number:
            if not self.names:
                raise HepfmError(f"no record has a value for --condition {known.name}", "train splits", "leave it out")
            places = sorted(self.names)
            called = labels if known.kind == "label" else known.names
            names = [str(place) if known.kind == "particle" else called[place] for place in places]
            return replace(known, names=tuple(dict.fromkeys([*(before.names if before else ()), *names])))
        if not self.sums[0]:
            raise HepfmError(f"no record has a value for --condition {known.name}", "train splits", "leave it out")
        if before is not None:
            return replace(before, low=min(before.low, self.low), high=max(before.high, self.high))
        mean = self.sums[1] / self.sums[0]
        spread = np.sqrt(max(self.sums[2] / self.sums[0] - mean**2, 0))
        # What is the same everywhere tells nothing; it must not be divided by rounding errors.
        std = float(spread) if spread > 1e-6 * max(1.0, abs(mean)) else 1.0
        return replace(known, mean=float(mean), std=std, low=self.low, high=self.high)


class _Sample:
    """Weighted sample without replacement: largest ln(u) / weight (Efraimidis, Spirakis 2006), u keyed by record."""

    def __init__(self, columns: int) -> None:
        self.ranks, self.rows = np.zeros(0), np.zeros((0, columns))

    def add(self, rows: np.ndarray, records: np.ndarray, weights: np.ndarray) -> None:
        uniform = hashed_uniform(key_of("condition sample"), records)
        with np.errstate(divide="ignore"):
            ranks = np.concatenate([self.ranks, np.where(weights > 0, np.log(uniform) / weights, -np.inf)])
        best = np.argsort(-ranks, kind="stable")[:SAMPLE]
        best = best[np.isfinite(ranks[best])]
        self.ranks, self.rows = ranks[best], np.concatenate([self.rows, rows])[best]

    def values(
        self, counted: Sequence[Condition], wanted: Sequence[Condition], labels: Sequence[str]
    ) -> ConditionValues:
        """The records that were drawn."""
        columns = {}
        for place, (known, before) in enumerate(zip(counted, wanted, strict=True)):
            values = self.rows[:, place]
            if not known.is_number:
                names = labels if known.kind == "label" else before.names
                told = {
                    value: known.names.index(str(int(value)) if known.kind == "particle" else names[int(value)])
                    for value in np.unique(values[np.isfinite(values)])
                }
                values = np.array([told.get(value, -1) for value in values])
            columns[known.name] = values
        return ConditionValues.of_columns(counted, columns, len(self.rows))


def usual_conditions(data: TokenCorpora, objective: str) -> tuple[str, ...]:
    """What a backbone is told where nothing is asked for: of showers what came in, where their corpora have it."""
    showers = {tokenizer.hash for tokenizer in data.tokenizers if tokenizer.contract.get("kind") == "showers"}
    corpora = [corpus for corpus in data.corpora if (corpus.manifest.tokens or {}).get("tokenizer") in showers]
    if objective not in TOLD or not corpora:
        return ()
    provided = {name for corpus in corpora for name in corpus.manifest.schema.names}
    wanted = {"incident_energy": ("incident_energy",), "direction": GROUPS["direction"], "particle": ("particle",)}
    return tuple(name for name, columns in wanted.items() if provided.issuperset(columns))


def condition_names(names: Sequence[str], data: TokenCorpora) -> list[str]:
    """Conditions that were asked for, and those that generation cannot do without.

    That is what a tokenizer decodes with, and the data set where several tokenizers share a vocabulary.
    """
    asked = list(names)
    had = {one for name in asked for one in GROUPS.get(name, (NAME_OF.get(name, name),))}
    needed = ["data_set"] if len(data.tokenizers) > 1 else []
    here = {str((corpus.manifest.tokens or {})["tokenizer"]) for corpus in data.corpora}
    for tokenizer in data.tokenizers:
        if tokenizer.hash not in here:  # of a backbone that goes on with the others' tokens alone
            continue
        needed += [str(known["name"]) for known in tokenizer.contract.get("conditions", ())]
    added = [name for name in dict.fromkeys(NAME_OF.get(one, one) for one in needed) if name not in had]
    if added and launch.is_main():
        say(f"the backbone is told {', '.join(added)} too: its tokens cannot be decoded without")
    return asked + added


def surveyed(
    data: TokenCorpora, names: Sequence[str], objective: str, before: Sequence[Condition] = ()
) -> Survey | None:
    """:func:`survey` of :func:`condition_names` in the first process, for all; None where there is nothing to tell.

    The others have no sample.

    Raises:
        HepfmError: what :func:`survey` raises, or names for an objective that is told nothing.
    """
    if objective not in TOLD:
        if names:
            told = f"it is for {' and '.join(TOLD)}"
            raise HepfmError(f"{objective} is told nothing of a record", "--condition", told)
        return None  # it does not generate either, so it needs nothing to decode with
    names = condition_names(names, data)
    if not names:
        return None
    launch.setup()
    kept: list[Survey] = []

    def count() -> list[dict[str, object]]:
        kept.append(survey(data, names, before))
        return [asdict(known) for known in kept[0].conditions]

    conditions = tuple(from_dict(Condition, known) for known in launch.on_main(count))
    return Survey(conditions, kept[0].sample if kept else ConditionValues.unknown(conditions, 0))


def surveyed_again(data: TokenCorpora, names: Sequence[str], backbone: BackboneConfig) -> Survey | None:
    """:func:`surveyed` for a backbone that goes on: what it is told already, and what is asked for besides.

    What these corpora do not have of the former stays unknown.

    Raises:
        HepfmError: see :func:`surveyed`.
    """
    provided = {name for corpus in data.corpora for name in corpus.manifest.schema.names}
    absent = [known for known in backbone.conditions if known.column and known.column not in provided]
    going_on = [known.name for known in backbone.conditions if known not in absent]
    found = surveyed(data, [*going_on, *names], backbone.objective, backbone.conditions)
    if not absent:
        return found
    if launch.is_main():
        say(f"{', '.join(known.name for known in absent)}: unknown in these corpora")
    conditions = (*(found.conditions if found else ()), *absent)
    n = len(found.sample) if found else 0
    columns = found.sample.columns(found.conditions) if found else {}
    columns |= {known.name: np.full(n, np.nan if known.is_number else UNKNOWN) for known in absent}
    return Survey(conditions, ConditionValues.of_columns(conditions, columns, n))
