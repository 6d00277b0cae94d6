"""Cuts on CMS events and AK8 jets: certified runs, filters, triggers, jet identification.

Together with pt > 300 GeV and abs(eta) < 2.5 they are the selection of AspenOpenJets (arXiv:2412.10504, section 2).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from hepfm.core.errors import HepfmError
from hepfm.core.files import digest_of, read_json

FILTERS = (
    "Flag_goodVertices",
    "Flag_globalSuperTightHalo2016Filter",
    "Flag_HBHENoiseFilter",
    "Flag_HBHENoiseIsoFilter",
    "Flag_EcalDeadCellTriggerPrimitiveFilter",
    "Flag_BadPFMuonFilter",
    "Flag_eeBadScFilter",
    "Flag_CSCTightHaloFilter",
)
LEAST_PT = 300.0
MOST_ETA = 2.5
JET_ID = 6  # bits: tight, and tight lepton veto; in 2016 files the loose bit (1) may be set too

# Families of JetHT triggers: name before the threshold [GeV], lowest and highest threshold.
FAMILIES = {
    "AK8DiPFJet": (0, 9999),
    "AK8PFHT": (0, 9999),
    "AK8PFJet": (40, 500),
    "DiCentralPFJet": (0, 9999),
    "DiPFJetAve": (0, 9999),
    "HT": (2000, 2500),
    "PFHT": (125, 900),
    "PFJet": (40, 500),
}
# Single paths of the data set that belong to no family.
SINGLE_PATHS = (
    "HLT_CaloJet500_NoJetID",
    "HLT_L1_TripleJet_VBF",
    "HLT_QuadPFJet_VBF",
    "HLT_SingleCentralPFJet170_CFMax0p1",
)
# With a cut on missing momentum a path fills CMS's MET and HTMHT data sets, not JetHT.
_OTHER_DATA_SETS = re.compile("PFMET|PFMHT|AlphaT")
_PATH = re.compile(r"HLT_([A-Za-z0-9]*?[A-Za-z])(\d+)(?:_\w*)?")
CERTIFIED = "https://opendata.cern.ch/record/14220"


def is_jetht(path: str) -> bool:
    """Does a trigger path belong to the families of AspenOpenJets (``HLT_PFJet450``, ``HLT_PFHT650_4JetPt50``)?

    A family is the name up to the threshold, which is parsed: ``HLT_PFJet550`` and ``HLT_PFJetFwd40`` do not belong.
    """
    found = _PATH.fullmatch(path)
    if path in SINGLE_PATHS:
        return True
    if not found or found[1] not in FAMILIES or _OTHER_DATA_SETS.search(path):
        return False
    lowest, highest = FAMILIES[found[1]]
    return lowest <= int(found[2]) <= highest


def trigger_paths(columns: Iterable[str], patterns: Sequence[str], place: Path) -> tuple[str, ...]:
    """Trigger paths among the columns: those that match a pattern (``HLT_PFJet*``), or the families if there is none.

    Raises:
        HepfmError: there is none.
    """
    paths = sorted(name for name in columns if name.startswith("HLT_"))
    if patterns:
        chosen = [path for path in paths if any(fnmatchcase(path, pattern) for pattern in patterns)]
        wanted = f"that matches {' or '.join(patterns)}"
    else:
        chosen, wanted = [path for path in paths if is_jetht(path)], "of the JetHT families of AspenOpenJets"
    if not chosen:
        told = f"it has {len(paths)}, for example {', '.join(paths[:3])}" if paths else "it has none at all"
        raise HepfmError(f"no trigger path {wanted}", place, f"{told}; --triggers takes names with wildcards")
    return tuple(chosen)


def check_filters(columns: Iterable[str], place: Path) -> None:
    """Raise a :class:`HepfmError` if one of the eight filters is missing: an event cannot be said to pass it."""
    if missing := [name for name in FILTERS if name not in set(columns)]:
        raise HepfmError(f"has no filter {', '.join(missing)}", place, "AspenOpenJets asks for all eight")


@dataclass(frozen=True)
class CertifiedRuns:
    """Luminosity blocks that CMS certified: sorted, disjoint ranges ``run << 32 | block``, both ends included.

    Attributes:
        starts, stops: first and last of each range.
        digest: SHA-256 of the JSON's content.
    """

    starts: tuple[int, ...]
    stops: tuple[int, ...]
    digest: str

    @staticmethod
    def load(path: Path) -> CertifiedRuns:
        """Read CMS's JSON ``{"run": [[first, last], ...], ...}``.

        Raises:
            HepfmError: no such file, no JSON, or another content.
        """
        content = read_json(path)
        try:
            ranges = sorted(
                (int(run) << 32 | _block(first), int(run) << 32 | _block(last, first))
                for run, blocks in content.items()
                for first, last in blocks
            )
        except (AttributeError, TypeError, ValueError) as error:
            raise HepfmError(
                "is no list of certified luminosity blocks", path, 'CMS has {"run": [[first, last], ...]}'
            ) from error
        if not ranges:
            raise HepfmError("certifies no luminosity block", path)
        starts, stops = zip(*ranges, strict=True)
        return CertifiedRuns(starts, tuple(np.maximum.accumulate(stops).tolist()), digest_of(content))

    def contain(self, run: np.ndarray, lumi: np.ndarray) -> np.ndarray:
        """Is each luminosity block (n,) of these?"""
        wanted = run.astype(np.int64) << 32 | lumi.astype(np.int64)
        at = np.searchsorted(self.starts, wanted, side="right") - 1
        return (at >= 0) & (wanted <= np.asarray(self.stops)[at])


def _block(number: Any, least: int = 0) -> int:
    if type(number) is not int or not least <= number < 1 << 32:
        raise ValueError(number)
    return number


@dataclass(frozen=True)
class JetIdRules:
    """Limits of a jet identification: CMS's names of energy fractions, central and forward of an edge in abs(eta)."""

    edge: float
    most_neutral: float
    least_charged: float
    most_neutral_forward: float


