"""The contracts that fits can choose: features of jets and of showers, and what decoding is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pyarrow as pa

from hepfm.core.errors import HepfmError
from hepfm.ingest.manifest import Manifest
from hepfm.tokenize.contract import AS_STORED, FeatureContract, cells_of, grid_of, unit_of
from hepfm.tokenize.features import FULL, KINEMATIC, FeatureSpec

CELLS, SPACE = ("layer", "cell_a", "cell_b"), ("x", "y", "z")


def contract_for(
    features: str, manifest: Manifest, where: object = "corpus", conditions: Sequence[str] = ()
) -> FeatureContract:
    """The contract of a tokenizer to be fitted on a corpus: of jets ``kinematics`` or ``full``, or of showers.

    Args:
        features: the set.
        manifest: of the corpus.
        where: the corpus, for messages.
        conditions: quantities of a record that decoding is told.

    Raises:
        HepfmError: see :meth:`FeatureContract.fitted`.
    """
    if manifest.kind == "showers":
        check_set(features)
        contract = shower_contract(shower_features(manifest, where), manifest)
    else:
        contract = FeatureContract(FULL if features == "full" else KINEMATIC)
    if twice := sorted({name for name in conditions if list(conditions).count(name) > 1}):
        raise HepfmError(f"names {', '.join(twice)} twice", "--conditions")
    told = tuple(_condition(name, manifest, where) for name in conditions)
    return replace(contract, conditions=told).fitted(manifest, where)


def check_set(features: str) -> None:
    """Refuse another set than the one that showers have.

    Raises:
        HepfmError: it is another.
    """
    if features != "kinematics":
        raise HepfmError("showers have one set of features", "--features", "leave it out")


def _condition(name: str, manifest: Manifest, where: object) -> FeatureSpec:
    """A quantity of a record, standardised."""
    fields = {field.name: field for field in manifest.schema}
    numbers = [known for known, field in fields.items() if pa.types.is_floating(field.type)]
    if name not in numbers:
        raise HepfmError(
            f"has no number '{name}' of each record for --conditions", where, f"it has: {', '.join(numbers)}"
        )
    known = manifest.statistics.get(name, {})
    mean, spread = float(known.get("mean", 0.0)), float(known.get("std", 0.0))
    return FeatureSpec(name, unit_of(fields[name]), shift=mean, scale=1 / (spread or 1.0))


def shower_contract(features: tuple[FeatureSpec, ...], manifest: Manifest, order: str = AS_STORED) -> FeatureContract:
    """The contract of a tokenizer of the showers of a corpus, not yet fitted."""
    grid, cells = grid_of(manifest), cells_of(manifest)
    return FeatureContract(features, kind="showers", order=order, mass="", grid=grid, cells=cells)


def shower_features(manifest: Manifest, where: object = "corpus") -> tuple[FeatureSpec, ...]:
    """Position and energy of a hit, as in OmniJet-alpha_C (arXiv:2501.05534): positions standardised, ln(E) + 1.

    Positions are cells where the corpus has them, else coordinates. (The original has constants for one detector of
    30 x 30 x 30 cells; there the two agree to 20%.)

    Raises:
        HepfmError: the corpus has neither.
    """
    energy = FeatureSpec("energy", "MeV", "log", shift=-1.0)
    if {f"points.{name}" for name in CELLS} <= set(manifest.provides):
        positions = cell_features(manifest, where)
    elif {f"points.{name}" for name in SPACE} <= set(manifest.provides):
        positions = tuple(FeatureSpec(name, "mm") for name in SPACE)
    else:
        provided = ", ".join(manifest.provides)
        raise HepfmError("has neither cells nor coordinates of its hits", where, f"it provides: {provided}")
    return (*(_standardised(feature, manifest) for feature in positions), energy)


def cell_features(manifest: Manifest, where: object = "corpus") -> tuple[FeatureSpec, ...]:
    """Layer and both cell indices of a hit, with the range that the detector gives them.

    Raises:
        HepfmError: the corpus has no cells, or no geometry that says how many.
    """
    grid = grid_of(manifest)
    if grid is None:
        raise HepfmError("has no geometry with cells", where, "take --tokenizer vqvae, or voxelise into a geometry")
    return tuple(
        FeatureSpec(name, "", integer=True, allowed=(0.0, count - 1.0)) for name, count in zip(CELLS, grid, strict=True)
    )


def _standardised(feature: FeatureSpec, manifest: Manifest) -> FeatureSpec:
    known = manifest.statistics.get(f"points.{feature.name}", {})
    mean, spread = float(known.get("mean", 0.0)), float(known.get("std", 0.0))
    # A position that is the same everywhere is refused when the contract is fitted; here it must not divide by 0.
    return replace(feature, shift=mean, scale=1 / (spread or 1.0))
