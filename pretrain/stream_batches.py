"""Token corpora of several streams as batches, and what training sees of their numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch

from hepfm.core.config import from_dict
from hepfm.core.engine import launch
from hepfm.core.errors import HepfmError
from hepfm.core.progress import progress
from hepfm.core.records import offsets_of, values_of
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.reader import Reader
from hepfm.pretrain.batches import LABEL, ConditionSource, TokenBatches
from hepfm.pretrain.energy_profile_counts import Moments
from hepfm.pretrain.streams import Number, StreamBatch, Streams, pack_streams
from hepfm.tokenize.tokens import CONTINUOUS

if TYPE_CHECKING:
    from hepfm.pretrain.data import TokenCorpora


class StreamBatches(TokenBatches):
    """Batches of token corpora with several streams, in reading order (the engine's ``Batches``).

    Args:
        reader: of token records.
        streams: what their points are made of.
        max_length: points that are kept of a record.
        conditions: gives what the backbone is told.
    """

    def __init__(
        self, reader: Reader, streams: Streams, max_length: int, conditions: ConditionSource | None = None
    ) -> None:
        super().__init__(reader, max(streams.codes), max_length, conditions=conditions)
        self.streams = streams

    def batch(self, start: int, stop: int) -> StreamBatch:  # type: ignore[override]
        """Records [start, stop) of the reading order.

        Raises:
            HepfmError: an id that the tokenizer does not have, or a number that is not finite; names the record.
        """
        taken = self.reader.take(start, stop)
        ids, numbers, offsets = columns_of(taken.batch, self.streams)
        bad = (ids >= np.array(self.streams.codes)).any(axis=1)
        if numbers is not None:
            bad |= ~np.isfinite(numbers)
        if bad.any():
            at = int(bad.argmax())
            record = int(taken.keys[int(np.searchsorted(offsets, at, side="right")) - 1, 1])
            number = "" if numbers is None else f", number {numbers[at]:g}"
            raise HepfmError(
                f"record {record} has a point with ids {ids[at].tolist()}{number}; its tokenizer has "
                f"{' x '.join(map(str, self.streams.codes))} ids{'' if numbers is None else ' and finite numbers'}",
                ", ".join(str(split.corpus.path) for split in self.reader.splits),
                "make the token corpus again",
            )
        batch = replace(pack_streams(ids, numbers, offsets, self.streams, self.max_length), keys=taken.keys)
        if LABEL in taken.batch.schema.names:
            batch = replace(batch, labels=torch.from_numpy(values_of(taken.batch.column(LABEL)).astype(np.int64)))
        if self.conditions is not None:
            batch = replace(batch, conditions=self.conditions.values(taken))
        return batch


def columns_of(batch: pa.RecordBatch, streams: Streams) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
    """Ids (N, Q), numbers (N,) if there are any, and offsets (n + 1,) of token records."""
    columns = [batch.column(name) for name in streams.names]
    ids = np.stack([column.flatten().to_numpy() for column in columns], axis=1)
    numbers = batch.column(CONTINUOUS).flatten().to_numpy() if streams.number else None
    return ids, numbers, offsets_of(columns[0])


def streams_of(corpora: Sequence[Corpus]) -> Streams | None:
    """What the points of token corpora of one tokenizer are made of; None where it is one id. Numbers are not counted.

    Raises:
        HepfmError: several tokenizers, one of which has several streams.
    """
    made = [corpus.manifest.tokens or {} for corpus in corpora]
    place = next((number for number, entry in enumerate(made) if entry.get("streams")), None)
    if place is None:
        return None
    entry, corpus = made[place], corpora[place]
    if len({known["tokenizer"] for known in made}) > 1:
        raise HepfmError(
            f"has {len(entry['streams'])} ids a point ({', '.join(entry['streams'])}), which stand beside no other "
            "tokenizer's",
            corpus.path,
            "train on corpora of this tokenizer alone, or apply one with one id a point",
        )
    delays = entry.get("delays", {})
    number = None
    if CONTINUOUS in corpus.manifest.schema.names:
        meaning = (corpus.manifest.schema.field(CONTINUOUS).metadata or {}).get(b"meaning", b"").decode()
        number = Number(meaning, int(delays.get(CONTINUOUS, 0)))
    names = tuple(name for name in corpus.manifest.schema.names if name in entry["streams"])  # in the tokenizer's order
    codes, waits = ([int(known.get(name, 0)) for name in names] for known in (entry["streams"], delays))
    return Streams(names, tuple(codes), tuple(waits), number)


def counted(data: TokenCorpora, streams: Streams, before: Number | None = None) -> Streams:
    """Streams with mean, spread and range of the number in the train splits, counted once for all processes.

    Args:
        data: the corpora.
        streams: what their points are made of.
        before: of a backbone that goes on: mean and spread stay, the range grows.

    Raises:
        HepfmError: there is no point, or a number that is not finite.
    """
    if streams.number is None:
        return streams
    launch.setup()
    wanted = streams.number
    number = from_dict(Number, launch.on_main(lambda: asdict(_counted(data.reader("train", 0, data.columns), wanted))))
    if before is not None:
        number = replace(before, low=min(before.low, number.low), high=max(before.high, number.high))
    return replace(streams, number=number)


def _counted(reader: Reader, number: Number) -> Number:
    moments = Moments(1)
    blocks = len(reader.order.block_records)
    with progress("count numbers", blocks, "blocks", visible=blocks > 1000) as task:
        for block, batch in enumerate(reader.blocks()):
            values = batch.column(CONTINUOUS).flatten().to_numpy().astype(np.float64)
            task.advance()
            if not len(values):
                continue
            if not np.isfinite(values).all():
                at = int(np.searchsorted(offsets_of(batch.column(CONTINUOUS)), np.argmin(np.isfinite(values)), "right"))
                raise HepfmError(
                    f"record {int(reader.order.block_starts[block]) + at - 1} has a number that is not finite "
                    f"({number.meaning})",
                    ", ".join(str(split.corpus.path) for split in reader.splits),
                    "make the token corpus again",
                )
            moments.add(values[:, None])
    if not moments.count[0]:
        raise HepfmError("no record has a point", ", ".join(str(split.corpus.path) for split in reader.splits))
    mean, low, high = (float(known[0]) for known in (moments.mean, moments.low, moments.high))
    std = float(np.sqrt(moments.squares[0] / moments.count[0]))
    if std <= 1e-6 * max(1.0, abs(mean)):  # the same everywhere; a density needs some room
        std, low, high = 1.0, low - 1.0, high + 1.0
    return replace(number, mean=mean, std=std, low=low, high=high)
