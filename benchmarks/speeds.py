"""``hepfm bench all``: every speed in one run, into one JSON and one page; goes on after a failure and after a kill.

Each benchmark is a command of its own in a process of its own, so that none is disturbed by what another left in
memory, and one that crashes, is killed or hangs ends alone.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import hepfm
from hepfm.benchmarks.speeds_compare import changes, changes_table, detailed, read_results
from hepfm.benchmarks.speeds_page import page
from hepfm.benchmarks.workload import KEYS, details_path, machine, read_details
from hepfm.core.config import command_line
from hepfm.core.errors import HepfmError
from hepfm.core.files import read_json, write_json, write_text
from hepfm.core.progress import say
from hepfm.core.versions import versions

# What the suite takes of the benchmarks that there are, in this order; others by --only.
SUITE = (
    *("corpus-build", "corpus-read", "tokenizer-fit", "tokenizer-apply", "pretrain-step"),
    *("generate-jets", "generate-showers", "tag-train", "tag-infer", "metrics"),
)
COMMAND: tuple[str, ...] = (sys.executable, "-m", "hepfm.cli")
RESULT, PAGE, PARTS = "bench.json", "index.html", "parts"
EXIT_FAILED = 1


@dataclass(frozen=True)
class SpeedsConfig:
    """Measure all speeds, one after another, into OUT/bench.json and OUT/index.html.

    A benchmark that fails is shown as failed, the others go on, and the exit code is 1. Given again, the command
    measures what is missing or failed; results of other code, versions or another machine are measured anew.
    """

    out: Path = Path("bench")
    """Folder of the results."""
    only: tuple[str, ...] = ()
    """Benchmarks to run instead of the suite."""
    compare: Path | None = None
    """An earlier bench.json, or the result of one benchmark: what changed, and whether beyond noise."""
    minutes: float = 60.0
    """Time limit of each benchmark."""
    fresh: bool = False
    """Measure all again."""


def main(config: SpeedsConfig) -> None:
    """Measure, write JSON and page, print a line for each result and each change."""
    if config.minutes <= 0:
        raise HepfmError(f"must be above 0, is {config.minutes}", "--minutes")
    old = None if config.compare is None else read_results(config.compare)
    if config.out.exists() and not config.out.is_dir():
        raise HepfmError("is a file, not a folder", config.out, "name another --out")
    if config.out.exists() and any(config.out.iterdir()) and not (config.out / PARTS).is_dir():
        raise HepfmError("holds something that is no benchmark's", config.out, "name another --out")
    names = chosen(config.only)
    (config.out / PARTS).mkdir(parents=True, exist_ok=True)
    found = []
    for number, name in enumerate(names):
        item = kept(config.out, name) if not config.fresh else None
        if item is None:
            say(f"{number + 1}/{len(names)} {name}")
            item = run(name, config.out, config.minutes)
        else:
            say(f"{number + 1}/{len(names)} {name}: measured before")
        found.append(item)
        sys.stdout.write(f"{line(item)}\n")
        sys.stdout.flush()
    data: dict[str, Any] = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "machine": machine(),
        "versions": versions(),
        "code": code(),
        "command": command_line(),
        "results": [item["result"] for item in found if item["result"]],
        "details": {item["name"]: item["details"] for item in found if item["result"]},
        "failed": {item["name"]: item["error"] for item in found if not item["result"]},
        "seconds": {item["name"]: item["seconds"] for item in found},
    }
    listed = None if old is None else changes(old, detailed(data))
    if listed is not None:
        data["changes"] = listed
        sys.stdout.write(f"{changes_table(listed).markdown()}\n")
    write_json(config.out / RESULT, data)
    write_text(config.out / PAGE, page(data))
    sys.stdout.write(f"{config.out / PAGE}\n")
    if data["failed"]:
        sys.stderr.write(
            f"hepfm: {len(data['failed'])} of {len(names)} benchmarks failed: {', '.join(data['failed'])}\n"
        )
        sys.exit(EXIT_FAILED)


def chosen(only: Sequence[str]) -> tuple[str, ...]:
    """The benchmarks to run.

    Raises:
        HepfmError: one that there is not.
    """
    there = registered()
    for name in only:
        if name not in there:
            raise HepfmError(f"no benchmark '{name}'", "--only", f"there is: {', '.join(sorted(there))}")
    return tuple(dict.fromkeys(only)) or tuple(name for name in SUITE if name in there)


def registered() -> frozenset[str]:
    """Names of all benchmarks: those of :mod:`hepfm.benchmarks.bench`, and those with a command of their own, which the
    command line's own table lists."""
    from hepfm.benchmarks.bench import BENCHMARKS

    told = subprocess.run([*COMMAND, "--help"], capture_output=True, text=True, check=True).stdout
    own = set(re.findall(r"^\s*hepfm bench ([a-z0-9-]+) ", told, re.MULTILINE)) - {"all"}
    return frozenset(BENCHMARKS) | own


