"""Every shell and Python block of README and docs is run, at small size, or says why it is not.

``check_docs.py [PAGE...]``. The blocks of a page run in order, in a folder of their own; all Python blocks of a page
share their names. Comments in the page's source, which no reader sees, say what else is needed:

    <!-- not run: WHY -->                              before a block: only its options are checked
    <!-- smaller: --records 5000 => --records 50 | ... --> before a block: runs with these replacements
    <!-- written to: NAME.py -->                        before a Python block: it is a module for those that follow
    <!-- prepare: tokens, run as generator -->          folders made once for all pages (docs_folders.sh)
    <!-- prepare
    shell commands
    -->                                                what runs besides; `prepare python` for Python
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree

sys.path.insert(0, str(Path(__file__).parent))

import preloaded
import shown_commands

ROOT = Path(__file__).resolve().parents[1]
PAGE_SECONDS = 600  # that of none is above 60 on a quiet machine
PART = re.compile(
    r"<!-- (not run|smaller|written to|prepare|prepare python)(?::|\n)(.*?)-->\n|^```([a-z]+)\n(.*?)^```",
    re.DOTALL | re.MULTILINE,
)
SHELL, PYTHON = ("bash", "sh", "console"), ("python",)


@dataclass(frozen=True)
class Block:
    """What a page does next: ``kind`` is shell, python, or folders (to be copied)."""

    line: int
    kind: str
    text: str
    not_run: str = ""
    file: str = ""
    shown: str = ""


class Wrong(Exception):
    """A page that does not keep the rules."""


def blocks_of(text: str) -> Iterator[Block]:
    """The blocks of a page in order, with replacements made."""
    note: tuple[str, str] | None = None
    end = 0
    for found in PART.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        if note and text[end : found.start()].strip():
            raise Wrong(f"line {line}: '{note[0]}' does not stand directly before a block")
        end = found.end()
        what, said, language, body = found.groups()
        if what and what.startswith("prepare"):
            several = "python" if what.endswith("python") else "shell"
            yield Block(line, several if "\n" in said else "folders", said.strip())
            continue
        if what:
            if not said.strip():
                raise Wrong(f"line {line}: '{what}' says nothing")
            note = (what, " ".join(said.split()))
            continue
        if language not in (*SHELL, *PYTHON):
            note = None
            continue
        kind = "python" if language in PYTHON else "shell"
        small = body
        if note and note[0] == "smaller":
            for change in note[1].split(" | "):
                old, arrow, new = change.partition(" => ")
                if not arrow or old not in small:
                    raise Wrong(f"line {line}: smaller: '{change}' replaces nothing")
                small = small.replace(old, new.strip())
        told = dict([note]) if note else {}
        yield Block(line, kind, small, told.get("not run", ""), told.get("written to", ""), body)
        note = None


def run_page(page: Path, folder: Path, prepared: Path, log: Path) -> str:
    """Run a page's blocks in ``folder``; what went wrong, or nothing."""
    names: dict[str, object] = {"__name__": "__main__"}
    for name in ("examples", "configs"):
        (folder / name).symlink_to(ROOT / name)
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    for block in blocks_of(page.read_text()):
        if block.not_run:
            continue
        if block.file:
            (folder / block.file).write_text(block.text)
            continue
        where = f"line {block.line}"
        if block.kind == "folders":
            for wish in re.split(r",\s*", block.text):
                made, _, name = wish.partition(" as ")
                copytree(prepared / made, folder / (name or made), dirs_exist_ok=True)
        elif block.kind == "shell":
            command = ["bash", "-euo", "pipefail", "-c", block.text]
            with log.open("a") as out:
                code = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd=folder).returncode
            if code:
                return f"{where}: exit code {code}"
        else:
            said = io.StringIO()
            try:
                with contextlib.redirect_stdout(said):
                    exec(compile(block.text, f"{page.name}:{block.line}", "exec", dont_inherit=True), names)
            except Exception:
                log.open("a").write(traceback.format_exc())
                return f"{where}: raised"
            log.open("a").write(said.getvalue())
    return ""


