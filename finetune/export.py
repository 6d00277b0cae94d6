"""``hepfm models export MODEL --onnx --out DIR``: a tagger as one ONNX graph, from raw particles to scores, embedding.

Everything is in the graph: features, standardisation, scaling of four-vectors, network, softmax. Beside it lie a
description for users of other languages and reference inputs and outputs, which the graph has reproduced.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pyarrow as pa
import torch
import tyro
from torch import nn
from tyro.conf import Positional

from hepfm.core import records
from hepfm.core.artifacts import Artifact
from hepfm.core.draws import generator
from hepfm.core.errors import HepfmError
from hepfm.core.files import fsync_folder, write_json, write_text
from hepfm.core.progress import say
from hepfm.core.versions import versions
from hepfm.finetune.export_page import page
from hepfm.finetune.inputs import FLAGS, FeatureSet
from hepfm.finetune.padded import PADDED
from hepfm.finetune.padded_inputs import JET, Preparation, columns_of, described
from hepfm.finetune.tagger import Tagger, load_tagger
from hepfm.ingest.formats.batches import jet_batch

GRAPH, DESCRIPTION, README, REFERENCE = "model.onnx", "model.json", "README.md", "reference.npz"
TOLERANCE = 1e-5
OPSET = 20
INPUTS, OUTPUT = ("particles", "jet", "mask"), "output"
MEND = "pip install 'hepfm[export]'"


@dataclass(frozen=True)
class ExportConfig:
    """Write a tagger as an ONNX graph for C++ and other languages: raw particles in, scores and embedding out.

    The graph is run by ONNX Runtime on jets of 1 to 128 particles and compared with PyTorch; more than 1e-5 apart, and
    nothing is written."""

    model: Annotated[Positional[str], tyro.conf.arg(metavar="MODEL")]
    """The tagger: a run, an artifact folder, a hub id or a URL."""
    out: Path
    """Folder to write: new."""


class Graph(nn.Module):
    """A tagger as a graph: particles (n, P, C), jets (n, 3), mask (n, P) to scores and embedding (n, classes + width).

    Args:
        tagger: a network.
    """

    def __init__(self, tagger: Tagger) -> None:
        super().__init__()
        self.preparation = Preparation(_feature_set(tagger))
        self.network = PADDED[tagger.architecture](tagger.network)
        self.classify = tagger.network.classify
        self.eval()

    def forward(self, particles: torch.Tensor, jet: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        embedding = self.network(*self.preparation(particles, jet, mask))
        return torch.cat([self.classify(embedding).softmax(1), embedding], 1)


def _feature_set(tagger: Tagger) -> FeatureSet:
    assert isinstance(tagger.features, FeatureSet)  # only networks on a backbone read anything else
    return tagger.features


def main(config: ExportConfig) -> None:
    """Export, compare, write, and print the folder."""
    if config.out.exists():
        raise HepfmError("exists already", config.out, "name another --out, or remove it")
    tagger, artifact = load_tagger(config.model)
    if not isinstance(tagger, Tagger) or tagger.architecture not in PADDED:
        network = artifact.architecture.get("network")
        raise HepfmError(f"no graph can be made of '{network}'", artifact.path, f"of {', '.join(PADDED)} it can")
    _require()
    partial = config.out.with_name(f".{config.out.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        apart = write_graph(tagger, artifact, partial)
        fsync_folder(partial)
        partial.replace(config.out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    say(
        f"{GRAPH}: {len(tagger.classes)} scores and {tagger.network.embedding_width} numbers of the embedding; at most "
        f"{apart['scores']:.1g} and {apart['embedding']:.1g} from PyTorch's"
    )
    sys.stdout.write(f"{config.out}\n")


def write_graph(tagger: Tagger, artifact: Artifact, folder: Path) -> dict[str, float]:
    """Write everything into a folder.

    Returns:
        Largest differences between ONNX Runtime and PyTorch on the reference jets, of scores and of the embedding.

    Raises:
        HepfmError: they differ by more than 1e-5.
    """
    jets, inputs = reference_jets(_feature_set(tagger))
    expected = np.concatenate([tagger.scores(jets), tagger.embedding(jets)], 1)
    graph = Graph(tagger)
    with _quiet():
        dimensions: dict[int, Any] = {0: torch.export.Dim("jets"), 1: torch.export.Dim("particles")}
        torch.onnx.export(
            graph,
            tuple(torch.from_numpy(inputs[name][:2]) for name in INPUTS),
            folder / GRAPH,
            input_names=INPUTS,
            output_names=(OUTPUT,),
            dynamic_shapes=(dimensions, {0: dimensions[0]}, dimensions),
            opset_version=OPSET,
            dynamo=True,
            external_data=False,
        )
    classes = len(tagger.classes)
    found = run_graph(folder / GRAPH, inputs)
    difference = np.abs(found - expected)
    apart = {"scores": float(difference[:, :classes].max()), "embedding": float(difference[:, classes:].max())}
    # The embedding has no scale of its own: single precision is relative to its largest number.
    allowed = TOLERANCE * max(1.0, float(np.abs(expected[:, classes:]).max()))
    if not (apart["scores"] <= TOLERANCE and apart["embedding"] <= allowed):
        raise HepfmError(
            f"ONNX Runtime's scores differ by {apart['scores']:.2g}, its embedding by {apart['embedding']:.2g}",
            artifact.path,
            "report it with your versions of torch, onnx and onnxruntime",
        )
    np.savez(folder / REFERENCE, **inputs, **{OUTPUT: found})  # type: ignore[arg-type]
    description = describe(tagger, artifact, apart)
    write_json(folder / DESCRIPTION, description)
    write_text(folder / README, page(description))
    return apart


def run_graph(path: Path, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Outputs of a graph, by ONNX Runtime on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (found,) = session.run([OUTPUT], {name: inputs[name] for name in INPUTS})
    return np.asarray(found)


def reference_jets(features: FeatureSet) -> tuple[pa.RecordBatch, dict[str, np.ndarray]]:
    """Jets of 1 to ``max_length`` particles, one of each, as records and as the graph's padded inputs."""
    draws = generator("export reference", features.name)
    lengths = np.arange(1, features.max_length + 1)
    jets, count = len(lengths), int(lengths.sum())
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    jet = np.repeat(np.arange(jets), lengths)
    pt = draws.lognormal(1.5, 1.2, count) + 0.3
    pt = pt[np.lexsort((-pt, jet))]
    deta, dphi = draws.normal(0, 0.2, (2, count)).clip(-0.8, 0.8)
    species = draws.choice(5, count, p=[0.55, 0.15, 0.26, 0.02, 0.02])
    charged = np.isin(species, [0, 3, 4])
    eta = draws.uniform(-2, 2, jets)
    points = {
        "pt": pt,
        "deta": deta,
        "dphi": dphi,
        "energy": np.hypot(pt * np.cosh(eta[jet] + deta), draws.choice([0.0, 0.14], count)),
        "charge": np.where(charged, draws.choice([-1, 1], count), 0),
        "species": species,
    }
    for name, width in (("d0", 0.1), ("dz", 0.1), ("d0err", 0.03), ("dzerr", 0.03)):
        size = draws.exponential(width, count)
        points[name] = size if name.endswith("err") else size * draws.choice([-1, 1], count)
    columns = {
        "pt": np.add.reduceat(pt, offsets[:-1]),
        "eta": eta,
        "mass": draws.uniform(1, 100, jets),
        **dict.fromkeys(("source_file", "source_entry"), np.zeros(jets, dtype=np.int64)),
    }
    schema = records.schema("jets", tuple(points), ("pt", "eta", "mass"))
    batch = jet_batch(schema, (), offsets, points, columns, tracked=charged)
    return batch, padded_inputs(batch, features)


