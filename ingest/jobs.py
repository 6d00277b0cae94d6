"""Writing a corpus as independent shard jobs: in parallel, whole or absent, continued after any interruption.

A shard is a pure function of (plan, shard), so its bytes do not depend on processes or interruptions. While a corpus is
being written its folder holds ``.build/``: the plan, a lock, a receipt for each finished shard, and the folder of the
run, which half-written shards lie in. When all are there, ``blocks.arrow`` and then ``corpus.json`` are written and
``.build/`` goes; a folder without ``corpus.json`` is never a corpus.
"""

from __future__ import annotations

import math
import secrets
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, field
from pathlib import Path

import pyarrow as pa

from hepfm.core.errors import HepfmError
from hepfm.core.files import (
    atomic_path,
    canonical_json,
    locked,
    read_json,
    sha256_file,
    sweep,
    told_when_full,
    write_bytes,
    write_json,
    write_text,
)
from hepfm.core.progress import progress, say
from hepfm.core.versions import versions
from hepfm.ingest.corpus import Corpus
from hepfm.ingest.manifest import FILE, SPLITS, Manifest, ShardEntry, SplitEntry
from hepfm.ingest.plan import Job, Plan
from hepfm.ingest.receipts import Receipt
from hepfm.ingest.shards import INDEX, index_bytes, reblock, write_shard
from hepfm.ingest.summary import Summary, summarise
from hepfm.ingest.tally import Tally
from hepfm.ingest.workers import Workers

BUILD = ".build"
RUN = "run-"  # with a random number: folder of one run
REJECTED = "rejected.jsonl"  # the quarantine: what was left out, file by file, and why
Produce = Callable[[Job], Iterable[pa.RecordBatch]]


def write_corpus(
    out: Path,
    plan: Plan,
    produce: Produce,
    *,
    workers: Workers | None = None,
    attached: dict[str, Path] | None = None,
) -> Corpus:
    """Write the corpus of ``plan``, or continue it where it was interrupted.

    Args:
        out: its folder: new, empty, or begun with the same plan.
        plan: what it holds.
        produce: gives the records of a job, in batches of any size. Picklable (an instance of a dataclass with
            ``__call__``): with more than one process it runs in workers. A generator may return a
            :class:`~hepfm.ingest.tally.Tally`; the sums of its counts over the jobs are the manifest's cut flow, and
            what it rejected is listed in ``rejected.jsonl``.
        workers: who writes the shards; this process by default.
        attached: files or folders to put into the corpus, by their name inside.

    Raises:
        HepfmError: the folder holds something else, no record is left, or a job failed; what is finished stays, and the
            same command continues.
    """
    out = Path(out)
    if _finished(out, plan):
        say(f"{out} is already built")
        shutil.rmtree(out / BUILD, ignore_errors=True)  # left if the process died at its very last act
        return Corpus.open(out)
    with told_when_full(out), _claimed(out, plan):
        if not _finished(out, plan):
            with _run_folder(out / BUILD) as within:
                receipts = _run(out, plan, produce, workers or Workers(), within)
            _seal(out, plan, receipts, attached or {})
    return Corpus.open(out)


def _finished(out: Path, plan: Plan) -> bool:
    if not (out / FILE).is_file():
        return False
    if Manifest.load(out).provenance["plan"] != plan.digest:
        raise HepfmError("holds another corpus", out, "name another --out, or remove this folder")
    return True


def check_folder(out: Path) -> None:
    """Refuse a folder that cannot become a corpus, before any work is done for it.

    Raises:
        HepfmError: it is a file, or holds something that is no corpus.
    """
    if out.exists() and not out.is_dir():
        raise HepfmError("is a file, not a folder", out, "name another --out")
    if out.is_dir() and not any((out / name).exists() for name in (BUILD, FILE)) and any(out.iterdir()):
        raise HepfmError("is not empty and not a corpus", out, "name another --out")


@contextmanager
def _claimed(out: Path, plan: Plan) -> Iterator[None]:
    """Hold the folder for this plan; its ``.build`` goes when the work inside ends with a finished corpus."""
    build = out / BUILD
    check_folder(out)
    made_here = not out.exists()
    with locked(build):
        _end_runs(build)
        if not _finished(out, plan):
            _check_plan(out, plan)
            sweep(out)
        try:
            yield
        except HepfmError:
            if not (out / FILE).is_file() and not any(build.glob("*/*.json")):
                _give_up(out, made_here)
            raise
        if (out / FILE).is_file():
            shutil.rmtree(build, ignore_errors=True)


@contextmanager
def _run_folder(build: Path) -> Iterator[Path]:
    """The folder in which the workers of this run write what is then moved to its place. It ends with the run."""
    folder = build / f"{RUN}{secrets.token_hex(8)}"
    folder.mkdir()
    try:
        yield folder
    finally:
        _end_runs(build)


