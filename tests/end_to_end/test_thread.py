"""The thread by hand: raw files to generated jets, each stage one command, each safe to repeat and to kill."""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import uproot

from hepfm.core.runs import read_metrics

Hepfm = Callable[..., Any]

INGEST = ("--processes", 2, "--shard-entries", 1000)
FIT = ("--steps", 40, "--codes", 32, "--batch-records", 64, "--checkpoint-every", 8, "--log-every", 1)
APPLY = ("--processes", 1)  # tests/tokenize/test_apply.py has several
PRETRAIN = ("--steps", 30, "--batch-records", 32, "--checkpoint-every", 6, "--log-every", 1, "--validation-records", 64)


def commands(files: list[Path], folder: Path) -> dict[str, tuple[object, ...]]:
    """The README's thread, small."""
    return {
        "corpus": ("ingest", "jetclass", *files, "--out", folder / "corpus", *INGEST),
        "tok": ("tokenizer", "fit", folder / "corpus", "--out", folder / "tok", *FIT),
        "tokens": ("tokenizer", "apply", folder / "tok", folder / "corpus", "--out", folder / "tokens", *APPLY),
        "run": ("pretrain", folder / "tokens", "--out", folder / "run", *PRETRAIN),
    }


# Several commands in one process: most of their time is its start.
ONE_AFTER_THE_OTHER = """
import json, sys
from hepfm.cli import main

if __name__ == "__main__":
    for words in json.loads(sys.argv.pop()):
        sys.argv = ["hepfm", *words]
        main()
"""


