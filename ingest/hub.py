"""Data sets of the Hugging Face hub, streamed through ``datasets`` into Parquet files that a build reads.

An address is ``hf://datasets/ORG/NAME/PATTERN``, or ``hf://datasets/ORG/NAME@REVISION/PATTERN`` for a certain commit,
tag or branch; ``*`` and ``**`` match as in a shell. Only Parquet files are read, never a data set's scripts.
"""

from __future__ import annotations

import errno
import re
import tempfile
from collections.abc import Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from hepfm.core.downloads import cache_root
from hepfm.core.errors import HepfmError
from hepfm.core.files import atomic_path, digest_of, locked, read_json, sweep, write_json
from hepfm.core.progress import progress

# Rows of a streamed table, and of a row group of a staged file, so that a build can read one from anywhere.
ROWS = 4_096

_ADDRESS = re.compile(r"hf://(datasets/[\w.-]+/[\w.-]+)(?:@([^/]+))?/(.+)")
_COMMIT = re.compile(r"[0-9a-f]{40}")


def is_hub_address(file: str | Path) -> bool:
    """Does it name files of a data set on the hub? One that went through ``Path``, which drops a slash, does too."""
    return str(file).startswith("hf:/")


def local_files(
    files: Sequence[str | Path], limit: int | None = None, columns: Sequence[str] | None = None
) -> list[Path]:
    """Paths of files, after those that addresses on the hub name were brought to ``$HEPFM_CACHE/staged``.

    They stay there: the same corpus built again, or another one from the same files, needs them again.

    Args:
        files: paths of local files, and addresses.
        limit, columns: as for :func:`stage_from_hub`, for the addresses.
    """
    addresses = [re.sub("^hf:/+", "hf://", str(file)) for file in files if is_hub_address(file)]
    if limit is not None and not addresses:
        raise HepfmError("limits what is streamed from the hub, but no file is there", "rows", "give hf:// addresses")
    staged = stage_from_hub(addresses, cache_root() / "staged", limit, columns) if addresses else []
    return [Path(file) for file in files if not is_hub_address(file)] + staged


def stage_from_hub(
    addresses: Sequence[str], folder: Path, limit: int | None = None, columns: Sequence[str] | None = None
) -> list[Path]:
    """Stream Parquet files into ``folder``, a staged file for each, and give their paths in order of their addresses.

    A staged file appears when it is complete. One that is there, from the same commit and with the same columns, is
    kept, so a call that was killed goes on after the last complete file. Rows and values are those of the remote file;
    its row groups are cut to 4,096 rows. Memory is about a row group of the remote file, encoded and decoded.

    Args:
        addresses: ``hf://`` addresses; local paths and other URLs that ``datasets`` opens are taken in the same way.
        folder: staged files lie in ``folder/datasets/ORG/NAME@COMMIT/``, or ``folder/DIGEST/`` for other addresses.
        limit: rows in all, taken from the files in order; by default all.
        columns: those to fetch; by default all.

    Raises:
        HepfmError: no such data set, file or column; no network; not Parquet; no rows; the disk is full.
    """
    if limit is not None and limit < 1:
        raise HepfmError(f"{limit} rows were asked for", "rows from the hub", "give at least 1")
    remotes = {remote.url: remote for address in addresses for remote in _matches(address)}
    paths: list[Path] = []
    left = limit
    with locked(folder), progress("streaming", len(remotes), "files") as task:
        sweep(folder)
        for url in sorted(remotes):
            if left == 0:
                break
            task.note(url)
            path, rows = _Staging(remotes[url], folder, columns).bring(left)
            paths.append(path)
            left = None if left is None else left - rows
            task.advance()
    return paths


@dataclass(frozen=True)
class _Remote:
    """A file to stream: its URL, what identifies its content, and the folder and name that it is staged under."""

    url: str
    origin: str
    folder: str
    name: str


def _matches(address: str) -> list[_Remote]:
    """The Parquet files that an address names."""
    hub = _ADDRESS.fullmatch(address)
    if is_hub_address(address) and not hub:
        raise HepfmError("is no address of files on the hub", address, "write hf://datasets/ORG/NAME/PATTERN")
    with _told(address):
        from datasets.data_files import DataFilesList

        if hub:
            dataset, pattern = hub[1], hub[3]
            pinned = f"{dataset}@{_commit(dataset.removeprefix('datasets/'), hub[2])}"
            urls = DataFilesList.from_patterns([f"hf://{pinned}/{pattern}"])
            remotes = [_Remote(url, pinned, pinned, url.partition(f"{pinned}/")[2]) for url in urls]
        else:
            urls = DataFilesList.from_patterns([address])
            remotes = [
                _Remote(url, "/".join(origin), digest_of(url.rpartition("/")[0])[:16], url.rpartition("/")[2])
                for url, origin in zip(urls, urls.origin_metadata, strict=True)
            ]
    if not remotes:
        raise HepfmError("no file matches", address, "check the pattern")
    return remotes


def _commit(dataset: str, revision: str | None) -> str:
    """The commit that a revision of a data set (by default its main branch) is at."""
    if revision and _COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi

    sha = HfApi().dataset_info(dataset, revision=revision).sha
    if not sha:
        raise HepfmError("the hub names no commit of it", dataset, "write hf://datasets/ORG/NAME@COMMIT/PATTERN")
    return str(sha)


