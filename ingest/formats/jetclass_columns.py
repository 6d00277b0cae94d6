"""What the columns of JetClass and of JetClass-II have in common: checks of entries, and their way to records."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path

import numpy as np

from hepfm.core import records
from hepfm.core.errors import HepfmError
from hepfm.ingest.formats.arrays import segment_sums, wrapped
from hepfm.ingest.formats.jetclass import eta_sign
from hepfm.ingest.formats.jetclass2 import mass_of
from hepfm.ingest.formats.ragged import Column, Lists, Table, chosen
from hepfm.ingest.tally import Tally

Columns = Mapping[str, Column]
# What may be wrong with an entry, and flags (n,) of the entries with which it is not.
Check = Callable[[Columns], tuple[str, np.ndarray]]

IMPACT_COLUMNS = ("part_d0val", "part_d0err", "part_dzval", "part_dzerr")
LARGEST_CHARGE = np.iinfo(np.int8).max
# A jet's energy may be below its momentum by this share of it: rounding.
ENERGY_ROUNDING = 1e-3
# A soft-drop mass [GeV] above this and below 0 is that of a four-vector which rounding made space-like.
MASS_ROUNDING = -1.0
AXIS_COLUMNS = ("part_px", "part_py", "part_pz", "part_deta", "jet_eta")
AXIS_JETS = 200


def lists(columns: Columns, name: str) -> Lists:
    """A column that is known to hold lists."""
    column = columns[name]
    assert isinstance(column, Lists)
    return column


def numbers(columns: Columns, name: str) -> np.ndarray:
    """A column that is known to hold a number an entry."""
    column = columns[name]
    assert isinstance(column, np.ndarray)
    return column


def check_shapes(columns: Columns, nested: Collection[str], path: Path, format_name: str) -> None:
    """Raise a :class:`HepfmError` unless the columns ``nested`` hold a list an entry, and the others a number."""
    for name, column in columns.items():
        if isinstance(column, Lists) != (name in nested):
            what = "a list of numbers" if name in nested else "one number"
            raise HepfmError(f"column '{name}' does not hold {what} an entry", path, f"is this a {format_name} file?")


def checked(
    columns: Columns, entries: np.ndarray, checks: Iterable[Check], path: Path, tally: Tally
) -> tuple[Columns, np.ndarray]:
    """The columns of those entries (n,) that pass, and these entries; the others are refused, each once."""
    for check in checks:
        what, good = check(columns)
        if not good.all():
            tally.reject(what, entries[~good], path)
            columns, entries = chosen(columns, good), entries[good]
    return columns, entries


def counts(columns: Columns) -> tuple[str, np.ndarray]:
    """Are all lists of constituents as long as ``jet_nparticles`` says?"""
    stated = numbers(columns, "jet_nparticles")
    good = np.ones(len(stated), dtype=bool)
    for name in columns:
        if name.startswith("part_"):
            good &= lists(columns, name).lengths == stated
    return "its lists of constituents differ in length, or from 'jet_nparticles'", good


def charges(columns: Columns) -> tuple[str, np.ndarray]:
    """Are the charges whole numbers?"""
    charge = lists(columns, "part_charge").values
    whole = (charge <= LARGEST_CHARGE) & (charge >= -LARGEST_CHARGE) & (np.trunc(charge) == charge)
    return "'part_charge' is not a charge in units of e", _jets_of(columns, whole)


def neutrals(columns: Columns) -> tuple[str, np.ndarray]:
    """Is there no impact parameter of a neutral constituent?"""
    good = (lists(columns, "part_charge").values != 0) | ~_tracked(columns)
    return "a neutral constituent has an impact parameter", _jets_of(columns, good)


def energies(columns: Columns) -> tuple[str, np.ndarray]:
    """Is the jet's energy that of a mass which is not imaginary?"""
    pt, eta, energy = (numbers(columns, f"jet_{name}").astype(np.float64) for name in ("pt", "eta", "energy"))
    with np.errstate(invalid="ignore", over="ignore"):  # values that are not finite are the builder's to judge
        wrong = (energy < 0) | (energy < pt * np.cosh(eta) * (1 - ENERGY_ROUNDING))
    return "'jet_energy' is below the momentum of the jet", ~wrong