def _end_runs(build: Path) -> None:
    """From here on no worker of a run before, wherever it still lives, puts anything into the corpus.

    Those of a killed process live on for a moment, those of a cluster to the end of their work.
    """
    for folder in build.glob(f"{RUN}*"):
        folder.rename(folder.with_name(f"ended-{folder.name}"))  # nobody can begin a file in it any more
    for folder in build.glob("ended-*"):
        shutil.rmtree(folder, ignore_errors=True)


def _check_plan(out: Path, plan: Plan) -> None:
    """Begin or continue; another plan gives way only if none of its shards was finished."""
    path, now = out / BUILD / "plan.json", versions()
    if not any((out / BUILD).glob("*/*.json")):
        for shard in out.glob("*/*.tar"):
            shard.unlink()  # of a process that died before it wrote the receipt
        write_json(path, {"plan": plan.digest, "versions": now})
        return
    begun = read_json(path)
    before = begun["versions"]
    if begun["plan"] != plan.digest:
        raise HepfmError(
            "holds an unfinished corpus of another plan (other files, settings or selection)",
            out,
            "name another --out, or remove this folder",
        )
    changed = [
        f"{name} {before.get(name)} -> {now.get(name)}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    ]
    if changed:
        raise HepfmError(
            f"was begun with other versions: {', '.join(changed)}",
            out,
            "go back to them to continue, or remove this folder",
        )


@dataclass(frozen=True)
class _Work:
    """Makes one shard and its receipt, by way of the run's folder ``within``; sent to worker processes."""

    out: Path
    within: Path
    plan: str
    schema: pa.Schema
    block_records: int
    produce: Produce

    def __call__(self, job: Job) -> Receipt:
        path, summaries = self.out / job.name, dict[str, Summary]()
        produced = _Counted(self.produce(job))
        with told_when_full(path):
            written = write_shard(path, job.shard, self._checked(produced, job, summaries), self.within)
            receipt = Receipt(
                plan=self.plan,
                bytes=written.bytes,
                sha256=written.sha256,
                blocks=written.blocks,
                summaries=summaries,
                cut_flow=produced.tally.flow,
                rejected=tuple(produced.tally.rejected),
            )
            receipt.save(_receipt_path(self.out, job), self.within)
        return receipt

    def _checked(
        self, batches: Iterable[pa.RecordBatch], job: Job, summaries: dict[str, Summary]
    ) -> Iterator[pa.RecordBatch]:
        records = 0
        for batch in reblock(batches, self.block_records):
            if not batch.schema.equals(self.schema):
                raise HepfmError(f"records have schema {batch.schema}, planned {self.schema}", self.out / job.name)
            batch = batch.replace_schema_metadata(self.schema.metadata)
            summarise(batch, summaries)
            for name, summary in summaries.items():
                if not math.isfinite(summary.mean):
                    raise HepfmError(f"{name} is not finite in a record", self.out / job.name, "leave it out")
            records += len(batch)
            yield batch
        if job.expected is not None and records != job.expected:
            raise HepfmError(f"got {records} records, expected {job.expected}", self.out / job.name)


@dataclass
class _Counted:
    """Batches, and the tally that a generator of them returned at its end."""

    batches: Iterable[pa.RecordBatch]
    tally: Tally = field(default_factory=Tally)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        self.tally = (yield from self.batches) or self.tally  # type: ignore[func-returns-value]


def _receipt_path(out: Path, job: Job) -> Path:
    return out / BUILD / job.split / f"{job.shard:06d}.json"


def _run(out: Path, plan: Plan, produce: Produce, workers: Workers, within: Path) -> list[Receipt]:
    """Receipts of all jobs, in order; those that a former run left are checked against their shards and kept."""
    work = _Work(out.resolve(), within.resolve(), plan.digest, plan.schema, plan.block_records, produce)
    receipts: dict[str, Receipt] = {}
    with progress("corpus", sum(job.size for job in plan.jobs), plan.unit) as task:
        for job in plan.jobs:
            receipt = Receipt.load(_receipt_path(out, job))
            if receipt is not None and receipt.plan == plan.digest and _intact(out / job.name, receipt):
                receipts[job.name] = receipt
                task.advance(job.size)
        if receipts:
            say(f"continuing {out}: {len(receipts)} of {len(plan.jobs)} shards are there")
        # The largest first, so that no worker begins a large one when the others are done.
        lacking = sorted((job for job in plan.jobs if job.name not in receipts), key=lambda job: -job.size)
        done = task.done
        for job, receipt in workers.results(work, lacking, out, task.advance) if lacking else ():
            receipts[job.name] = receipt
            done += job.size
            task.advance(max(0, done - task.done))  # nothing where the work told itself how far it was
    return [receipts[job.name] for job in plan.jobs]


def _intact(path: Path, receipt: Receipt) -> bool:
    if not receipt.blocks:
        return not path.exists()
    return path.is_file() and path.stat().st_size == receipt.bytes and sha256_file(path) == receipt.sha256


def _seal(out: Path, plan: Plan, receipts: list[Receipt], attached: dict[str, Path]) -> None:
    """Write what makes the folder a corpus; the manifest comes last."""
    cut_flow: dict[str, int] = {}
    for receipt in receipts:
        for name, count in receipt.cut_flow.items():
            cut_flow[name] = cut_flow.get(name, 0) + count
    splits = _splits(plan, receipts)
    if not splits:
        shutil.rmtree(out / BUILD)  # its receipts are of shards without records
        flow = ", ".join(f"{name}: {count}" for name, count in cut_flow.items()) or "the source gave none"
        refused = any(name.startswith("rejected: ") for name in cut_flow) and not cut_flow.get("possible")
        mend = "all were rejected: look at the rule" if refused else "loosen the selection"
        raise HepfmError("no record is left", out, f"{mend}; {flow}")
    blocks = [
        (job.split, job.shard, number, block)
        for job, receipt in zip(plan.jobs, receipts, strict=True)
        for number, block in enumerate(receipt.blocks)
    ]
    write_bytes(out / INDEX, index_bytes(blocks, SPLITS))
    files = _attach(out, attached)
    rejected = sorted((entry for receipt in receipts for entry in receipt.rejected), key=astuple)
    if rejected:
        listed = [entry["name"] for entry in plan.provenance.get("files", [])]
        lines = [{"file": listed[bad.file], "entry": bad.entry, "what": bad.what} for bad in rejected]
        write_text(out / REJECTED, "".join(canonical_json(line) + "\n" for line in lines))
        files[REJECTED] = sha256_file(out / REJECTED)
    training = _merged(receipt for job, receipt in zip(plan.jobs, receipts, strict=True) if job.split == "train")
    Manifest(
        kind=plan.kind,
        schema=plan.schema,
        labels=plan.labels,
        axis=plan.axis,
        block_records=plan.block_records,
        splits=splits,
        statistics={name: summary.figures() for name, summary in training.items()},
        provenance={
            **plan.provenance,
            "plan": plan.digest,
            "cut_flow": [[name, count] for name, count in cut_flow.items()],
            "versions": versions(),
        },
        blocks_sha256=sha256_file(out / INDEX),
        geometry=plan.geometry,
        tokens=plan.tokens,
        files=files,
    ).save(out)


def _give_up(out: Path, made_here: bool) -> None:
    """Remove what a build left behind that was refused, or of which no shard was finished; all else there stays, also
    an empty folder that was there before the build (``made_here``: it was not)."""
    for shard in out.glob("*/*.tar"):
        shard.unlink()  # whose receipt could not be written
    shutil.rmtree(out / BUILD, ignore_errors=True)
    for folder in (*(out / split for split in SPLITS), *([out] if made_here else [])):
        with suppress(OSError):
            folder.rmdir()


def _splits(plan: Plan, receipts: list[Receipt]) -> dict[str, SplitEntry]:
    splits = {}
    for name in SPLITS:
        pairs = zip(plan.jobs, receipts, strict=True)
        of_split = [(job, receipt) for job, receipt in pairs if job.split == name and receipt.blocks]
        if not of_split:
            continue
        merged = _merged(receipt for _, receipt in of_split)
        splits[name] = SplitEntry(
            records=sum(receipt.records for _, receipt in of_split),
            points=sum(receipt.points for _, receipt in of_split),
            labels=merged["label"].values if "label" in merged else {},
            shards=tuple(
                ShardEntry(
                    name=job.name,
                    records=receipt.records,
                    points=receipt.points,
                    blocks=len(receipt.blocks),
                    bytes=receipt.bytes,
                    sha256=receipt.sha256,
                )
                for job, receipt in of_split
            ),
        )
    return splits


def _merged(receipts: Iterable[Receipt]) -> dict[str, Summary]:
    """Summaries over several shards, merged in their order."""
    merged: dict[str, Summary] = {}
    for receipt in receipts:
        for name, summary in receipt.summaries.items():
            merged.setdefault(name, Summary()).merge(summary)
    return merged


def _attach(out: Path, attached: dict[str, Path]) -> dict[str, str]:
    """Copy further files into the corpus and give their checksums."""
    sums = {}
    for name, origin in attached.items():
        files = sorted(file for file in origin.rglob("*") if file.is_file()) if origin.is_dir() else [origin]
        for file in files:
            inside = (Path(name) / file.relative_to(origin)) if origin.is_dir() else Path(name)
            with atomic_path(out / inside) as partial:
                shutil.copyfile(file, partial)
            sums[inside.as_posix()] = sha256_file(out / inside)
    return sums
