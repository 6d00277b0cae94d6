"""What a tagger reads of jets: the published features of Particle Transformer and Sophon, packed, from corpus records.

The formulas and constants are those of the data configurations ``JetClass_{full,kinpid,kin}.yaml`` (Qu, Li, Qian,
arXiv:2202.03772) and ``JetClassII_full.yaml`` (Li et al., arXiv:2405.12972), in single precision as there.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import nn

from hepfm.core import records
from hepfm.core.draws import generator
from hepfm.core.errors import HepfmError
from hepfm.core.nn.ragged import Layout
from hepfm.core.records import lengths_of, offsets_of, points_of, values_of
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.formats.jetclass import eta_sign

POINTS = records.POINTS_COLUMN["jets"]
CLIP = (-5.0, 5.0)
REFERENCE_LENGTHS = (1, 12, 40)
# Forward-calorimeter candidates, which Delphes does not have, count as what they are nearest to.
FLAGS = {
    "part_isChargedHadron": ("charged_hadron",),
    "part_isNeutralHadron": ("neutral_hadron", "hf_hadron"),
    "part_isPhoton": ("photon", "hf_em"),
    "part_isElectron": ("electron",),
    "part_isMuon": ("muon",),
}


@dataclass(frozen=True)
class JetInputs:
    """Jets as a tagger reads them, packed.

    Attributes:
        features: (T, F) float32.
        vectors: (T, 4) float32, px, py, pz, energy [GeV].
        layout: which particle belongs to which jet.
    """

    features: torch.Tensor
    vectors: torch.Tensor
    layout: Layout

    def to(self, device: torch.device | str) -> JetInputs:
        """The same jets on another device."""
        features, vectors = (part.to(device, non_blocking=True) for part in (self.features, self.vectors))
        return JetInputs(features, vectors, self.layout.to(device))


@dataclass(frozen=True)
class Feature:
    """A number of a particle: (value - subtract) * multiply, clipped; as it is where ``subtract`` is None.

    Attributes:
        name: as published.
        needs: quantities of constituents that it is computed from.
        subtract, multiply: of the standardisation.
        clip: smallest and largest value afterwards.
    """

    name: str
    needs: tuple[str, ...]
    subtract: float | None = None
    multiply: float = 1.0
    clip: tuple[float, float] = CLIP


_KINEMATIC = (
    Feature("part_pt_log", ("pt",), 1.7, 0.7),
    Feature("part_e_log", ("energy",), 2.0, 0.7),
    Feature("part_logptrel", ("pt",), -4.7, 0.7),
    Feature("part_logerel", ("energy",), -4.7, 0.7),
    Feature("part_deltaR", ("deta", "dphi"), 0.2, 4.0),
)
_IDENTITY = (Feature("part_charge", ("charge",)), *(Feature(name, ("species",)) for name in FLAGS))
_DISPLACEMENT = (
    Feature("part_d0", ("d0",)),
    Feature("part_d0err", ("d0err",), 0.0, 1.0, (0.0, 1.0)),
    Feature("part_dz", ("dz",)),
    Feature("part_dzerr", ("dzerr",), 0.0, 1.0, (0.0, 1.0)),
)
_ANGLES = (Feature("part_deta", ("deta",)), Feature("part_dphi", ("dphi",)))
_KINEMATICS_OF_VECTORS = ("pt", "deta", "dphi", "energy")
_JET_COLUMNS = ("pt", "eta", "mass")


@dataclass(frozen=True)
class FeatureSet:
    """The features of a particle, in order, and how jets are prepared.

    Attributes:
        name: of the set.
        features: in order.
        rescale: transverse momentum [GeV] that four-vectors are scaled to, jet by jet; None leaves them as they are.
        max_length: leading particles that are kept of a jet.
    """

    name: str
    features: tuple[Feature, ...]
    rescale: float | None = None
    max_length: int = 128

    @cached_property
    def needs(self) -> tuple[str, ...]:
        """Quantities of constituents that are read."""
        wanted = dict.fromkeys(_KINEMATICS_OF_VECTORS)
        return tuple(wanted | dict.fromkeys(name for feature in self.features for name in feature.needs))

    @property
    def columns(self) -> list[str]:
        """Columns of records that are read, as :class:`hepfm.ingest.reader.Reader` takes them."""
        return [*(f"{POINTS}.{name}" for name in self.needs), *_JET_COLUMNS]

    def check(self, corpus: Corpus) -> None:
        """Refuse a corpus that cannot provide a feature.

        Raises:
            HepfmError: it holds no jets, or lacks quantities; names them and the features that need them.
        """
        if corpus.manifest.kind != "jets":
            raise HepfmError(f"holds {corpus.manifest.kind}, not jets", corpus.path, "name a corpus of jets")
        provided = set(corpus.manifest.provides)
        missing = [column for column in self.columns if column not in provided]
        if missing:
            lost = [f.name for f in self.features if any(f"{POINTS}.{name}" in missing for name in f.needs)]
            what = f"features {', '.join(lost)}" if lost else "four-vectors"
            smaller = [name for name, other in FEATURE_SETS.items() if not set(other.columns) - provided]
            mend = f"choose --features {' or '.join(smaller)}" if smaller else "build the corpus from another source"
            raise HepfmError(f"has no {', '.join(missing)}, which the {what} need", corpus.path, mend)

    def lengths(self, batch: pa.RecordBatch) -> np.ndarray:
        """Particles (n,) of jet records, all of them."""
        return lengths_of(batch.column(POINTS))

    def read(self, batch: pa.RecordBatch, where: object, first: int = 0) -> JetInputs:
        """Inputs of jet records; their order is kept.

        Args:
            batch: with the columns that :attr:`columns` names; constituents are pt-ordered, as in every corpus.
            where: what the records are called in messages.
            first: number of the first record in messages.

        Raises:
            HepfmError: a value that is not finite, or a jet without particles; names the first such record.
        """
        column = batch.column(POINTS)
        offsets = offsets_of(column)
        lengths = np.diff(offsets)
        kept: np.ndarray | slice = slice(None)
        if (lengths > self.max_length).any():
            kept = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths) < self.max_length
            lengths = np.minimum(lengths, self.max_length)
        if len(lengths) and not lengths.all():
            empty = int(np.argmin(lengths))
            raise HepfmError(
                f"record {first + empty} has no constituents", where, "leave such jets out: hepfm corpus filter"
            )
        particles = _Particles(batch, kept, lengths, self.rescale)
        found = np.empty((int(lengths.sum()), len(self.features)), dtype=np.float32)
        with np.errstate(divide="ignore", invalid="ignore"):  # what is not finite is told below
            for number, feature in enumerate(self.features):
                values = _FORMULAS[feature.name](particles)
                if feature.subtract is not None:
                    values = _standardised(values, feature)
                found[:, number] = values
            vectors = particles.vectors
        _check_finite(found, vectors, self, lengths, where, first)
        return JetInputs(torch.from_numpy(found), torch.from_numpy(vectors), Layout.of(lengths))

    def contract(self) -> dict[str, Any]:
        """What an artifact has to say for others to make the same inputs."""
        return {
            "features": [
                {
                    "name": feature.name,
                    "subtract": feature.subtract,
                    "multiply": feature.multiply,
                    "clip": None if feature.subtract is None else list(feature.clip),
                }
                for feature in self.features
            ],
            "feature_set": self.name,
            "vectors": ["px", "py", "pz", "energy"],
            "units": {"momentum": "GeV", "energy": "GeV", "d0": "mm", "dz": "mm", "phi": "rad"},
            "rescale_pt_gev": self.rescale,
            "order": "pt, descending",
            "max_length": self.max_length,
            "padding": "none: particles of jets are packed; where padded, a mask has 1 for particles",
            "deta": "multiplied by the sign of the jet's eta (-1 at 0)",
            "neutral_displacement": 0.0,
        }

    def reference(self, network: nn.Module) -> dict[str, np.ndarray]:
        """Random jets to replay: features, four-vectors, lengths."""
        draws = generator("tagger reference", len(self.features))
        lengths = np.array(REFERENCE_LENGTHS)
        features = draws.normal(size=(lengths.sum(), len(self.features))).astype(np.float32)
        px, py, pz = draws.normal(0, 20, (3, lengths.sum()))
        energy = np.sqrt(px**2 + py**2 + pz**2 + 0.14**2)
        vectors = np.stack([px, py, pz, energy], axis=1).astype(np.float32)
        return {"features": features, "vectors": vectors, "lengths": lengths}

    def replayed(self, reference: Mapping[str, np.ndarray]) -> JetInputs:
        """The inputs that :meth:`reference` describes."""
        features, vectors = (torch.from_numpy(reference[name]) for name in ("features", "vectors"))
        return JetInputs(features, vectors, Layout.of(reference["lengths"]))


FEATURE_SETS = {
    "full": FeatureSet("full", (*_KINEMATIC, *_IDENTITY, *_DISPLACEMENT, *_ANGLES)),
    "kinpid": FeatureSet("kinpid", (*_KINEMATIC, *_IDENTITY, *_ANGLES)),
    "kin": FeatureSet("kin", (*_KINEMATIC, *_ANGLES)),
    "sophon": FeatureSet("sophon", (*_KINEMATIC, *_IDENTITY, *_DISPLACEMENT, *_ANGLES), rescale=500.0),
}


@dataclass
class _Particles:
    """Particles of jets and what features are made of: each quantity (T,) float32."""

    batch: pa.RecordBatch
    kept: np.ndarray | slice
    lengths: np.ndarray
    rescale: float | None
    _read: dict[str, np.ndarray] = field(default_factory=dict)

    def point(self, name: str) -> np.ndarray:
        if name not in self._read:
            self._read[name] = points_of(self.batch, name)[self.kept]
        return self._read[name]

    def jet(self, name: str) -> np.ndarray:
        """A jet's quantity (T,) float32 at each of its particles."""
        return np.repeat(values_of(self.batch.column(name)).astype(np.float32), self.lengths)

    @cached_property
    def scale(self) -> np.ndarray | np.float32:
        """Factor (T,) on four-vectors."""
        return np.float32(1) if self.rescale is None else np.float32(self.rescale) / self.jet("pt")

    @cached_property
    def jet_energy(self) -> np.ndarray:
        pt, eta, mass = (values_of(self.batch.column(name)).astype(np.float64) for name in _JET_COLUMNS)
        return np.repeat(np.sqrt((pt * np.cosh(eta)) ** 2 + mass**2).astype(np.float32), self.lengths)

    @cached_property
    def deta(self) -> np.ndarray:
        return self.point("deta") * np.repeat(eta_sign(values_of(self.batch.column("eta"))), self.lengths)

    @cached_property
    def vectors(self) -> np.ndarray:
        """Four-vectors (T, 4); azimuths are relative to the jet's, which nothing here depends on."""
        pt, dphi = self.point("pt"), self.point("dphi").astype(np.float64)
        eta = self.jet("eta").astype(np.float64) + self.point("deta")
        parts = (pt * np.cos(dphi), pt * np.sin(dphi), pt * np.sinh(eta), self.point("energy"))
        return np.stack([part.astype(np.float32) for part in parts], axis=1) * np.reshape(self.scale, (-1, 1))

    @cached_property
    def species(self) -> np.ndarray:
        """Index (T,) of the flag that is set, -1 for none."""
        flag = {name: number for number, names in enumerate(FLAGS.values()) for name in names}
        table = np.array([*(flag.get(name, -1) for name in records.SPECIES), -1])
        return table[self.point("species")]

    def displacement(self, name: str) -> np.ndarray:
        """0 for particles without track, as in JetClass."""
        return np.nan_to_num(self.point(name), nan=0.0, posinf=np.inf, neginf=-np.inf)


