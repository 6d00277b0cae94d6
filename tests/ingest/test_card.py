"""Cards: what the page and its plots say is what the corpus holds, and the corpus stays as it is."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest
from card_showers import showers
from hypothesis import given
from hypothesis import strategies as st
from mass_jets import mass_jets

from hepfm.core.errors import HepfmError
from hepfm.core.records import offsets_of, points_of
from hepfm.ingest.card.axes import axis_of
from hepfm.ingest.card.classes import MOST, classes_of
from hepfm.ingest.card.command import CardConfig, card
from hepfm.ingest.card.panels import Panel, fill, quantities_of, sampled_blocks
from hepfm.ingest.card.pictures import COLUMNS, DPI, LINES, PANEL_HEIGHT_IN, picture, title_of
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.sophon_groups import FAMILIES
from hepfm.ingest.verify import verify

numbers = st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=1, max_size=40).map(np.array)


def written(corpus: Corpus, out: Path, **changes: object) -> str:
    """The page of a corpus."""
    card(CardConfig(corpus.path, out, **changes))  # type: ignore[arg-type]
    return (out / "README.md").read_text()


def panels_of(corpus: Corpus) -> tuple[dict[str, Panel], tuple[str, ...]]:
    """All panels of the training split, whole, by name, and the classes."""
    split = corpus.split("train")
    classes = classes_of(corpus.manifest, "train")
    panels = fill(split, range(len(split)), quantities_of(corpus.manifest), classes)
    return {panel.quantity.name: panel for panel in panels}, classes.names


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Drawing takes most of the time, and some tests look at the text only."""
    monkeypatch.setattr("hepfm.ingest.card.pictures.picture", lambda *_: b"")