@cache
def code() -> str:
    """Hash of the package's source, so that results of other code are not taken for this one's."""
    root = Path(hepfm.__file__).parent
    found = hashlib.sha256()
    folders = [part.resolve() for part in sorted(root.iterdir()) if part.is_dir()]  # stages are links
    for path in [*sorted(root.glob("*.py")), *(path for folder in folders for path in sorted(folder.rglob("*.py")))]:
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def stamp() -> dict[str, Any]:
    """What a result belongs to."""
    return {"code": code(), "versions": versions(), "machine": machine()}


def kept(out: Path, name: str) -> dict[str, Any] | None:
    """The result of an earlier run of the same code on this machine; None if there is none, or it failed."""
    path = out / PARTS / f"{name}.json"
    if not path.exists():
        return None
    item: dict[str, Any] = read_json(path)
    return item if item.get("stamp") == stamp() and item.get("result") else None


def run(name: str, out: Path, minutes: float) -> dict[str, Any]:
    """Run one benchmark in a process of its own; its output goes to a log beside its result."""
    raw, log = out / PARTS / f"{name}.raw.json", out / PARTS / f"{name}.log"
    for path in (raw, details_path(raw)):
        path.unlink(missing_ok=True)
    started = time.monotonic()
    with log.open("w") as told:
        try:
            ended = subprocess.run(
                [*COMMAND, "bench", name, "--json", str(raw)],
                stdout=told, stderr=subprocess.STDOUT, timeout=60 * minutes, stdin=subprocess.DEVNULL,
            ).returncode  # fmt: skip
            error = "" if ended == 0 else f"exit code {ended}: {_last_line(log)}"
        except subprocess.TimeoutExpired:
            error = f"not done after {minutes:g} minutes (--minutes allows more)"
    result = None
    if not error:
        result, error = _uniform(raw, name)
    item = {
        "name": name,
        "result": result,
        "details": read_details(raw),
        "error": error,
        "seconds": round(time.monotonic() - started, 1),
        "stamp": stamp(),
    }
    for path in (raw, details_path(raw)):
        path.unlink(missing_ok=True)
    write_json(out / PARTS / f"{name}.json", item)
    return item


def _last_line(log: Path) -> str:
    lines = [text.strip() for text in log.read_text(errors="replace").splitlines() if text.strip()]
    return lines[-1].removeprefix("hepfm: ") if lines else "it said nothing"


def _uniform(path: Path, name: str) -> tuple[dict[str, Any] | None, str]:
    """The result, if it has what every result has."""
    try:
        result = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        return None, f"wrote no result: {error}"
    lacking = [key for key in KEYS if not isinstance(result, dict) or key not in result]
    if lacking:
        return None, f"its result lacks {', '.join(lacking)}"
    if further := sorted(result.keys() - set(KEYS)):
        return None, f"its result has {', '.join(further)}, too: these are details"
    if result["name"] != name:
        return None, f"its result is called '{result['name']}'"
    return result, ""


def line(item: dict[str, Any]) -> str:
    """One result, for the terminal."""
    result = item["result"]
    if not result:
        return f"{item['name']:18} FAILED  {item['error']}"
    ratios = ", ".join(f"{name} {ratio:.3g}" for name, ratio in result["ratios"].items())
    return f"{item['name']:18} {result['value']:14,.4g} {result['unit']}  ratios: {ratios or 'none'}"
