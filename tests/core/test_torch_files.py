"""A checkpoint is read as torch.load reads it, or refused: never run, never more memory than the file has bytes."""

from __future__ import annotations

import io
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omnijet_dense import write_checkpoint
from torch import nn

from hepfm.core.errors import HepfmError
from hepfm.core.torch_files import read_checkpoint


def tensors_of(path: Path) -> dict[str, torch.Tensor]:
    checkpoint = read_checkpoint(path)
    return checkpoint.tensors({name: name for name in checkpoint.state})


STATE = {
    "float": torch.arange(6.0).view(2, 3),
    "turned": torch.arange(6.0).view(2, 3).T,
    "window": torch.arange(10, dtype=torch.int64)[3:7],
    "half": torch.tensor([1.5, -2], dtype=torch.float16),
    "brain": torch.tensor([1.5, -2], dtype=torch.bfloat16),
    "flags": torch.tensor([True, False]),
    "bytes": torch.tensor([1, 255], dtype=torch.uint8),
    "double": torch.tensor(2.5, dtype=torch.float64),
    "empty": torch.empty(0, 3),
    "parameter": nn.Parameter(torch.ones(2)),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return write_checkpoint(
        tmp_path / "a.ckpt", STATE, {"model_kwargs": {"width": 3, "vq": {"rate": 2.0}}, "name": "x"}
    )


def test_tensors_are_those_that_were_saved(path: Path) -> None:
    found = tensors_of(path)
    assert found.keys() == STATE.keys()
    for name, expected in STATE.items():
        assert found[name].dtype == expected.dtype, name
        assert torch.equal(found[name], expected), name
        assert found[name].is_contiguous()


def test_settings_are_plain_data_without_objects(path: Path) -> None:
    assert read_checkpoint(path).settings == {
        "optimizer": None,
        "scheduler": None,
        "model_kwargs": {"width": 3, "vq": {"rate": 2.0}},
        "name": "x",
    }


def test_torch_itself_refuses_it(path: Path) -> None:
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path)


def test_a_state_dict_of_a_module_keeps_no_attributes(tmp_path: Path) -> None:
    state = nn.Linear(2, 3).state_dict()
    assert state._metadata
    torch.save({"state_dict": state}, tmp_path / "a.ckpt")
    assert torch.equal(tensors_of(tmp_path / "a.ckpt")["weight"], state["weight"])


def test_settings_that_json_cannot_hold_are_made_plain(tmp_path: Path) -> None:
    hyper = {"a": float("inf"), "b": 1 << 100, "c": "\ud800", "d": (1, None)}
    torch.save({"state_dict": STATE, "hyper_parameters": hyper}, tmp_path / "a.ckpt")
    assert read_checkpoint(tmp_path / "a.ckpt").settings == {"a": "inf", "b": None, "c": "?", "d": [1, None]}


def test_settings_nested_without_end_are_refused(tmp_path: Path) -> None:
    loop: dict[str, Any] = {}
    loop["again"] = loop
    laughs: Any = "ha"
    for _ in range(30):
        laughs = [laughs] * 10
    for hyper in (loop, {"a": laughs}):
        torch.save({"state_dict": STATE, "hyper_parameters": hyper}, tmp_path / "a.ckpt")
        with pytest.raises(HepfmError, match="nested without end"):
            _ = read_checkpoint(tmp_path / "a.ckpt").settings


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: torch.eye(2).to_sparse(), r"torch\._utils\._rebuild_sparse_tensor"),
        (lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8), r"torch\._utils\._rebuild_qtensor"),
        (lambda: torch.ones(2, device="meta"), r"torch\._utils\._rebuild_meta_tensor_no_storage"),
        (lambda: torch.ones(2, dtype=torch.complex64), "ComplexFloatStorage"),
        (lambda: nn.Linear(1, 1), r"torch\.nn\.modules\.linear\.Linear"),
        (lambda: torch.Generator(), "_codecs|torch"),
    ],
)
def test_other_things_than_plain_tensors_are_refused_by_name(
    make: Callable[[], Any], named: str, tmp_path: Path
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.save({"state_dict": {"a": make()}}, tmp_path / "a.ckpt")
        except (TypeError, RuntimeError):
            pytest.skip("this torch does not save such a thing")
    with pytest.raises(HepfmError, match=named):
        tensors_of(tmp_path / "a.ckpt")


def rewritten(path: Path, change: Callable[[str, bytes], bytes | None], **options: Any) -> Path:
    """The same zip with other members; None leaves one out."""
    out = path.with_name("b.ckpt")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "w", **options) as target:
        for info in source.infolist():
            data = change(info.filename, source.read(info))
            if data is not None:
                target.writestr(info.filename, data)
    return out


