"""Materials of calorimeters, and what electromagnetic showers see of a stack of them.

Elements: PDG, Atomic and nuclear properties of materials (Phys. Rev. D 110 (2024) 030001, section 6). Compounds are
mass fractions of elements. Effective values of a mixture are those of Grindhammer and Peters (hep-ex/0001020, section
2): means weighted by mass.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from hepfm.core.errors import HepfmError

SCALE_ENERGY_MEV = 21.2  # E_s = m_e c^2 sqrt(4 pi / alpha), of multiple scattering
MM_PER_CM = 10.0


@dataclass(frozen=True)
class Element:
    """Z, A [g/mol], radiation length [g/cm2], minimum ionisation [MeV cm2/g]."""

    z: float
    a: float
    radiation_length: float
    ionisation: float


ELEMENTS = {
    "H": Element(1, 1.008, 63.04, 4.034),
    "C": Element(6, 12.011, 42.70, 1.742),
    "N": Element(7, 14.007, 37.99, 1.825),
    "O": Element(8, 15.999, 34.24, 1.801),
    "Al": Element(13, 26.982, 24.01, 1.615),
    "Si": Element(14, 28.086, 21.82, 1.664),
    "Ar": Element(18, 39.948, 19.55, 1.508),
    "Fe": Element(26, 55.845, 13.84, 1.451),
    "Cu": Element(29, 63.546, 12.86, 1.403),
    "Kr": Element(36, 83.798, 11.37, 1.357),
    "W": Element(74, 183.84, 6.76, 1.145),
    "Pb": Element(82, 207.2, 6.37, 1.122),
    "U": Element(92, 238.03, 6.00, 1.081),
}


@dataclass(frozen=True)
class Material:
    """Density [g/cm3], and mass fractions of elements."""

    density: float
    fractions: Mapping[str, float]


# Densities and fractions: PDG as above; carbon fibre and copper-kapton foil as in ILD's detector model
# (key4hep/k4geo, ILD/compact/ILD_common_v02/materials.xml), FR4 without its bromine.
MATERIALS = {
    "tungsten": Material(19.30, {"W": 1.0}),
    "lead": Material(11.35, {"Pb": 1.0}),
    "uranium": Material(18.95, {"U": 1.0}),
    "iron": Material(7.874, {"Fe": 1.0}),
    "copper": Material(8.96, {"Cu": 1.0}),
    "aluminium": Material(2.699, {"Al": 1.0}),
    "silicon": Material(2.329, {"Si": 1.0}),
    "liquid_argon": Material(1.396, {"Ar": 1.0}),
    "liquid_krypton": Material(2.418, {"Kr": 1.0}),
    "polystyrene": Material(1.060, {"H": 0.0774, "C": 0.9226}),
    "fr4": Material(1.70, {"H": 0.072, "C": 0.298, "O": 0.435, "Si": 0.195}),
    "carbon_fibre": Material(1.467, {"H": 0.0584, "C": 0.7941, "O": 0.1475}),
    "copper_kapton": Material(5.19, {"H": 0.0036, "C": 0.0946, "N": 0.0100, "O": 0.0286, "Cu": 0.8632}),
    "epoxy": Material(1.30, {"H": 0.1318, "C": 0.5354, "O": 0.3328}),
    "air": Material(1.205e-3, {"C": 0.0001, "N": 0.7553, "O": 0.2318, "Ar": 0.0128}),
}


@dataclass(frozen=True)
class Slice:
    """A plate of one material."""

    material: str
    """Name of its material."""
    thickness: float
    """Thickness, mm."""
    role: Literal["absorber", "active", "gap"] = "gap"
    """absorber; active (gives the signal); or gap: boards, supports, glue, air."""

    @property
    def made_of(self) -> Material:
        """Its material.

        Raises:
            HepfmError: there are no data of it.
        """
        if self.material not in MATERIALS:
            raise HepfmError(f"no data of material '{self.material}'", "", f"there is: {', '.join(MATERIALS)}")
        return MATERIALS[self.material]

    @property
    def mass(self) -> float:
        """Mass per area, g/cm2."""
        return self.made_of.density * self.thickness / MM_PER_CM


@dataclass(frozen=True)
class Mixture:
    """What a shower sees of slices, as one material.

    Attributes:
        z, a: effective charge and mass [g/mol], means by mass.
        thickness: mm.
        mass: per area, g/cm2.
        depth: radiation lengths.
        critical_energy: MeV; X0 sum(w E_c,i / X0_i), with E_c,i = 2.66 MeV (X0_i Z_i/A_i)^1.1.
        moliere: Moliere radius, mm: 1/R_M = sum(w E_c,i / X0_i)/E_s; gaps dilute the mass and widen it.
        ionisation: of a minimally ionising particle, MeV.
    """

    z: float
    a: float
    thickness: float
    mass: float
    depth: float
    critical_energy: float
    moliere: float
    ionisation: float


def mixture(slices: Sequence[Slice]) -> Mixture:
    """The effective material of slices of positive thickness.

    Raises:
        HepfmError: there are no data of a material.
    """
    parts = [
        (slice_.mass * fraction, ELEMENTS[symbol])
        for slice_ in slices
        for symbol, fraction in slice_.made_of.fractions.items()
    ]
    mass = sum(part for part, _ in parts)
    depth = sum(part / element.radiation_length for part, element in parts)
    lost = sum(part * critical_energy(element) / element.radiation_length for part, element in parts)
    thickness = sum(slice_.thickness for slice_ in slices)
    return Mixture(
        z=sum(part * element.z for part, element in parts) / mass,
        a=sum(part * element.a for part, element in parts) / mass,
        thickness=thickness,
        mass=mass,
        depth=depth,
        critical_energy=lost / depth,
        moliere=SCALE_ENERGY_MEV / lost * thickness,
        ionisation=sum(part * element.ionisation for part, element in parts),
    )


def critical_energy(element: Element) -> float:
    """E_c [MeV] of an element (hep-ex/0001020, section 2): 2.66 (X0 Z/A)^1.1."""
    return float(2.66 * (element.radiation_length * element.z / element.a) ** 1.1)
