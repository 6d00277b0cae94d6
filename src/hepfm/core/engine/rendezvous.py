"""How the processes of a job find each other, and what has to be the same in all of them."""

from __future__ import annotations

import hashlib
import ipaddress
import json
import os
import re
import socket
import time
from collections.abc import Mapping
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

import hepfm
from hepfm.core.errors import HepfmError
from hepfm.core.versions import versions

if TYPE_CHECKING:
    from torch.distributed import Store

START_TIMEOUT_S = 600.0
USER_ERROR = 2
LAUNCHER = "environment of the launcher"
FIRST_PORT, PORTS = 20_000, 10_000


def adopt_slurm() -> None:
    """Take rank, number of processes and address from SLURM where ``srun`` started this process itself.

    SLURM_STEP_NUM_TASKS is only set in the tasks of a step; a batch script alone has SLURM_PROCID=0 too.
    """
    tasks = int(os.environ.get("SLURM_STEP_NUM_TASKS", "1"))
    if tasks == 1 or "RANK" in os.environ or "SLURM_PROCID" not in os.environ:
        return
    nodes = os.environ.get("SLURM_STEP_NODELIST") or os.environ.get("SLURM_JOB_NODELIST", "")
    number = int(os.environ.get("SLURM_JOB_ID", "0")) + int(os.environ.get("SLURM_STEP_ID", "0"))
    os.environ.update(
        RANK=os.environ["SLURM_PROCID"],
        WORLD_SIZE=str(tasks),
        LOCAL_RANK=os.environ.get("SLURM_LOCALID", "0"),
        MASTER_ADDR=os.environ.get("MASTER_ADDR") or first_host(nodes),
        MASTER_PORT=os.environ.get("MASTER_PORT") or str(FIRST_PORT + number % PORTS),
    )


def first_host(nodes: str) -> str:
    """The first host of a list in SLURM's short form: "gpu[007-009,012],login1" -> "gpu007"."""
    return re.sub(r"\[(\w+)[^]]*\]", r"\1", re.split(r",(?![^[]*\])", nodes)[0])


def meet(rank: int, world: int, same: Mapping[str, Any], own: Mapping[str, Any], fault: str) -> tuple[Store, list[str]]:
    """Wait for all processes of the job and compare what has to be the same in them.

    Args:
        rank: of this process.
        world: how many there are.
        same: plain data that must be equal everywhere, by name; the code's version is compared too.
        own: plain data that must differ between two processes of one host, by name (a GPU).
        fault: why this process cannot take part; empty if it can.

    Returns:
        The store that all share, and the host of each rank.

    Raises:
        HepfmError: in the first process: something is wrong with any of them.
        SystemExit: in the others then, since the first one tells.
    """
    from torch.distributed import DistError

    store = _store(rank, world)
    mine = {
        "host": socket.gethostname(),
        "same": {"code": code_version(), **{name: _digest(value) for name, value in same.items()}},
        "own": dict(own),
        "fault": fault,
    }
    try:
        store.set(f"met/{rank}", json.dumps(mine))
        if rank == 0:
            found = _gather(store, world)
            problem = _problem(found)
            store.set("verdict", json.dumps({"hosts": [item["host"] for item in found], "fine": problem is None}))
            if problem is not None:
                raise problem
        verdict = json.loads(store.get("verdict"))
    except DistError as error:
        raise HepfmError(
            f"rank {rank} lost the first process while the job started", _address(), "its message says why"
        ) from error
    if not verdict["fine"]:
        raise SystemExit(USER_ERROR)
    return store, verdict["hosts"]


def _store(rank: int, world: int) -> Store:
    from torch.distributed import DistError, TCPStore

    address, port = _address().rsplit(":", 1)
    agents = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"  # torchrun's own process holds the store
    try:
        return TCPStore(
            address,
            int(port),
            world,
            is_master=rank == 0 and not agents,
            timeout=timedelta(seconds=START_TIMEOUT_S),
            wait_for_workers=False,
            multi_tenant=True,
        )
    except DistError as error:
        what = "cannot listen there" if rank == 0 and not agents else "cannot reach the first process there"
        mend = "is MASTER_ADDR this host, and MASTER_PORT free?" if rank == 0 else "is it running, and the port open?"
        raise HepfmError(f"rank {rank} on {socket.gethostname()} {what}", f"{address}:{port}", mend) from error


