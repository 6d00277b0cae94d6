"""The classes that can be simulated: one row each."""

from __future__ import annotations

from dataclasses import dataclass

from hepfm.core.errors import HepfmError

COMMON = (
    "Beams:eCM = 13000.",
    "Print:quiet = on",
    "Next:numberCount = 0",
)


@dataclass(frozen=True)
class Process:
    """How one class of jets is made.

    Attributes:
        label: JetClass's name of the class.
        settings: what Pythia is told.
        cascade: absolute PDG ids of the resonance and of what it decays through: (6, 24) for t -> b W, W -> q q'.
        products: how many decay products must all be within the jet radius of the jet's axis; 0: any jet will do.
    """

    label: str
    settings: tuple[str, ...]
    cascade: tuple[int, ...] = ()
    products: int = 0


def _window(low: float, high: float) -> tuple[str, ...]:
    return (f"PhaseSpace:pTHatMin = {low}", f"PhaseSpace:pTHatMax = {high}")


_HADRONIC_Z = ("23:onMode = off", "23:onIfAny = 1 2 3 4 5")
_INVISIBLE_Z = ("23:onMode = off", "23:onIfAny = 12 14 16")
_HADRONIC_W = ("24:onMode = off", "24:onIfAny = 1 2 3 4 5")

# The pt windows waste few events and cut no jets of 500 to 1000 GeV away that would matter (see docs of the windows).
PROCESSES = (
    Process(
        "QCD",
        (
            "WeakBosonAndParton:qqbar2gmZg = on",
            "WeakBosonAndParton:qg2gmZq = on",
            "WeakZ0:gmZmode = 2",
            "23:onMode = off",
            "23:onIfAny = 12 14 16",
            *_window(500.0, 1100.0),
        ),
    ),
    Process(
        "Zqq",
        ("WeakDoubleBoson:ffbar2gmZgmZ = on", "WeakZ0:gmZmode = 2", *_HADRONIC_Z, *_window(500.0, 1100.0)),
        cascade=(23,),
        products=2,
    ),
    Process("Wqq", ("WeakDoubleBoson:ffbar2WW = on", *_HADRONIC_W, *_window(500.0, 1100.0)), cascade=(24,), products=2),
    *(
        Process(label, ("HiggsSM:ffbar2HZ = on", *_INVISIBLE_Z, "25:onMode = off", f"25:onIfMatch = {decay}", *_window(500.0, 1100.0)), cascade=(25,), products=2)
        for label, decay in (("Hbb", "5 -5"), ("Hcc", "4 -4"), ("Hgg", "21 21"))
    ),
    Process("H4q", ("HiggsSM:ffbar2HZ = on", *_INVISIBLE_Z, "25:onMode = off", "25:onIfMatch = 24 -24", *_HADRONIC_W, *_window(500.0, 1100.0)), cascade=(25,24), products=4),
    Process(
        "Tbqq",
        ("Top:gg2ttbar = on", "Top:qqbar2ttbar = on", *_HADRONIC_W, *_window(500.0, 1100.0)),
        cascade=(6, 24),
        products=3,
    ),
)
_BY_LABEL = {process.label: process for process in PROCESSES}


def process_for(label: str) -> Process:
    """The row of a class.

    Raises:
        HepfmError: no such row.
    """
    if label not in _BY_LABEL:
        raise HepfmError(f"class '{label}' cannot be simulated", "labels", f"classes: {', '.join(_BY_LABEL)}")
    return _BY_LABEL[label]
