from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

from hepfm.core import records
from hepfm.core.draws import generator
from hepfm.ingest.build import BuildOptions, build
from hepfm.ingest.corpus import Corpus
from hepfm.tokenize.contract import FeatureContract
from hepfm.tokenize.network import VQVAEConfig

LABELS = ("QCD", "Tbqq")
JET = ("pt", "mass", "label")


def jets(count: int, seed: int = 0, classes: int = 2) -> dict[str, np.ndarray]:
    """Jets with one (QCD) or three (Tbqq) cores of softer and wider particles: pt, deta, dphi, offsets, label."""
    draw = generator("toy jets", seed)
    lengths = draw.integers(1, 60, count)
    label = np.arange(count) % classes
    of = np.repeat(np.arange(count), lengths)
    core = draw.normal(0, 0.2, (count, 3, 2)) * label[:, None, None]
    share = draw.pareto(1.2, lengths.sum()) + 0.01
    pt = 700 * share / np.bincount(of, share)[of]
    angle = core[of, draw.integers(0, 3, len(of))] + draw.normal(0, 0.1, (len(of), 2)) / (1 + pt[:, None] / 20)
    order = np.lexsort((-pt, of))
    return {
        "pt": pt[order].astype(np.float32),
        "deta": angle[order, 0].astype(np.float32),
        "dphi": angle[order, 1].astype(np.float32),
        "offsets": np.concatenate([[0], np.cumsum(lengths)]),
        "label": label,
    }


def batch_of(data: dict[str, np.ndarray], points: tuple[str, ...] = ("pt", "deta", "dphi")) -> pa.RecordBatch:
    """Those jets as records."""
    schema = records.schema("jets", points, JET)
    item = schema.field("constituents").type
    count = len(data["offsets"]) - 1
    inner = pa.StructArray.from_arrays([pa.array(data[name]) for name in points], fields=list(item.value_type))
    columns = [
        pa.ListArray.from_arrays(pa.array(data["offsets"].astype(np.int32)), inner, type=item),
        pa.array(np.full(count, 700, np.float32)),
        pa.array(np.arange(count, dtype=np.float32)),
        pa.DictionaryArray.from_arrays(pa.array(data["label"].astype(np.int16)), pa.array(LABELS)),
        pa.array(np.zeros(count, np.int32)),
        pa.array(np.arange(count)),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


@dataclass(frozen=True)
class ToyJets:
    """A source whose files say how many toy jets they hold; ``pt_scale`` makes another quantity of pt."""

    pt_scale: float = 1.0
    axis: str = "stored"
    points: tuple[str, ...] = ("pt", "deta", "dphi")
    name: str = "toyjets"
    kind: records.Kind = "jets"
    labels: tuple[str, ...] = LABELS

    @property
    def schema(self) -> pa.Schema:
        return records.schema("jets", self.points, JET)

    def settings(self) -> dict[str, Any]:
        return {"pt_scale": self.pt_scale}

    def entries(self, path: Path) -> int:
        return json.loads(path.read_text())["entries"]

    def read(self, path: Path, start: int, stop: int) -> pa.RecordBatch:
        data = jets(json.loads(path.read_text())["entries"])
        data["pt"] = data["pt"] * np.float32(self.pt_scale)
        return batch_of(data, self.points).slice(start, stop - start)


@pytest.fixture(scope="session")
def make_corpus(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Corpus]:
    """Builds a corpus of toy jets: ``make_corpus(records, split=(...), pt_scale=..., axis=...)``."""

    def make(count: int, splits: tuple[float, float, float] = (0.8, 0.1, 0.1), **changes: Any) -> Corpus:
        folder = tmp_path_factory.mktemp("corpus")
        (folder / "jets.json").write_text(json.dumps({"entries": count}))
        options = BuildOptions(splits=splits, run_entries=50, shard_entries=400, block_records=64)
        return build(replace(ToyJets(), **changes), [folder / "jets.json"], folder / "corpus", options)

    return make


@pytest.fixture(scope="session")
def corpus(make_corpus: Callable[..., Corpus]) -> Corpus:
    """2,000 toy jets in several shards; tests do not change it."""
    return make_corpus(2000)


@pytest.fixture(scope="session")
def contract(corpus: Corpus) -> FeatureContract:
    return FeatureContract().fitted(corpus.manifest)


@pytest.fixture(scope="session")
def small() -> VQVAEConfig:
    """A network that fits in seconds."""
    return VQVAEConfig(codes=64, width=16, blocks=1, heads=2)
