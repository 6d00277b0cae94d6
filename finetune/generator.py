"""Records from a backbone and the tokenizer it carries: sampled, decoded, a bounded number at a time."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from hepfm.core.artifacts import Artifact
from hepfm.core.engine import launch
from hepfm.core.errors import HepfmError
from hepfm.core.progress import Task
from hepfm.finetune.asked import Asked, Teller
from hepfm.finetune.decoded import JetRecords, ShowerRecords
from hepfm.finetune.profile_sampler import generate_showers, together
from hepfm.finetune.sampler import Drawing, Sampled, generate
from hepfm.finetune.stream_sampler import generate_streams
from hepfm.ingest.geometry import Geometry
from hepfm.pretrain.backbone import Backbone, condition_sample, load_generator
from hepfm.pretrain.conditions import Condition, ConditionValues
from hepfm.pretrain.stream_backbone import StreamBackbone
from hepfm.tokenize.registry import Tokenizer, load_tokenizer

CHUNK_RECORDS = 16_384
DATA_SET = "data_set"
ANYTHING, PLAIN = Asked(), Drawing()


class Generator:
    """Jets or showers from a backbone.

    Args:
        model: backbone, as a run, an artifact folder, a hub id or a URL.
        asked: classes and ranges.
        seed: another seed, other records.
        drawing: temperature and the like.
        batch: sequences in flight.
        min_length, max_length: points of a record; at most what the backbone was trained with, which is the default.

    Attributes:
        records: makes records of what is decoded.
        teller: draws what each record is told; None if the backbone is told nothing.
        points: how many have been generated.
        hit_maximum: how many records were ended by ``max_length``.
    """

    def __init__(
        self,
        model: str | Path,
        asked: Asked = ANYTHING,
        seed: int = 0,
        drawing: Drawing = PLAIN,
        batch: int = 256,
        min_length: int = 1,
        max_length: int | None = None,
    ) -> None:
        backbone, self.artifact = load_generator(model)
        conditions = backbone.config.conditions
        asked.check(conditions)
        self.backbone = backbone.to(launch.device())
        self.seed, self.drawing, self.batch = seed, drawing, batch
        most = int(self.artifact.contract["max_length"])
        self.min_length, self.max_length = min_length, most if max_length is None else max_length
        if not 1 <= self.max_length <= most:
            raise HepfmError(f"must lie between 1 and {most}, is {max_length}", "--max-length", "train for longer ones")
        if not 1 <= min_length <= self.max_length:
            raise HepfmError(f"must lie between 1 and {self.max_length}, is {min_length}", "--min-length")
        entry = _data_set(self.artifact, backbone, asked)
        self.ids = (int(entry["first"]), int(entry["codes"]))
        self.tokenizer = load_tokenizer(self.artifact.inner(entry["tokenizer"]))
        self.records = _records(self.tokenizer, conditions, entry, self.artifact)
        needed = _needed(self.tokenizer, conditions, self.artifact)
        sample = condition_sample(self.artifact)
        self.teller = None if sample is None else Teller(conditions, sample, asked, seed, needed)
        self._columns = {condition.column: condition.name for condition in conditions}
        self.points = self.hit_maximum = 0

    def batches(self, first: int, stop: int, task: Task) -> Iterator[pa.RecordBatch]:
        """Records ``first`` to ``stop - 1``, a bounded number at a time; each depends on its number and the seed."""
        for begin in range(first, stop, CHUNK_RECORDS):
            count = min(CHUNK_RECORDS, stop - begin)
            told = self.teller.values(begin, count) if self.teller else None
            sampled = self._sampled(count, begin, told, task)
            self.points += len(sampled.tokens)
            self.hit_maximum += sampled.hit_maximum
            yield self.records.of(self._decoded(sampled, told), sampled.offsets, told, begin)

    def _sampled(self, count: int, first: int, told: ConditionValues | None, task: Task) -> Sampled:
        settings: dict[str, Any] = {
            "max_length": self.max_length,
            "min_length": self.min_length,
            "batch": self.batch,
            "drawing": self.drawing,
            "first": first,
            "task": task,
        }
        if not isinstance(self.backbone, StreamBackbone):
            begin = None if told is None else together(self.backbone.beginning, count, told)
            return generate(self.backbone, count, self.seed, ids=self.ids, begin=begin, **settings)
        if self.backbone.profile is None:
            begin = None if told is None else together(self.backbone.beginning, count, told)
            return generate_streams(self.backbone, count, self.seed, begin=begin, **settings)
        return generate_showers(self.backbone, count, self.seed, told, settings)

    def _decoded(self, sampled: Sampled, told: ConditionValues | None) -> dict[str, np.ndarray]:
        wanted = self.tokenizer.contract.conditions
        settings: dict[str, Any] = {} if sampled.continuous is None else {"continuous": sampled.continuous}
        if wanted:
            assert told is not None
            known = told.columns(self.backbone.config.conditions)
            settings["conditions"] = {one.name: known[self._columns[one.name]] for one in wanted}
        return self.tokenizer.decode(sampled.tokens, sampled.offsets, **settings)


def _data_set(artifact: Artifact, backbone: Backbone, asked: Asked) -> dict[str, Any]:
    """The data set that is generated: its tokenizer and ids.

    Raises:
        HepfmError: there are several of different tokenizers, and none or more than one is asked for.
    """
    whole = {"tokenizer": "tokenizer", "first": 0, "codes": backbone.config.codes, "geometry": None}
    entries = artifact.contract.get("data_sets") or [whole]
    wanted = asked.names.get(DATA_SET)
    chosen = [entry for entry in entries if not wanted or entry.get("name") in wanted] or entries
    if len({entry["tokenizer"] for entry in chosen}) > 1:
        names = ", ".join(entry["name"] for entry in chosen)
        raise HepfmError("the backbone generates data sets of several tokenizers", artifact.path, f"--data-set {names}")
    return chosen[0]


def _records(
    tokenizer: Tokenizer, conditions: tuple[Condition, ...], entry: dict[str, Any], artifact: Artifact
) -> JetRecords | ShowerRecords:
    if tokenizer.contract.kind == "jets":
        return JetRecords(conditions)
    if entry["geometry"] is None:
        raise HepfmError(
            "does not know the detector of its showers", artifact.path, "train it with this version: it keeps it"
        )
    positions = tuple(name for name in tokenizer.contract.names if name != "energy")
    return ShowerRecords(Geometry.from_data(entry["geometry"]), conditions, positions)


def _needed(tokenizer: Tokenizer, conditions: tuple[Condition, ...], artifact: Artifact) -> list[str]:
    """Names of the conditions that the tokenizer decodes with.

    Raises:
        HepfmError: the backbone is not told one of them.
    """
    names = {condition.column: condition.name for condition in conditions}
    for wanted in tokenizer.contract.conditions:
        if wanted.name not in names:
            raise HepfmError(
                f"its tokenizer decodes with {wanted.name} of each record, which the backbone is not told",
                artifact.path,
                f"train it with --condition {wanted.name}",
            )
    return [names[wanted.name] for wanted in tokenizer.contract.conditions]
