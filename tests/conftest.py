"""Fixtures that several stages share."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")

sys.path.insert(0, str(Path(__file__).parent / "support"))  # rough_server, for tests and their child processes

TokenCorpusMaker = Callable[..., Path]


def toy_sequences(records: int, codes: int, seed: int, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Codes and offsets of sequences that a network can learn: each code is its predecessor plus 1 or 2."""
    draws = np.random.default_rng(seed)
    lengths = draws.integers(0, longest + 1, records)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    steps = draws.integers(1, 3, offsets[-1])
    total = np.concatenate([[0], np.cumsum(steps)])
    begin = draws.integers(0, codes, records)
    codes_of = np.repeat(begin - total[offsets[:-1]], lengths) + total[1:]
    return codes_of % codes, offsets


@pytest.fixture(scope="session")
def token_corpus(tmp_path_factory: pytest.TempPathFactory) -> TokenCorpusMaker:
    """Makes a token corpus on disk, with a stand-in for its tokenizer; each combination of arguments once."""
    import pyarrow as pa
    import torch

    from hepfm.core.artifacts import write_artifact
    from hepfm.core.records import ORIGIN
    from hepfm.ingest.jobs import write_corpus
    from hepfm.ingest.plan import Job, Plan

    made: dict[tuple[object, ...], Path] = {}

    def make(
        records: int = 600, codes: int = 20, seed: int = 1, longest: int = 12, tokenizer: str = "a", val: bool = True
    ) -> Path:
        key = (records, codes, seed, longest, tokenizer, val)
        if key in made:
            return made[key]
        folder = tmp_path_factory.mktemp("tokens")
        artifact = write_artifact(
            folder / "tokenizer",
            kind="tokenizer",
            architecture={"tokenizer": "toy", "name": tokenizer},
            contract={"features": ["pt", "deta", "dphi"]},
            provenance={},
            weights={"nothing": torch.zeros(1)},
            metrics={},
            reference={"nothing": np.zeros(1)},
            card="",
        )
        tokens = pa.list_(pa.field("item", pa.uint16(), nullable=False))
        schema = pa.schema(
            [pa.field("tokens", tokens, nullable=False), *(quantity.field() for quantity in ORIGIN)],
            metadata={"kind": "tokens"},
        )

        def produce(job: Job) -> list[pa.RecordBatch]:
            flat, offsets = toy_sequences(job.size, codes, seed + len(job.split), longest)
            column = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), pa.array(flat, pa.uint16()), type=tokens)
            origin = [pa.array(np.zeros(job.size), pa.int32()), pa.array(np.arange(job.size), pa.int64())]
            return [pa.RecordBatch.from_arrays([column, *origin], schema=schema)]

        splits = ["train", "val"] if val else ["train"]
        plan = Plan(
            identity={"made": list(key)},
            jobs=tuple(Job(split, 0, None, size=records) for split in splits),
            kind="tokens",
            schema=schema,
            labels=(),
            axis="stored",
            block_records=64,
            provenance={},
            tokens={"tokenizer": artifact.hash, "codes": codes, "source": "0" * 64, "source_path": "toy"},
        )
        write_corpus(folder / "corpus", plan, produce, attached={"tokenizer": folder / "tokenizer"})
        made[key] = folder / "corpus"
        return made[key]

    return make


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A server that misbehaves on request; downloads wait milliseconds where they would wait seconds."""
    from rough_server import rough_server

    from hepfm.core import downloads

    monkeypatch.setattr(downloads, "FIRST_WAIT_S", 0.001)
    with rough_server() as rough:
        yield rough


REAL_JETCLASS = Path(__file__).resolve().parents[1] / "../shared/data/jetclass"


@pytest.fixture
def real_jetclass_files(tmp_path: Path) -> list[Path]:
    """500 real JetClass jets of all ten classes as five ROOT files; they have no charge, species or displacement."""
    from hepfm.core.records import schema
    from hepfm.ingest.formats.batches import jet_batch
    from hepfm.ingest.formats.jetclass import LABELS, write_jetclass

    files = {name: REAL_JETCLASS / f"jetclass_500_{name}.npy" for name in ("pfVectors", "pfMask", "labels")}
    for file in files.values():
        if not file.exists():
            pytest.skip(f"{file} is not there")
    filled = np.load(files["pfMask"])[:, 0] > 0
    vectors = np.load(files["pfVectors"]).astype(np.float64)
    px, py, pz, energy = (np.where(filled, vectors[:, i], 0.0) for i in range(4))
    jet = [component.sum(axis=1) for component in (px, py, pz, energy)]
    jet_pt, jet_phi = np.hypot(jet[0], jet[1]), np.arctan2(jet[1], jet[0])
    jet_eta = np.arcsinh(jet[2] / jet_pt)
    label = np.load(files["labels"]).argmax(axis=1)
    provided = schema("jets", ("pt", "deta", "dphi", "energy"), ("pt", "eta", "phi", "mass", "label"))
    paths = []
    for first in range(0, 500, 100):
        part = slice(first, first + 100)
        inside = filled[part]
        lengths = inside.sum(axis=1)
        pt = np.hypot(px[part], py[part])[inside]
        eta = np.arcsinh(pz[part][inside] / pt)
        dphi = np.arctan2(py[part], px[part])[inside] - np.repeat(jet_phi[part], lengths)
        points = {
            "pt": pt,
            "deta": eta - np.repeat(jet_eta[part], lengths),
            "dphi": (dphi + np.pi) % (2 * np.pi) - np.pi,
            "energy": energy[part][inside],
        }
        momentum_squared = sum(component[part] ** 2 for component in jet[:3])
        columns = {
            "pt": jet_pt[part],
            "eta": jet_eta[part],
            "phi": jet_phi[part],
            "mass": np.sqrt(jet[3][part] ** 2 - momentum_squared),
            "label": label[part],
            "source_file": np.zeros(100),
            "source_entry": np.arange(100),
        }
        path = tmp_path / f"jetclass_{first // 100:03d}.root"
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        write_jetclass(path, [jet_batch(provided, LABELS, offsets, points, columns)])
        paths.append(path)
    return paths
