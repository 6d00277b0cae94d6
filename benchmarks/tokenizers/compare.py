"""``hepfm tokenizer compare``: rate against distortion of several tokenizers on the same records."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from tyro.conf import Positional

from hepfm.benchmarks.report import number, sections, themed
from hepfm.benchmarks.tables import Cell, Table
from hepfm.benchmarks.tokenizers.command import LIMIT, check_out, described, now, origin
from hepfm.benchmarks.tokenizers.evaluation import NAMES, rate_data
from hepfm.benchmarks.tokenizers.measures import MINIMUM_RECORDS, Rate, estimates, half_width, measure_codes
from hepfm.benchmarks.tokenizers.pictures import rate_distortion
from hepfm.benchmarks.tokenizers.quantities import decoded_values, original_values, quantities_of
from hepfm.benchmarks.tokenizers.sample import Reconstruction, reconstruct
from hepfm.core.errors import HepfmError
from hepfm.core.files import write_json, write_text
from hepfm.core.plots import Theme
from hepfm.core.statistics import REPLICAS, Estimate, Values
from hepfm.ingest.corpus import Corpus
from hepfm.tokenize.quality import RELATIVE
from hepfm.tokenize.registry import load_tokenizer

THEMES: tuple[Theme, ...] = ("light", "dark")


@dataclass(frozen=True)
class CompareTokenizersConfig:
    """Bits a point against what is lost of records and points, for several tokenizers on the same records. The table
    goes to stdout as well, in Markdown."""

    tokenizers: Annotated[Positional[tuple[str, ...]], tyro.conf.arg(metavar="TOKENIZER...")]
    """Run or artifact folders of tokenizers, hub ids or URLs."""
    corpus: Path
    """Corpus of jets or showers, which all of them take."""
    out: Path
    """Folder of the page (index.html) and of report.json; an earlier report there is replaced."""
    json: Path | None = None
    """File to write the numbers to as well."""
    split: str = "test"
    """Split of the corpus."""
    limit: int = LIMIT
    """Records at most, the first ones."""
    seed: int = 0
    """Seed of bootstrap replicas."""


@dataclass(frozen=True)
class Distortion:
    """What is lost of one quantity: half the width of the central 68% of decoded minus original.

    Attributes:
        title: with unit.
        value: of categories the share decoded as another.
    """

    title: str
    value: Estimate


@dataclass(frozen=True)
class Compared:
    """One tokenizer: its rate, and its distortions by name of the quantity (``records.jet_mass``, ``points.pt``)."""

    rate: Rate
    distortions: dict[str, Distortion]


def main(config: CompareTokenizersConfig) -> None:
    """Measure all, print the table, write the report."""
    if not config.tokenizers:
        raise HepfmError("no tokenizer to compare", "tokenizer compare", "name one or several")
    check_out(config.out, config.limit)
    corpus = Corpus.open(config.corpus)
    tokenizers = {name: load_tokenizer(path) for name, path in named(config.tokenizers).items()}
    for tokenizer in tokenizers.values():
        tokenizer.contract.check(corpus.manifest, where=corpus.path)
    found = {}
    for name, tokenizer in tokenizers.items():
        found[name] = compared(reconstruct(tokenizer, corpus, config.split, config.limit), seed=config.seed)
    if not titles_of(found):
        needed = f"{MINIMUM_RECORDS} are needed"
        raise HepfmError(f"too few records to compare on: {needed}", f"{corpus.path}, {config.split}", "take more")
    table = table_of(found, NAMES[next(iter(tokenizers.values())).contract.kind])
    sys.stdout.write(table.markdown())
    provenance = {
        **{name: described(name, tokenizer) for name, tokenizer in tokenizers.items()},
        **origin(corpus, config.split, config.limit, config.seed),
    }
    date = now()
    data = {"date": date, "provenance": provenance, "tokenizers": {name: as_data(item) for name, item in found.items()}}
    if config.json:
        write_json(config.json, data)
    write_json(config.out / "report.json", data)
    write_text(config.out / "index.html", _page(found, table, date, provenance))
    sys.stdout.write(f"\n{config.out / 'index.html'}\n")


def named(paths: Sequence[str]) -> dict[str, str]:
    """Tokenizers by the names of their folders, told apart by number where these agree."""
    found: dict[str, str] = {}
    for path in paths:
        parts = Path(path.rstrip("/"))
        stem = parts.parent.name if parts.name == "artifact" and parts.parent.name else parts.name
        name, count = stem, 1
        while name in found:
            count += 1
            name = f"{stem} ({count})"
        found[name] = path
    return found


def compared(sample: Reconstruction, *, seed: int = 0, replicas: int = REPLICAS) -> Compared:
    """Rate and distortions of a tokenizer."""
    original, decoded = original_values(sample), decoded_values(sample)
    found: dict[str, Distortion] = {}
    for quantity in quantities_of(sample):
        differences = decoded[quantity.name] - original[quantity.name]
        title = f"{quantity.title} [{quantity.unit}]" if quantity.unit else quantity.title
        _add(found, f"records.{quantity.name}", title, differences, np.arange(len(sample)), len(sample), seed, replicas)
    for feature in sample.features:
        before, after = (points[feature.name].astype(np.float64) for points in (sample.original, sample.decoded))
        name, unit = f"points.{feature.name}", "" if feature.unit == "1" else feature.unit
        if feature.categories:
            other = Values((before != after).astype(np.float64), sample.record, len(sample))
            share = estimates(other, (np.mean,), f"{seed}/{name}", replicas)[0]
            found[name] = Distortion(f"{feature.name} [share]", share)
            continue
        relative = feature.name in RELATIVE
        differences = (after - before) / before if relative else after - before
        title = f"{feature.name} [{'relative' if relative else unit}]" if relative or unit else feature.name
        _add(found, name, title, differences, sample.record, len(sample), seed, replicas)
    return Compared(measure_codes(sample), found)


def _add(
    found: dict[str, Distortion],
    name: str,
    title: str,
    differences: np.ndarray,
    whose: np.ndarray,
    records: int,
    seed: int,
    replicas: int,
) -> None:
    """The half width of differences, unless too few records have one."""
    defined = np.isfinite(differences)
    residuals = Values(differences[defined], whose[defined], records)
    if len(np.unique(residuals.record)) >= MINIMUM_RECORDS:
        found[name] = Distortion(title, estimates(residuals, (half_width,), f"{seed}/{name}", replicas)[0])


def as_data(item: Compared) -> dict[str, Any]:
    """Plain data."""
    return {
        "rate": rate_data(item.rate),
        "distortions": {name: {"title": d.title, **asdict(d.value)} for name, d in item.distortions.items()},
    }


def table_of(found: Mapping[str, Compared], names: tuple[str, str]) -> Table:
    """One row a tokenizer."""
    titles = titles_of(found)
    rows = []
    for name, item in found.items():
        rate = item.rate
        codes = " x ".join(f"{stream.codes:,}" for stream in rate.streams)
        cells = [Cell(name), Cell(codes), Cell(f"{rate.bits:.2f}"), Cell(f"{rate.entropy_bits:.2f}")]
        cells += [Cell(f"{rate.use:.2%}")]
        cells += [Cell(number(item.distortions[q].value) if q in item.distortions else "-") for q in titles]
        rows.append(tuple(cells))
    record, point = names
    rates = [item.rate for item in found.values()]
    size = rates[0].tokens + rates[0].left_out
    without = "".join(
        f" {rate.left_out:,} get no token of {name}." for name, rate in zip(found, rates, strict=True) if rate.left_out
    )
    note = (
        f"Bits a {point}: log2 of the codes; entropy bits: with a coder that knows how often each code occurs. Losses:"
        f" half the width of the central 68% of decoded minus original; errors: bootstrap over {record}s. {size:,} real"
        f" {point}s.{without}"
    )
    header = ("tokenizer", "codes", "bits", "entropy bits", "use", *titles.values())
    return Table("Rate and distortion", header, tuple(rows), note)


def titles_of(found: Mapping[str, Compared]) -> dict[str, str]:
    """Titles of all quantities that any tokenizer has, by name."""
    return {name: d.title for item in found.values() for name, d in item.distortions.items()}


def _page(found: Mapping[str, Compared], table: Table, date: str, provenance: Mapping[str, Any]) -> str:
    drawn = {theme: rate_distortion(found, titles_of(found), theme) for theme in THEMES}
    part = {
        "title": "Rate and distortion",
        "text": "Further left is fewer bits, further down is less lost.",
        "tables": [table],
        "notes": (),
        "wide": [themed("Filled: log2 of the codes; open: with an entropy coder", "rate", drawn)],
        "plots": [],
    }
    return sections(f"{len(found)} tokenizers compared", date, [part], [], provenance)
