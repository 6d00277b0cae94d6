"""What a head on a pretrained backbone reads of records: the backbone's own tokens or features, by its own contract.

From a token corpus of the backbone's tokenizer its ids; from a corpus of jets or showers what the tokenizer makes of
them on the fly. A backbone that reads continuous features takes those of the records, or of token corpora what the
tokens decode to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from hepfm.core.artifacts import Artifact
from hepfm.core.draws import generator
from hepfm.core.errors import HepfmError
from hepfm.core.nn.ragged import Layout
from hepfm.core.records import POINTS_COLUMN, lengths_of, offsets_of, values_of
from hepfm.ingest.corpus import Corpus
from hepfm.pretrain.backbone import Backbone, BackboneConfig
from hepfm.pretrain.batches import COLUMN, IdRange
from hepfm.pretrain.continuous import ETA
from hepfm.pretrain.data import vocabulary_of
from hepfm.pretrain.features import FeatureEmbedding
from hepfm.pretrain.masking import View, moved
from hepfm.tokenize.apply import statistics_of
from hepfm.tokenize.registry import Tokenizer, load_tokenizer

REFERENCE_LENGTHS = (1, 9, 24)


@dataclass(frozen=True)
class ConstituentInputs:
    """Constituents of jets (hits of showers) as a backbone reads them, packed.

    Attributes:
        codes: (C,) int64, ids of the backbone's vocabulary; zeros where it reads features.
        features: (C, F) float32, or None where it reads ids.
        view: the constituents of each record behind what stands before them.
    """

    codes: torch.Tensor
    features: torch.Tensor | None
    view: View

    @property
    def layout(self) -> Layout:
        """Which of the backbone's tokens belongs to which record."""
        return self.view.layout

    def to(self, device: torch.device | str) -> ConstituentInputs:
        """The same on another device."""
        return moved(self, device)


@dataclass(frozen=True)
class Unread:
    """Records that the tokenizer's network is still to read; :meth:`to` gives the inputs.

    Tokenizers switch off threads and oneDNN for the whole process, which beside a training step, in the thread that
    reads ahead, would change its last digits. The engine moves a batch to its device when no step is under way.
    """

    reader: BackboneReader
    batch: pa.RecordBatch
    where: object
    first: int

    def to(self, device: torch.device | str) -> ConstituentInputs:
        """The inputs on a device.

        Raises:
            HepfmError: see :meth:`BackboneReader.inputs`.
        """
        return self.reader.inputs(self.batch, self.where, self.first).to(device)


