"""``hepfm evaluate tokenizer``: what a tokenizer keeps of a corpus's records, as tables, JSON and a page."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import tyro
from tyro.conf import Positional

from hepfm.benchmarks.tokenizers.classifier import MINIMUM_OF_CLASS
from hepfm.benchmarks.tokenizers.evaluation import as_data, evaluate
from hepfm.benchmarks.tokenizers.page import page
from hepfm.benchmarks.tokenizers.sample import reconstruct
from hepfm.benchmarks.tokenizers.tables import tables
from hepfm.core.config import command_line
from hepfm.core.errors import HepfmError
from hepfm.core.files import write_json, write_text
from hepfm.core.progress import say
from hepfm.core.versions import versions
from hepfm.ingest.corpus import Corpus
from hepfm.tokenize.registry import Tokenizer, load_tokenizer

LIMIT = 10_000


@dataclass(frozen=True)
class EvaluateTokenizerConfig:
    """Measure a tokenizer on a corpus: residuals and W1 of points and records by class, use of its codes, bits a point,
    and for jets what a classifier loses. Tables on stdout, in Markdown."""

    tokenizer: Annotated[Positional[str], tyro.conf.arg(metavar="TOKENIZER")]
    """Run or artifact folder of a tokenizer, its hub id or URL."""
    corpus: Annotated[Positional[Path], tyro.conf.arg(metavar="CORPUS")]
    """Corpus of jets or showers."""
    out: Path | None = None
    """Folder of the page (index.html) and of report.json; an earlier report there is replaced."""
    json: Path | None = None
    """File to write the numbers to as JSON."""
    split: str = "test"
    """Split of the corpus."""
    limit: int = LIMIT
    """Records at most, the first ones."""
    seed: int = 0
    """Seed of bootstrap replicas and of the classifier."""


def main(config: EvaluateTokenizerConfig) -> None:
    """Measure, print tables, write what was asked for."""
    check_out(config.out, config.limit)
    tokenizer, corpus = load_tokenizer(config.tokenizer), Corpus.open(config.corpus)
    found = evaluate(reconstruct(tokenizer, corpus, config.split, config.limit), seed=config.seed)
    if found.kind == "jets" and found.classification is None:
        say(f"no classifier: it needs pt, deta and dphi, and two classes of {MINIMUM_OF_CLASS} jets")
    sys.stdout.write("\n".join(table.markdown() for table in tables(found)))
    sys.stdout.flush()
    provenance = {
        "tokenizer": described(config.tokenizer, tokenizer),
        **origin(corpus, config.split, config.limit, config.seed),
    }
    date = now()
    data = {"date": date, "provenance": provenance, **as_data(found)}
    if config.json:
        write_json(config.json, data)
    if config.out:
        write_json(config.out / "report.json", data)
        title = f"Tokenizer {Path(config.tokenizer).name} on {config.corpus.name}"
        write_text(config.out / "index.html", page(found, title, date, provenance))
        sys.stdout.write(f"\n{config.out / 'index.html'}\n")


def check_out(out: Path | None, limit: int) -> None:
    """Refuse a report's folder that holds something else, and a limit below 1."""
    if limit < 1:
        raise HepfmError(f"must be at least 1, is {limit}", "--limit")
    if out and out.exists() and not out.is_dir():
        raise HepfmError("is a file, not a folder", out, "name another --out")
    if out and out.exists() and any(out.iterdir()) and not (out / "report.json").exists():
        raise HepfmError("holds something that is no report", out, "name another --out")


def described(name: str, tokenizer: Tokenizer) -> dict[str, Any]:
    """What a tokenizer is, for a report."""
    codes = " x ".join(f"{stream.codes:,}" for stream in tokenizer.streams)
    return {
        "name": Path(name).name,
        "kind": tokenizer.kind,
        "codes": codes,
        "features": ", ".join(tokenizer.contract.names),
        "hash": tokenizer.hash,
    }


def origin(corpus: Corpus, split: str, limit: int, seed: int) -> dict[str, Any]:
    """Where a report's numbers come from."""
    return {
        "corpus": {"name": corpus.path.name, "digest": corpus.digest, "split": split, "limit": limit},
        "command": command_line(),
        "versions": versions(),
        "seed": seed,
    }


def now() -> str:
    """The time of a report."""
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
