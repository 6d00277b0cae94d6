"""Models that others released: a YAML file each in ``models_of_others/``, with address, licence and citation.

A size or checksum that is not known stands nowhere; what came is then told with its SHA-256, which the artifact keeps.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from hepfm.core.config import from_dict, read_yaml
from hepfm.core.errors import HepfmError
from hepfm.core.partial import Stated

FOLDER = Path(__file__).parent / "models_of_others"


@dataclass(frozen=True)
class Citation:
    """What to cite."""

    text: str
    arxiv: str = ""


@dataclass(frozen=True)
class Released:
    """A model that others released.

    Attributes:
        name: what a user calls it.
        title, task, data: what it is, does, and was trained on.
        licence: of the weights, as stated by its authors; "none stated".
        citation: what to cite.
        url: address of the checkpoint, or of a zip with it.
        bytes, sha256: of the file at ``url``, where they are known.
        members: of a zip, the checkpoint and what belongs to it.
        features: that a tagger reads, as ``hepfm models import`` takes them.
        tokenizer: whose tokens a generator reads, by name in the catalogue.
        numbers: published results.
        note: what one should know.
    """

    name: str
    title: str
    task: str
    data: str
    licence: str
    citation: Citation
    url: str
    bytes: int | None = None
    sha256: str | None = None
    members: tuple[str, ...] = ()
    features: str = ""
    tokenizer: str = ""
    numbers: dict[str, str] = field(default_factory=dict)
    note: str = ""

    @property
    def stated(self) -> Stated:
        """What is known of the file at ``url``."""
        return Stated(self.bytes, sha256=self.sha256)


@cache
def catalogue() -> dict[str, Released]:
    """Every model by name, in order.

    Raises:
        HepfmError: a file of the catalogue is broken.
    """
    return {path.stem: read_entry(path) for path in sorted(FOLDER.glob("*.yaml"))}


def read_entry(path: Path) -> Released:
    """Read one model.

    Raises:
        HepfmError: an entry is missing, unknown or of the wrong type.
    """
    data = read_yaml(path)
    if not isinstance(data, dict):
        raise HepfmError("is no entry of the catalogue", path)
    return from_dict(Released, {**data, "name": path.stem}, path)
