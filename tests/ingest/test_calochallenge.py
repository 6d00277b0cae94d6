"""CaloChallenge files: voxels to points and exactly back, for all four geometries; binning files; damaged files."""

from __future__ import annotations

import json
import pickle
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import h5py
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from showers import SAMPLES, bits, built, in_file_order, piecewise, positive, same_files

from hepfm.core.errors import HepfmError
from hepfm.core.records import lengths_of, points_of
from hepfm.ingest.formats import shower_files
from hepfm.ingest.formats.calochallenge import DATASETS, dataset_of, read_binning, write_calochallenge
from hepfm.ingest.geometry import Geometry
from hepfm.ingest.sources.calochallenge import CaloChallengeSource
from hepfm.ingest.sources.contents import contents

NAMES = ("incident_energies", "showers")
VOXELS = {"1-photons": 368, "1-pions": 533, "2": 6480, "3": 40500}
XML = {name: SAMPLES / f"calochallenge_binning_dataset_{name.replace('-', '_')}.xml" for name in VOXELS}
DISCRETE = 2.0 ** np.arange(8, 23)


def make(
    path: Path, voxels: int, entries: int, kind: str = "f4", seed: int = 0, chunks: tuple[int, int] | bool | None = None
) -> Path:
    """A file as the challenge's are, with a few awkward values."""
    rng = np.random.default_rng(seed)
    energies = rng.exponential(1.0, (entries, voxels)) * (rng.random((entries, voxels)) < 0.05)
    dense = energies.astype(kind)
    dense[0, :4] = -0.0, np.finfo(kind).smallest_subnormal, np.nextafter(dense.dtype.type(1), 2), 0
    dense[1] = 0
    incident = np.where(rng.random(entries) < 0.5, rng.choice(DISCRETE, entries), np.exp(rng.uniform(7, 14, entries)))
    with h5py.File(path, "w") as file:
        file.create_dataset("showers", data=dense, compression="gzip", chunks=chunks)
        file.create_dataset("incident_energies", data=incident.astype(kind)[:, None], compression="gzip")
    return path


CHECK_UNITS = CaloChallengeSource.check_units


