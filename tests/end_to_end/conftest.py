"""The command line, in this process."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import awkward as ak
import numpy as np
import pytest
import uproot

from hepfm.cli import main


@dataclass(frozen=True)
class Result:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def last(self) -> str:
        """Last line on stderr."""
        return self.err.strip().splitlines()[-1] if self.err.strip() else ""


Hepfm = Callable[..., Result]


@pytest.fixture
def hepfm(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Hepfm:
    """Run ``hepfm ARGUMENTS``; bad input must never show a traceback."""

    def run(*arguments: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["hepfm", *map(str, arguments)])
        capfd.readouterr()
        code = 0
        try:
            main()
        except SystemExit as end:
            code = int(end.code or 0)
        out, err = capfd.readouterr()
        assert "Traceback" not in err
        return Result(code, out, err)

    return run


def fake_jets(jets: int, seed: int, label: str) -> dict[str, ak.Array]:
    """Branches of JetClass: jets of a falling pt spectrum, two prongs for Tbqq, without any physics tool."""
    draws = np.random.default_rng(seed)
    counts = draws.integers(12, 40, jets)
    n = counts.sum()
    jet = np.repeat(np.arange(jets), counts)
    spread = 0.25 if label == "Tbqq" else 0.08
    share = draws.exponential(size=n) ** 2
    pt = share / np.bincount(jet, share)[jet] * np.repeat(draws.uniform(500, 900, jets), counts)
    order = np.lexsort((-pt, jet))
    pt, eta_jet = pt[order], draws.uniform(-1.8, 1.8, jets)
    phi_jet = draws.uniform(-np.pi, np.pi, jets)
    eta, phi = eta_jet[jet] + draws.normal(0, spread, n), phi_jet[jet] + draws.normal(0, spread, n)
    charge = draws.integers(-1, 2, n).astype(np.float32)
    px, py, pz, energy = pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt * np.cosh(eta)
    sums = [np.bincount(jet, part, jets) for part in (px, py, pz, energy)]
    eta_jet, phi_jet = np.arcsinh(sums[2] / np.hypot(sums[0], sums[1])), np.arctan2(sums[1], sums[0])
    deta, dphi = eta - eta_jet[jet], (phi - phi_jet[jet] + np.pi) % (2 * np.pi) - np.pi
    track = np.where(charge != 0, draws.normal(0, 0.1, n), 0)
    error = np.where(charge != 0, 0.02, 0)
    flat = {
        "px": px, "py": py, "pz": pz, "energy": energy, "deta": deta * np.sign(eta_jet)[jet], "dphi": dphi,
        "d0val": track, "d0err": error, "dzval": track, "dzerr": error, "charge": charge,
    }  # fmt: skip
    branches = {f"part_{k}": ak.unflatten(v.astype(np.float32), counts) for k, v in flat.items()}
    flags = {"isChargedHadron": charge != 0, "isNeutralHadron": charge == 0}
    for name in ("isChargedHadron", "isNeutralHadron", "isPhoton", "isElectron", "isMuon"):
        branches[f"part_{name}"] = ak.unflatten(flags.get(name, np.zeros(n, bool)).astype(np.int32), counts)
    for name in ("QCD", "Hbb", "Hcc", "Hgg", "H4q", "Hqql", "Zqq", "Wqq", "Tbqq", "Tbl"):
        kind = np.float32 if name == "QCD" else bool if name.startswith("H") else np.int32
        branches[f"label_{name}"] = np.full(jets, name == label).astype(kind)
    branches |= {
        "jet_pt": np.hypot(sums[0], sums[1]).astype(np.float32),
        "jet_eta": eta_jet.astype(np.float32),
        "jet_phi": phi_jet.astype(np.float32),
        "jet_energy": sums[3].astype(np.float32),
        "jet_nparticles": counts.astype(np.float32),
    }
    for name in ("jet_sdmass", "jet_tau1", "jet_tau2", "jet_tau3", "jet_tau4"):
        branches[name] = np.full(jets, 0.1, np.float32)
    for name in ("genpart_eta", "genpart_phi", "genpart_pid", "genpart_pt", "truth_match"):
        branches[f"aux_{name}"] = np.zeros(jets, np.float32)
    return branches


@pytest.fixture(scope="session")
def jetclass_files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """ROOT files with JetClass's branches, written by uproot alone: two classes of 3,000 jets."""
    folder = tmp_path_factory.mktemp("jetclass")
    files = []
    for seed, label in enumerate(("QCD", "Tbqq")):
        files.append(folder / f"{label}.root")
        with uproot.recreate(files[-1]) as file:
            file.mktree("tree", fake_jets(3000, seed, label))
    return files