def shortened(name: str, data: bytes) -> bytes:
    return data[:-4] if name.endswith("/data/0") else data


@pytest.mark.parametrize(
    ("change", "options", "told"),
    [
        (shortened, {}, r"storage 0 has 20 bytes, not 24"),
        (lambda name, data: None if name.endswith("/data/0") else data, {}, "storage 0 is missing"),
        (lambda name, data: data, {"compression": zipfile.ZIP_DEFLATED}, "compressed, which torch never does"),
        (lambda name, data: None if name.endswith("data.pkl") else data, {}, r"its zip has 0 data\.pkl"),
        (lambda name, data: b"big" if name.endswith("byteorder") else data, {}, "not little-endian"),
        (
            lambda name, data: data.replace(b"X\x01\x00\x00\x000q", b"X\x01\x00\x00\x00/q"),
            {},
            "called '/', not a number",
        ),
        (lambda name, data: data.replace(b"FloatStorage", b"FlautStorage"), {}, "torch.FlautStorage"),
    ],
)
def test_a_file_that_was_tampered_with_is_refused(
    path: Path, change: Callable[[str, bytes], bytes | None], options: dict[str, Any], told: str
) -> None:
    with pytest.raises(HepfmError, match=rf"b\.ckpt: .*{told}"):
        tensors_of(rewritten(path, change, **options))


def tensor_pickle(elements: int, offset: int, size: Any, stride: Any, key: Any = "0") -> bytes:
    class Storage:
        pass

    class Tensor:
        def __reduce__(self) -> Any:
            return torch._utils._rebuild_tensor_v2, (Storage(), offset, size, stride, False, None)

    class Pickler(pickle.Pickler):
        def persistent_id(self, value: Any) -> Any:
            if isinstance(value, Storage):
                return ("storage", torch.FloatStorage, key, "cpu", elements)
            return None

    target = io.BytesIO()
    Pickler(target, 2).dump({"state_dict": {"a": Tensor()}})
    return target.getvalue()