@pytest.fixture(scope="module", autouse=True)
def any_response() -> Iterator[None]:
    """Energies here are numbers whose bits matter: they are no calorimeter's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(CaloChallengeSource, "check_units", lambda self, file: None)
        yield


def read_all(path: Path, source: CaloChallengeSource | None = None) -> tuple[pa.RecordBatch, Geometry]:
    source = (source or CaloChallengeSource()).bind([path])
    return source.read(path, 0, source.entries(path)), source.bound_geometry


@pytest.fixture(scope="module")
def pions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("calo") / "pions.hdf5", 533, 300, seed=3)


class TestGeometries:
    @pytest.mark.parametrize("name", VOXELS)
    def test_voxels_are_counted_right(self, name: str) -> None:
        assert DATASETS[name].geometry().voxels == VOXELS[name]
        found = dataset_of(VOXELS[name])
        assert found is not None
        assert found.name == name

    @pytest.mark.parametrize("name", VOXELS)
    def test_the_built_in_geometry_is_that_of_the_public_binning_file(self, name: str) -> None:
        if not XML[name].is_file():
            pytest.skip(f"{XML[name]} is not there")
        binning = read_binning(XML[name])
        built_in = DATASETS[name]
        assert binning.particle == built_in.particle
        cells = [(layer.id, layer.cell_a, layer.cell_b) for layer in binning.geometry.layers]
        assert cells == [(layer.id, layer.cell_a, layer.cell_b) for layer in built_in.geometry().layers]

    @pytest.mark.parametrize("name", VOXELS)
    def test_the_public_binning_file_read_by_another_route(self, name: str) -> None:
        """Layer, sector, ring of every voxel from the XML by plain loops, rings fastest."""
        if not XML[name].is_file():
            pytest.skip(f"{XML[name]} is not there")
        expected = []
        filled = 0
        for layer in ElementTree.parse(XML[name]).getroot()[0]:
            rings = layer.attrib["r_edges"].count(",")
            for sector in range(int(layer.attrib["n_bin_alpha"]) if rings else 0):
                expected += [(filled, ring, sector) for ring in range(rings)]
            filled += rings > 0
        cells = DATASETS[name].geometry().cells
        assert list(zip(cells.layer.tolist(), cells.cell_a.tolist(), cells.cell_b.tolist(), strict=True)) == expected

    def test_layers_of_data_set_1_keep_their_ids(self) -> None:
        assert [layer.id for layer in DATASETS["1-photons"].geometry().layers] == [0, 1, 2, 3, 12]
        assert [layer.id for layer in DATASETS["1-pions"].geometry().layers] == [0, 1, 2, 3, 12, 13, 14]

    def test_thresholds_and_sampling(self) -> None:
        assert DATASETS["1-pions"].geometry().threshold == 1.0
        geometry = DATASETS["3"].geometry()
        assert geometry.threshold == pytest.approx(0.01515, rel=1e-3)
        assert geometry.sampling_fraction == 0.033
        assert geometry.calibrated
        assert geometry.layers[-1].position == pytest.approx(44 * 3.4)


class TestRoundTrip:
    @pytest.mark.parametrize("kind", ["f4", "f8"])
    @pytest.mark.parametrize("name", VOXELS)
    def test_a_file_comes_back_bit_by_bit(self, name: str, kind: str, tmp_path: Path) -> None:
        path = make(tmp_path / "raw.hdf5", VOXELS[name], 30, kind)
        batch, geometry = read_all(path)
        geometry = Geometry.from_data(json.loads(json.dumps(geometry.to_data())))  # as the manifest keeps it
        assert write_calochallenge(tmp_path / "back.hdf5", [batch], geometry) == 30
        same_files(path, tmp_path / "back.hdf5", NAMES)

    @pytest.mark.parametrize("kind", ["float32", "float64"])
    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(data=st.data())
    def test_any_energies_come_back(
        self, kind: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
    ) -> None:
        folder = tmp_path_factory.mktemp("any")
        size = data.draw(st.integers(1, 5))
        dense = np.zeros((size, 368), dtype=kind)
        for row in range(size):
            for voxel, value in data.draw(st.dictionaries(st.integers(0, 367), positive(kind), max_size=4)).items():
                dense[row, voxel] = value
        incident = np.array(data.draw(st.lists(positive(kind), min_size=size, max_size=size)), dtype=kind)[:, None]
        with h5py.File(folder / "raw.hdf5", "w") as file:
            file["showers"], file["incident_energies"] = dense, incident
        batch, geometry = read_all(folder / "raw.hdf5")
        write_calochallenge(folder / "back.hdf5", [batch], geometry)
        same_files(folder / "raw.hdf5", folder / "back.hdf5", NAMES)

    @pytest.mark.parametrize("kind", ["f4", "f8"])
    def test_incident_energies_come_back(self, kind: str, tmp_path: Path) -> None:
        """The 15 discrete ones, and log-uniform ones, of which float64 GeV alone would lose 1 to 2%."""
        rng = np.random.default_rng(1)
        energies = np.concatenate([DISCRETE, np.exp(rng.uniform(np.log(1e3), np.log(1e6), 5_000))]).astype(kind)
        with h5py.File(tmp_path / "raw.hdf5", "w") as file:
            file["incident_energies"] = energies[:, None]
            file.create_dataset("showers", (len(energies), 368), kind, chunks=(4096, 368), compression="gzip")
        batch, geometry = read_all(tmp_path / "raw.hdf5")
        write_calochallenge(tmp_path / "back.hdf5", [batch], geometry)
        same_files(tmp_path / "raw.hdf5", tmp_path / "back.hdf5", NAMES)
        assert batch.column("incident_energy").to_numpy() == pytest.approx(energies.astype(float) / 1000, rel=1e-15)

    def test_bytes_do_not_depend_on_batches(self, pions: Path, tmp_path: Path) -> None:
        batch, geometry = read_all(pions)
        write_calochallenge(tmp_path / "one.hdf5", [batch], geometry)
        write_calochallenge(tmp_path / "many.hdf5", [batch.slice(n, 7) for n in range(0, 300, 7)], geometry)
        assert (tmp_path / "one.hdf5").read_bytes() == (tmp_path / "many.hdf5").read_bytes()

    @pytest.mark.parametrize(("name", "kind"), [("1-photons", "f8"), ("2", "f4")])
    def test_a_corpus_gives_the_file_back(self, name: str, kind: str, tmp_path: Path) -> None:
        files = [make(tmp_path / f"{n}.hdf5", VOXELS[name], 90, kind, seed=n) for n in range(2)]
        corpus = built(CaloChallengeSource(), files, tmp_path / "corpus")
        assert corpus.splits() == ["train", "val", "test"]
        assert corpus.manifest.geometry is not None
        geometry = Geometry.from_data(corpus.manifest.geometry)
        for number, file in enumerate(files):
            write_calochallenge(tmp_path / "back.hdf5", in_file_order(corpus, number), geometry)
            same_files(file, tmp_path / "back.hdf5", NAMES)


class TestRecords:
    def test_are_what_the_file_holds(self, pions: Path) -> None:
        batch, _ = read_all(pions)
        with h5py.File(pions) as file:
            dense, incident = file["showers"][:], file["incident_energies"][:, 0]
        filled = bits(dense) != 0
        assert np.array_equal(lengths_of(batch.column("points")), filled.sum(axis=1))
        assert np.array_equal(bits(points_of(batch, "energy")), bits(dense[filled]))
        assert batch.column("incident_energy").to_numpy() == pytest.approx(incident / 1000)
        assert set(batch.column("particle").to_pylist()) == {211}
        assert batch.column("source_entry").to_pylist() == list(range(300))
        layer_2 = dense[:, 8 + 100 : 8 + 200].sum()
        assert points_of(batch, "energy")[points_of(batch, "layer") == 2].sum() == pytest.approx(layer_2, rel=1e-5)

    def test_data_set_1_has_no_direction_and_data_set_2_goes_along_the_axis(self, pions: Path, tmp_path: Path) -> None:
        assert "direction_z" not in CaloChallengeSource().bind([pions]).schema.names
        batch, _ = read_all(make(tmp_path / "2.hdf5", 6480, 4))
        directions = [batch.column(f"direction_{axis}").to_pylist() for axis in "xyz"]
        assert directions == [[0] * 4, [0] * 4, [1] * 4]

    def test_energies_of_float64_stay_float64(self, pions: Path, tmp_path: Path) -> None:
        batch, _ = read_all(make(tmp_path / "8.hdf5", 368, 3, "f8"))
        assert points_of(batch, "energy").dtype == np.float64
        assert points_of(read_all(pions)[0], "energy").dtype == np.float32

    def test_negative_and_non_finite_values_are_left_to_the_builder(self, tmp_path: Path) -> None:
        path = make(tmp_path / "raw.hdf5", 368, 3)
        with h5py.File(path, "a") as file:
            file["showers"][2, :2] = np.nan, -5
        assert np.isnan(points_of(read_all(path)[0], "energy")).sum() == 1
        with pytest.raises(HepfmError, match="entry 2"):
            built(CaloChallengeSource(), [path], tmp_path / "corpus")

    def test_other_byte_order_and_half_floats(self, tmp_path: Path) -> None:
        path = make(tmp_path / "raw.hdf5", 368, 3)
        for kind in (">f4", "<f2"):
            with h5py.File(path) as file, h5py.File(tmp_path / f"{kind[1:]}.hdf5", "w") as out:
                for name in NAMES:
                    out[name] = np.clip(file[name][:], 0, 100).astype(kind)
            batch, geometry = read_all(tmp_path / f"{kind[1:]}.hdf5")
            write_calochallenge(tmp_path / "back.hdf5", [batch], geometry)
            with h5py.File(tmp_path / f"{kind[1:]}.hdf5") as file, h5py.File(tmp_path / "back.hdf5") as back:
                assert all(np.array_equal(file[name][:], back[name][:]) for name in NAMES)


class TestRanges:
    @settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
    @given(cuts=st.lists(st.integers(0, 400), max_size=5))
    def test_pieces_are_the_whole(self, cuts: list[int], pions: Path) -> None:
        source = CaloChallengeSource().bind([pions])
        assert piecewise(source, pions, cuts, 300).equals(read_all(pions)[0])

    @pytest.mark.parametrize("chunks", [None, True, (7, 50), (150, 533), (300, 11)])
    def test_chunks_do_not_matter(
        self, chunks: tuple[int, int] | bool | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(shower_files, "STRIPE_BYTES", 100_000)
        path = make(tmp_path / "raw.hdf5", 533, 300, seed=3, chunks=chunks)
        with h5py.File(path) as file:
            dense = file["showers"][:]
        source = CaloChallengeSource().bind([path])
        batch = piecewise(source, path, list(range(0, 300, 64)), 300)
        assert np.array_equal(bits(points_of(batch, "energy")), bits(dense[bits(dense) != 0]))

    @pytest.mark.parametrize("chunks", [(200, 533), (1000, 20), (100, 100)])
    def test_no_chunk_is_decoded_twice(
        self, chunks: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """In an ascending pass in the builder's pieces, and in eight such passes that are interleaved."""
        monkeypatch.setattr(shower_files, "STRIPE_BYTES", 100_000)
        seen: list[tuple[slice, ...]] = []
        read = shower_files.ShowerFile.read

        def counted(self: shower_files.ShowerFile, dataset: h5py.Dataset, *index: slice) -> np.ndarray:
            if dataset.name == "/showers":
                seen.append(index)
            return read(self, dataset, *index)

        monkeypatch.setattr(shower_files.ShowerFile, "read", counted)
        path = make(tmp_path / "raw.hdf5", 533, 4000, chunks=chunks)
        source = CaloChallengeSource().bind([path])
        for piece in range(0, 500, 128):
            for lane in range(8):
                start = 500 * lane + piece
                source.read(path, start, min(start + 128, 500 * lane + 500))
        chunk_starts = {
            (row, column)
            for rows, columns in seen
            for row in range(rows.start // chunks[0], -(-rows.stop // chunks[0]))
            for column in range(columns.start // chunks[1], -(-columns.stop // chunks[1]))
        }
        touched = sum(
            (-(-rows.stop // chunks[0]) - rows.start // chunks[0])
            * (-(-columns.stop // chunks[1]) - columns.start // chunks[1])
            for rows, columns in seen
        )
        assert touched == len(chunk_starts) == -(-4000 // chunks[0]) * -(-533 // chunks[1])

    def test_stripes_are_small_and_old_windows_go(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(shower_files, "STRIPE_BYTES", 100_000)
        monkeypatch.setattr(shower_files, "WINDOW_BYTES", 1)
        path = make(tmp_path / "raw.hdf5", 533, 600, chunks=(200, 20))
        file = shower_files.shower_file(path)
        sizes = [values.nbytes for _, values in file.stripes(file.array("showers"), 0, 200, 1)]
        assert max(sizes) <= 100_000
        source = CaloChallengeSource().bind([path])
        whole = source.read(path, 0, 600)
        assert sum(key[0] == id(file) for key in shower_files._WINDOWS._windows) == 1
        assert piecewise(source, path, [100, 350], 600).equals(whole)

    def test_windows_are_the_page_cache_s(self, tmp_path: Path) -> None:
        """Reading a file takes the memory of one window's stripe, however many windows are kept."""
        path = tmp_path / "full.hdf5"
        with h5py.File(path, "w") as file:
            file.create_dataset("showers", data=np.full((4000, 533), 1.0, "f4"), chunks=(400, 533))
            file["incident_energies"] = np.full((4000, 1), 600.0, "f4")
        source = CaloChallengeSource().bind([path])
        tracemalloc.start()
        try:
            for start in range(0, 4000, 16):
                source.read(path, start, start + 16)
            kept, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        held = shower_files._WINDOWS._windows
        assert sum(window.bytes for key, window in held.items() if key[0] == id(shower_files.shower_file(path))) > 16e6
        assert kept < 2e6
        assert peak < 10e6

    def test_a_full_temporary_folder_is_told(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        path = make(tmp_path / "raw.hdf5", 533, 600, chunks=(200, 20))
        monkeypatch.setattr(shower_files, "TemporaryFile", lambda: open("/dev/full", "w+b"))  # noqa: SIM115
        with pytest.raises(HepfmError, match=r"cannot be written \(No space left on device\) \(let TMPDIR name"):
            read_all(path)

    def test_a_range_beyond_the_end(self, pions: Path) -> None:
        with pytest.raises(HepfmError, match="it has 300"):
            CaloChallengeSource().bind([pions]).read(pions, 290, 301)

    def test_a_source_can_go_to_another_process(self, pions: Path) -> None:
        source = CaloChallengeSource().bind([pions])
        copy = pickle.loads(pickle.dumps(source))  # noqa: S301
        assert copy.geometry == source.geometry
        assert copy.read(pions, 5, 9).equals(source.read(pions, 5, 9))


class TestOptions:
    def test_a_dataset_that_it_is_not(self, pions: Path) -> None:
        with pytest.raises(HepfmError, match="533 voxels a shower are not data set 2"):
            CaloChallengeSource(dataset="2").bind([pions])
        assert CaloChallengeSource(dataset="1-pions").bind([pions]).settings() == {"dataset": "1-pions"}

    def test_unknown_voxels_need_a_binning_file(self, tmp_path: Path) -> None:
        path = make(tmp_path / "raw.hdf5", 14, 5)
        with pytest.raises(HepfmError, match=r"14 voxels a shower.*--binning"):
            CaloChallengeSource().bind([path])
        (tmp_path / "bins.xml").write_text(
            '<Bins><Bin pid="2112"><Layer id="0" r_edges="0,5,10" n_bin_alpha="1"/><Layer id="1" r_edges="0" '
            'n_bin_alpha="1"/><Layer id="7" r_edges="0,1,4,9" n_bin_alpha="4"/></Bin></Bins>'
        )
        batch, geometry = read_all(path, CaloChallengeSource(binning=tmp_path / "bins.xml"))
        assert [layer.id for layer in geometry.layers] == [0, 7]
        assert set(batch.column("particle").to_pylist()) == {2112}
        write_calochallenge(tmp_path / "back.hdf5", [batch], geometry)
        same_files(path, tmp_path / "back.hdf5", NAMES)

    def test_a_binning_of_other_voxels(self, pions: Path, tmp_path: Path) -> None:
        (tmp_path / "bins.xml").write_text(
            '<Bins><Bin pid="11"><Layer id="0" r_edges="0,5" n_bin_alpha="3"/></Bin></Bins>'
        )
        with pytest.raises(HepfmError, match=r"533 voxels a shower.*has 3"):
            CaloChallengeSource(binning=tmp_path / "bins.xml").bind([pions])

    def test_files_of_two_data_sets(self, pions: Path, tmp_path: Path) -> None:
        other = make(tmp_path / "photons.hdf5", 368, 4)
        with pytest.raises(HepfmError, match=r"photons.*unlike .*pions"):
            CaloChallengeSource().bind([pions, other])


GOOD = '<Bins><Bin pid="11"><Layer id="0" r_edges="0,5" n_bin_alpha="3"/></Bin></Bins>'


class TestBinningFiles:
    @pytest.mark.parametrize(
        ("text", "match"),
        [
            ('<!DOCTYPE a [<!ENTITY x "y">]>' + GOOD, "document type"),
            (GOOD.replace("<Bins>", "<Bins><!ENTITY>"), "document type"),
            (GOOD[:-5], "not a readable XML"),
            ("", "not a readable XML"),
            ("<Bins/>", "0 elements <Bin>"),
            (GOOD.replace("</Bin>", "</Bin><Bin/>"), "2 elements <Bin>"),
            (GOOD.replace("0,5", "5,0"), "do not ascend"),
            (GOOD.replace("0,5", "0,nan"), "do not ascend"),
            (GOOD.replace("0,5", "0,inf"), "do not ascend"),
            (GOOD.replace("0,5", "0,__import__('os')"), "no binning"),
            (GOOD.replace("0,5", "0"), "no layer with voxels"),
            (GOOD.replace('"3"', '"0"'), "0 sectors"),
            (GOOD.replace('"3"', '"1000000000"'), "sectors"),
            (GOOD.replace('pid="11"', ""), "no binning"),
            (" " * (1 << 20) + GOOD, "too large"),
        ],
    )
    def test_bad_ones_are_told(self, text: str, match: str, tmp_path: Path) -> None:
        (tmp_path / "bins.xml").write_text(text)
        with pytest.raises(HepfmError, match=match) as caught:
            read_binning(tmp_path / "bins.xml")
        assert "\n" not in str(caught.value)

    def test_an_encoding_that_would_hide_entities(self, tmp_path: Path) -> None:
        text = '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a [<!ENTITY x "y">]>' + GOOD
        (tmp_path / "bins.xml").write_bytes(text.encode("utf-16"))
        with pytest.raises(HepfmError, match="not a readable XML"):
            read_binning(tmp_path / "bins.xml")

    def test_missing(self, tmp_path: Path) -> None:
        with pytest.raises(HepfmError, match="cannot be opened"):
            read_binning(tmp_path / "bins.xml")


class TestResponse:
    """Deposits that no calorimeter shows stop before anything is read."""

    @pytest.fixture(autouse=True)
    def judged(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(CaloChallengeSource, "check_units", CHECK_UNITS)

    def make(self, path: Path, response: float) -> Path:
        rng = np.random.default_rng(1)
        incident = np.exp(rng.uniform(7, 14, (300, 1)))
        share = rng.exponential(1.0, (300, 368))
        with h5py.File(path, "w") as file:
            file["showers"] = response * incident * share / share.sum(axis=1, keepdims=True)
            file["incident_energies"] = incident
        return path

    def test_a_calorimeter(self, tmp_path: Path) -> None:
        assert len(read_all(self.make(tmp_path / "x.hdf5", 0.03))[0]) == 300

    def test_nothing_at_all(self, tmp_path: Path) -> None:
        with pytest.raises(HepfmError, match="its first 128 showers deposit nothing"):
            CaloChallengeSource().bind([self.make(tmp_path / "x.hdf5", 0)])

    def test_deposits_in_gev(self, tmp_path: Path) -> None:
        paths = [self.make(tmp_path / "good.hdf5", 0.7), self.make(tmp_path / "x.hdf5", 0.7e-3)]
        with pytest.raises(HepfmError, match=r"deposit 7\.0e-04 of the incident energy.*units right\?") as caught:
            CaloChallengeSource().bind(paths)
        assert caught.value.where == str(paths[1])

    def test_deposits_in_gev_of_a_full_response(self, tmp_path: Path) -> None:
        with pytest.raises(HepfmError, match=r"deposit 1\.1e-03 .*less than 0\.01"):
            CaloChallengeSource().bind([self.make(tmp_path / "x.hdf5", 1.1e-3)])

    @pytest.mark.parametrize(("factor", "median"), [(1e-3, "0.0"), (1e3, "[0-9.]+e[+]04")])
    def test_a_file_in_another_unit_throughout(self, factor: float, median: str, tmp_path: Path) -> None:
        """Deposits fit the incident energies, but these are not the data set's: GeV or keV where MeV is meant."""
        rng = np.random.default_rng(1)
        incident = factor * np.exp(rng.uniform(np.log(1e3), np.log(1e6), (200, 1)))
        with h5py.File(tmp_path / "x.hdf5", "w") as file:
            file["showers"] = np.repeat(0.9 * incident / 6480, 6480, axis=1)
            file["incident_energies"] = incident
        with pytest.raises(HepfmError, match=f"median of {median}.*data set 2 has 1 to 1000 GeV .units"):
            CaloChallengeSource().bind([tmp_path / "x.hdf5"])

    def test_a_few_showers_that_deposit_nothing(self, tmp_path: Path) -> None:
        path = self.make(tmp_path / "x.hdf5", 0.03)
        with h5py.File(path, "a") as file:
            file["showers"][:50] = 0
            file["showers"][50, 3] = np.nan
        CaloChallengeSource().bind([path])


class TestBadFiles:
    def fails(self, path: Path, match: str) -> None:
        with pytest.raises(HepfmError, match=match) as caught:
            read_all(path)
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)

    def test_missing(self, tmp_path: Path) -> None:
        self.fails(tmp_path / "no.hdf5", "no such file")

    def test_a_folder(self, tmp_path: Path) -> None:
        self.fails(tmp_path, "a folder")

    @pytest.mark.parametrize("content", [b"", b"PK\x03\x04 zip", b"\x89HDF\r\n\x1a\n and then nothing"])
    def test_not_hdf5(self, content: bytes, tmp_path: Path) -> None:
        (tmp_path / "x.hdf5").write_bytes(content)
        self.fails(tmp_path / "x.hdf5", "HDF5|empty|damaged")

    @pytest.mark.parametrize("share", [0.001, 0.3, 0.99])
    def test_truncated(self, share: float, pions: Path, tmp_path: Path) -> None:
        content = pions.read_bytes()
        (tmp_path / "x.hdf5").write_bytes(content[: max(int(share * len(content)), 10)])
        self.fails(tmp_path / "x.hdf5", "truncated|damaged")

    def test_damaged_inside(self, pions: Path, tmp_path: Path) -> None:
        content = bytearray(pions.read_bytes())
        middle = len(content) // 2
        content[middle : middle + 3000] = bytes(3000)
        (tmp_path / "x.hdf5").write_bytes(content)
        self.fails(tmp_path / "x.hdf5", "cannot be decoded|cannot be looked up")

    @pytest.mark.parametrize(
        ("change", "match"),
        [
            (lambda file: file.pop("showers"), "no array 'showers'.*it has incident_energies"),
            (lambda file: replace(file, "showers", np.zeros((300, 533), int)), "holds int64"),
            (lambda file: replace(file, "showers", np.zeros((300, 13, 41))), "shape"),
            (lambda file: replace(file, "incident_energies", np.zeros((299, 1))), "shape"),
            (lambda file: replace(file, "incident_energies", np.zeros((300, 2))), "shape"),
            (lambda file: [replace(file, name, file[name][:0]) for name in NAMES], "no showers"),
        ],
    )
    def test_other_contents(
        self, change: Callable[[h5py.File], object], match: str, pions: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "x.hdf5").write_bytes(pions.read_bytes())
        with h5py.File(tmp_path / "x.hdf5", "a") as file:
            change(file)
        self.fails(tmp_path / "x.hdf5", match)

    def test_values_in_another_file(self, pions: Path, tmp_path: Path) -> None:
        with h5py.File(tmp_path / "x.hdf5", "w") as file:
            for name in NAMES:
                file[name] = h5py.ExternalLink(str(pions), name)
        self.fails(tmp_path / "x.hdf5", "another file")

    def test_nothing_half_written(self, tmp_path: Path) -> None:
        path = make(tmp_path / "raw.hdf5", 368, 3)
        batch, geometry = read_all(path)
        with pytest.raises(HepfmError, match="no showers"):
            write_calochallenge(tmp_path / "out" / "back.hdf5", [], geometry)
        with pytest.raises(HepfmError, match="no such cell"):
            write_calochallenge(tmp_path / "out" / "back.hdf5", [batch], DATASETS["2"].geometry())
        assert not list((tmp_path / "out").iterdir())

    def test_recognised_by_names_and_shapes(self, pions: Path) -> None:
        assert CaloChallengeSource.recognises(contents(pions))


def replace(file: h5py.File, name: str, values: np.ndarray) -> None:
    del file[name]
    file[name] = values
