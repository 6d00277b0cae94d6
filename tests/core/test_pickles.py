"""A pickle is data: whatever it asks for, nothing is imported, called or set."""

from __future__ import annotations

import builtins
import functools
import marshal
import os
import pickle
import subprocess
import sys
from collections import OrderedDict, defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hepfm.core import pickles
from hepfm.core.errors import HepfmError
from hepfm.core.pickles import Inert, Name, read_pickle
from hepfm.core.torch_files import VOCABULARY


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function: Any, *arguments: Any, state: Any = None) -> None:
        self.made = (function, arguments) if state is None else (function, arguments, state)

    def __call__(self) -> None:
        """The pickle module wants callables."""

    def __reduce__(self) -> Any:
        return self.made


def read(data: bytes) -> Any:
    return read_pickle(data, VOCABULARY, "a.ckpt")


def touch(marker: Path) -> str:
    return f"touch {marker}"


def code_of(marker: Path) -> bytes:
    return marshal.dumps(compile(f"open({str(marker)!r}, 'w').close()", "", "exec"))


RUNS: dict[str, Callable[[Path], Any]] = {
    "system": lambda marker: Calls(os.system, touch(marker)),
    "eval": lambda marker: Calls(builtins.eval, f"open({str(marker)!r}, 'w')"),
    "subprocess": lambda marker: Calls(subprocess.call, ["touch", str(marker)]),
    "getattr": lambda marker: Calls(Calls(builtins.getattr, Calls(builtins.__import__, "os"), "system"), touch(marker)),
    "open": lambda marker: Calls(builtins.open, str(marker), "w"),
    "map": lambda marker: Calls(builtins.list, Calls(builtins.map, os.system, [touch(marker)])),
    "partial": lambda marker: Calls(functools.partial(os.system, touch(marker))),
    "nested partials": lambda marker: Calls(functools.partial(functools.partial(os.system), touch(marker))),
    "hidden in an entry": lambda marker: {"state_dict": OrderedDict(a=[Calls(os.system, touch(marker))])},
    "in the state": lambda marker: Calls(OrderedDict, state={"_metadata": Calls(os.system, touch(marker))}),
    "code object": lambda marker: Calls(builtins.exec, Calls(marshal.loads, code_of(marker))),
    "torch's importer": lambda marker: Calls(functools.partial(torch.load, pickled_file(marker), weights_only=False)),
}
HAND_MADE: dict[str, Callable[[Path], bytes]] = {
    "INST": lambda marker: b"(S'" + touch(marker).encode() + b"'\nios\nsystem\n.",
    "OBJ": lambda marker: b"(cos\nsystem\nS'" + touch(marker).encode() + b"'\no.",
    "GLOBAL": lambda marker: b"cos\nsystem\n(S'" + touch(marker).encode() + b"'\ntR.",
}


def pickled_file(marker: Path) -> Path:
    """A file in torch's oldest format that torch.load with pickle runs."""
    path = marker.with_suffix(".old")
    path.write_bytes(pickle.dumps(Calls(os.system, touch(marker)), 2))
    return path


@pytest.mark.parametrize("protocol", [2, 5])
@pytest.mark.parametrize("way", RUNS)
def test_what_would_run_is_refused_by_name_and_does_not(way: str, protocol: int, tmp_path: Path) -> None:
    data = pickle.dumps(RUNS[way](tmp_path / "ran"), protocol)
    _refused(data, tmp_path / "ran", r"names '[\w.]+', which a checkpoint of Lightning and gabbro does not need")


@pytest.mark.parametrize("way", HAND_MADE)
def test_old_operations_that_call_are_refused(way: str, tmp_path: Path) -> None:
    _refused(
        HAND_MADE[way](tmp_path / "ran"), tmp_path / "ran", r"names 'os\.system'|uses the operation (STRING|OBJ|INST)"
    )


def _refused(data: bytes, marker: Path, told: str) -> None:
    with pytest.raises(HepfmError, match=rf"a\.ckpt: refused: its pickle ({told})") as error:
        read(data)
    assert "get it again from its makers" in str(error.value)
    assert not marker.exists()
    # Shows that the pickle is as bad as it claims; after the call some fail, because its result is of no use.
    try:
        pickle.loads(data)  # noqa: S301
    except Exception:
        assert marker.exists()
    assert marker.exists()


