"""``hepfm corpus card CORPUS``: README.md with tables and plots of every quantity."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from tyro.conf import Positional

from hepfm.core.errors import HepfmError
from hepfm.core.files import write_bytes, write_text
from hepfm.core.progress import progress
from hepfm.ingest.card.classes import classes_of
from hepfm.ingest.card.page import MARK, Plots, page
from hepfm.ingest.card.panels import Panel, fill, quantities_of, sampled_blocks
from hepfm.ingest.corpus import Corpus, remote_url

README, PICTURES = "README.md", "card"
_RECORD = {"jets": "jet", "showers": "shower", "tokens": "record"}


@dataclass(frozen=True)
class CardConfig:
    """Write a corpus's card: README.md and plots of every quantity by class. The corpus itself stays as it is."""

    corpus: Annotated[Positional[Path], tyro.conf.arg(metavar="CORPUS")]
    """Folder of the corpus, or the address of a remote one (then with --out)."""
    out: Path | None = None
    """Folder of README.md and card/*.png; default the corpus's own."""
    title: str = ""
    """Headline; default the kind of records and their source."""
    license: str = ""
    """Identifier of the data's licence for the Hugging Face hub (cc-by-4.0); left out if empty."""
    split: str = ""
    """Split to plot; default the first there is, which is train if there is one."""
    plot_records: int = 200_000
    """Records in the plots, at most; whole blocks spread evenly over the split."""


def card(config: CardConfig) -> None:
    """Write the page and its pictures, and print the page's path."""
    if config.plot_records < 1:
        raise HepfmError("must be at least 1", "--plot-records")
    url = remote_url(config.corpus)
    if config.out is None and url:
        raise HepfmError("is not on this machine", url, "say where the card goes: --out FOLDER")
    corpus = Corpus.open(config.corpus)
    out = config.out or config.corpus
    readme = out / README
    if readme.exists() and MARK not in readme.read_text(errors="replace"):
        raise HepfmError("was written by somebody else", readme, "move it away, or give another folder: --out")
    split = corpus.split(config.split or corpus.splits()[0])
    blocks = sampled_blocks(split, config.plot_records)
    classes = classes_of(corpus.manifest, split.name)
    panels = fill(split, blocks, quantities_of(corpus.manifest), classes)
    pictures = _pictures(panels, classes.names, _RECORD[corpus.manifest.kind], out)
    records = int(split.block_records[blocks].sum())
    plots = Plots(split.name, records, len(blocks), len(split), classes.names, pictures)
    write_text(readme, page(corpus, config.title, config.license, plots))
    sys.stdout.write(f"{readme}\n")


def _pictures(panels: list[Panel], classes: tuple[str, ...], record: str, out: Path) -> list[tuple[str, str]]:
    """Draw one picture a section; heading and relative path of each."""
    from hepfm.ingest.card.pictures import picture  # here, because matplotlib takes a second to import

    sections = list(dict.fromkeys(panel.quantity.section for panel in panels))
    made = []
    with progress("draw", len(sections), "pictures") as task:
        for section in sections:
            own = [panel for panel in panels if panel.quantity.section == section]
            name = section or f"{record}s"
            write_bytes(out / PICTURES / f"{name}.png", picture(own, classes, record))
            made.append((name.capitalize(), f"{PICTURES}/{name}.png"))
            task.advance()
    return made
