"""Simulated jets beside real ones: equal ones agree to the last digit, known differences come out as they are."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import ks_2samp, wasserstein_distance

from hepfm.benchmarks.closeness import classes
from hepfm.benchmarks.closeness.classes import compare_classes
from hepfm.benchmarks.closeness.command import EvaluateSimulationConfig, main
from hepfm.benchmarks.closeness.page import page
from hepfm.benchmarks.closeness.samples import JetSample, read_real_jetclass, read_real_jetclass2, read_simulated
from hepfm.benchmarks.closeness.species import LEPTONIC, compare_species
from hepfm.benchmarks.closeness.tables import class_tables, track_tables
from hepfm.benchmarks.closeness.tracks import compare_tracks, matched, tracks_of
from hepfm.core.errors import HepfmError
from hepfm.core.observables import FourVectors
from hepfm.core.statistics import Estimate
from hepfm.ingest.formats.jetclass import LABELS
from hepfm.ingest.formats.jetclass2 import LABELS as JETCLASS2_LABELS

DATA = Path(__file__).resolve().parents[2] / "../shared/data"
REAL_JETCLASS = DATA / "jetclass"
REAL_JETCLASS2 = DATA / "jetclass2/JetClassII_example.parquet"
SampleMaker = Callable[..., JetSample]


def need(path: Path) -> Path:
    if not path.exists():
        pytest.skip(f"{path} is not there")
    return path


@pytest.fixture(scope="module")
def jets() -> SampleMaker:
    """Makes jets of 600 to 800 GeV with ``counts`` jets of each class, tracks and species."""

    def make(counts: dict[str, int], seed: int = 0, soft: float = 1.0, uncertainty: float = 1.0) -> JetSample:
        rng = np.random.default_rng(seed)
        label = np.repeat(np.array(list(counts), dtype=object), list(counts.values()))
        n = len(label)
        lengths = rng.integers(5, 30, n)
        record = np.repeat(np.arange(n), lengths)
        pt = rng.exponential(1.0, len(record)) ** 2 * soft + 0.01
        pt *= (rng.uniform(600, 800, n) / np.bincount(record, weights=pt))[record]
        eta, phi = rng.uniform(-1, 1, n)[record] + rng.normal(0, 0.1, len(record)), rng.normal(0, 0.1, len(record))
        d0err = uncertainty * 10.0 ** -(np.digitize(pt, (1, 2, 4, 8, 16, 32, 100)) / 4)
        tracks = {"d0err": d0err, "dzerr": 2 * d0err}
        tracks |= {name: rng.normal(0, tracks[f"{name}err"]) for name in ("d0", "dz")}
        neutral = rng.random(len(record)) < 0.4
        species = np.where(neutral, 2, 0)
        tracks = {name: np.where(neutral, np.nan, values) for name, values in tracks.items()}
        vectors = FourVectors(pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt * np.cosh(eta))
        return JetSample(label, np.concatenate([[0], np.cumsum(lengths)]), vectors, tracks, species)

    return make


def scaled(sample: JetSample, factor: float) -> JetSample:
    return replace(sample, vectors=FourVectors(*(factor * part for part in sample.vectors)))


def test_equal_samples_have_no_distance(jets: SampleMaker) -> None:
    sample = jets({"QCD": 40, "Hbb": 30})
    report = compare_classes(sample, sample, seed=1, replicas=20)
    assert [row.name for row in report.rows] == ["QCD", "Hbb", "all classes"]
    for row in report.rows:
        for item in row.quantities.values():
            for distance in (item.wasserstein_1, item.kolmogorov_smirnov):
                assert distance.estimate.value == pytest.approx(0, abs=1e-14)
                assert distance.floor.value > 0
                assert not distance.missed
    assert [median.pull for median in report.medians] == [0, 0]
    assert report.notes == ()
    same = compare_tracks(sample, sample, seed=1, replicas=20)
    assert all(item.wasserstein_1.estimate.value == pytest.approx(0, abs=1e-12) for item in same.quantities.values())
    pairs = [*same.widths, *same.errors["d0err"], *same.errors["dzerr"], *same.species["of pt"]]
    assert all(pair.real.value == pair.simulated.value for pair in pairs)


def test_a_known_scale_is_found(jets: SampleMaker) -> None:
    """All momenta times 1.1: every pt and mass moves by its tenth, angles and ratios stay."""
    sample = jets({"QCD": 60})
    report = compare_classes(sample, scaled(sample, 1.1), seed=1, replicas=20)
    (row,) = report.rows
    found = {name: item.wasserstein_1.estimate.value for name, item in row.quantities.items()}
    assert found["jet_pt"] == pytest.approx(0.1 * sample.pt.mean())
    assert found["jet_mass"] == pytest.approx(0.1 * sample.mass.mean())
    assert found["constituent_log_pt"] == pytest.approx(np.log10(1.1))
    for name in ("multiplicity", "constituent_deta", "constituent_dphi", "tau21"):
        assert found[name] == pytest.approx(0, abs=1e-9), name
    assert row.quantities["jet_pt"].wasserstein_1.missed
    assert report.medians[0].relative.value == pytest.approx(0.1)


def test_distances_agree_with_scipy(jets: SampleMaker) -> None:
    real, simulated = jets({"QCD": 40, "Zqq": 30}), jets({"QCD": 70, "Zqq": 60}, seed=1, soft=3.0)
    report = compare_classes(real, simulated, seed=1, replicas=20)
    for row in report.rows[:2]:
        sides = [sample.select(sample.label == row.name) for sample in (simulated, real)]
        for quantity in classes.QUANTITIES:
            values = [quantity.values(side).values for side in sides]
            item = row.quantities[quantity.name]
            assert item.wasserstein_1.estimate.value == pytest.approx(wasserstein_distance(*values))
            statistic = ks_2samp(*values, method="asymp").statistic
            assert item.kolmogorov_smirnov.estimate.value == pytest.approx(statistic, abs=1e-12)


def test_like_jets_are_seldom_marked_and_unlike_ones_are(jets: SampleMaker) -> None:
    real = jets({"QCD": 50, "Hbb": 50})
    alike = compare_classes(real, jets({"QCD": 200, "Hbb": 200}, seed=7), seed=1, replicas=60)
    cells = [item.wasserstein_1 for row in alike.rows[:2] for item in row.quantities.values()]
    assert sum(cell.missed for cell in cells) <= 4  # of 16, which hang together
    chosen = jets({"QCD": 200}, seed=8)
    fewer = chosen.select(np.diff(chosen.offsets) > 15)
    unlike = compare_classes(real, fewer, seed=1, replicas=60)
    assert unlike.rows[0].quantities["multiplicity"].wasserstein_1.missed


def test_classes_are_pooled_in_the_proportions_of_the_real_jets(jets: SampleMaker) -> None:
    real = jets({"QCD": 40, "Hbb": 20, "Zqq": 60})
    simulated = jets({"QCD": 400, "Hbb": 50, "Zqq": 60}, seed=1)
    report = compare_classes(real, simulated, seed=1, replicas=5)
    rows = {row.name: row for row in report.rows}
    assert (rows["resonances"].real, rows["resonances"].simulated) == (
        80,
        80,
    )  # Zqq limits: one simulated jet a real one
    assert (rows["all classes"].real, rows["all classes"].simulated) == (120, 120)
    assert report.resonance_shift is not None


def test_classes_that_one_side_lacks_are_named(jets: SampleMaker) -> None:
    real = jets({"QCD": 40, "Hqql": 40, "Hbb": 40})
    simulated = jets({"QCD": 40, "Hbb": 5, "X_bb": 3, "": 2})
    report = compare_classes(real, simulated, seed=1, replicas=5)
    assert [row.name for row in report.rows] == ["QCD"]
    assert report.notes == (
        "Hbb is not compared: 5 simulated jets, at least 20 are needed",
        "Hqql is not compared: 0 simulated jets, at least 20 are needed",
        "5 simulated jets of 2 labels without real jets are not compared: X_bb, no label",
    )
    with pytest.raises(HepfmError, match=r"no class has 20 jets on both sides \(labels beside: Tbl\)"):
        compare_classes(real, jets({"Tbl": 40}), seed=1, replicas=5)


def test_jets_beyond_the_selection_are_left_out_and_counted(jets: SampleMaker) -> None:
    real = jets({"QCD": 40})
    hard = scaled(real, 2.0)
    together = JetSample(
        np.concatenate([real.label, hard.label]),
        np.concatenate([real.offsets, real.offsets[-1] + hard.offsets[1:]]),
        FourVectors(*(np.concatenate(parts) for parts in zip(real.vectors, hard.vectors, strict=True))),
        {},
        None,
    )
    report = compare_classes(real, together, seed=1, replicas=5)
    assert report.rows[0].simulated == 40
    assert report.notes[0].startswith("40 simulated jets beyond JetClass's selection (500 < pt < 1000 GeV")


def test_tracks_are_compared_at_equal_momenta(jets: SampleMaker) -> None:
    """Uncertainties 20% larger are found as such, although the momenta, which they depend on, differ."""
    real, simulated = jets({"QCD": 150}), jets({"QCD": 300}, seed=1, soft=1.0, uncertainty=1.2)
    simulated = scaled(simulated, 0.6)
    pt = tracks_of(simulated).pt
    err = 1.2 * 10.0 ** -(np.digitize(pt, (1, 2, 4, 8, 16, 32, 100)) / 4)
    charged = np.isfinite(simulated.tracks["d0"])
    simulated.tracks["d0err"][charged] = err
    theirs, ours = matched(tracks_of(real), tracks_of(simulated))
    edges = (0, 1, 2, 4, 8, 16, 32, 100, np.inf)
    shares = [np.histogram(side.pt, edges, weights=side.weights)[0] for side in (theirs, ours)]
    assert np.allclose(*shares)
    assert not np.allclose(*(np.histogram(side.pt, edges, density=False)[0] / len(side.pt) for side in (theirs, ours)))
    report = compare_tracks(real, simulated, seed=1, replicas=20)
    assert report.quantities["d0_error"].wasserstein_1.estimate.value == pytest.approx(np.log10(1.2), rel=1e-6)
    assert len(report.errors["d0err"]) >= 5
    assert all(pair.simulated.value / pair.real.value == pytest.approx(1.2) for pair in report.errors["d0err"])


def test_a_track_from_a_decay_along_the_jet_has_a_positive_significance() -> None:
    """d0 = (x py - y px) / pt of a vertex 5 mm along the jet's axis, which is the sum of two tracks."""
    phi, pt = np.array([0.3, -0.2]), np.array([400.0, 300.0])
    total = np.array([(pt * np.cos(phi)).sum(), (pt * np.sin(phi)).sum()])
    x, y = 5 * total / np.hypot(*total)
    d0 = x * np.sin(phi) - y * np.cos(phi)
    ones = np.ones(2)
    sample = JetSample(
        np.array(["Hbb"], dtype=object),
        np.array([0, 2]),
        FourVectors(pt * np.cos(phi), pt * np.sin(phi), 0 * pt, pt),
        {"d0": d0, "d0err": 0.01 * ones, "dz": 0 * ones, "dzerr": 0.01 * ones},
        np.zeros(2, dtype=int),
    )
    tracks = tracks_of(sample)
    assert d0.min() < 0 < d0.max()
    assert (tracks.side * tracks.d0 > 0).all()