# CMSSW, PFJetIDSelectionFunctor: RUN2UL16PUPPI, RUN2ULPUPPI; and 13.6 TeV (JME's AK8PUPPI_TightLeptonVeto).
UL2016 = JetIdRules(edge=2.4, most_neutral=0.9, least_charged=0.0, most_neutral_forward=0.98)
UL = JetIdRules(edge=2.6, most_neutral=0.9, least_charged=0.0, most_neutral_forward=0.9)
RUN3 = JetIdRules(edge=2.6, most_neutral=0.99, least_charged=0.01, most_neutral_forward=0.9)
RUNS = ((272_007, 284_044, UL2016), (294_927, 325_175, UL))
JET_ID_COLUMNS = ("neHEF", "neEmEF", "chHEF", "chEmEF", "muEF", "chMultiplicity", "neMultiplicity")


def tight_lepton_veto(columns: Mapping[str, np.ndarray], eta: np.ndarray, run: np.ndarray) -> np.ndarray:
    """Do AK8 PUPPI jets (n,) pass CMS's tight identification with lepton veto (jetId 6)?

    NanoAODv15 has no ``FatJet_jetId``; this is its definition for abs(eta) < 2.7: central jets have neHEF below 0.99,
    neEmEF < 0.9, chEmEF < 0.8, muEF < 0.8, chHEF above 0.01, a charged candidate and more than one candidate. In the
    Run 2 legacy data neHEF is below 0.9 and chHEF above 0. The run tells which; simulation is taken as Run 3.

    Args:
        columns: (n,) by the names in ``JET_ID_COLUMNS``.
        eta: of the jets.
        run: of their events.

    Source: CMSSW PhysicsTools/SelectorUtils/interface/PFJetIDSelectionFunctor.h (RUN2UL16PUPPI, RUN2ULPUPPI), and for
    13.6 TeV CMS JME, "jetid.json" of jsonpog-integration, AK8PUPPI_TightLeptonVeto.
    """
    passed = _passes(RUN3, columns, np.abs(eta))
    for first, last, rules in RUNS:
        of_period = (run >= first) & (run <= last)
        if of_period.any():
            passed = np.where(of_period, _passes(rules, columns, np.abs(eta)), passed)
    return passed


def _passes(rules: JetIdRules, columns: Mapping[str, np.ndarray], eta: np.ndarray) -> np.ndarray:
    total = columns["chMultiplicity"].astype(np.int64) + columns["neMultiplicity"]
    central = (
        (columns["neHEF"] < rules.most_neutral)
        & (columns["neEmEF"] < 0.9)
        & (columns["chHEF"] > rules.least_charged)
        & (columns["chMultiplicity"] > 0)
        & (total > 1)
        & (columns["chEmEF"] < 0.8)
        & (columns["muEF"] < 0.8)
    )
    forward = (columns["neHEF"] < rules.most_neutral_forward) & (columns["neEmEF"] < 0.99)
    if rules is not UL2016:
        forward &= (columns["chEmEF"] < 0.8) & (columns["muEF"] < 0.8)
    return np.where(eta <= rules.edge, central, forward)
