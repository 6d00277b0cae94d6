"""What an artifact is, in a few words: for tables and messages."""

from __future__ import annotations

import json
import struct
from math import prod
from pathlib import Path
from typing import Any

from hepfm.core.artifacts import WEIGHTS, Artifact

# Figures that say most about a model of any kind, with what follows the number.
HEADLINES = (
    "accuracy",
    "auc",
    "validation_accuracy",
    "validation_loss",
    "codebook_use",
    "jet_mass_w1_gev",
    "multiplicity_w1",
    "tau21_w1",
    "separation_power_response",
    "separation_power_layer_energy",
    "classifier_high_auc",
)


def task_of(artifact: Artifact) -> str:
    """What it does."""
    if artifact.kind == "tokenizer":
        return f"tokenizes {artifact.contract.get('kind', 'jets')} ({artifact.architecture.get('tokenizer', '')})"
    if artifact.kind == "tagger":
        return (
            f"tags jets, {len(artifact.contract.get('classes', ()))} classes ({artifact.architecture.get('network')})"
        )
    if artifact.kind == "regressor":
        return f"estimates {artifact.contract.get('target', {}).get('name', 'a quantity')}"
    if artifact.kind == "backbone":
        objective = artifact.architecture.get("objective", "next-token")
        return f"backbone, {objective} of {artifact.contract.get('kind', 'jets')}"
    return artifact.kind


def data_of(artifact: Artifact) -> str:
    """What it was trained on."""
    known = artifact.provenance
    if "data" in known:
        return str(known["data"])
    if "imported" in known:
        return f"imported from {known['imported'].get('file', 'a file')}"
    corpora = known.get("corpora") or ([known["corpus"]] if isinstance(known.get("corpus"), dict) else [])
    return ", ".join(f"{entry.get('records', 0):,} of {str(entry.get('digest', ''))[:8]}" for entry in corpora)


def licence_of(artifact: Artifact) -> str:
    """Licence of the weights; empty where nobody stated one."""
    known = artifact.provenance
    return str(known.get("licence") or known.get("imported", {}).get("licence", ""))


def citation_of(artifact: Artifact) -> str:
    """What to cite; empty where nobody stated anything."""
    return str(artifact.provenance.get("citation", ""))


def figures_of(artifact: Artifact) -> str:
    """Its headline numbers, with errors where they were measured."""
    metrics = artifact.metrics()
    shown = [name for name in HEADLINES if name in metrics]
    if "gradient_norm" in metrics:  # what a training logs: its accuracy is that of the last batch, which says nothing
        shown = [name for name in shown if name != "accuracy"]
    return ", ".join(f"{name} {_figure(metrics, name)}" for name in shown)


def _figure(metrics: dict[str, Any], name: str) -> str:
    error = metrics.get(f"{name}_uncertainty")
    floor = metrics.get(f"{name}_floor")
    return (
        f"{metrics[name]:.4g}"
        + (f" +- {error:.1g}" if error is not None else "")
        + (f" (floor {floor:.2g})" if floor is not None else "")
    )


def parameters_of(artifact: Artifact) -> int:
    """Parameters, as its training counted them; where nothing did, the numbers in its tensors."""
    counted = artifact.metrics().get("parameters")
    if isinstance(counted, int):  # running means and the like are in the tensors, too
        return counted
    with (artifact.path / WEIGHTS).open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    return sum(prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")


def size_of(path: Path) -> int:
    """Bytes of an artifact on disk."""
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