def test_a_module_of_a_harmless_name_is_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    marker = tmp_path / "ran"
    (tmp_path / "gabbro.py").write_text(f"def run(*x): open({str(marker)!r}, 'w')\nrun()\n")
    monkeypatch.syspath_prepend(tmp_path)
    data = b"\x80\x02cgabbro\nrun\nX\x01\x00\x00\x00a\x85R."
    found = read(data)
    assert isinstance(found, Inert)
    assert (found.name, found.arguments) == (Name("gabbro", "run"), ("a",))
    assert "gabbro" not in sys.modules
    assert not marker.exists()
    pickle.loads(data)  # noqa: S301
    assert marker.exists()


def test_what_a_harmless_object_was_given_is_kept_inert() -> None:
    partial = read(pickle.dumps(functools.partial(torch.optim.AdamW, lr=0.1), 2))
    assert isinstance(partial, Inert)
    assert partial.name == Name("functools", "partial")
    assert partial.arguments == (Name("torch.optim.adamw", "AdamW"),)
    assert partial.state[2] == {"lr": 0.1}
    entries = read(pickle.dumps(defaultdict(dict, a=1), 2))
    assert (entries.name, entries.items) == (Name("collections", "defaultdict"), [("a", 1)])


nested = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=20,
)


@given(nested, st.sampled_from([3, 4, 5]))
def test_plain_data_is_read_as_pickle_reads_it(value: Any, protocol: int) -> None:
    assert read(pickle.dumps(value, protocol)) == value


def test_an_object_that_holds_itself_is_read() -> None:
    value: list[Any] = [1]
    value.append(value)
    found = read(pickle.dumps(value, 2))
    assert found[1] is found


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"\x80\x02ccollections\nOrderedDict\n)R}b0ccollections\nOrderedDict\n}b.", "attributes of a Name"),
        (b"\x80\x02]}b.", "attributes of a list"),
        (b"\x80\x02K\x01)R.", "calls a value of type int"),
        (b"\x80\x02cfunctools\npartial\n]R.", "calls functools.partial with a list"),
        (b"\x80\x02K\x01K\x01a.", "appends to a int"),
        (b"\x80\x02]K\x01K\x01s.", "sets an entry of a list"),
        (b"\x80\x02})K\x01s.", "a tuple as a key"),
        (b"\x80\x02}cfunctools\npartial\nK\x01s.", "a Name as a key"),
        (b"\x80\x02K\x01K\x02\x93.", "names something that is no name"),
        (b"\x80\x04ccollections\ndefaultdict\n)}K\x01K\x01s\x92.", "keyword arguments"),
        (b"\x80\x02\x82\x01.", "operation EXT1"),
        (b"P0\n.", "operation PERSID"),
        (b"\x80\x05\x96\xff\xff\xff\xff\xff\x00\x00\x00.", "damaged"),
        (b"\x80\x04\x8d\xff\xff\xff\xff\xff\x00\x00\x00a.", "damaged"),
        (b"\x80\x02h\x05.", "damaged"),
        (b"\x80\x02.", "damaged: .*in the middle"),
        (b"\x80\x02((K\x01.", "damaged"),
        (b"\x80\x02}(K\x01u.", "damaged"),
        (b"", "damaged"),
        (b"\x80\x02t.", "damaged"),
        (b"\x80\x02\x86.", "damaged"),
    ],
)
def test_nonsense_is_refused(data: bytes, told: str) -> None:
    with pytest.raises(HepfmError, match=rf"a\.ckpt: .*{told}"):
        read(data)


def test_a_huge_memo_index_takes_no_memory() -> None:
    assert read(b"\x80\x02K\x07r\xff\xff\xff\xff0j\xff\xff\xff\xff.") == 7


def test_tuples_nested_without_end_are_read_or_refused() -> None:
    assert isinstance(read(b"\x80\x02)" + b"\x85" * 100_000 + b"."), tuple)


def test_a_pickle_of_absurd_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pickles, "MAX_BYTES", 10)
    with pytest.raises(HepfmError, match="its pickle has 20 bytes, more than 10"):
        read(bytes(20))


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(data: bytes) -> None:
    told: list[str] = []
    try:
        read(b"\x80\x02" + data)
    except HepfmError as refused:
        told.append(str(refused))
    assert all(line.startswith("a.ckpt: ") for line in told)