def _address() -> str:
    """MASTER_ADDR:MASTER_PORT.

    Raises:
        HepfmError: the launcher did not set all that it has to.
    """
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name):
            raise HepfmError(
                f"{name} is not set, though there are {os.environ.get('WORLD_SIZE', 'several')} processes",
                LAUNCHER,
                "start with --nproc, torchrun, the deepspeed launcher or srun, or set it",
            )
    try:
        rank, world, port = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "MASTER_PORT"))
    except ValueError as error:
        raise HepfmError("RANK, WORLD_SIZE and MASTER_PORT must be numbers", LAUNCHER) from error
    if not 0 <= rank < world:
        raise HepfmError(f"RANK is {rank}, WORLD_SIZE {world}", LAUNCHER, "ranks count from 0")
    return f"{os.environ['MASTER_ADDR']}:{port}"


def _gather(store: Store, world: int) -> list[dict[str, Any]]:
    deadline = time.monotonic() + START_TIMEOUT_S
    missing = set(range(world))
    while missing:
        missing -= {rank for rank in missing if store.check([f"met/{rank}"])}
        if missing and time.monotonic() > deadline:
            names = ", ".join(map(str, sorted(missing)[:8])) + (", ..." if len(missing) > 8 else "")
            raise HepfmError(f"{len(missing)} of {world} processes did not start: rank {names}", _address())
        time.sleep(0.02)
    return [json.loads(store.get(f"met/{rank}")) for rank in range(world)]


def _problem(found: list[dict[str, Any]]) -> HepfmError | None:
    """What keeps these processes from working together, if anything does."""
    owners: dict[tuple[str, str, Any], int] = {}
    for rank, item in enumerate(found):
        if item["fault"]:
            return HepfmError(item["fault"], f"rank {rank} on {item['host']}")
        names = sorted(name for name, value in found[0]["same"].items() if item["same"].get(name) != value)
        if names:
            return HepfmError(
                f"has another {' and '.join(names)} than rank 0 on {found[0]['host']}",
                f"rank {rank} on {item['host']}",
                "start all processes by the same command with the same installation",
            )
        for name, value in item["own"].items():
            other = owners.setdefault((item["host"], name, value), rank)
            if other != rank:
                return HepfmError(
                    f"uses the same {name} as rank {other}",
                    f"rank {rank} on {item['host']}",
                    "start at most one process per GPU, and let the launcher set LOCAL_RANK",
                )
    return None


@cache
def code_version() -> str:
    """Digest of the versions of the libraries and of every line of hepfm's code."""
    digest = hashlib.sha256(json.dumps(versions()).encode())
    for stage in ("core", "ingest", "tokenize", "pretrain", "finetune"):
        folder = (Path(hepfm.__file__).parent / stage).resolve()
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{stage}/{path.relative_to(folder)}\n".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def choose_interface(hosts: list[str]) -> None:
    """Let gloo use the network that leads to the first process.

    By itself it takes the address of the host's name, which on many systems is 127.0.1.1.
    """
    if "GLOO_SOCKET_IFNAME" in os.environ:
        return
    address = own_address(os.environ["MASTER_ADDR"])
    name = _any_interface() if address.is_loopback and len(set(hosts)) > 1 else _interface_of(address)
    if name:
        os.environ["GLOO_SOCKET_IFNAME"] = name


def own_address(peer: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """This host's address on the way to ``peer``; nothing is sent."""
    family, kind, _, _, place = socket.getaddrinfo(peer, 9, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(place)
        return ipaddress.ip_address(probe.getsockname()[0].split("%")[0])


def _interface_of(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    for name, places in psutil.net_if_addrs().items():
        if any(place.address.split("%")[0] == str(address) for place in places):
            return name
    return "lo" if address.is_loopback and "lo" in psutil.net_if_addrs() else ""


def _any_interface() -> str:
    """The first one that is up, has an address of version 4 and leads out of this host."""
    up = {name for name, state in psutil.net_if_stats().items() if state.isup}
    for name, places in psutil.net_if_addrs().items():
        addresses = [place.address for place in places if place.family == socket.AF_INET]
        if name in up and addresses and not ipaddress.ip_address(addresses[0]).is_loopback:
            return name
    return ""
