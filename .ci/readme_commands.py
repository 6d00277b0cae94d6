"""Every command that README and docs show exists, with every option they use."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

from hepfm.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[1]
BLOCK = re.compile(r"```(?:bash|sh|shell|console)\n(.*?)```", re.DOTALL)


def shown_commands(page: Path) -> list[list[str]]:
    """Commands in the shell blocks of a page, continuation lines joined, prompts, pipes and comments dropped."""
    lines = []
    for block in BLOCK.findall(page.read_text()):
        for line in block.replace("\\\n", " ").splitlines():
            line = line.strip().removeprefix("$ ")
            if re.match(r"(\S+/)?(hepfm|make)\b", line):
                lines.append(shlex.split(line.split(" | ")[0], comments=True))
    return lines


def problem(words: list[str], helps: dict[str, str]) -> str | None:
    """What is wrong with one shown command."""
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        unknown = [word for word in words[1:] if "=" not in word and word not in targets]
        return f"make has no target {unknown}" if unknown else None
    rest = words[1:]
    if not rest or rest[0].startswith("-"):
        return None
    name = next(
        (command.words for command in COMMANDS if rest[: len(command.words.split())] == command.words.split()), None
    )
    if name is None:
        return "no such command"
    following = rest[len(name.split()) :]
    if name in ("ingest", "ingest pythia") and following and not following[0].startswith("-"):
        name = f"{name} {following[0]}"  # the options depend on the source, or on the sample
    if name not in helps:
        helps[name] = subprocess.run(
            [sys.executable, "-m", "hepfm.cli", *name.split(), "--help"], capture_output=True, text=True, check=True
        ).stdout
    options = [word.split("=")[0] for word in rest if re.match(r"-{1,2}[a-z]", word)]
    missing = [
        option for option in options if option != "--config" and not re.search(rf"(?<!\S){option}\b", helps[name])
    ]
    return f"no option {missing}" if missing else None


def main() -> int:
    helps: dict[str, str] = {}
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
    checked, bad = 0, 0
    for page in pages:
        for words in shown_commands(page):
            checked += 1
            if wrong := problem(words, helps):
                bad += 1
                sys.stdout.write(f"{page.relative_to(ROOT)}: {' '.join(words)}: {wrong}\n")
    sys.stdout.write(f"{checked} shown commands checked, {bad} wrong\n")
    return int(bad > 0 or checked == 0)


if __name__ == "__main__":
    sys.exit(main())