def check_axis(table: Table) -> None:
    """Check the convention of ``part_deta`` on the first jets of a file: it is multiplied by the sign of ``jet_eta``.

    Raises:
        HepfmError: it is not.
    """
    columns = table.read(AXIS_COLUMNS, 0, min(AXIS_JETS, table.entries))
    stored = [column for column in columns.values() if isinstance(column, Lists)]
    if len(stored) != len(AXIS_COLUMNS) - 1 or any(len(part.values) != len(stored[0].values) for part in stored):
        return  # reading tells what is wrong with such entries
    px, py, pz, deta = (lists(columns, name).values.astype(np.float64) for name in AXIS_COLUMNS[:-1])
    lengths = lists(columns, "part_px").lengths
    jet_eta = np.repeat(numbers(columns, "jet_eta"), lengths)
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        eta = np.arcsinh(pz / np.hypot(px, py)) - jet_eta
        found = np.isfinite(eta) & np.isfinite(deta) & (jet_eta < 0)
    if not found.any():
        return
    flipped, plain = (float(np.median(np.abs(eta - sign * deta)[found])) for sign in (-1, 1))
    if plain < 0.1 * flipped:
        raise HepfmError(
            "'part_deta' is eta - jet_eta also where jet_eta is negative",
            table.path,
            "multiply it by the sign of jet_eta, as the data set does",
        )


def points_of(columns: Columns, flags: Mapping[str, str]) -> dict[str, np.ndarray]:
    """Quantities (N,) of constituents; ``tracked`` tells which have impact parameters.

    Args:
        columns: of entries that passed the checks.
        flags: species by column.
    """
    parts = {name: column.values for name, column in columns.items() if isinstance(column, Lists)}
    lengths = lists(columns, "part_px").lengths
    species = np.full(len(parts["part_px"]), -1, dtype=np.int8)
    for flag, name in flags.items():
        np.copyto(species, records.SPECIES.index(name), where=parts[flag] != 0)
    return {
        "pt": np.hypot(parts["part_px"], parts["part_py"]),
        "deta": parts["part_deta"] * np.repeat(eta_sign(numbers(columns, "jet_eta")), lengths),
        "dphi": wrapped(parts["part_dphi"]),
        "energy": parts["part_energy"],
        "d0": parts["part_d0val"],
        "d0err": parts["part_d0err"],
        "dz": parts["part_dzval"],
        "dzerr": parts["part_dzerr"],
        "charge": parts["part_charge"],
        "species": species,
        "tracked": _tracked(columns),
    }


def jets_of(columns: Columns) -> dict[str, np.ndarray]:
    """Quantities (n,) of jets, without the label."""
    px, py = (lists(columns, name) for name in ("part_px", "part_py"))
    pt, eta = (numbers(columns, name) for name in ("jet_pt", "jet_eta"))
    softdrop_mass = numbers(columns, "jet_sdmass")
    rounded = (softdrop_mass < 0) & (softdrop_mass > MASS_ROUNDING)
    return {
        "pt": pt,
        "pt_constituents": np.hypot(segment_sums(px.values, px.offsets), segment_sums(py.values, py.offsets)),
        "eta": eta,
        "phi": wrapped(numbers(columns, "jet_phi")),
        "mass": mass_of(pt, eta, numbers(columns, "jet_energy")),
        "softdrop_mass": np.where(rounded, np.float32(0), softdrop_mass),
        **{f"tau{n}": numbers(columns, f"jet_tau{n}") for n in (1, 2, 3, 4)},
    }


def _tracked(columns: Columns) -> np.ndarray:
    """Which constituents (N,) have track information: not all four of it exactly 0."""
    first, *others = (lists(columns, name).values != 0 for name in IMPACT_COLUMNS)
    for other in others:
        first |= other
    return first


def _jets_of(columns: Columns, good: np.ndarray) -> np.ndarray:
    """Which jets (n,) have only good constituents (N,)."""
    offsets = lists(columns, "part_px").offsets
    if good.all():
        return np.ones(len(offsets) - 1, dtype=bool)
    bad = np.concatenate([[0], np.cumsum(~good)])
    return bad[offsets[1:]] == bad[offsets[:-1]]
