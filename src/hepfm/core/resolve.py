"""One resolver: a run, an artifact folder, a shipped or pulled name, a hub id or a URL becomes an artifact folder,
everywhere.
"""

from __future__ import annotations

from pathlib import Path

from hepfm.core.artifacts import locate
from hepfm.core.errors import HepfmError
from hepfm.core.model_cache import Origin, all_remembered, collect, remember, remembered
from hepfm.core.origins import HubOrigin, WebOrigin

SHIPPED = Path(__file__).resolve().parents[1] / "shipped"
CATALOGUE_KEY = "catalogue {}"


def resolve(name: str | Path) -> Path:
    """The artifact folder that ``name`` stands for; :func:`~hepfm.core.artifacts.read_artifact` checks its bytes.

    What was pulled once is found in the cache without asking anybody; ``hepfm models pull`` asks again.

    Args:
        name: a run or artifact folder; a model that ships with the package or was pulled from the catalogue, by name;
            ``ORG/NAME`` or ``ORG/NAME@REVISION`` on the Hugging Face hub (with ``hub:`` before it where a folder of
            that name exists too); or the https URL of an artifact folder.

    Raises:
        HepfmError: nothing there, or a download that is not whole.
    """
    origin = origin_of(str(name)) if not Path(name).exists() or str(name).startswith("hub:") else None
    if origin is not None:
        return remembered(origin.key) or bring(origin)
    if not Path(name).exists() and "/" not in str(name):
        found = shipped().get(str(name)) or remembered(CATALOGUE_KEY.format(name))
        if found:
            return found
        if not Path(name).is_symlink():
            known = sorted({*shipped(), *(each.name for each in all_remembered())})
            raise HepfmError(
                "no such run or artifact, and no model of that name",
                name,
                f"there is: {', '.join(known)}; 'hepfm models list' shows more" if known else "see 'hepfm models list'",
            )
    return locate(name)


def origin_of(text: str) -> HubOrigin | WebOrigin | None:
    """The place on the network that ``text`` names; None if it names none."""
    if text.startswith(("https://", "http://")):
        return WebOrigin(text.rstrip("/"))
    return HubOrigin.parse(text)


def bring(origin: Origin) -> Path:
    """Download an artifact into the cache, and remember its name."""
    path = collect(origin)
    remember(origin.name, origin.key, path)
    return path


def shipped() -> dict[str, Path]:
    """The artifacts that came with the package, by name: the folders of ``hepfm/shipped``."""
    return {path.parent.name: path.parent for path in sorted(SHIPPED.glob("*/config.json"))}
