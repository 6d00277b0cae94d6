"""Where artifacts are downloaded from: a folder here, a folder on a web server, a repository of the Hugging Face hub.

Bytes go through :mod:`hepfm.core.downloads`. ``huggingface_hub`` finds a repository's commit and the address of its
files and knows the user's token; its own downloads begin anew after an interruption and compare no checksum.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from hepfm.core.artifacts import CONFIG
from hepfm.core.downloads import Remote, download, read_url
from hepfm.core.errors import HepfmError
from hepfm.core.files import atomic_path, sha256_file
from hepfm.core.model_cache import LONGEST_CONFIG
from hepfm.core.partial import Stated

HUB_ID = re.compile(r"(?:hub:)?(?P<id>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
ACCESS = "if it is private or gated, ask for access on its page, then 'hf auth login' (or set HF_TOKEN)"


def hub_endpoint() -> str:
    """Address of the hub: ``$HF_ENDPOINT``, else https://huggingface.co."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


@dataclass(frozen=True)
class FolderOrigin:
    """An artifact in a folder of this machine."""

    folder: Path

    @property
    def name(self) -> str:
        return str(self.folder)

    @property
    def key(self) -> str:
        return f"folder {self.folder.resolve()}"

    def config(self) -> bytes:
        return (self.folder / CONFIG).read_bytes()

    def sizes(self) -> dict[str, int]:
        return {}

    def bring(self, file: str, sha256: str, target: Path, advance: Callable[[int], None]) -> None:
        source = self.folder / file
        if not source.is_file():
            raise HepfmError("missing from the artifact", source, "get the artifact again")
        with atomic_path(target) as partial:
            shutil.copyfile(source, partial)
            if sha256_file(partial) != sha256:
                raise HepfmError("altered: it has another sha256 than config.json states", source, "get it again")


@dataclass(frozen=True)
class WebOrigin:
    """An artifact folder on a web server."""

    url: str

    @property
    def name(self) -> str:
        return self.url

    @property
    def key(self) -> str:
        return self.url

    def config(self) -> bytes:
        return read_url(f"{self.url}/{CONFIG}", LONGEST_CONFIG)

    def sizes(self) -> dict[str, int]:
        return {}

    def bring(self, file: str, sha256: str, target: Path, advance: Callable[[int], None]) -> None:
        download(Remote(f"{self.url}/{file}", Stated(sha256=sha256)), target, advance)


@dataclass(frozen=True)
class HubOrigin:
    """An artifact that is a model repository of the Hugging Face hub.

    Attributes:
        id: ``ORG/NAME``.
        revision: branch, tag or commit; by default the main branch.
    """

    id: str
    revision: str = "main"
    endpoint: str = field(default_factory=hub_endpoint)

    @classmethod
    def parse(cls, text: str) -> HubOrigin | None:
        """The repository that ``[hub:]ORG/NAME[@REVISION]`` names; None if the text is no such name."""
        match = HUB_ID.fullmatch(text)
        return cls(match["id"], match["revision"] or "main") if match else None

    @property
    def name(self) -> str:
        return self.id if self.revision == "main" else f"{self.id}@{self.revision}"

    @property
    def key(self) -> str:
        return f"{self.endpoint} {self.id}@{self.revision}"

    @cached_property
    def _found(self) -> Any:
        from huggingface_hub import HfApi

        with told(self.name):
            return HfApi(endpoint=self.endpoint).model_info(self.id, revision=self.revision, files_metadata=True)

    @property
    def commit(self) -> str:
        """The commit that the revision is at."""
        return str(self._found.sha)

    def config(self) -> bytes:
        if CONFIG not in {file.rfilename for file in self._found.siblings or ()}:
            raise HepfmError("this repository holds no artifact: it has no config.json", self.name, "check the name")
        remote = self._remote(CONFIG, Stated())
        data = read_url(remote.url, LONGEST_CONFIG, remote.headers)
        if b'"files"' not in data:  # configurations of other libraries have the same name
            raise HepfmError("this repository holds no artifact of hepfm", self.name, "check the name")
        return data

    def sizes(self) -> dict[str, int]:
        return {file.rfilename: int(file.size) for file in self._found.siblings or () if file.size is not None}

    def bring(self, file: str, sha256: str, target: Path, advance: Callable[[int], None]) -> None:
        if file not in {each.rfilename for each in self._found.siblings or ()}:
            raise HepfmError(
                f"this repository lacks '{file}', which its config.json lists", self.name, "tell its owner"
            )
        download(self._remote(file, Stated(sha256=sha256)), target, advance)

    def _remote(self, file: str, stated: Stated) -> Remote:
        from huggingface_hub import get_hf_file_metadata, hf_hub_url
        from huggingface_hub.utils import build_hf_headers

        url = hf_hub_url(self.id, file, revision=self.commit, endpoint=self.endpoint)
        headers = build_hf_headers()
        with told(f"{self.name}: {file}"):
            location = get_hf_file_metadata(url, headers=headers, endpoint=self.endpoint).location
        # A signed address of a store needs no token, and must not see it.
        own = urlsplit(location)[:2] == urlsplit(self.endpoint)[:2]
        token = {"authorization": headers["authorization"]} if own and "authorization" in headers else {}
        return Remote(location, stated, token)


@contextmanager
def told(where: str) -> Iterator[None]:
    """Turn what the hub refuses into one line."""
    from huggingface_hub import errors

    try:
        yield
    except HepfmError:
        raise
    except errors.GatedRepoError as error:
        raise HepfmError("the hub refuses it: access to this repository has to be granted", where, ACCESS) from error
    except errors.RevisionNotFoundError as error:
        raise HepfmError("has no such revision on the hub", where, "check what follows the @") from error
    except errors.RepositoryNotFoundError as error:
        raise HepfmError(
            "no such folder here, and no such repository on the hub", where, f"check the name; {ACCESS}"
        ) from error
    except errors.EntryNotFoundError as error:
        raise HepfmError("the hub has no such file", where, "tell its owner") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        mend = ACCESS if status in (401, 403) else "try again later"
        raise HepfmError(f"the hub answers {status} {error.response.reason_phrase}".rstrip(), where, mend) from error
    except Exception as error:  # the library's versions let errors of several network libraries through
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise HepfmError(f"the hub cannot be used: {reason}", where, "check name and network, run again") from error