@dataclass(frozen=True)
class BackboneReader:
    """Makes a backbone's inputs of token records, or of records that its tokenizer takes.

    Attributes:
        path: folder of the tokenizer's artifact.
        tokenizer: one that the backbone was pretrained with.
        ids: where its ids lie in the backbone's vocabulary.
        max_length: leading constituents that are kept of a record.
        reads_features: continuous features instead of ids.
        before: tokens that stand before a record's constituents: a start token, registers.
        records: what training reads: ``tokens``, or the kind of records that are tokenized.
        axis: that deta and dphi of records refer to.
    """

    path: Path
    tokenizer: Tokenizer
    ids: IdRange
    max_length: int
    reads_features: bool
    before: int
    records: str = COLUMN
    axis: str = ""

    @classmethod
    def of(cls, artifact: Artifact, config: BackboneConfig, before: int) -> BackboneReader:
        """The reader that an artifact of a head describes."""
        contract, path = artifact.contract, artifact.inner("tokenizer")
        ids = IdRange(int(contract["first_id"]), int(contract["codes"]))
        length, records, axis = int(contract["max_length"]), str(contract["reads"]), str(contract["reads_axis"])
        return cls(path, load_tokenizer(path), ids, length, config.features > 0, before, records, axis)

    @classmethod
    def for_corpora(
        cls, backbone: Artifact, config: BackboneConfig, before: int, corpora: Sequence[Corpus]
    ) -> BackboneReader:
        """The reader of a pretrained backbone for corpora of one kind: with the tokenizer that takes them.

        Raises:
            HepfmError: corpora of different kinds, or one that no tokenizer of the backbone takes; says why.
        """
        first = corpora[0]
        kind, axis = first.manifest.kind, first.manifest.axis
        for corpus in corpora:
            if corpus.manifest.kind != kind or (kind != COLUMN and corpus.manifest.axis != axis):
                told = f"holds {corpus.manifest.kind} about the axis '{corpus.manifest.axis}'"
                raise HepfmError(f"{told}, {first.path} {kind} about '{axis}'", corpus.path, "name corpora of one kind")
        length, features = int(backbone.contract["max_length"]), config.features > 0
        refused: list[HepfmError] = []
        for found, ids in vocabulary_of(backbone, config.codes):
            reader = cls(found.path, load_tokenizer(found.path), ids, length, features, before, kind, axis)
            try:
                for corpus in corpora:
                    reader.check(corpus)
            except HepfmError as error:
                refused.append(error)
            else:
                return reader
        raise refused[0]

    @property
    def name(self) -> str:
        """What is read, in words that tell it from others."""
        return f"{self.records} by tokenizer {self.tokenizer.hash[:12]}"

    @property
    def columns(self) -> list[str]:
        """Columns of records that training reads."""
        contract = self.tokenizer.contract
        if self.records == COLUMN:
            told = [condition.name for condition in contract.conditions] if self.reads_features else []
            return [COLUMN, *told]
        turned = self.axis != contract.axis
        return list(dict.fromkeys([*contract.needed, *((ETA,) if turned else ())]))

    def check(self, corpus: Corpus) -> None:
        """Refuse a corpus that the backbone cannot read.

        Raises:
            HepfmError: tokens of another tokenizer, several ids a point, or records that its tokenizer does not take.
        """
        manifest, contract = corpus.manifest, self.tokenizer.contract
        if manifest.kind != "tokens":
            contract.check(manifest, statistics_of(corpus), corpus.path)
            if len(self.tokenizer.streams) > 1 and not self.reads_features:
                raise HepfmError("gives several ids a point, a head reads one", self.path, "name another backbone")
            return
        made = str((manifest.tokens or {}).get("tokenizer", ""))
        if made != self.tokenizer.hash:
            raise HepfmError(
                f"was made by tokenizer {made[:12]}, the backbone reads tokenizer {self.tokenizer.hash[:12]}",
                corpus.path,
                f"name the corpus it was made from, or apply the backbone's: hepfm tokenizer apply {self.path} ...",
            )
        wanted = [COLUMN, *(condition.name for condition in contract.conditions if self.reads_features)]
        missing = [name for name in wanted if name not in manifest.schema.names]
        if missing:
            raise HepfmError(f"has no {', '.join(missing)}, which the backbone reads", corpus.path)

    def lengths(self, batch: pa.RecordBatch) -> np.ndarray:
        """Constituents (n,) of records, all of them."""
        names = (COLUMN, *POINTS_COLUMN.values())
        return lengths_of(batch.column(next(name for name in names if name in batch.schema.names)))

    def read(self, batch: pa.RecordBatch, where: object, first: int = 0) -> ConstituentInputs | Unread:
        """Inputs of token records or of others, as soon as they are on a device; their order is kept."""
        if (COLUMN in batch.schema.names) == self.reads_features:
            return Unread(self, batch, where, first)
        return self.inputs(batch, where, first)

    def inputs(self, batch: pa.RecordBatch, where: object, first: int = 0) -> ConstituentInputs:
        """Inputs of token records or of others, at once; their order is kept.

        Raises:
            HepfmError: an id that the tokenizer does not have, or a value that it does not take; names the record.
        """
        if COLUMN in batch.schema.names:
            codes, features, offsets = self._of_tokens(batch, where, first)
        else:
            codes, features, offsets = self._of_records(batch, where, first)
        lengths = np.diff(offsets)
        kept = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths) < self.max_length
        view = View.of(np.minimum(lengths, self.max_length), self.before)
        read = None if features is None else torch.from_numpy(features[kept])
        return ConstituentInputs(torch.from_numpy(codes[kept] + self.ids.first), read, view)

    def _of_tokens(
        self, batch: pa.RecordBatch, where: object, first: int
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        column = batch.column(COLUMN)
        codes, offsets = column.flatten().to_numpy().astype(np.int64), offsets_of(column)
        if len(codes) and codes.max() >= self.ids.codes:
            record = first + int(np.searchsorted(offsets, codes.argmax(), side="right")) - 1
            what = f"record {record} has token {codes.max()}, its tokenizer {self.ids.codes} codes"
            raise HepfmError(what, where, "make the token corpus again")
        if not self.reads_features:
            return codes, None, offsets
        contract = self.tokenizer.contract
        told = {condition.name: values_of(batch.column(condition.name)) for condition in contract.conditions}
        decoded = self.tokenizer.decode(codes, offsets, conditions=told or None)
        return np.zeros_like(codes), contract.encode_values(decoded), offsets

    def _of_records(
        self, batch: pa.RecordBatch, where: object, first: int
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        try:
            return self._encoded(batch)
        except HepfmError as error:
            raise HepfmError(f"record {first + self._first_bad(batch)}: {error.what}", where, error.mend) from error

    def _encoded(self, batch: pa.RecordBatch) -> tuple[np.ndarray, np.ndarray | None, np.ndarray]:
        contract = self.tokenizer.contract
        batch = contract.prepared(batch, self.axis or contract.axis)
        if not self.reads_features:
            tokens = self.tokenizer.encode(batch)
            return tokens.ids.astype(np.int64), None, tokens.offsets.astype(np.int64)
        offsets = offsets_of(batch.column(POINTS_COLUMN[contract.kind]))
        return np.zeros(offsets[-1], dtype=np.int64), contract.encode(batch), offsets

    def _first_bad(self, batch: pa.RecordBatch) -> int:
        """The first record that cannot be read; none by itself: 0."""
        for record in range(len(batch)):
            try:
                self._encoded(batch.slice(record, 1))
            except HepfmError:
                return record
        return 0

    def contract(self) -> dict[str, Any]:
        """What an artifact says of what is read, beside the backbone's own contract."""
        return {
            **self.tokenizer.contract.to_dict(),
            "codes": self.ids.codes,
            "first_id": self.ids.first,
            "max_length": self.max_length,
            "reads": self.records,
            "reads_axis": self.axis,
            "padding": "none: constituents of records are packed",
        }

    def reference(self, network: Any) -> dict[str, np.ndarray]:
        """Random records to replay for a network with a ``backbone``: lengths, and their codes or features."""
        backbone: Backbone = network.backbone
        lengths = np.array(REFERENCE_LENGTHS)
        draws = generator("head reference", self.ids.codes, self.reads_features)
        codes = draws.integers(0, self.ids.codes, lengths.sum()) + self.ids.first
        if not self.reads_features:
            return {"lengths": lengths, "codes": codes}
        assert isinstance(backbone.embedding, FeatureEmbedding)
        columns = backbone.embedding.physical(draws.normal(size=(lengths.sum(), backbone.config.features)))
        return {"lengths": lengths, "codes": np.zeros_like(codes), "features": columns.astype(np.float32)}

    def replayed(self, reference: Mapping[str, np.ndarray]) -> ConstituentInputs:
        """The inputs that :meth:`reference` describes."""
        features = torch.from_numpy(reference["features"]) if self.reads_features else None
        return ConstituentInputs(
            torch.from_numpy(reference["codes"]), features, View.of(reference["lengths"], self.before)
        )