def in_a_process(page: Path, folder: Path, prepared: Path) -> tuple[str, float]:
    """:func:`run_page` in a process of its own, which has a time limit; what went wrong, and the seconds it took."""
    folder.mkdir(parents=True)
    log, verdict = folder.with_suffix(".log"), folder.with_suffix(".verdict")
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.setpgid(0, 0)
        try:
            verdict.write_text(run_page(page, folder, prepared, log) or "well")
        except Wrong as wrong:
            verdict.write_text(str(wrong))
        except BaseException:
            log.open("a").write(traceback.format_exc())
        finally:
            os._exit(0)
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if time.monotonic() - started > PAGE_SECONDS:
            os.killpg(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return f"took more than {PAGE_SECONDS} s\n{_tail(log)}", PAGE_SECONDS
        time.sleep(0.05)
    said = verdict.read_text() if verdict.exists() else "died"
    return ("" if said == "well" else f"{said}\n{_tail(log)}"), time.monotonic() - started


def _tail(log: Path) -> str:
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    return "\n".join(f"    {line}" for line in lines[-25:])


def check_options(page: Path) -> tuple[int, list[str]]:
    """How many commands a page shows, and what is wrong with their options."""
    shown, bad = 0, []
    for block in blocks_of(page.read_text()):
        for words in shown_commands.shown(block.shown) if block.kind == "shell" else ():
            shown += 1
            if wrong := shown_commands.problem(words):
                bad.append(f"line {block.line}: {' '.join(words)}: {wrong}")
    return shown, bad


def main() -> int:
    named = [Path(name).resolve() for name in sys.argv[1:]]
    pages = named or [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
    pages = [page for page in pages if "_build" not in page.parts and "commands" not in page.parts]
    started = time.monotonic()
    failed, shown, run, left_out = 0, 0, 0, 0
    for page in pages:
        try:
            count, bad = check_options(page)
            blocks = [block for block in blocks_of(page.read_text()) if block.shown]
        except Wrong as wrong:
            count, bad, blocks = 0, [str(wrong)], []
        shown += count
        left_out += sum(bool(block.not_run) for block in blocks)
        run += sum(not block.not_run for block in blocks)
        failed += bool(bad)
        sys.stdout.writelines(f"{page.relative_to(ROOT)}: {line}\n" for line in bad)
    sys.stdout.write(f"{shown} shown commands have their options\n" if not failed else "")
    with tempfile.TemporaryDirectory(prefix="hepfm-docs-") as scratch:
        failed += run_all(pages, Path(scratch))
    sys.stdout.write(f"{run} blocks run, {left_out} marked as not run, in {time.monotonic() - started:.0f} s\n")
    return int(failed > 0 or not shown)


def run_all(pages: list[Path], scratch: Path) -> int:
    """Run all pages that have something to run, two at a time; how many failed."""
    # Read when the first module loads OpenMP: threads that wait spin, which on shared cores costs more than it gives.
    os.environ |= {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "1000"}
    for module in preloaded.IMPORTS:
        importlib.import_module(module)
    program, prepared = scratch / "program", ROOT / "docs" / "_build" / "folders"
    program.mkdir()
    prepared.mkdir(parents=True, exist_ok=True)  # kept: made again, they are only looked at
    os.environ["PATH"] = f"{program}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    os.environ |= {"HEPFM_CACHE": str(scratch / "cache"), "HF_HUB_OFFLINE": "1"}
    os.environ["PREPARED"] = str(prepared)
    server = preloaded.serve(program)
    try:
        script = str(Path(__file__).with_name("docs_folders.sh"))
        subprocess.run(["bash", "-euo", "pipefail", script], cwd=prepared, check=True, stdout=subprocess.DEVNULL)
        wanted = [page for page in pages if any(b.shown and not b.not_run for b in blocks_of(page.read_text()))]
        failed = 0
        with ThreadPoolExecutor(2) as pool:
            names = [scratch / "pages" / str(page.relative_to(ROOT)).replace("/", "-") for page in wanted]
            for page, (wrong, seconds) in zip(
                wanted, pool.map(in_a_process, wanted, names, [prepared] * len(wanted)), strict=True
            ):
                sys.stdout.write(f"{page.relative_to(ROOT)}: {seconds:.0f} s{': ' + wrong if wrong else ''}\n")
                sys.stdout.flush()
                failed += bool(wrong)
    finally:
        os.kill(server, signal.SIGKILL)
        os.waitpid(server, 0)
    return failed


if __name__ == "__main__":
    sys.exit(main())
