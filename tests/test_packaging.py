"""What is released: the package alone, with metadata that the registries take."""

from __future__ import annotations

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if not (ROOT / ".github").is_dir():
    pytest.skip("what is released is made in the repository", allow_module_level=True)

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]


def _yaml(path: str):
    yaml = pytest.importorskip("yaml")
    return yaml.safe_load((ROOT / path).read_text("utf-8"))


def test_entry_for_the_scverse_registry():
    entry = _yaml("docs/scverse/meta.yaml")
    required = {
        "name", "description", "project_home", "documentation_home", "license", "tags", "primary_category", "language",
        "category", "install",
    }  # fmt: skip
    assert required <= entry.keys() <= required | {"tutorials_home", "publications", "test_command"}
    assert entry["name"] == entry["install"]["pypi"] == PROJECT["name"]
    assert entry["license"] == PROJECT["license"]
    assert entry["project_home"] == PROJECT["urls"]["Source"]
    assert entry["documentation_home"] == PROJECT["urls"]["Documentation"]
    assert 1 <= len(entry["tags"]) <= 10
    assert len(re.findall(r"[.!?](?:\s|$)", entry["description"])) in {1, 2}
    assert all(re.fullmatch(r"10\.\d{4,9}/\S+", doi) for doi in entry["publications"])


def test_workflow_runs_every_declared_python():
    declared = {c.rsplit(" ", 1)[1] for c in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", c)}
    included = _yaml(".github/workflows/test.yml")["jobs"]["tests"]["strategy"]["matrix"]["include"]
    assert {row["python"] for row in included} == declared


def test_citation_names_the_version():
    assert _yaml("docs/CITATION.cff")["version"] == PROJECT["version"]


@pytest.mark.slow
def test_wheel_and_sdist_hold_the_package_alone(tmp_path):
    def run(*arguments: str) -> None:
        done = subprocess.run([sys.executable, "-m", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    run("build", "--no-isolation", "--outdir", str(tmp_path))
    (wheel,), (sdist,) = tmp_path.glob("*.whl"), tmp_path.glob("*.tar.gz")
    run("twine", "check", "--strict", str(wheel), str(sdist))
    files = zipfile.ZipFile(wheel).namelist()
    assert {name.split("/")[0] for name in files if ".dist-info/" not in name} == {"sctag_tools"}
    assert "sctag_tools/py.typed" in files
    with tarfile.open(sdist) as archive:
        top = {name.split("/")[1] for name in archive.getnames()}
    assert top == {
        ".gitignore", "CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "pyproject.toml", "sctag_tools", "tests",
    }  # fmt: skip
