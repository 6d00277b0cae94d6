"""One resolver: a run, an artifact folder, a hub id or a URL becomes an artifact folder, everywhere.

Downloads are checked file by file against the artifact's ``config.json`` and kept in a cache by content hash; nothing
in them is unpickled.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

from hepfm.core.artifacts import locate
from hepfm.core.downloads import cache_root, read_url
from hepfm.core.errors import HepfmError
from hepfm.core.files import sha256_file
from hepfm.core.partial import Stated, write_shared
from hepfm.core.progress import progress

HUB_ID = re.compile(r"^(?:hub:)?([\w.-]+/[\w.-]+)$")


def cache_folder() -> Path:
    """Where downloaded artifacts are kept: ``$HEPFM_CACHE``, else ``~/.cache/hepfm``."""
    return cache_root() / "models"


def resolve(name: str | Path) -> Path:
    """The artifact folder that ``name`` stands for; :func:`~hepfm.core.artifacts.read_artifact` checks its bytes.

    Args:
        name: a run or artifact folder, ``ORG/NAME`` on the Hugging Face hub (``hub:ORG/NAME`` where a folder of that
            name exists too), or the https URL of an artifact folder.

    Raises:
        HepfmError: nothing there, or a download that is not whole.
    """
    text = str(name)
    if text.startswith(("https://", "http://")):
        return fetch(text.rstrip("/"))
    hub_id = HUB_ID.match(text)
    if hub_id and not Path(name).exists():
        return pull(hub_id.group(1))
    return locate(name)


def pull(hub_id: str) -> Path:
    """Download an artifact from the Hugging Face hub (or find it in its cache)."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        snapshot = Path(snapshot_download(hub_id))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).splitlines()[0]
        raise HepfmError(
            f"no such folder, and not to be had from the hub: {reason}", hub_id, "check the name and the network"
        ) from error
    # The hub's cache is made of links; an artifact must not lead out of its folder, so its files are copied by content.
    return collect(lambda file: (snapshot / file).read_bytes(), hub_id)


def fetch(url: str) -> Path:
    """Download an artifact folder over http(s): ``config.json`` first, then the files it names."""
    return collect(lambda file: read_url(f"{url}/{file}"), url)


def collect(read: Callable[[str], bytes], name: str) -> Path:
    """Bring an artifact into the cache, file by file, each checked; a whole file that is there is not read again.

    Args:
        read: content of a file of the artifact.
        name: what the user called it, for messages.
    """
    config = read("config.json")
    try:
        stated = json.loads(config)
        files, content_hash = dict(stated["files"]), str(stated["hash"])
    except (ValueError, KeyError, TypeError) as error:
        raise HepfmError("its config.json is not an artifact's", name, "check the name") from error
    if not re.fullmatch(r"[0-9a-f]{64}", content_hash):
        raise HepfmError("its config.json states no valid hash", name, "check the name")
    folder = cache_folder() / content_hash
    with progress(f"download {name}", len(files), "files") as task:
        for file, sha256 in files.items():
            if not (folder / file).resolve().is_relative_to(folder.resolve()):
                raise HepfmError(f"names a file outside its folder: {file}", name, "do not use this artifact")
            _collect_file(folder / file, sha256, read, file, name)
            task.advance()
    write_shared(folder / "config.json", config, Stated(), name, "")
    return folder


def _collect_file(target: Path, sha256: str, read: Callable[[str], bytes], file: str, name: str) -> None:
    if target.is_file() and sha256_file(target) == sha256:
        return
    write_shared(target, read(file), Stated(sha256=sha256), f"{name}: {file}", "try again, or tell its owner")
