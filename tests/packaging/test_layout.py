"""The folders at the root are importable as hepfm.*, and never hide Python's own modules."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("ingest", "tokenize", "pretrain", "finetune", "benchmarks")


def python(*arguments: str, cwd: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=cwd, capture_output=True, text=True, env={**os.environ, **environment}
    )


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_is_a_link_to_its_folder_without_an_init(stage: str) -> None:
    link = ROOT / "src" / "hepfm" / stage
    assert link.is_symlink()
    assert link.resolve() == ROOT / stage
    assert not list((ROOT / stage).rglob("__init__.py"))


def test_no_module_of_a_stage_is_named_like_a_standard_one() -> None:
    # Running a script from inside a stage folder puts that folder first on the path.
    names = {file.stem for stage in STAGES for file in (ROOT / stage).rglob("*.py")}
    assert not names & sys.stdlib_module_names


def test_no_stage_imports_what_stands_above_the_stages() -> None:
    # import-linter holds the order of the stages; models.py and cli.py are modules, which it cannot take as layers.
    above = re.compile(
        r"^\s*(?:from|import)\s+hepfm\.(?:models|released|cli)\b|^\s*from\s+hepfm\s+import", re.MULTILINE
    )
    files = [file for stage in (*STAGES, "src/hepfm/core") for file in (ROOT / stage).rglob("*.py")]
    assert len(files) > len(STAGES)
    assert [file for file in files if above.search(file.read_text())] == []


def test_pythons_own_tokenize_is_found_from_the_root() -> None:
    done = python("-c", "import tokenize, inspect, linecache; print(tokenize.__file__)")
    assert done.returncode == 0, done.stderr
    assert not done.stdout.startswith(str(ROOT) + "/tokenize")


def test_pytest_and_pip_run_as_modules_from_the_root() -> None:
    assert python("-m", "pytest", "--version").returncode == 0
    assert python("-m", "pip", "--version").returncode == 0


def test_a_traceback_from_the_root_shows_its_source_line() -> None:
    done = python("-c", "import hepfm.core.files as f\nf.read_json(__import__('pathlib').Path('/nonexistent'))")
    assert "Traceback" in done.stderr
    assert "raise HepfmError" in done.stderr


def test_stages_import_from_anywhere(tmp_path: Path) -> None:
    modules = [
        f"hepfm.{file.parent.name}.{file.stem}" for stage in STAGES for file in sorted((ROOT / stage).glob("*.py"))[:1]
    ]
    assert len(modules) == len(STAGES)
    done = python("-c", f"import {', '.join(modules)}", cwd=ROOT)
    assert done.returncode == 0, done.stderr
    found = "import sys, importlib.util as u; print(*(u.find_spec(name).origin for name in sys.argv[1:]), sep='\\n')"
    here, there = (python("-c", found, *modules, cwd=folder) for folder in (ROOT, tmp_path))
    assert here.stdout == there.stdout
    assert len(here.stdout.splitlines()) == len(STAGES)


@pytest.mark.slow
def test_a_normal_install_has_every_module_and_data_file(tmp_path: Path) -> None:
    site = tmp_path / "site"
    done = python("-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(ROOT), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for stage in (*STAGES, "core", "released"):
        folder = ROOT / "src" / "hepfm" / stage
        wanted = {
            str(file.relative_to(folder)) for pattern in ("*.py", "*.j2", "*.yaml") for file in folder.rglob(pattern)
        }
        found = {str(file.relative_to(site / "hepfm" / stage)) for file in (site / "hepfm" / stage).rglob("*")}
        assert wanted <= found
        assert wanted
    show = "import hepfm.ingest.corpus as m; print(m.__file__)"
    done = python("-c", show, cwd=tmp_path, PYTHONPATH=str(site))
    assert done.stdout.startswith(str(site)), done.stderr