def test_species_shares_and_their_errors(jets: SampleMaker) -> None:
    """Constituents are drawn one by one here, so the error is the binomial one."""
    real, simulated = jets({"QCD": 300}), jets({"QCD": 500}, seed=1)
    report = compare_tracks(real, simulated, seed=1, replicas=100)
    photon = next(pair for pair in report.species["of constituents"] if pair.name == "photon")
    share = (real.species == 2).mean()
    assert photon.real.value == pytest.approx(share)
    assert photon.real.error == pytest.approx(np.sqrt(share * (1 - share) / len(real.vectors.px)), rel=0.3)
    by_pt = [sum(pair.real.value for pair in pairs) for pairs in report.species.values()]
    assert by_pt == pytest.approx([1, 1, 1])


def test_a_species_that_few_jets_lack_has_an_error(jets: SampleMaker) -> None:
    real, simulated = jets({"QCD": 12}), jets({"QCD": 300}, seed=1)
    some = simulated.species == 0
    rare = np.random.default_rng(1).random(len(some)) < 0.005
    simulated = replace(simulated, species=np.where(some & rare, 4, simulated.species))
    shares, _ = compare_species(real, simulated, seed=1, replicas=20)
    muon = next(pair for pair in shares["of constituents"] if pair.name == "muon")
    assert muon.real.value == 0
    share = muon.simulated.value
    assert muon.real.error == pytest.approx(np.sqrt(share * (1 - share) / len(real.vectors.px)))