@pytest.fixture(scope="module")
def thread(tmp_path_factory: pytest.TempPathFactory, jetclass_files: list[Path]) -> Path:
    """A folder in which every stage has been done, by the command line."""
    folder = tmp_path_factory.mktemp("thread")
    script = folder / "commands.py"  # a file: worker processes begin with it
    script.write_text(ONE_AFTER_THE_OTHER)
    words = json.dumps([list(map(str, words)) for words in commands(jetclass_files, folder).values()])
    done = subprocess.run([sys.executable, str(script), words], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def tree(folder: Path) -> dict[str, str]:
    """Checksum of every file below a folder."""
    files = (file for file in folder.rglob("*") if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def losses(run: Path) -> list[tuple[int, float, float]]:
    return [(line["step"], line["loss"], line["gradient_norm"]) for line in read_metrics(run / "metrics.jsonl")]


def test_generated_jets_are_jetclass_files_that_can_be_ingested(thread: Path, hepfm: Hepfm, tmp_path: Path) -> None:
    out = tmp_path / "jets.root"
    done = hepfm("generate", thread / "run", "-n", 200, "--format", "jetclass", "--out", out)
    assert done.code == 0, done.err
    assert done.out.strip().splitlines()[-1] == str(out)
    with uproot.open(out) as file:
        jets = file["tree"].arrays(["jet_pt", "jet_nparticles", "part_px"])
    assert len(jets) == 200
    assert (jets["jet_pt"] > 0).to_list() == [True] * 200
    quick = ("--without", "transport", "--replicas", 20)
    report = hepfm("evaluate", "jets", thread / "corpus", out, "--out", tmp_path / "report", *quick)
    assert report.code == 0, report.err
    assert Path(report.out.strip().splitlines()[-1]).is_file()


def test_every_command_again_reuses_what_is_there(thread: Path, jetclass_files: list[Path], hepfm: Hepfm) -> None:
    before = tree(thread)
    for words in commands(jetclass_files, thread).values():
        assert hepfm(*words).code == 0
    assert tree(thread) == before


def test_an_artifact_names_what_it_was_made_from(thread: Path) -> None:
    corpus = json.loads((thread / "corpus" / "corpus.json").read_text())
    tokens = json.loads((thread / "tokens" / "corpus.json").read_text())
    tokenizer = json.loads((thread / "tok" / "artifact" / "config.json").read_text())
    backbone = json.loads((thread / "run" / "artifact" / "config.json").read_text())
    assert tokenizer["provenance"]["corpus"]["digest"] == corpus["digest"]
    assert tokens["tokens"]["source"] == corpus["digest"]
    assert tokens["tokens"]["tokenizer"] == backbone["provenance"]["tokenizer"] == tokenizer["hash"]
    assert [entry["digest"] for entry in backbone["provenance"]["corpora"]] == [tokens["digest"]]


def test_a_corpus_does_not_depend_on_where_its_files_lie(
    thread: Path, jetclass_files: list[Path], hepfm: Hepfm, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    moved = [shutil.copy(file, tmp_path / "elsewhere") for file in jetclass_files]
    assert hepfm("ingest", "jetclass", *moved, "--out", tmp_path / "c", "--processes", 1, *INGEST[2:]).code == 0
    assert tree(tmp_path / "c") == tree(thread / "corpus")


def test_a_backbone_adapts_to_other_jets_of_its_tokenizer(thread: Path, hepfm: Hepfm, tmp_path: Path) -> None:
    out = tmp_path / "adapted"
    words = ("finetune", "generate", thread / "tokens", "--backbone", thread / "run", "--out", out)
    done = hepfm(*words, "--steps", 5, "--batch-records", 32, "--validation-records", 64)
    assert done.code == 0, done.err
    parent = json.loads((thread / "run" / "artifact" / "config.json").read_text())["hash"]
    assert json.loads((out / "artifact" / "config.json").read_text())["provenance"]["parent"] == parent


def test_tokens_of_another_tokenizer_are_refused(
    thread: Path, jetclass_files: list[Path], hepfm: Hepfm, tmp_path: Path
) -> None:
    tok, tokens, corpus = tmp_path / "tok", tmp_path / "tokens", thread / "corpus"
    assert hepfm("tokenizer", "fit", corpus, "--out", tok, "--steps", 2, *FIT[2:]).code == 0
    assert hepfm("tokenizer", "apply", tok, corpus, "--out", tokens, *APPLY).code == 0
    mixed = hepfm("pretrain", thread / "tokens", tokens, "--out", tmp_path / "run")
    assert mixed.code == 2
    assert "tokenizer" in mixed.last
    words = ("finetune", "generate", tokens, "--backbone", thread / "run", "--out", tmp_path / "a")
    assert hepfm(*words).code == 2
    assert not (tmp_path / "run" / "artifact").exists()


def run_with_kills(words: tuple[object, ...], out: Path, seed: int) -> int:
    """Start a command, kill -9 its whole process group after some changes of its folder, until it ends by itself."""
    draws, kills = random.Random(seed), 0
    while True:
        process = subprocess.Popen(
            [sys.executable, "-m", "hepfm.cli", *map(str, words)],
            start_new_session=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        changes = draws.randint(1, 10) + 5 * kills  # every attempt gets further than the one before
        before = sizes(out)
        while process.poll() is None and changes:
            now = sizes(out)
            changes -= now != before
            before = now
            time.sleep(0.01)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            kills += 1
        elif process.returncode == 0:
            return kills
        assert process.wait() in (0, -signal.SIGKILL)


def sizes(folder: Path) -> dict[Path, int]:
    """Size of every file below a folder; files come and go meanwhile."""
    found = {}
    for inside, _, names in os.walk(folder):
        for file in (Path(inside, name) for name in names):
            with suppress(FileNotFoundError):
                found[file] = file.stat().st_size
    return found


@pytest.mark.slow
def test_killed_stages_end_the_same(thread: Path, jetclass_files: list[Path], tmp_path: Path) -> None:
    kills = {}
    for number, (name, words) in enumerate(commands(jetclass_files, tmp_path).items()):
        kills[name] = run_with_kills(words, tmp_path / name, number)
    assert tree(tmp_path / "corpus") == tree(thread / "corpus")
    assert losses(tmp_path / "tok") == losses(thread / "tok")
    assert losses(tmp_path / "run") == losses(thread / "run")
    assert tree(tmp_path / "tokens") == tree(thread / "tokens")
    for name in ("tok", "run"):
        assert tree(tmp_path / name / "artifact") == tree(thread / name / "artifact")
    assert kills["tok"] > 0
    assert kills["run"] > 0


def test_the_example_reads_the_corpus(thread: Path) -> None:
    example = Path(__file__).resolve().parents[2] / "examples" / "read_corpus.py"
    done = subprocess.run([sys.executable, str(example), str(thread / "corpus")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["QCD", "Tbqq"]
