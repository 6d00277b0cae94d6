"""Pretrained backbones behind the common interface: they generate and embed."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from operator import index
from pathlib import Path
from typing import Any

import awkward as ak
import numpy as np
import pyarrow as pa
import torch

from hepfm.core.artifacts import Artifact, without_replay
from hepfm.core.engine import launch
from hepfm.core.errors import HepfmError
from hepfm.core.nn.ragged import Layout
from hepfm.core.progress import progress
from hepfm.core.records import offsets_of, values_of
from hepfm.finetune.asked import NAMES, NUMBERS
from hepfm.finetune.generate import GenerateConfig
from hepfm.finetune.generator import Generator
from hepfm.finetune.sampler import Drawing
from hepfm.pretrain.backbone import Backbone, load_backbone
from hepfm.pretrain.data import pack
from hepfm.pretrain.masking import View
from hepfm.released.jets import Axis, Given, Records, given
from hepfm.released.model import Model, Names, Range, as_awkward
from hepfm.released.tokenizers import decoded, encoded, tokenized
from hepfm.tokenize.registry import Tokenizer, load_tokenizer
from hepfm.tokenize.tokens import COLUMN, Tokens

BATCH_RECORDS = 256
ARGUMENTS = (*NAMES, *NUMBERS, "direction", "temperature", "top_k", "top_p", "min_length", "max_length")
OPTION = re.compile(f"--({'|'.join(name.replace('_', '-') for name in ARGUMENTS)})\\b")


class BackboneModel(Model):
    """A backbone and the tokenizer that it carries."""

    def __init__(self, backbone: Backbone, tokenizer: Tokenizer, artifact: Artifact) -> None:
        super().__init__(artifact)
        self.backbone, self.tokenizer = backbone, tokenizer
        cannot = {"generate": backbone.config.cannot_generate, "embed": len(tokenizer.streams) > 1}
        self.does = tuple(name for name in ("generate", "embed", "encode", "decode") if not cannot.get(name))

    @classmethod
    def open(cls, path: Path) -> BackboneModel:
        backbone, artifact = load_backbone(path)
        return cls(backbone.to(launch.device()), load_tokenizer(path / _entry(artifact)["tokenizer"]), artifact)

    @property
    def labels(self) -> tuple[str, ...]:
        return next((told.names for told in self.backbone.config.conditions if told.kind == "label"), ())

    def generate(
        self,
        n: int,
        *,
        label: Names = (),
        data_set: Names = (),
        particle: Any = (),
        jet_pt: Range | None = None,
        jet_mass: Range | None = None,
        jet_eta: Range | None = None,
        jet_softdrop_mass: Range | None = None,
        incident_energy: Range | None = None,
        direction: tuple[float, float, float] | None = None,
        seed: int = 0,
        batch: int = 256,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_length: int = 1,
        max_length: int | None = None,
    ) -> ak.Array:
        n, batch, seed, min_length = (
            _whole(name, value)
            for name, value in (("n", n), ("batch", batch), ("seed", seed), ("min_length", min_length))
        )
        top_k, max_length = (
            None if value is None else _whole(name, value)
            for name, value in (("top_k", top_k), ("max_length", max_length))
        )
        for name, value in (("n", n), ("batch", batch)):
            if value < 1:
                raise HepfmError(f"must be at least 1, is {value}", name)
        wanted = GenerateConfig(
            model=str(self.artifact.path),
            out=Path(),
            label=_names(label),
            data_set=_names(data_set),
            particle=_names(particle),
            jet_pt=_range("jet_pt", jet_pt),
            jet_mass=_range("jet_mass", jet_mass),
            jet_eta=_range("jet_eta", jet_eta),
            jet_softdrop_mass=_range("jet_softdrop_mass", jet_softdrop_mass),
            incident_energy=_range("incident_energy", incident_energy),
            direction=direction,
        )
        with without_replay(), _named_as_here():  # it was replayed when this model was loaded
            drawing = Drawing(temperature, top_k, top_p)
            source = Generator(self.artifact.path, wanted.asked, seed, drawing, batch, min_length, max_length)
        with progress("generate", n, source.records.kind, visible=sys.stderr.isatty()) as task:
            batches = list(source.batches(0, n, task))
        return as_awkward(pa.Table.from_batches(batches, schema=source.records.schema))

    @torch.no_grad()
    def embed(self, jets: Records, *, split: str = "test", axis: Axis | None = None) -> np.ndarray:
        if len(self.tokenizer.streams) > 1:
            raise HepfmError("reads one list of token ids, its tokenizer gives several", self.artifact.path)
        found = given(jets, split, axis)
        parts = [np.empty((0, self.backbone.config.transformer.width), dtype=np.float32)]
        for tokens, features in self._read(found):
            lengths = np.diff(tokens.offsets)
            if not lengths.all():
                raise HepfmError(f"record {int(np.argmin(lengths))} has no points", found.corpus.path, "leave it out")
            for start in range(0, len(lengths), BATCH_RECORDS):
                parts.append(self._means(tokens, features, start, min(start + BATCH_RECORDS, len(lengths))))
        return np.concatenate(parts)

    def _read(self, found: Given) -> Iterator[tuple[Tokens, np.ndarray | None]]:
        """Tokens of blocks of records, and their continuous features where the backbone reads these."""
        made_by = found.corpus.manifest.tokens
        if found.corpus.manifest.kind != COLUMN or made_by is None:
            for batch, tokens in tokenized(self.tokenizer, found):
                yield tokens, self.tokenizer.contract.encode(batch) if self.backbone.config.features else None
            return
        if made_by["tokenizer"] != self.tokenizer.hash:
            mend = "apply the one that this model carries, or give the jets themselves"
            raise HepfmError("holds tokens of another tokenizer", found.corpus.path, mend)
        if self.backbone.config.features:
            raise HepfmError("holds tokens, this model reads features", found.corpus.path, "give the jets themselves")
        for batch in found:
            column = batch.column(COLUMN)
            yield Tokens(values_of(column.flatten()), offsets_of(column)), None

    def _means(self, tokens: Tokens, features: np.ndarray | None, start: int, stop: int) -> np.ndarray:
        """Means (n, width) over the tokens of records ``start`` to ``stop - 1``."""
        offsets = tokens.offsets[start : stop + 1]
        first, last = int(offsets[0]), int(offsets[-1])
        codes = tokens.ids[first:last].astype(np.int64) + int(_entry(self.artifact)["first"])
        hidden, layout = self._hidden(codes, None if features is None else features[first:last], offsets - first)
        lengths = torch.from_numpy(np.diff(layout.offsets.cpu().numpy())).to(hidden.device)
        record = torch.repeat_interleave(torch.arange(len(lengths), device=hidden.device), lengths)
        sums = torch.zeros(len(lengths), hidden.shape[1], device=hidden.device).index_add_(0, record, hidden.float())
        return (sums / lengths[:, None]).cpu().numpy()

    def _hidden(
        self, codes: np.ndarray, features: np.ndarray | None, offsets: np.ndarray
    ) -> tuple[torch.Tensor, Layout]:
        """What the last block gives of every token (T, width): read as in pretraining, joint ones by the encoder."""
        config, device = self.backbone.config, next(self.backbone.parameters()).device
        most = int(self.artifact.contract["max_length"])
        if config.objective == "next-token":
            packed = pack(codes, offsets, config.codes, most)
            return self.backbone.hidden(packed.inputs.to(device), packed.layout.to(device)), packed.layout
        lengths = np.diff(offsets)
        kept = np.arange(len(codes)) - np.repeat(offsets[:-1], lengths) < most
        view = View.of(np.minimum(lengths, most), config.registers).to(device)
        known = None if features is None else torch.from_numpy(features[kept]).to(device)
        return self.backbone.encode(view, torch.from_numpy(codes[kept]).to(device), known), view.layout

    def encode(self, jets: Records, *, split: str = "test", axis: Axis | None = None) -> ak.Array:
        return encoded(self.tokenizer, given(jets, split, axis))

    def decode(self, tokens: ak.Array, conditions: Any = None) -> ak.Array:
        return decoded(self.tokenizer, tokens, conditions)


def _entry(artifact: Artifact) -> dict[str, Any]:
    """The first data set: its tokenizer's folder and the number of its first id."""
    entries = artifact.contract.get("data_sets") or [{"tokenizer": "tokenizer", "first": 0}]
    return dict(entries[0])


@contextmanager
def _named_as_here() -> Iterator[None]:
    """Errors name arguments (``jet_pt``) where the command has options (``--jet-pt``)."""
    try:
        yield
    except HepfmError as error:
        where, mend = (OPTION.sub(lambda found: found[1].replace("-", "_"), text) for text in (error.where, error.mend))
        raise HepfmError(error.what, where, mend) from error


def _names(names: Any) -> tuple[str, ...]:
    return (str(names),) if isinstance(names, (str, int)) else tuple(str(name) for name in names)


def _range(name: str, asked: Range | None) -> tuple[float, ...]:
    if asked is None:
        return ()
    try:
        return tuple(np.atleast_1d(np.asarray(asked, dtype=np.float64)).tolist())
    except (TypeError, ValueError):
        raise HepfmError(f"is {asked!r}, no number", name, "give one number, or (least, largest)") from None


def _whole(name: str, value: Any) -> int:
    try:
        return index(value)
    except TypeError:
        raise HepfmError(f"must be a whole number, is {value!r}", name) from None
