"""Commands: ``hepfm ingest SOURCE FILES``, ``hepfm corpus verify DIR``, ``hepfm corpus inspect DIR``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, is_dataclass
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from hepfm.core.config import read_yaml
from hepfm.core.errors import HepfmError
from hepfm.core.progress import say
from hepfm.ingest.build import BuildOptions, build
from hepfm.ingest.corpus import Corpus, remote_url
from hepfm.ingest.describe import describe
from hepfm.ingest.geometry import Geometry
from hepfm.ingest.hub import local_files
from hepfm.ingest.jobs import REJECTED
from hepfm.ingest.manifest import Manifest
from hepfm.ingest.probe import existing
from hepfm.ingest.selection import JetSelection, selection_type
from hepfm.ingest.sources.base import Source
from hepfm.ingest.sources.contents import contents
from hepfm.ingest.sources.registry import SOURCES, recognised, source, source_type
from hepfm.ingest.staging import local_folder
from hepfm.ingest.verify import verify
from hepfm.ingest.workers import cores

AUTO = "auto"


@dataclass(frozen=True)
class IngestConfig:
    """Build a corpus from raw files. Run again after an interruption, it continues; the result is the same bytes."""

    source: Annotated[Positional[str], tyro.conf.arg(metavar="SOURCE")]
    """Format of the files; auto recognises it. 'hepfm ingest SOURCE --help' shows the options of one."""
    files: Annotated[Positional[tuple[Path, ...]], tyro.conf.arg(metavar="FILES...")]
    """Raw files, each once; also addresses on the Hugging Face hub, hf://datasets/ORG/NAME/PATTERN (Parquet), which
    are streamed to $HEPFM_CACHE/staged first."""
    out: Path
    """Folder of the corpus: new, empty, or begun with the same command."""
    layout: BuildOptions = field(default_factory=BuildOptions)
    selection: JetSelection = field(default_factory=JetSelection)
    processes: int = field(default_factory=cores)
    """Worker processes; default all cores. The result does not depend on it."""
    hub_records: int | None = None
    """Stream so many records in all from the hub, first files first; default all."""
    scheduler: str | None = None
    """Dask scheduler whose workers build the shards (tcp://host:8786; files under the same paths everywhere), or
    'local' for a Dask cluster of --processes workers on this machine."""


def ingest_config(arguments: Sequence[str]) -> type[IngestConfig]:
    """The configuration of ``hepfm ingest SOURCE``: with its settings, and the cuts that its records can be given."""
    name = _named_source(arguments)
    if name is None or name == AUTO:
        listed = "\n".join(f"  {entry.name:<15} {entry.title}" for entry in SOURCES.values())
        listed += "\n  pythia          simulates jets\n  gflash          simulates showers"
        told = f"{IngestConfig.__doc__}\n\nSources:\n{listed}"
        return _with_fields(told, selection=JetSelection)
    options: type[Any] = source_type(name)
    fields: dict[str, type] = {"selection": selection_type(SOURCES[name].kind)}
    if is_dataclass(options) and any(field.init for field in dataclass_fields(options)):
        fields["reader"] = options
    return _with_fields(IngestConfig.__doc__ or "", **fields)


def _named_source(arguments: Sequence[str]) -> str | None:
    """The source that the arguments, or the file that --config names, ask for; None if neither does."""
    if arguments and not arguments[0].startswith("-"):
        return arguments[0]
    if "--config" in arguments[:-1]:
        named = read_yaml(Path(arguments[list(arguments).index("--config") + 1])).get("source")
        return named if isinstance(named, str) else None
    return None


def _with_fields(description: str, **types: type) -> type[IngestConfig]:
    """The configuration with fields of these types, each made without arguments by default."""
    body: dict[str, Any] = {"__doc__": description, "__annotations__": types, "__module__": __name__}
    body |= {name: field(default_factory=made) for name, made in types.items()}
    return dataclass(frozen=True)(type(IngestConfig.__name__, (IngestConfig,), body))


def ingest(config: IngestConfig) -> None:
    """Build the corpus and say what is in it."""
    if config.processes < 1:
        raise HepfmError("must be at least 1", "--processes")
    named: Source | None = getattr(config, "reader", None) or (None if config.source == AUTO else source(config.source))
    files = local_files(config.files, config.hub_records, getattr(named, "columns", None))
    chosen = named or _recognised(files, config.selection)
    try:
        corpus = build(chosen, files, config.out, config.layout, config.selection, config.processes, config.scheduler)
    except HepfmError as error:
        raise _better_named(error, chosen, files) from error
    if corpus.manifest.geometry:
        geometry = Geometry.from_data(corpus.manifest.geometry)
        say(f"geometry: {geometry.summary()}; read as {geometry.stored.summary()}")
    for name, split in corpus.manifest.splits.items():
        say(f"{name}: {split.records:,} {corpus.manifest.kind}, {len(split.shards)} shards")
        for label in missing_labels(corpus.manifest, name):
            say(f"note: {name} has no {label}: too few entries to give each split every class; take more files")
    for name, count in corpus.manifest.provenance["cut_flow"]:
        if name.startswith("rejected: "):
            say(f"{name}: {count:,} (listed in {corpus.path / REJECTED})")
    sys.stdout.write(f"{corpus.path}\n")


def _recognised(given: Sequence[Path], selection: JetSelection) -> Source:
    """The source that fits the files, by what lies in them."""
    files = existing(given)
    found = {name for path in files for name in recognised(path)[:1]}
    unknown = next((path for path in files if not recognised(path)), None)
    if unknown is not None:
        looked = contents(unknown)
        if looked.fault:
            raise HepfmError(looked.fault, unknown, looked.mend)
        raise HepfmError("its format is not recognised", unknown, f"name the source: {', '.join(SOURCES)}")
    for path in files:
        if len(fitting := recognised(path)) > 1:
            raise HepfmError(f"may be of several formats: {', '.join(fitting)}", path, "say hepfm ingest NAME")
    if len(found) > 1:
        raise HepfmError(
            f"the files are of several formats: {', '.join(sorted(found))}", "ingest auto", "one at a time"
        )
    name = found.pop()
    say(f"recognised: {SOURCES[name].title} (hepfm ingest {name})")
    if SOURCES[name].kind == "showers" and selection != JetSelection():
        raise HepfmError("cuts on jets do not fit showers", "ingest auto", f"say hepfm ingest {name}")
    return source(name)


def _better_named(error: HepfmError, chosen: Source, files: Sequence[Path]) -> HepfmError:
    """The error, and the source that fits the files where the chosen one does not, or what stands in a file's place."""
    for path in files:
        fitting = recognised(path) if path.is_file() else []
        found = contents(path)
        if found.stand_in and error.where in (str(path), str(path.resolve())):
            return HepfmError(found.fault, path, found.mend)
        if fitting and chosen.name in SOURCES and chosen.name not in fitting:
            name = fitting[0]
            return HepfmError(
                f"is no {chosen.name} file but {SOURCES[name].title} ({error.what})", path, f"say hepfm ingest {name}"
            )
    return error


def missing_labels(manifest: Manifest, split: str) -> list[str]:
    """Labels that another split has and this one has not."""
    counts = [entry.labels for entry in manifest.splits.values()]
    present = [label for label in manifest.labels if any(count.get(label) for count in counts)]
    return [label for label in present if not manifest.splits[split].labels.get(label)]


@dataclass(frozen=True)
class VerifyConfig:
    """Check every checksum, count and rule of a corpus."""

    corpus: Annotated[Positional[Path], tyro.conf.arg(metavar="CORPUS")]
    """Folder or address (https://, s3://) of the corpus."""
    processes: int = field(default_factory=cores)
    """Worker processes; default all cores."""


def verify_corpus(config: VerifyConfig) -> None:
    """List what is wrong; nothing wrong is said too."""
    folder = local_folder(config.corpus)
    if not folder.is_dir():
        raise HepfmError("is not a folder" if folder.exists() else "no such folder", folder)
    name = remote_url(config.corpus) or str(config.corpus)
    problems = verify(folder, config.processes)
    for problem in problems:
        sys.stdout.write(f"{problem}\n")
    if problems:
        raise HepfmError(
            f"{len(problems)} problem{'s' if len(problems) > 1 else ''} found, first: {problems[0]}",
            name,
            "restore what is damaged from a copy, or build the corpus again",
        )
    corpus = Corpus.open(folder)
    records = sum(split.records for split in corpus.manifest.splits.values())
    sys.stdout.write(f"{name}: sound, {records:,} {corpus.manifest.records_name}, digest {corpus.digest}\n")


@dataclass(frozen=True)
class InspectConfig:
    """Show a corpus: schema with units, counts, labels, ranges, cut flow, origin."""

    corpus: Annotated[Positional[Path], tyro.conf.arg(metavar="CORPUS")]
    """Folder or address (https://, s3://) of the corpus."""


def inspect_corpus(config: InspectConfig) -> None:
    """Print the description."""
    sys.stdout.write(describe(Corpus.open(config.corpus)))
