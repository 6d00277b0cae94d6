"""The page of a card: README.md with what a corpus is, where it comes from and how to read it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from hepfm.core.files import canonical_json
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.describe import ancestry
from hepfm.ingest.geometry import Geometry
from hepfm.ingest.manifest import Manifest
from hepfm.ingest.schema_json import quantities

MARK = "<!-- Written by `hepfm corpus card`; written anew each time. -->"
FILES_SHOWN = 100
_WHAT = {
    "jets": "jets as ragged records of constituents (pt-ordered, with what a source has of four-momentum, charge, "
    "species and displacement) and quantities of the whole jet",
    "showers": "calorimeter showers as ragged records of points (cells or positions, with deposited energy) and the "
    "incident particle",
    "tokens": "records as ragged sequences of token ids of one tokenizer, which lies in `tokenizer/`",
}
_TAGS = {
    "jets": ["particle-physics", "jets", "jet-tagging"],
    "showers": ["particle-physics", "calorimeter", "showers"],
    "tokens": ["particle-physics", "tokens"],
}
_HUB_SPLIT = {"val": "validation"}


@dataclass(frozen=True)
class Plots:
    """What the plots show.

    Attributes:
        split: of the corpus.
        records: records in the plots.
        blocks, of_blocks: blocks read, and blocks of the split.
        classes: names of the lines.
        pictures: heading and path (relative to the page) of each picture.
    """

    split: str
    records: int
    blocks: int
    of_blocks: int
    classes: Sequence[str]
    pictures: Sequence[tuple[str, str]]


def page(corpus: Corpus, title: str, licence: str, plots: Plots) -> str:
    """The text of README.md.

    Args:
        corpus: the corpus.
        title: headline; empty for one made of kind and source.
        licence: identifier of the data's licence, empty if not known.
        plots: the pictures that were drawn.
    """
    manifest = corpus.manifest
    title = title or _title(manifest)
    parts = [
        _front_matter(manifest, title, licence),
        f"{MARK}\n\n# {title}",
        _about(corpus),
        f"## Records\n\n{_table(_splits(manifest))}",
        *_section("Classes", _labels(manifest)),
        f"## Quantities\n\n{_quantities_note(manifest)}\n\n{_table(_quantities(manifest))}",
        _plots(manifest, plots),
        _reading(manifest),
        "\n\n".join(_provenance(manifest)),
    ]
    return "\n\n".join(parts) + "\n"


def _title(manifest: Manifest) -> str:
    source = manifest.provenance.get("source")
    return f"{manifest.kind.capitalize()}{f' of {source}' if source else ''}"


def _front_matter(manifest: Manifest, title: str, licence: str) -> str:
    """Metadata as the Hugging Face hub reads it."""
    present = [label for label in manifest.labels if any(s.labels.get(label) for s in manifest.splits.values())]
    data: dict[str, Any] = {"pretty_name": title}
    if licence:
        data["license"] = licence
    data["task_categories"] = ["tabular-classification"] if len(present) > 1 else ["other"]
    data["tags"] = [*_TAGS[manifest.kind], "webdataset", "hepfm"]
    data["size_categories"] = [_size(sum(split.records for split in manifest.splits.values()))]
    files = [{"split": _HUB_SPLIT.get(name, name), "path": f"{name}/*.tar"} for name in manifest.splits]
    data["configs"] = [{"config_name": "default", "data_files": files}]
    return f"---\n{yaml.safe_dump(data, sort_keys=False, allow_unicode=True)}---"


def _size(records: int) -> str:
    """The hub's class of size."""
    steps = ("1K", "10K", "100K", "1M", "10M", "100M", "1B", "10B", "100B", "1T")
    power = min(len(steps), max(0, len(str(records)) - 3))
    if power == 0:
        return "n<1K"
    return f"{steps[power - 1]}<n<{steps[power]}" if power < len(steps) else "n>1T"


def _about(corpus: Corpus) -> str:
    manifest = corpus.manifest
    records = sum(split.records for split in manifest.splits.values())
    text = [f"{records:,} {_WHAT[manifest.kind]}.", f"Digest of the corpus: `{corpus.digest}`."]
    if manifest.axis:
        text.append(f"Axis of deta and dphi: {manifest.axis}.")
    if manifest.tokens:
        text.append(f"Tokenizer: {_pairs(manifest.tokens)}.")
    if manifest.geometry:
        text.append(f"Geometry: {Geometry.from_data(manifest.geometry).summary()} (all of it in `corpus.json`).")
    return "\n".join(text)


def _splits(manifest: Manifest) -> Iterator[Sequence[str]]:
    yield ("split", "records", "points", "shards", "MB")
    for name, split in manifest.splits.items():
        size = sum(shard.bytes for shard in split.shards) / 1e6
        yield (name, f"{split.records:,}", f"{split.points:,}", f"{len(split.shards):,}", f"{size:,.1f}")


def _labels(manifest: Manifest) -> list[Sequence[str]]:
    splits = manifest.splits.values()
    names = [name for name in manifest.labels if any(split.labels.get(name) for split in splits)]
    rows: list[Sequence[str]] = [(name, *(f"{split.labels.get(name, 0):,}" for split in splits)) for name in names]
    without = [split.records - sum(split.labels.values()) for split in splits]
    if names and any(without):
        rows.append(("(none)", *(f"{count:,}" for count in without)))
    return [("label", *manifest.splits), *rows] if rows else []


def _quantities_note(manifest: Manifest) -> str:
    counted = "training split" if "train" in manifest.splits else "corpus"
    return f"Range, mean, standard deviation and share of nulls are those of the {counted}; a null is never zero."


