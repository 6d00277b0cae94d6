"""How processes find each other: what each says of itself, what must agree, and SLURM's environment."""

from __future__ import annotations

import ipaddress
import socket
import threading
from typing import Any

import psutil
import pytest
from jobs import free_port

from hepfm.core.engine import launch, rendezvous
from hepfm.core.errors import HepfmError


@pytest.fixture
def meeting(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let two ranks, as threads, meet: each is (same, own, fault); gives what each got or raised."""
    monkeypatch.setattr(rendezvous, "START_TIMEOUT_S", 10.0)
    port = free_port()
    for name, value in {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}.items():
        monkeypatch.setenv(name, value)

    def meet(*ranks: tuple[dict[str, Any], dict[str, Any], str]) -> list[Any]:
        got: list[Any] = [None, None]

        def run(rank: int) -> None:
            try:
                got[rank] = rendezvous.meet(rank, 2, *ranks[rank])
            except BaseException as error:
                got[rank] = error

        threads = [threading.Thread(target=run, args=(rank,)) for rank in range(len(ranks))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return got

    return meet


def test_equal_ranks_meet(meeting: Any) -> None:
    found = meeting(({"a": 1}, {"GPU": "x"}, ""), ({"a": 1}, {"GPU": "y"}, ""))
    assert [hosts for _, hosts in found] == [[socket.gethostname()] * 2] * 2


@pytest.mark.parametrize(
    ("first", "second", "told"),
    [
        (({"settings": [1]}, {}, ""), ({"settings": [2]}, {}, ""), "rank 1 .* another settings than rank 0"),
        (({}, {"GPU": "x"}, ""), ({}, {"GPU": "x"}, ""), "rank 1 .* same GPU as rank 0"),
        (({}, {}, ""), ({}, {}, "8 GPUs are asked for, torch finds 0"), "rank 1 .* 8 GPUs are asked for"),
    ],
)
def test_what_does_not_fit_is_told_once(meeting: Any, first: Any, second: Any, told: str) -> None:
    found = meeting(first, second)
    assert isinstance(found[0], HepfmError)
    assert isinstance(found[1], SystemExit)
    with pytest.raises(HepfmError, match=told):
        raise found[0]


def test_other_code_is_refused(meeting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    versions = iter(["one", "other"])
    monkeypatch.setattr(rendezvous, "code_version", lambda: next(versions))
    with pytest.raises(HepfmError, match="another code than rank 0"):
        raise meeting(({}, {}, ""), ({}, {}, ""))[0]


def test_a_rank_that_does_not_come_is_named(meeting: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "START_TIMEOUT_S", 1.0)
    with pytest.raises(HepfmError, match="1 of 2 processes did not start: rank 1"):
        raise meeting(({}, {}, ""))[0]


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("gpu[007-009,012],login1", "gpu007"), ("n1,n2", "n1"), ("one", "one"), ("a[1-2]b[03-05]", "a1b03")],
)
def test_the_first_host_of_a_node_list(nodes: str, first: str) -> None:
    assert rendezvous.first_host(nodes) == first


def test_slurm_tells_ranks_only_to_the_tasks_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.setenv(name, "")  # restores them afterwards
        monkeypatch.delenv(name)
    batch = {"SLURM_PROCID": "0", "SLURM_NTASKS": "16", "SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "gpu[3-4]"}
    for name, value in batch.items():
        monkeypatch.setenv(name, value)
    rendezvous.adopt_slurm()
    assert launch.world() == 1
    step = {"SLURM_STEP_NUM_TASKS": "16", "SLURM_PROCID": "11", "SLURM_LOCALID": "3", "SLURM_STEP_ID": "2"}
    for name, value in step.items():
        monkeypatch.setenv(name, value)
    rendezvous.adopt_slurm()
    assert (launch.rank(), launch.world()) == (11, 16)
    assert rendezvous._address() == "gpu3:24713"


def test_gpus_that_are_asked_for_must_be_there(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert launch._claim_gpu(0) == ""
    assert launch._claim_gpu(8) == "8 GPUs are asked for, torch finds 0"
    monkeypatch.setenv("SLURM_GPUS_ON_NODE", "4")
    assert "SLURM gave this node 4 GPUs, torch finds none" in launch._claim_gpu(0)


def test_each_process_has_a_gpu_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    taken: list[int] = []
    monkeypatch.delenv("DS_ACCELERATOR", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: taken.append(device.index))
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert launch._claim_gpu(2) == ""
    monkeypatch.setenv("LOCAL_RANK", "2")
    assert "process 3 on this machine finds 2 GPUs" in launch._claim_gpu(0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # a launcher that shows each its own
    assert launch._claim_gpu(0) == ""
    assert taken == [1, 0]


def test_gloo_takes_the_way_to_the_first_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "")
    monkeypatch.delenv("GLOO_SOCKET_IFNAME")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    assert rendezvous.own_address("127.0.0.1") == ipaddress.ip_address("127.0.0.1")
    monkeypatch.setattr(psutil, "net_if_addrs", lambda: {"ring": [_Place("127.0.0.1")], "wire": [_Place("10.0.0.7")]})
    monkeypatch.setattr(psutil, "net_if_stats", lambda: {"ring": _Up(), "wire": _Up()})
    for hosts, name in ((["a", "a"], "ring"), (["a", "b"], "wire")):  # 127.0.1.1 for one's own name leads nowhere
        monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
        rendezvous.choose_interface(hosts)
        import os

        assert os.environ["GLOO_SOCKET_IFNAME"] == name


class _Place:
    family = socket.AF_INET

    def __init__(self, address: str) -> None:
        self.address = address


class _Up:
    isup = True