def test_labels_with_leptons_are_known() -> None:
    leptonic = [name for name in (*LABELS, *JETCLASS2_LABELS) if LEPTONIC.match(name)]
    assert {"Hqql", "Tbl", "X_ee", "X_tauhtauh", "X_YY_gtauhtaum", "X_YY_bcev", "X_YY_sqtauhv"} <= set(leptonic)
    assert not any(set(name.split("_")[-1]) <= set("bcsqg") for name in leptonic)
    assert not any(name.startswith("QCD") for name in leptonic)
    # The 161 labels of resonances are the leptonic ones and those of quarks and gluons alone.
    hadronic = [name for name in JETCLASS2_LABELS if name.startswith("X_") and set(name.split("_")[-1]) <= set("bcsqg")]
    assert len(leptonic) - 2 + len(hadronic) == 161


def test_species_are_those_of_jets_that_are_alike(jets: SampleMaker) -> None:
    """Leptonic decays and jets beyond the other sample's momenta do not count."""
    real = jets({"QCD_light": 60, "X_YY_bbee": 60, "X_YY_bbtauhtauh": 10, "X_cc": 10})
    simulated = jets({"QCD": 100, "Tbl": 50}, seed=1)
    _, note = compare_species(real, simulated, seed=1, replicas=5)
    assert re.search(r"Of (6\d|70) real and (9\d|100) simulated jets with 60\d < pt < 79\d GeV and no lepton", note)
    _, note = compare_species(real, scaled(simulated, 3.0), seed=1, replicas=5)
    assert "Of 140 real and 150 simulated jets of any momentum and decay" in note