_FORMULAS: Mapping[str, Callable[[_Particles], np.ndarray]] = {
    "part_pt_log": lambda p: np.log(p.point("pt") * p.scale),
    "part_e_log": lambda p: np.log(p.point("energy") * p.scale),
    "part_logptrel": lambda p: np.log(p.point("pt") / p.jet("pt")),
    "part_logerel": lambda p: np.log(p.point("energy") / p.jet_energy),
    "part_deltaR": lambda p: np.hypot(p.deta, p.point("dphi")),
    "part_charge": lambda p: p.point("charge"),
    **{name: lambda p, number=number: p.species == number for number, name in enumerate(FLAGS)},  # type: ignore[misc]
    "part_d0": lambda p: np.tanh(p.displacement("d0")),
    "part_d0err": lambda p: p.displacement("d0err"),
    "part_dz": lambda p: np.tanh(p.displacement("dz")),
    "part_dzerr": lambda p: p.displacement("dzerr"),
    "part_deta": lambda p: p.deta,
    "part_dphi": lambda p: p.point("dphi"),
}


def _standardised(values: np.ndarray, feature: Feature) -> np.ndarray:
    shifted = (values - np.float32(feature.subtract)) * np.float32(feature.multiply)
    # Infinite values stay so, to be found: the logarithm of an energy of 0 is no large negative number.
    return np.where(
        np.isfinite(shifted), np.clip(shifted, np.float32(feature.clip[0]), np.float32(feature.clip[1])), shifted
    )


def _check_finite(
    found: np.ndarray, vectors: np.ndarray, features: FeatureSet, lengths: np.ndarray, where: object, first: int
) -> None:
    # A sum is finite where all its terms are: one pass, and no array as large as the features.
    if np.isfinite(found.sum(dtype=np.float64)) and np.isfinite(vectors.sum(dtype=np.float64)):
        return
    bad = ~np.isfinite(np.concatenate([found, vectors], axis=1))
    point = int(np.argmax(bad.any(axis=1)))
    jet = int(np.searchsorted(np.cumsum(lengths), point, side="right"))
    names = [*(feature.name for feature in features.features), "px", "py", "pz", "energy"]
    name = names[int(np.argmax(bad[point]))]
    raise HepfmError(
        f"{name} of record {first + jet} is not finite", where, "leave such jets out: hepfm corpus verify finds them"
    )