def padded_inputs(batch: pa.RecordBatch, features: FeatureSet) -> dict[str, np.ndarray]:
    """A graph's inputs of jet records, padded to the longest, displacement 0 without track."""
    lengths = records.lengths_of(batch.column(records.POINTS_COLUMN["jets"]))
    places = np.arange(lengths.max())[None] < lengths[:, None]
    particles = np.zeros((*places.shape, len(columns_of(features))), dtype=np.float32)
    for number, name in enumerate(columns_of(features)):
        flag = f"part_{name}"
        if flag in FLAGS:
            kinds = [records.SPECIES.index(kind) for kind in FLAGS[flag]]
            values = np.isin(records.points_of(batch, "species"), kinds)
        else:
            values = np.nan_to_num(records.points_of(batch, name), nan=0.0)
        particles[places, number] = values
    pt, eta, mass = (records.values_of(batch.column(name)).astype(np.float64) for name in ("pt", "eta", "mass"))
    jets = np.stack([pt, eta, np.hypot(pt * np.cosh(eta), mass)], 1).astype(np.float32)
    return {"particles": particles, "jet": jets, "mask": places.astype(np.float32)}


def describe(tagger: Tagger, artifact: Artifact, apart: dict[str, float]) -> dict[str, Any]:
    """What the graph takes and gives, as plain data."""
    columns = columns_of(_feature_set(tagger))
    width = tagger.network.embedding_width
    jet = ("transverse momentum", "pseudorapidity", "energy")
    return {
        "graph": GRAPH,
        "opset": OPSET,
        "inputs": [
            {
                "name": "particles",
                "type": "float32",
                "shape": ["jets", "particles", len(columns)],
                "columns": [described(name) for name in columns],
                "order": "pt, descending",
                "most_particles": tagger.features.max_length,
            },
            {
                "name": "jet",
                "type": "float32",
                "shape": ["jets", len(JET)],
                "columns": [
                    {"name": name, "unit": "" if name == "eta" else "GeV", "meaning": f"{meaning} of the jet"}
                    for name, meaning in zip(JET, jet, strict=True)
                ],
            },
            {
                "name": "mask",
                "type": "float32",
                "shape": ["jets", "particles"],
                "meaning": "1 for particles, 0 for padding, which may hold anything and stands at the end",
            },
        ],
        "output": {
            "name": OUTPUT,
            "type": "float32",
            "shape": ["jets", len(tagger.classes) + width],
            "columns": [*tagger.classes, *(f"embedding_{number}" for number in range(width))],
            "scores": len(tagger.classes),
            "embedding": width,
        },
        "preparation": tagger.features.contract(),
        "reference": {"file": REFERENCE, "jets": tagger.features.max_length, "largest_difference": apart},
        "model": {"hash": artifact.hash, "network": tagger.architecture},
        "versions": versions(),
    }


def _require() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise HepfmError(f"needs the module '{error.name}'", "--onnx", MEND) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter tells much that concerns no user."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