def test_real_jets_are_read_about_the_axis_of_their_sum() -> None:
    """The published part_deta, multiplied by the sign of the jet's eta, agrees once that is undone."""
    sample, origin = read_real_jetclass(need(REAL_JETCLASS))
    assert len(sample) == 500
    assert len(origin) == 3
    assert set(sample.label) == set(LABELS)
    points, mask = (np.load(next(REAL_JETCLASS.glob(f"*_{name}.npy"))) for name in ("pfPoints", "pfMask"))
    filled = mask[:, 0] > 0
    jet_eta = np.arcsinh(sample.jet.pz / sample.pt)
    sign = np.repeat(np.where(jet_eta > 0, 1.0, -1.0), filled.sum(axis=1))
    assert np.median(np.abs(sample.constituents.deta - sign * points[:, 0][filled])) < 1e-3
    assert np.allclose(sample.constituents.dphi, points[:, 1][filled], atol=1e-5)
    assert sample.pt.min() > 500
    assert sample.pt.max() < 1000


def test_the_command_finds_no_difference_between_the_real_jets_and_their_root_files(
    real_jetclass_files: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Reading ROOT files and reading arrays are two ways; masses, angles and labels meet."""
    numbers = tmp_path / "numbers.json"
    main(EvaluateSimulationConfig(tuple(real_jetclass_files), jetclass=REAL_JETCLASS, json=numbers))
    printed = capsys.readouterr().out
    assert "| QCD | 48 | 48 | 0.0" in printed
    assert "Marked where it gives so much in fewer than 5% of cases: 0 of 96" in printed
    data = json.loads(numbers.read_text())
    for row in data["jetclass"]["classes"]:
        assert row["real_jets"] == row["simulated_jets"]
        for name, item in row["distances"].items():
            distance = item["wasserstein_1"]
            assert distance["value"] < 0.02 * distance["floor"]["value"], (row["class"], name)
    assert all(abs(item["standard_deviations"]) < 0.01 for item in data["jetclass"]["median_mass_gev"])
    with pytest.raises(HepfmError, match="0 simulated tracks"):
        main(EvaluateSimulationConfig(tuple(real_jetclass_files), jetclass2=need(REAL_JETCLASS2)))


def test_the_command_compares_jetclass2_jets_with_themselves(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, numbers = tmp_path / "report", tmp_path / "numbers.json"
    main(EvaluateSimulationConfig((need(REAL_JETCLASS2),), jetclass2=REAL_JETCLASS2, out=out, json=numbers))
    printed = capsys.readouterr().out
    assert printed.endswith(f"{out / 'index.html'}\n")
    assert json.loads(numbers.read_text()) == json.loads((out / "report.json").read_text())
    assert "### Species, shares in %" in printed
    assert "**" not in printed  # nothing is marked
    assert (out / "index.html").read_text().count("<svg") == 8


def test_the_page_is_one_file_with_every_picture(jets: SampleMaker) -> None:
    real = jets({"QCD": 60})
    drawn = page(compare_classes(real, real, seed=1, replicas=5), None, "<b>a & b</b>", "today", {"command": "hepfm"})
    assert not re.search(r"(src|href)=[\"'](?!#|data:)", drawn)
    assert not re.search(r"url\([\"']?https?:", drawn)
    assert "&lt;b&gt;a &amp; b&lt;/b&gt;" in drawn
    assert drawn.count("<svg") == len(classes.QUANTITIES)
    identifiers = re.findall(r'\bid="([^"]+)"', drawn)
    assert len(identifiers) == len(set(identifiers))


def test_a_corpus_is_read_whole_and_cut_by_label(real_jetclass_files: list[Path], tmp_path: Path) -> None:
    from hepfm.ingest.build import BuildOptions, build
    from hepfm.ingest.sources.jetclass import JetClassSource

    options = BuildOptions(run_entries=50, block_records=64)
    build(JetClassSource(), real_jetclass_files, tmp_path / "corpus", options)
    everything, origin = read_simulated([tmp_path / "corpus"], limit=1000)
    real, _ = read_real_jetclass(REAL_JETCLASS)
    assert np.allclose(np.sort(everything.mass), np.sort(real.mass), rtol=1e-3, atol=0.05)
    assert list(origin) == [str(tmp_path / "corpus")]
    few, _ = read_simulated([tmp_path / "corpus"], limit=7)
    assert np.unique(few.label, return_counts=True)[1].tolist() == [7] * 10


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, "no real jets to compare with .*--jetclass"),
        ({"jetclass": Path("nowhere")}, "nowhere: no such folder"),
        ({"jetclass2": Path("nowhere.parquet")}, "nowhere.parquet: no such file"),
        ({"jetclass": Path("empty")}, r"empty: has no file \*_pfVectors.npy"),
        ({"jetclass": Path("wrong")}, "vectors, mask and labels have shapes"),
        ({"jetclass": Path("text")}, "is no NumPy array"),
        ({"jetclass": Path("real"), "limit": 0}, "--limit: must be at least 1"),
        ({"jetclass": Path("real"), "samples": (Path("missing.root"),)}, "missing.root: no such corpus or file"),
        ({"jetclass": Path("real"), "samples": (Path("text/a_labels.npy"),)}, "holds no jets that hepfm knows"),
        ({"jetclass": Path("real"), "out": Path("text")}, "text: holds something that is no report"),
    ],
)
def test_bad_requests_are_one_line(
    changes: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shapes = {"real": (4, 10), "wrong": (3, 10), "empty": None, "text": (4, 10)}
    for folder, shape in shapes.items():
        Path(folder).mkdir()
        if shape:
            np.save(f"{folder}/a_pfVectors.npy", np.ones((5, shape[0], 3)))
            np.save(f"{folder}/a_pfMask.npy", np.ones((5, 1, 3)))
            np.save(f"{folder}/a_labels.npy", np.eye(5, shape[1]))
    Path("text/a_labels.npy").write_text("labels")
    arguments: dict[str, Any] = {"samples": (Path("jets.root"),), **changes}
    with pytest.raises(HepfmError, match=message) as raised:
        main(EvaluateSimulationConfig(**arguments))
    assert "\n" not in str(raised.value)


def test_tables_are_markdown_and_mark_misses(jets: SampleMaker) -> None:
    real, simulated = jets({"QCD": 60}), scaled(jets({"QCD": 90}, seed=3, uncertainty=2.0), 1.2)
    tables = [
        *class_tables(compare_classes(real, simulated, seed=1, replicas=20)),
        *track_tables(compare_tracks(real, simulated, seed=1, replicas=20)),
    ]
    for table in tables:
        lines = table.markdown().splitlines()
        rows = [line for line in lines if line.startswith("|")]
        assert len({row.count("|") for row in rows}) == 1
        assert len(rows) == 2 + len(table.rows)
    printed = "\n".join(table.markdown() for table in tables)
    assert re.search(r"\| \*\*1\d\d(\.\d)? ± \d+(\.\d)? \(", printed), "the scale of 1.2 is marked in jet pT"


def test_the_pull_of_samples_without_errors() -> None:
    assert classes.pull(Estimate(1, 0), Estimate(1, 0)) == 0
    assert classes.pull(Estimate(1, 0.3), Estimate(2, 0.4)) == pytest.approx(2)
    assert classes.pull(Estimate(2, 0), Estimate(1, 0)) == -np.inf


def test_jetclass2_example_is_read_with_its_tracks() -> None:
    sample, _ = read_real_jetclass2(need(REAL_JETCLASS2))
    tracks = tracks_of(sample)
    assert len(sample) == 100
    assert len(tracks.pt) == 2103
    assert np.abs(sample.eta).max() < 3.5
    # Half of the core is resolution alone: its width is near one standard deviation.
    assert 1.0 < np.quantile(np.abs(tracks.dz / tracks.dzerr), 0.68) < 1.5
