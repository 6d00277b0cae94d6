"""A page in headless chromium: what its console says, and how wide it gets."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PHONE, DESKTOP = 390, 1280

FRAMES = """<!doctype html><meta charset="utf-8"><body><script>
const widths = [{widths}], found = [];
for (const width of widths) {{
  const frame = document.createElement("iframe");
  frame.style.width = width + "px"; frame.style.height = "900px"; frame.style.border = "0";
  frame.onload = () => {{
    const root = frame.contentDocument.documentElement;
    const images = [...frame.contentDocument.images].filter(image => !image.complete || !image.naturalWidth);
    found.push(width + ":" + root.scrollWidth + ":" + root.scrollHeight + ":" + images.length);
    if (found.length == widths.length) document.title = "measured " + found.join(" ");
  }};
  frame.src = "{name}";
  document.body.append(frame);
}}
</script></body>"""


@dataclass(frozen=True)
class Seen:
    """A page at one width [px]: how wide and high it is, and pictures that did not load."""

    width: int
    reach: int
    height: int
    broken: int


def opened(page: Path, widths: tuple[int, ...] = (PHONE, DESKTOP)) -> tuple[list[Seen], list[str]]:
    """The page at each width, and what the console was told."""
    frames = page.with_name("frames.html")
    frames.write_text(FRAMES.format(widths=", ".join(map(str, widths)), name=page.name))
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files",
            "--enable-logging=stderr", "--virtual-time-budget=20000", "--dump-dom",
            f"--user-data-dir={page.parent / 'browser'}", f"file://{frames}",
        ],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    measured = re.search(r"<title>measured ([^<]*)</title>", done.stdout)
    assert measured, f"the page did not load: {done.stdout[:300]} {done.stderr[-500:]}"
    seen = [Seen(*map(int, part.split(":"))) for part in measured.group(1).split()]
    told = [text for text in done.stderr.splitlines() if "CONSOLE" in text]
    return sorted(seen, key=lambda each: each.width), told
