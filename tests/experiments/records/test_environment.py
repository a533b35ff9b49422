import json
import subprocess
import sys
from pathlib import Path

from experiments.records import environment as module
from experiments.records import records


def test_the_environment_names_versions_device_and_data():
    command = ["python", "-m", "experiments", "study"]
    found = module.environment(command, checksum="abc")
    assert found["command"] == command
    assert found["data_checksum"] == "abc"
    assert found["started"].endswith("+00:00")
    assert found["device"]["count"] >= 1
    assert found["versions"]["python"] == sys.version.split()[0]
    assert set(found["versions"]) == {"python", "optax_llr", *module.PACKAGES}
    assert records.plain(found) == found


def test_the_environment_names_no_folder_of_the_machine():
    text = json.dumps(module.environment(["python"], checksum="abc"))
    assert str(Path(__file__).resolve().parents[3]) not in text
    assert str(Path.home()) + "/" not in text


def git(folder: Path, *arguments: str) -> None:
    author = ["-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", *author, *arguments], cwd=folder, check=True)


def test_commit_and_uncommitted_changes_are_found(tmp_path):
    root = tmp_path.resolve()
    git(root, "init", "-q")
    (root / "file").touch()
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "first")
    clean = module._checkout(root)
    (root / "file").write_text("changed")
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    assert module._checkout(root) == clean | {"dirty": True}


def test_a_folder_inside_another_checkout_has_no_commit(tmp_path):
    git(tmp_path, "init", "-q")
    inner = tmp_path.resolve() / "inner"
    inner.mkdir()
    assert module._checkout(inner) == {"commit": None, "dirty": None}
