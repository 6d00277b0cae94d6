"""``hepfm corpus export``: a corpus as files of other programs, written shard by shard, continued if interrupted.

While an export is being written its folder holds ``.export/``: the request, a lock, and a receipt for each finished
file. ``export.json`` is written last; it lists every file with its checksum.
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hepfm.core.errors import HepfmError
from hepfm.core.files import atomic_path, locked, read_json, sha256_file, sweep, write_json, write_text
from hepfm.core.progress import progress, say
from hepfm.core.versions import versions
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.export.dataset_dict import DatasetDictFormat
from hepfm.ingest.export.format import Format, names_of
from hepfm.ingest.export.parquet_tables import ParquetFormat
from hepfm.ingest.export.raw_files import RAW_FORMATS
from hepfm.ingest.export.samples import SampleFormat
from hepfm.ingest.manifest import ShardEntry
from hepfm.ingest.workers import in_order

LISTING = "export.json"
WORK = ".export"

FORMATS: dict[str, Format] = {
    "parquet": ParquetFormat('pyarrow.parquet.read_table("DIR/train")'),
    "awkward": ParquetFormat('awkward.from_parquet("DIR/train")', categories=False),
    "datasets": DatasetDictFormat(),
    "webdataset": SampleFormat(),
    **RAW_FORMATS,
}


def export(corpus: Corpus, format_name: str, out: Path, splits: Sequence[str], processes: int = 1) -> None:
    """Write splits of a corpus in another format, or continue where that was interrupted.

    The values are those of the corpus; nothing of it is held in memory but a block at a time.

    Args:
        corpus: what is exported.
        format_name: a key of :data:`FORMATS`.
        out: folder: new, empty, or begun with the same request.
        splits: names of the splits.
        processes: worker processes; the files do not depend on it.

    Raises:
        HepfmError: the format cannot hold such records, the folder holds something else, or the disk is full; what is
            finished stays, and the same command continues.
    """
    form, kind = FORMATS[format_name], corpus.manifest.kind
    if kind not in form.kinds:
        fitting = ", ".join(name for name, other in FORMATS.items() if kind in other.kinds)
        raise HepfmError(f"holds {kind}, which {format_name} files cannot", corpus.path, f"there is: {fitting}")
    request = {"corpus": corpus.digest, "format": format_name, "splits": list(splits)}
    if (out / LISTING).is_file():
        _check_finished(out, request)
        shutil.rmtree(out / WORK, ignore_errors=True)
        say(f"{out} is already exported")
        return
    if out.exists() and not out.is_dir():
        raise HepfmError("is a file, not a folder", out, "name another --out")
    if out.is_dir() and any(out.iterdir()) and not (out / WORK).is_dir():
        raise HepfmError("is not empty and not an export", out, "name another --out")
    made_here = not out.exists()
    with locked(out / WORK):
        _begin(out, {**request, "versions": versions()})
        try:
            files = _write_all(corpus, form, out, splits, processes)
            for name, text in sorted(form.texts(corpus, splits).items()):
                write_text(out / name, text)
                files[name] = _figures(out / name)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise HepfmError("the disk is full", out, "free some space and run again: it continues") from error
        except HepfmError:
            _give_up(out, made_here)
            raise
        listing = {**request, "opening": form.opening, "names": names_of(corpus), "files": files}
        write_json(out / LISTING, {**listing, "versions": versions()})
        shutil.rmtree(out / WORK, ignore_errors=True)


def _give_up(out: Path, made_here: bool) -> None:
    """Leave nothing behind if nothing was finished; a folder that was there before the export stays."""
    if not any((out / WORK).glob("*/*.json")):
        shutil.rmtree(out / WORK)
        for folder in (*out.iterdir(), *([out] if made_here else [])):
            with suppress(OSError):
                folder.rmdir()


def _check_finished(out: Path, request: dict[str, Any]) -> None:
    found = read_json(out / LISTING)
    if not isinstance(found, dict) or any(found.get(name) != value for name, value in request.items()):
        raise HepfmError("holds another export", out, "name another --out, or remove this folder")


def _begin(out: Path, request: dict[str, Any]) -> None:
    """Begin or continue; the caller holds the lock."""
    path = out / WORK / "request.json"
    if not path.is_file():
        write_json(path, request)
    elif read_json(path) != request:
        raise HepfmError(
            "holds an unfinished export of another corpus, format or version of the libraries",
            out,
            "name another --out, or remove this folder",
        )
    sweep(out)


@dataclass(frozen=True)
class _Work:
    """Makes one file and its receipt; sent to worker processes."""

    corpus: Corpus
    form: Format
    out: Path

    def __call__(self, item: tuple[str, ShardEntry]) -> tuple[str, dict[str, Any], int]:
        split, shard = item
        name = self.form.name(self.corpus, split, shard)
        receipt = self.out / WORK / f"{name}.json"
        figures = read_json(receipt) if receipt.is_file() else None
        if figures is None or not (self.out / name).is_file() or _figures(self.out / name) != figures:
            with atomic_path(self.out / name) as partial:
                self.form.write(self.corpus.split(split), shard, partial)
            figures = _figures(self.out / name)
            write_json(receipt, figures)
        return name, figures, shard.records


def _figures(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256_file(path)}


def _write_all(
    corpus: Corpus, form: Format, out: Path, splits: Sequence[str], processes: int
) -> dict[str, dict[str, Any]]:
    items = [(split, shard) for split in splits for shard in form.shards(corpus.split(split))]
    files = {}
    with progress("export", sum(shard.records for _, shard in items), "records") as task:
        for name, figures, records in in_order(_Work(corpus, form, out), items, min(processes, len(items))):
            files[name] = figures
            task.advance(records)
    return files