@pytest.fixture(scope="module")
def page(toy_corpus: Corpus, tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(toy_corpus, tmp_path_factory.mktemp("card"))


def test_a_card_leaves_the_corpus_sound(tmp_path: Path) -> None:
    corpus = showers(tmp_path / "c", records=100)
    before = {file: file.read_bytes() for file in sorted(corpus.path.rglob("*")) if file.is_file()}
    card(CardConfig(corpus.path))
    made = {file for file in corpus.path.rglob("*") if file.is_file()} - set(before)
    assert {file.relative_to(corpus.path).as_posix() for file in made} == {
        "README.md",
        "card/showers.png",
        "card/points.png",
    }
    assert all(file.read_bytes() == data for file, data in before.items())
    assert verify(corpus.path) == []
    assert Corpus.open(corpus.path).digest == corpus.digest


def test_equal_corpora_give_equal_bytes(toy_corpus: Corpus, tmp_path: Path) -> None:
    for name in ("first", "second"):
        written(toy_corpus, tmp_path / name)
    first, second = (sorted(file for file in (tmp_path / name).rglob("*.*")) for name in ("first", "second"))
    assert [file.name for file in first] == [file.name for file in second]
    assert [file.read_bytes() for file in first] == [file.read_bytes() for file in second]
    for file in first:
        if file.suffix == ".png":
            assert file.read_bytes().startswith(b"\x89PNG")


def test_the_page_says_what_the_corpus_holds(page: str, toy_corpus: Corpus) -> None:
    assert "drawn as" not in page
    manifest = toy_corpus.manifest
    assert toy_corpus.digest in page
    for name, split in manifest.splits.items():
        assert re.search(rf"\| {name} \| {split.records:,} \| {split.points:,} \|", page)
    for label in manifest.labels:
        counts = " | ".join(f"{split.labels.get(label, 0):,}" for split in manifest.splits.values())
        assert f"| {label} | {counts} |" in page
    figures = manifest.statistics["constituents.d0"]
    share = figures["nulls"] / (figures["nulls"] + figures["count"])
    row = next(line for line in page.splitlines() if line.startswith("| `constituents.d0` | mm |"))
    assert row.endswith(f"{figures['max']:.5g} | {figures['mean']:.5g} | {figures['std']:.5g} | {share:.2%} |")
    for name in manifest.provides:
        assert f"| `{name}` |" in page
    for file in manifest.provenance["files"]:
        assert f"| `{file['name']}` | {file['entries']:,} | `{file['sha256']}` |" in page
    for name, count in manifest.provenance["cut_flow"]:
        assert f"| {name} | {count:,} |" in page
    assert manifest.provenance["command"] in page
    for path in re.findall(r"\]\((card/\w+\.png)\)", page):
        assert path in ("card/jets.png", "card/constituents.png")


def test_the_page_of_showers_tells_their_calorimeter_in_a_line(undrawn: None, tmp_path: Path) -> None:
    line = next(line for line in written(showers(tmp_path / "c", records=50), tmp_path).splitlines() if "ILD" in line)
    assert line.startswith("Geometry: ILD electromagnetic calorimeter: 30 layers, points")
    assert len(line) < 120


def test_the_hub_reads_its_front_matter(page: str, undrawn: None, toy_corpus: Corpus, tmp_path: Path) -> None:
    from huggingface_hub import DatasetCard

    data = DatasetCard(page).data.to_dict()
    assert data["size_categories"] == ["1K<n<10K"]
    assert data["task_categories"] == ["tabular-classification"]
    assert "license" not in data
    assert {file["split"]: file["path"] for file in data["configs"][0]["data_files"]} == {
        "train": "train/*.tar",
        "validation": "val/*.tar",
        "test": "test/*.tar",
    }
    named = DatasetCard(written(toy_corpus, tmp_path, license="cc-by-4.0", title="Jets: all | of them")).data.to_dict()
    assert named["license"] == "cc-by-4.0"
    assert named["pretty_name"] == "Jets: all | of them"


def test_what_the_page_tells_to_type_works(
    undrawn: None, toy_corpus: Corpus, token_corpus: Callable[..., Path], tmp_path: Path
) -> None:
    corpora = [toy_corpus, showers(tmp_path / "c", records=100), Corpus.open(token_corpus())]
    code = "import os\n"
    for number, corpus in enumerate(corpora):
        snippets = re.findall(r"```python\n(.*?)```", written(corpus, tmp_path / str(number)), re.S)
        assert len(snippets) == 2
        checks = ["assert len(values)", "assert len(batch) == min(256, reader.records)", "print(corpus.digest)"]
        code += "\n".join([f"os.chdir({str(corpus.path)!r})", *snippets, *checks, ""])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [corpus.digest for corpus in corpora]


def test_plots_are_histograms_of_what_is_stored(toy_corpus: Corpus) -> None:
    panels, classes = panels_of(toy_corpus)
    assert classes == ("qcd", "top", "higgs")
    expected = set(toy_corpus.manifest.provides) - {"label", "source_file", "source_entry"} | {"constituents"}
    assert set(panels) == expected
    blocks = list(toy_corpus.split("train"))
    label = np.concatenate([block["label"].indices.to_numpy() for block in blocks])
    of_point = np.repeat(label, np.concatenate([np.diff(offsets_of(block["constituents"])) for block in blocks]))
    for name in ("pt", "constituents.deta", "constituents.d0"):
        values = np.concatenate(
            [
                points_of(block, name.split(".")[1]) if "." in name else block[name].to_numpy(zero_copy_only=False)
                for block in blocks
            ]
        ).astype(np.float64)
        owner = of_point if "." in name else label
        panel = panels[name]
        assert panel.nulls == np.isnan(values).sum() == toy_corpus.manifest.statistics[name]["nulls"]
        for number in range(3):
            own = values[(owner == number) & ~np.isnan(values)]
            assert not panel.axis.log
            counts = np.histogram(own, panel.axis.edges)[0]
            assert panel.counts[number].sum() == len(own)
            assert np.abs(panel.counts[number, 1:-1] - counts).sum() <= 2  # a value at an edge may round either way
            assert panel.heights[number].sum() == pytest.approx(counts.sum() / len(own), abs=1e-2)
        assert panel.outside < 0.005
    assert panels["constituents.d0"].null_share == pytest.approx(np.isnan(values).mean())
    species = panels["constituents.species"]
    stated = toy_corpus.manifest.statistics["constituents.species"]["values"]
    assert dict(zip(species.axis.names, species.counts[:, 1:-1].sum(axis=0), strict=True)) == stated
    assert title_of(panels["pt"], "jet") == r"jet $p_\mathrm{T}$ [GeV]"
    assert title_of(panels["constituents"], "jet") == "constituents per jet"


def test_showers_show_where_their_energy_lies(tmp_path: Path) -> None:
    corpus = showers(tmp_path / "c", records=400)
    panels, classes = panels_of(corpus)
    assert classes == ("photon", "pion")
    blocks = list(corpus.split("train"))
    energy = np.concatenate([points_of(block, "energy") for block in blocks]).astype(np.float64)
    layer = np.concatenate([points_of(block, "layer") for block in blocks])
    by_layer = panels["energy_by_layer"]
    assert by_layer.counts.sum() == pytest.approx(energy.sum())
    first = by_layer.axis.place(np.zeros(1))[0]
    inside = by_layer.axis.place(layer.astype(np.float64)) == first
    assert by_layer.counts[:, first].sum() == pytest.approx(energy[inside].sum())
    heights = by_layer.heights.sum(axis=1) + by_layer.counts[:, [0, -1]].sum(axis=1) / 200
    assert heights == pytest.approx([energy_of(blocks, 0) / 200, energy_of(blocks, 1) / 200])
    # Distances from a slanted axis are exponential with mean 8 mm, weighted by exp(-r / 20 mm): mean 40/7 mm, and a
    # little more or less because the centre of a shower's energy lies a few mm beside its axis.
    radius = panels["energy_by_radius"]
    middles = (radius.axis.edges[:-1] + radius.axis.edges[1:]) / 2
    mean = (radius.counts[:, 1:-1].sum(axis=0) * middles).sum() / radius.counts[:, 1:-1].sum()
    assert mean == pytest.approx(40 / 7, rel=0.15)
    assert panels["particle"].axis.names == ("22", "211")
    assert panels["particle"].counts[:, 1:-1].tolist() == [[200, 0], [0, 200]]
    assert panels["energy_per_point"].nulls == 1  # the shower without points
    assert panels["response"].counts.sum() == 400
    assert title_of(panels["energy_by_radius"], "shower") == "distance from the shower's axis [mm]"


def energy_of(blocks: list, number: int) -> float:
    """Energy of all points of the showers with one label."""
    total = 0.0
    for block in blocks:
        of_point = np.repeat(block["label"].indices.to_numpy(), np.diff(offsets_of(block["points"])))
        total += points_of(block, "energy").astype(np.float64)[of_point == number].sum()
    return total


def test_token_corpora_have_cards_too(token_corpus: Callable[..., Path], tmp_path: Path) -> None:
    corpus = Corpus.open(token_corpus())
    page = written(corpus, tmp_path)
    assert "tokenizer/" in page
    assert (tmp_path / "card" / "tokens.png").is_file()
    panels, classes = panels_of(corpus)
    assert classes == ("all records",)
    codes = np.concatenate([block["tokens"].flatten().to_numpy() for block in corpus.split("train")])
    shown = panels["tokens.item"].counts[0, 1:-1]
    assert shown.tolist() == np.bincount(codes, minlength=20).tolist()


def test_only_some_blocks_are_plotted_and_it_is_said(
    undrawn: None, toy_corpus: Corpus, page: str, tmp_path: Path
) -> None:
    split = toy_corpus.split("train")
    assert f"all {split.records:,} jets of the split `train`" in page
    blocks = sampled_blocks(split, 1000)
    records = int(split.block_records[blocks].sum())
    assert 1000 - 64 <= records <= 1000
    assert set(np.diff(blocks)) <= {len(split) // len(blocks), len(split) // len(blocks) + 1}
    some = written(toy_corpus, tmp_path, plot_records=1000, split="train")
    assert f"{len(blocks):,} of {len(split):,} blocks, spread evenly: {records:,} jets" in some
    assert sampled_blocks(split, 1) == [0]
    assert sampled_blocks(split, split.records) == list(range(len(split)))


def test_many_labels_become_families_or_the_most_frequent(undrawn: None, tmp_path: Path) -> None:
    many = mass_jets(tmp_path / "many", [f"class {number}" for number in range(20)], 4000)
    classes = classes_of(many.manifest, "train")
    assert len(classes.names) == MOST <= len(LINES)
    assert classes.names[-2:] == ("10 other labels", "unlabelled")
    counts = many.manifest.splits["train"].labels
    assert set(classes.names[:10]) == set(sorted(counts, key=lambda label: -counts[label])[:10])
    found = np.bincount(np.concatenate([classes.of(block) for block in many.split("train")]), minlength=MOST)
    assert found[:10].tolist() == [counts[name] for name in classes.names[:10]]
    assert found[-1] == 4000 - sum(counts.values()) > 0
    labels = ["QCD_b", "QCD_light", *(f"X_YY_{name}" for name in ("bbbb", "bbgg", "bbb", "bbee", "bbtauhtauh", "bcev"))]
    labels += ["X_bb", "X_gg", "X_ee", "X_tauhtaue", "X_cc", "X_ss"]
    decays = mass_jets(tmp_path / "decays", labels, 4000)
    classes = classes_of(decays.manifest, "train")
    assert classes.names == (*FAMILIES, "unlabelled")
    counts = decays.manifest.splits["train"].labels
    found = np.bincount(np.concatenate([classes.of(block) for block in decays.split("train")]))
    assert found[0] == counts["QCD_b"] + counts["QCD_light"]
    page = written(decays, tmp_path / "card")
    assert f"drawn as {', '.join(classes.names)}." in page
    assert f"| X_YY_bcev | {counts['X_YY_bcev']:,} |" in page
    assert found[1] == sum(counts[name] for name in ("X_bb", "X_gg", "X_cc", "X_ss"))


@given(numbers, numbers, st.sampled_from(["number", "integer", "profile"]))
def test_axes_hold_all_values_and_place_them_as_numpy_does(sample: np.ndarray, values: np.ndarray, form: str) -> None:
    if form == "integer":
        sample, values = np.round(sample), np.round(values)
    axis = axis_of("something", form, (), [sample], len(sample))  # type: ignore[arg-type]
    assert (np.diff(axis.edges) > 0).all()
    place = axis.place(values)
    assert ((place >= 0) & (place <= axis.bins + 1)).all()
    with np.errstate(divide="ignore", invalid="ignore"):
        compared = np.where(values > 0, np.log10(values), -np.inf) if axis.log else values
    assert (place == 0).tolist() == (compared < axis.edges[0]).tolist()
    assert (place > axis.bins).tolist() == (compared > axis.edges[-1]).tolist()
    inside = (place > 0) & (place <= axis.bins)
    room = 1e-9 * (axis.edges[-1] - axis.edges[0])
    assert (compared[inside] >= axis.edges[place[inside] - 1] - room).all()
    assert (compared[inside] <= axis.edges[place[inside]] + room).all()
    if form == "integer":
        assert not axis.log
        assert (axis.place(sample) % (axis.bins + 1) > 0).all()


def test_axes_are_logarithmic_where_values_span_decades() -> None:
    draws = np.random.default_rng(0)
    wide, tailed = 10 ** draws.uniform(-1, 3, 5000), draws.standard_cauchy(5000)
    assert axis_of("constituents.pt", "number", (), [wide], 5000).log
    assert not axis_of("mass", "number", (), [wide], 5000).log
    assert axis_of("constituents.d0", "number", (), [tailed], 5000).log_counts
    assert not axis_of("eta", "number", (), [draws.normal(size=5000)], 5000).log_counts
    one = axis_of("pt", "number", (), [np.full(50, 7.0)], 50)
    assert not one.log
    assert np.abs((one.edges[:-1] + one.edges[1:]) / 2 - 7).min() < 1e-9
    assert axis_of("pt", "number", (), [np.zeros(0)], 0).bins == 1


def test_energy_by_layer_has_a_bin_a_layer_however_few_the_showers() -> None:
    layers = np.arange(30.0)
    assert axis_of("energy_by_layer", "profile", (), [layers], 30).edges.tolist() == [*(layers - 0.5), 29.5]


@pytest.mark.parametrize("panels", [1, 2, 4])
def test_the_names_of_many_classes_leave_the_panels_their_height(toy_corpus: Corpus, panels: int) -> None:
    drawn = list(panels_of(toy_corpus)[0].values())[:panels]
    for panel in drawn:
        panel.counts = np.tile(panel.counts[:1], (MOST, 1))
    classes = [f"X to YY, {number} quarks or gluons" for number in range(MOST)]
    image = matplotlib.image.imread(io.BytesIO(picture(drawn, classes, "jet")))[..., :3]
    spine = (image.max(axis=2) < 0.25).sum(axis=0).max() / -(-panels // COLUMNS)  # a panel's left side is ink
    assert spine > 0.6 * PANEL_HEIGHT_IN * DPI


def test_a_page_of_somebody_else_is_kept(toy_corpus: Corpus, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("my notes")
    with pytest.raises(HepfmError, match="was written by somebody else"):
        written(toy_corpus, tmp_path)
    assert (tmp_path / "README.md").read_text() == "my notes"
    assert not (tmp_path / "card").exists()


def test_what_cannot_be_drawn_is_refused(toy_corpus: Corpus, tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match="has no split 'real'"):
        written(toy_corpus, tmp_path, split="real")
    with pytest.raises(HepfmError, match="must be at least 1"):
        written(toy_corpus, tmp_path, plot_records=0)
    with pytest.raises(HepfmError, match="say where the card goes"):
        card(CardConfig(Path("https://somewhere.example/corpus")))
    assert not list(tmp_path.iterdir())
