"""The classes that can be simulated: one row each."""

from __future__ import annotations

from dataclasses import dataclass

from hepfm.core.errors import HepfmError


@dataclass(frozen=True)
class Process:
    """How one class of jets is made.

    Attributes:
        label: JetClass's name of the class.
        settings: what Pythia is told beside ``COMMON``.
        variants: further settings, taken in turn from one batch of events to the next.
        cascade: absolute PDG ids of the resonance and of what it decays through: (6, 24) for t -> b W, W -> q q'.
        products: how many visible decay products must all be within the jet radius of the jet's axis; 0: any jet will
            do.
    """

    label: str
    settings: tuple[str, ...]
    variants: tuple[tuple[str, ...], ...] = ((),)
    cascade: tuple[int, ...] = ()
    products: int = 0


# A fifth of the jets beyond 500 GeV come from partons of 400 to 490 GeV and radiation that the jet gathers; next to
# none come from softer ones. Most events of this window are given up early (``veto``).
_WINDOW = ("PhaseSpace:pTHatMin = 400.", "PhaseSpace:pTHatMax = 1300.")
_QUARKS = "1 2 3 4 5"
_LEPTONS = "11 13"  # JetClass's leptonic classes have electrons and muons, no taus
_HADRONIC_W = ("24:onMode = off", f"24:onIfAny = {_QUARKS}")
_LEPTONIC_W = ("24:onMode = off", f"24:onIfAny = {_LEPTONS}")
# One W to quarks, the other to leptons: either charge has its turn.
_MIXED_WW = (
    ("24:onMode = off", f"24:onPosIfAny = {_QUARKS}", f"24:onNegIfAny = {_LEPTONS}"),
    ("24:onMode = off", f"24:onNegIfAny = {_QUARKS}", f"24:onPosIfAny = {_LEPTONS}"),
)
_HADRONIC_Z = ("WeakZ0:gmZmode = 2", "23:onMode = off", f"23:onIfAny = {_QUARKS}")
_INVISIBLE_Z = ("WeakZ0:gmZmode = 2", "23:onMode = off", "23:onIfAny = 12 14 16")
_ONE_HIGGS = ("HiggsSM:ffbar2HZ = on", *_INVISIBLE_Z, "25:onMode = off")

PROCESSES = (
    # JetClass's QCD jets also recoil against an invisible Z: mostly quarks, one jet an event.
    Process(
        "QCD",
        ("WeakBosonAndParton:qqbar2gmZg = on", "WeakBosonAndParton:qg2gmZq = on", *_INVISIBLE_Z),
    ),
    Process("Hbb", (*_ONE_HIGGS, "25:onIfMatch = 5 -5"), cascade=(25,), products=2),
    Process("Hcc", (*_ONE_HIGGS, "25:onIfMatch = 4 -4"), cascade=(25,), products=2),
    Process("Hgg", (*_ONE_HIGGS, "25:onIfMatch = 21 21"), cascade=(25,), products=2),
    Process("H4q", (*_ONE_HIGGS, "25:onIfMatch = 24 -24", *_HADRONIC_W), cascade=(25, 24), products=4),
    Process("Hqql", (*_ONE_HIGGS, "25:onIfMatch = 24 -24"), _MIXED_WW, cascade=(25, 24), products=3),
    Process("Zqq", ("WeakDoubleBoson:ffbar2gmZgmZ = on", *_HADRONIC_Z), cascade=(23,), products=2),
    Process("Wqq", ("WeakDoubleBoson:ffbar2WW = on", *_HADRONIC_W), cascade=(24,), products=2),
    Process("Tbqq", ("Top:gg2ttbar = on", "Top:qqbar2ttbar = on", *_HADRONIC_W), cascade=(6, 24), products=3),
    Process("Tbl", ("Top:gg2ttbar = on", "Top:qqbar2ttbar = on", *_LEPTONIC_W), cascade=(6, 24), products=2),
)
COMMON = ("Beams:eCM = 13000.", "Print:quiet = on", "Next:numberCount = 0", *_WINDOW)
LABELS = tuple(process.label for process in PROCESSES)
_BY_LABEL = {process.label: process for process in PROCESSES}


def process_for(label: str) -> Process:
    """The row of a class.

    Raises:
        HepfmError: no such row.
    """
    if label not in _BY_LABEL:
        raise HepfmError(f"class '{label}' cannot be simulated", "--classes", f"there is: {', '.join(LABELS)}")
    return _BY_LABEL[label]
