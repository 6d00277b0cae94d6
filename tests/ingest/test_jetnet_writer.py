"""Jets written as JetNet files are read back as they were."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pyarrow as pa
import pytest
from jets_of_sources import label_names, read_all

from hepfm.core import records
from hepfm.core.errors import HepfmError
from hepfm.ingest.formats.batches import jet_batch
from hepfm.ingest.formats.jetnet import write_jetnet
from hepfm.ingest.sources.jetnet import JetNetSource


def jets(count: int, labels: tuple[str, ...], longest: int = 40, seed: int = 1) -> pa.RecordBatch:
    """Jets of random pt-ordered constituents, jet pt not that of their sum, class number i mod the classes."""
    draws = np.random.default_rng(seed)
    lengths = draws.integers(0, longest + 1, count)
    lengths[0] = longest
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    jet = np.repeat(np.arange(count), lengths)
    pt = draws.exponential(20, len(jet)) + 0.1
    points = {"pt": pt[np.lexsort((-pt, jet))], "deta": draws.normal(0, 0.2, len(jet))}
    points["dphi"] = draws.normal(0, 0.2, len(jet))
    columns = {"pt": draws.uniform(500, 1000, count), "eta": draws.uniform(-2, 2, count)}
    columns |= {"mass": draws.uniform(0, 200, count), "source_file": np.zeros(count)}
    columns |= {"source_entry": np.arange(count)}
    told = ("pt", "eta", "mass", *(("label",) if labels else ()))
    schema = records.schema("jets", ("pt", "deta", "dphi"), told)
    label = {"label": np.arange(count) % len(labels)} if labels else {}
    return jet_batch(schema, labels, offsets, points, columns | label)


@pytest.mark.parametrize("labels", [("t", "q", "z"), ()], ids=["classes", "none"])
def test_jets_come_back(tmp_path: Path, labels: tuple[str, ...]) -> None:
    wrote = jets(90, labels)
    path = tmp_path / "w.hdf5"
    assert write_jetnet(path, [wrote.slice(0, 17), wrote.slice(17)]) == 90
    read = read_all(JetNetSource().bind([path]), path)
    for name in ("pt", "eta", "mass"):
        assert np.array_equal(read.column(name), wrote.column(name))
    assert np.array_equal(*(records.lengths_of(batch.column("constituents")) for batch in (read, wrote)))
    np.testing.assert_allclose(records.points_of(read, "pt"), records.points_of(wrote, "pt"), rtol=3e-7)
    for name in ("deta", "dphi"):
        assert np.array_equal(records.points_of(read, name), records.points_of(wrote, name))
    assert label_names(read) == (label_names(wrote) if labels else ["w"] * 90)  # else that of the file's name


def test_equal_jets_give_equal_bytes_and_the_jetnet_layout(tmp_path: Path) -> None:
    for name in ("a.hdf5", "b.hdf5"):
        write_jetnet(tmp_path / name, [jets(30, ("g",))])
    assert (tmp_path / "a.hdf5").read_bytes() == (tmp_path / "b.hdf5").read_bytes()
    with h5py.File(tmp_path / "a.hdf5") as file:
        particles, features = file["particle_features"][:], file["jet_features"][:]
    assert particles.shape == (30, 150, 4)
    assert features.shape == (30, 5)
    assert np.array_equal(particles[:, :, 3].sum(axis=1), features[:, 4])
    assert not particles[particles[:, :, 3] == 0].any()


def test_other_classes_and_longer_jets_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrote = jets(20, ("QCD", "t"), longest=160)
    write_jetnet(tmp_path / "t.hdf5", [wrote])
    told = capsys.readouterr().err
    assert "no class 'QCD'" in told
    lengths = records.lengths_of(wrote.column("constituents"))
    assert f"{(lengths > 150).sum()} of 20 jets were cut to their first 150" in told
    read = read_all(JetNetSource().bind([tmp_path / "t.hdf5"]), tmp_path / "t.hdf5")
    assert np.array_equal(records.lengths_of(read.column("constituents")), np.minimum(lengths, 150))
    hardest = records.points_of(wrote.slice(0, 1), "pt")[:150]
    np.testing.assert_allclose(records.points_of(read.slice(0, 1), "pt"), hardest, rtol=3e-7)


def test_what_cannot_be_written_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    whole = jets(5, ())
    flat = whole.set_column(whole.schema.get_field_index("pt"), whole.schema.field("pt"), pa.array(np.zeros(5, "f4")))
    for batches, told in (([], "no jets to write"), ([flat], "jet 0 has pt 0")):
        with pytest.raises(HepfmError, match=told) as error:
            write_jetnet(tmp_path / "g.hdf5", batches)
        assert "\n" not in str(error.value)
        assert list(tmp_path.iterdir()) == []