def _quantities(manifest: Manifest) -> Iterator[Sequence[str]]:
    yield ("quantity", "unit", "meaning", "least", "most", "mean", "std", "null")
    known = dict(quantities(manifest.schema))
    for name in _names(manifest):
        figures = manifest.statistics.get(name, {})
        described = known.get(name)
        metadata = (described.metadata if described is not None else None) or {}
        meaning = metadata.get(b"meaning", b"").decode()
        if name == manifest.points_column:
            meaning = "how many a record has"
        if "values" in figures:
            shares = {value: count / max(1, figures["count"]) for value, count in figures["values"].items() if count}
            listed = ", ".join(f"{value} {share:.1%}" for value, share in sorted(shares.items()))
            meaning = f"{meaning}: {listed}" if name != "label" else meaning
        numbers = [f"{figures[key]:.5g}" if key in figures else "" for key in ("min", "max", "mean", "std")]
        nulls = figures.get("nulls", 0) / max(1, figures.get("nulls", 0) + figures.get("count", 0))
        unit = metadata.get(b"unit", b"").decode().removeprefix("1") or ""
        yield (f"`{name}`", unit, meaning, *numbers, f"{nulls:.2%}" if nulls else "")


def _names(manifest: Manifest) -> list[str]:
    """All that has a row, in the schema's order: a list column stands for its lengths, before its values."""
    names: dict[str, None] = {}
    for name, _ in quantities(manifest.schema):
        column = name.partition(".")[0]
        names[column] = names[name] = None
        if f"{name}.item" in manifest.statistics:
            names[f"{name}.item"] = None
    return list(names)


def _plots(manifest: Manifest, plots: Plots) -> str:
    whole = plots.blocks == plots.of_blocks
    which = "all" if whole else f"{plots.blocks:,} of {plots.of_blocks:,} blocks, spread evenly:"
    lines = [
        "## Plots",
        f"One line a class, each scaled by its own number of values; {which} {plots.records:,} "
        f"{manifest.records_name} of the split `{plots.split}`. Nulls are not drawn; their share, and that of values "
        "outside the axis, stands above a panel.",
    ]
    if len([label for label, count in manifest.splits[plots.split].labels.items() if count]) > len(plots.classes):
        lines.append(f"Its labels are too many for one picture and are drawn as {', '.join(plots.classes)}.")
    for heading, path in plots.pictures:
        lines += [f"### {heading}", f"![{heading}]({path})"]
    return "\n\n".join(lines)


def _reading(manifest: Manifest) -> str:
    points = manifest.points_column
    item = manifest.schema.field(points).type.value_type
    inner = item.field(0).name if hasattr(item, "num_fields") and item.num_fields else ""
    first = next(iter(manifest.splits))
    shard = manifest.splits[first].shards[0].name
    value = f'.field("{inner}")' if inner else ""
    column = f"{points}.{inner}" if inner and manifest.kind != "tokens" else points
    return f"""## Reading it

With webdataset and pyarrow alone, in this folder (each member of a shard is one block of records):

```python
import pyarrow as pa
import webdataset as wds

for sample in wds.WebDataset("{shard}", shardshuffle=False):
    block = pa.ipc.open_stream(sample["arrow"]).read_all()
    values = block["{points}"].combine_chunks().flatten(){value}.to_numpy(zero_copy_only=False)
```

With hepfm, in an exact shuffled order that a training can resume at any position:

```python
from pathlib import Path

from hepfm.ingest.corpus import Corpus
from hepfm.ingest.reader import Reader

corpus = Corpus.open(Path("."))
reader = Reader([corpus.split("{first}")], seed=1, columns=["{column}"])
batch = reader.take(0, min(256, reader.records)).batch
```

`hepfm corpus verify` checks every byte, `hepfm corpus inspect` prints this page's tables."""


def _provenance(manifest: Manifest) -> Iterator[str]:
    known = manifest.provenance
    yield "## Where it comes from"
    if "source" in known:
        yield f"Source: {known['source']}" + (f", with {_pairs(known['settings'])}." if known.get("settings") else ".")
    if known.get("selection"):
        yield f"Selection: {_pairs(known['selection'])}."
    if known.get("cut_flow"):
        yield _table([("cut", "left"), *((str(name), f"{count:,}") for name, count in known["cut_flow"])])
    for note in known.get("notes", []):
        yield f"Note: {note}"
    if files := known.get("files", []):
        rows = [(f"`{file['name']}`", f"{file['entries']:,}", f"`{file['sha256']}`") for file in files[:FILES_SHOWN]]
        yield _table([("file", "entries", "SHA-256"), *rows])
        if len(files) > FILES_SHOWN:
            yield f"and {len(files) - FILES_SHOWN:,} files more, all in `corpus.json`."
    if "command" in known:
        yield f"    {known['command']}"
    if earlier := list(ancestry(known)):
        yield "\n".join(("What it was made from, and what was cut there:", "", *(f"    {line}" for line in earlier)))
    if known.get("versions"):
        yield f"Made with {_pairs(known['versions'])}."


def _section(heading: str, rows: Sequence[Sequence[str]]) -> list[str]:
    return [f"## {heading}\n\n{_table(rows)}"] if rows else []


def _pairs(data: Mapping[str, Any]) -> str:
    """Plain data on one line, cut where it is long."""
    texts = (
        f"{name} {value if isinstance(value, (str, int, float)) else canonical_json(value)}"
        for name, value in data.items()
    )
    return ", ".join(text if len(text) <= 160 else f"{text[:157]}..." for text in texts)


def _table(rows: Iterator[Sequence[str]] | Sequence[Sequence[str]]) -> str:
    """A table of markdown; the first row is its head."""
    head, *body = [[" ".join(cell.split()).replace("|", "\\|") for cell in row] for row in rows]
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))