def with_pickle(folder: Path, data: bytes, storages: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(folder / "c.ckpt", "w") as archive:
        archive.writestr("a/data.pkl", data)
        for name, content in storages.items():
            archive.writestr(f"a/data/{name}", content)
    return folder / "c.ckpt"


@pytest.mark.parametrize(
    ("tensor", "told"),
    [
        ((4, 0, (2, 2), (2, 1)), ""),
        ((4, 1, (2, 2), (2, 1)), "reaches beyond its storage"),
        ((4, 0, (5,), (1,)), "reaches beyond its storage"),
        ((4, 0, (2, 2), (3, 1)), "reaches beyond its storage"),
        ((4, 0, (1 << 40,), (0,)), "reaches beyond its storage"),
        ((4, 0, (1 << 31, 1 << 31), (0, 0)), "reaches beyond its storage"),
        ((4, -1, (2,), (1,)), "impossible shape"),
        ((4, 0, (-2,), (1,)), "impossible shape"),
        ((4, 0, (2,), (-1,)), "impossible shape"),
        ((4, 0, (2, 2), (1,)), "impossible shape"),
        ((4, 0, (True,), (1,)), "impossible shape"),
        ((4, 0, [2], (1,)), "impossible shape"),
        ((1 << 40, 0, (2,), (1,)), "storage 0 has 16 bytes, not"),
        ((-4, 0, (2,), (1,)), "impossible size"),
        ((4, 0, (2,), (1,), "../../../etc/passwd"), "not a number"),
        ((4, 0, (2,), (1,), "/etc/passwd"), "not a number"),
        ((4, 0, (2,), (1,), 0), "not a number"),
        ((4, 0, (2,), (1,), "7"), "storage 7 is missing"),
    ],
)
def test_a_tensor_lies_inside_its_storage(tensor: tuple[Any, ...], told: str, tmp_path: Path) -> None:
    path = with_pickle(tmp_path, tensor_pickle(*tensor), {"0": bytes(16)})
    if told:
        with pytest.raises(HepfmError, match=told):
            tensors_of(path)
    else:
        assert tensors_of(path)["a"].shape == (2, 2)


def test_many_tensors_on_one_storage_take_no_memory(tmp_path: Path) -> None:
    shared = torch.ones(10_000)
    torch.save({"state_dict": {str(index): shared for index in range(100)}}, tmp_path / "a.ckpt")
    with pytest.raises(HepfmError, match="its tensors take 4,000,000 bytes, far more than the file"):
        tensors_of(tmp_path / "a.ckpt")


def test_members_that_overlap_are_refused(tmp_path: Path) -> None:
    """Several entries of the directory that name the same bytes: each is whole, together they exceed the file."""
    torch.save({"state_dict": {str(n): torch.full((1000,), 1.0) for n in range(2)}}, tmp_path / "a.ckpt")
    data = (tmp_path / "a.ckpt").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.ckpt") as archive:
        members = {info.filename: info for info in archive.infolist()}
    first = members["a/data/0"].header_offset.to_bytes(4, "little")
    second = members["a/data/1"].header_offset.to_bytes(4, "little")
    directory = data.index(b"PK\x01\x02")
    (tmp_path / "a.ckpt").write_bytes(data[:directory] + data[directory:].replace(second, first))
    with pytest.raises(HepfmError, match=r"a\.ckpt: "):
        tensors_of(tmp_path / "a.ckpt")


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"", "no torch checkpoint"), (b"\x80\x02\x8a\nl\xfc", "torch before 1.6"), (b"PK\x05\x06" + bytes(18), "0 data")],
)
def test_other_files_are_refused(content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(HepfmError, match=told):
        read_checkpoint(tmp_path / "a")


def test_a_missing_file_and_a_folder(tmp_path: Path) -> None:
    with pytest.raises(HepfmError, match="no such file"):
        read_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(HepfmError, match="is a folder"):
        read_checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("content", "told"),
    [([1], "holds a list"), ({1: 2}, "not a checkpoint's dictionary"), ({"a": 1}, "no state_dict .it has 'a'")],
)
def test_what_is_no_checkpoint_says_what_it_has(content: Any, told: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(HepfmError, match=told):
        _ = read_checkpoint(tmp_path / "a.ckpt").state


def test_a_state_dict_of_something_else_names_the_key(tmp_path: Path) -> None:
    torch.save({"state_dict": {"a": torch.ones(1), "b": "c"}}, tmp_path / "a.ckpt")
    with pytest.raises(HepfmError, match="its state_dict has 'b', which is no tensor"):
        tensors_of(tmp_path / "a.ckpt")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(data=st.data())
def test_truncated_and_flipped_files_are_read_or_refused(path: Path, data: st.DataObject) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    broken = path.with_name("broken.ckpt")
    broken.write_bytes(content[: data.draw(st.integers(0, len(content)) | st.just(len(content)))])
    _read_or_refused(broken)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=300)
@given(data=st.data())
def test_a_changed_pickle_is_read_or_refused(path: Path, data: st.DataObject) -> None:
    """The checksums of the zip are right, so that the change gets to the interpreter."""

    def change(name: str, content: bytes) -> bytes:
        if not name.endswith("data.pkl"):
            return content
        changed = bytearray(content)
        for _ in range(data.draw(st.integers(1, 3))):
            changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
        return bytes(changed)

    _read_or_refused(rewritten(path, change))


def _read_or_refused(path: Path) -> None:
    told: list[str] = []
    try:
        checkpoint = read_checkpoint(path)
        _ = checkpoint.settings
        checkpoint.tensors({name: name for name in checkpoint.state})
    except HepfmError as refused:
        told.append(str(refused))
    assert all(line.startswith(str(path)) for line in told)