@dataclass(frozen=True)
class _Staging:
    """Brings a remote file to its place in the folder: whole, or its first rows."""

    remote: _Remote
    folder: Path
    columns: Sequence[str] | None

    def bring(self, left: int | None) -> tuple[Path, int]:
        """The staged file with all rows, or with the first ``left`` if it has more; and how many these are."""
        whole = self._place()
        rows = self._rows(whole)
        if rows is not None and (left is None or rows <= left):
            return whole, rows
        if left is None:
            return whole, self._stream(self.remote.url, whole, None)[0]
        part = whole.with_name(f"{whole.stem}-first-{left}{whole.suffix}")
        if self._rows(part) is not None:
            return part, left
        rows, complete = self._stream(self.remote.url if rows is None else str(whole), part, left)
        if not complete:
            return part, rows
        part.replace(whole)
        _receipt(part).replace(_receipt(whole))  # a kill before this leaves a file without receipt, made again
        return whole, rows

    def _place(self) -> Path:
        name = PurePosixPath(self.remote.name)
        if not name.name or name.is_absolute() or ".." in name.parts:
            raise HepfmError("names a file outside its folder", self.remote.url, "do not use this data set")
        return self.folder / self.remote.folder / name

    @property
    def _identity(self) -> str:
        return digest_of([self.remote.url, self.remote.origin, list(self.columns or ())])

    def _rows(self, path: Path) -> int | None:
        """Rows of a staged file if it is there, complete and of the same origin."""
        if not (path.is_file() and _receipt(path).is_file()):
            return None
        receipt = read_json(_receipt(path))
        same = receipt["identity"] == self._identity and receipt["bytes"] == path.stat().st_size
        return int(receipt["rows"]) if same else None

    def _stream(self, url: str, path: Path, left: int | None) -> tuple[int, bool]:
        """Stage up to ``left`` rows; gives their number, and whether the remote file has no more."""
        _receipt(path).unlink(missing_ok=True)
        rows, complete = 0, True
        with _told(self.remote.url), atomic_path(path) as partial, closing(_tables(url, self.columns)) as tables:
            first = next(tables)
            with pq.ParquetWriter(
                partial, first.schema, compression="zstd", use_dictionary=False, write_page_checksum=True
            ) as writer:
                for table in _chain(first, tables):
                    wanted = len(table) if left is None else min(len(table), left - rows)
                    writer.write_table(table.slice(0, wanted), row_group_size=ROWS)
                    rows += wanted
                    complete = wanted == len(table)
                    if not complete:
                        break
        receipt = {"identity": self._identity, "url": self.remote.url, "rows": rows, "bytes": path.stat().st_size}
        write_json(_receipt(path), receipt)
        return rows, complete


def address_of(path: Path) -> str | None:
    """Where a staged file was streamed from, with the commit; None for any other file."""
    receipt = _receipt(path)
    return str(read_json(receipt)["url"]) if receipt.is_file() else None


def _receipt(path: Path) -> Path:
    return path.with_name(f".{path.name}.json")


def _chain(first: pa.Table, others: Iterator[pa.Table]) -> Iterator[pa.Table]:
    yield first
    yield from others


def _tables(url: str, columns: Sequence[str] | None) -> Generator[pa.Table, None, None]:
    """Rows of a remote Parquet file as tables of up to 4,096, at least one."""
    import datasets

    with tempfile.TemporaryDirectory() as cache:  # for its locks: streaming leaves nothing to keep
        stream = datasets.load_dataset(
            "parquet",
            data_files={"train": [url]},
            split="train",
            streaming=True,
            columns=list(columns) if columns else None,
            batch_size=ROWS,
            cache_dir=cache,
        )
        present = stream.column_names or []
        if missing := [name for name in columns or () if name not in present]:
            names = ", ".join(f"'{name}'" for name in missing)
            raise HepfmError(f"has no column {names}", url, "is it a file of the data set that was meant?")
        some = False
        for table in stream.with_format("arrow").iter(batch_size=ROWS):
            some = True
            yield table
        if not some:
            raise HepfmError("has no rows", url, "leave the file out")


@contextmanager
def _told(where: str) -> Iterator[None]:
    """Turn what goes wrong with a remote file into one line, the only one: ``datasets`` logs nothing meanwhile."""
    from datasets import logging
    from datasets.exceptions import DatasetNotFoundError
    from huggingface_hub.errors import RepositoryNotFoundError

    before = logging.get_verbosity()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    except HepfmError:
        raise
    except FileNotFoundError as error:
        raise HepfmError("no file matches", where, "check the pattern") from error
    except (RepositoryNotFoundError, DatasetNotFoundError) as error:
        mend = "check its name; 'hf auth login' gives access to a private or gated one"
        raise HepfmError("no such data set on the hub", where, mend) from error
    except pa.ArrowInvalid as error:
        raise HepfmError(f"is not a readable Parquet file ({_line(error)})", where, "check the pattern") from error
    except Exception as error:  # every store raises errors of its own
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise HepfmError("the disk is full", where, "free some space, or set HEPFM_CACHE, and run again") from error
        what = f"cannot be read ({type(error).__name__}: {_line(error)})"
        mend = "check the network and run again, files that are complete are kept; or download them and name the copies"
        raise HepfmError(what, where, mend) from error
    finally:
        logging.set_verbosity(before)


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")
