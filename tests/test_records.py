import json
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from experiments import records

TRAIN = {
    "kind": "train",
    "policy": "uniform",
    "seed": 0,
    "step": 8,
    "images": 256,
    "seconds": 0.5,
    "loss": 2.3,
    "accuracy": 0.1,
    "rate": 0.02,
    "multipliers": [1.0, 1.0],
}
CONFIG = {
    "name": "demo",
    "model": "cnn-shallow",
    "source": "sample",
    "seeds": 1,
    "marks": [0.3],
    "layers": {"names": ["conv1", "head"], "level": [0, 1], "members": {}},
    "policies": {"uniform": {"summary": "s", "expectation": "e", "source": "o"}},
    "total_steps": 8,
}
ENVIRONMENT = {
    "started": "2026-01-01T00:00:00+00:00",
    "command": ["python"],
    "commit": None,
    "dirty": None,
    "versions": {},
}
END = {
    **{key: TRAIN[key] for key in ("policy", "seed", "step", "images", "seconds")},
    "kind": "end",
    "status": "finished",
    "test_loss": 1.5,
    "test_accuracy": 0.5,
}


def written(folder: Path, lines: str = "") -> Path:
    records.write_json(folder / "config.json", CONFIG)
    records.write_json(folder / "env.json", ENVIRONMENT)
    (folder / "metrics.jsonl").write_text(lines)
    return folder


def test_what_is_written_is_read(tmp_path):
    written(tmp_path)
    with records.Log(tmp_path) as log:
        log.write(TRAIN)
        log.write(TRAIN | {"step": 16})
    read = records.read(tmp_path)
    assert read.config == CONFIG
    assert read.events == (TRAIN, TRAIN | {"step": 16})


def test_an_event_reaches_the_file_before_the_log_is_closed(tmp_path):
    with records.Log(tmp_path) as log:
        log.write(TRAIN)
        assert json.loads((tmp_path / "metrics.jsonl").read_text()) == TRAIN


def test_numbers_that_are_not_finite_become_null(tmp_path):
    with records.Log(tmp_path) as log:
        log.write(TRAIN | {"loss": float("nan"), "multipliers": [float("inf"), 1.0]})
    line = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert line["loss"] is None
    assert line["multipliers"] == [None, 1.0]


def test_arrays_paths_and_numpy_numbers_become_json():
    value = {
        "array": jnp.array([1.0, jnp.nan]),
        "number": np.float32(0.5),
        "flag": np.bool_(True),
        "path": Path("a") / "b",
        1: (2, 3),
    }
    expected = {
        "array": [1.0, None],
        "number": 0.5,
        "flag": True,
        "path": "a/b",
        "1": [2, 3],
    }
    assert records.plain(value) == expected


def test_what_json_cannot_hold_is_refused_by_type():
    with pytest.raises(TypeError, match="cannot hold <object"):
        records.plain({"x": object()})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "trian"}, "expected a kind of .*'train'.* got 'trian'"),
        (END | {"status": "done"}, "expected a status of .* got 'done'"),
    ],
)
def test_an_unknown_kind_or_status_is_refused(tmp_path, change, message):
    with records.Log(tmp_path) as log, pytest.raises(ValueError, match=message):
        log.write(TRAIN | change)
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_an_event_without_its_step_is_refused(tmp_path):
    event = {key: value for key, value in TRAIN.items() if key != "step"}
    with records.Log(tmp_path) as log, pytest.raises(ValueError, match="'step'"):
        log.write(event)


def test_a_folder_that_is_not_empty_is_refused_and_left_alone(tmp_path):
    kept = tmp_path / "notes.txt"
    kept.write_text("mine")
    with pytest.raises(ValueError, match="not empty"):
        records.create(tmp_path)
    assert kept.read_text() == "mine"


def test_a_file_in_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="name another folder"):
        records.create(tmp_path / "file")


def test_an_empty_folder_may_be_used(tmp_path):
    assert records.create(tmp_path) == tmp_path
    assert records.create(tmp_path / "a" / "b").is_dir()


def test_folders_of_one_second_differ(tmp_path):
    folders = {records.create(records.new_folder(tmp_path, "x")) for _ in range(4)}
    assert len(folders) == 4


def test_whole_files_are_replaced_and_no_draft_is_left(tmp_path):
    records.write_json(tmp_path / "a.json", {"n": 1})
    records.write_json(tmp_path / "a.json", {"n": 2})
    assert json.loads((tmp_path / "a.json").read_text()) == {"n": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_write_leaves_the_old_file(tmp_path):
    records.write_json(tmp_path / "a.json", {"n": 1})
    with pytest.raises(TypeError):
        records.write_json(tmp_path / "a.json", {"n": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"n": 1}


def test_a_line_cut_off_by_a_crash_is_left_out(tmp_path):
    written(tmp_path, json.dumps(TRAIN) + "\n" + json.dumps(TRAIN)[:30])
    assert records.read(tmp_path).events == (TRAIN,)


def test_a_damaged_line_is_named(tmp_path):
    written(tmp_path, json.dumps(TRAIN) + "\nnonsense\n" + json.dumps(TRAIN) + "\n")
    with pytest.raises(ValueError, match=r"line 2 of .*metrics\.jsonl"):
        records.read(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("3", "expected dict, got 3"),
        ('{"kind": NaN}', "is not JSON: it has no NaN"),
        (b'{"kind": "\xff"}', "is not JSON: .*utf-8"),
        (TRAIN | {"step": "8"}, "'step': expected int, got '8'"),
        (TRAIN | {"kind": ["train"]}, r"'kind': expected str, got \['train'\]"),
        (TRAIN | {"loss": "low"}, "'loss': expected .*, got 'low'"),
        (TRAIN | {"multipliers": [1.0]}, "expected 2 multipliers, .*; got 1"),
        (TRAIN | {"multipliers": [1.0, "x"]}, "'multipliers': expected .*, got 'x'"),
        (TRAIN | {"policy": "other"}, "expected a policy .*'uniform'.*; got 'other'"),
        (END | {"kind": "validation"}, "lacks .*'loss', 'accuracy'"),
        ({**END, "test_accuracy": {}}, "'test_accuracy': expected .*, got {}"),
    ],
)
def test_a_line_that_is_no_event_of_the_study_is_refused(tmp_path, line, message):
    written(tmp_path)
    if isinstance(line, dict):
        line = json.dumps(line)
    line = line if isinstance(line, bytes) else line.encode()
    (tmp_path / "metrics.jsonl").write_bytes(line + b"\n")
    with pytest.raises(ValueError, match=rf"line 1 of .*metrics\.jsonl'.*{message}"):
        records.read(tmp_path)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", {"seeds": "two"}, "'seeds': expected int, got 'two'"),
        ("config.json", {"marks": [None]}, "'marks': expected .*, got None"),
        ("config.json", {"policies": ["uniform"]}, "'policies': expected dict"),
        ("config.json", {"policies": {"uniform": {}}}, "'uniform' lacks"),
        ("config.json", {"layers": {}}, r"'layers' lacks \['names'\]"),
        ("env.json", {"command": "python"}, "'command': expected list"),
        ("env.json", {"versions": None}, "'versions': expected dict"),
    ],
)
def test_a_file_of_another_shape_is_refused(tmp_path, file, change, message):
    written(tmp_path)
    whole = json.loads((tmp_path / file).read_text())
    records.write_json(tmp_path / file, whole | change)
    with pytest.raises(ValueError, match=f"{file}'.*{message}"):
        records.read(tmp_path)


@pytest.mark.parametrize("content", [b"\xff", b"[]", b"null", b"", b"NaN"])
def test_a_damaged_file_is_named(tmp_path, content):
    written(tmp_path)
    (tmp_path / "env.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"env\.json'.*(expected dict|is not JSON)"):
        records.read(tmp_path)


@pytest.mark.parametrize("name", ["../../x", "a/b", "", ".hidden", "a" * 101])
def test_a_policy_that_would_be_written_elsewhere_is_refused(tmp_path, name):
    written(tmp_path)
    policies = {name: CONFIG["policies"]["uniform"]}
    records.write_json(tmp_path / "config.json", CONFIG | {"policies": policies})
    with pytest.raises(ValueError, match=r"config\.json'.* cannot name a policy"):
        records.read(tmp_path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"config\.json' does not exist"):
        records.read(tmp_path)


def test_a_file_in_place_of_the_run_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match="expected the folder of a study"):
        records.read(tmp_path / "file")


def test_a_configuration_without_marks_is_refused(tmp_path):
    written(tmp_path)
    short = {key: value for key, value in CONFIG.items() if key != "marks"}
    records.write_json(tmp_path / "config.json", short)
    with pytest.raises(ValueError, match=r"config.json' lacks \['marks'\]"):
        records.read(tmp_path)


def test_the_environment_names_versions_device_and_data():
    command = ["python", "-m", "experiments", "study"]
    found = records.environment(command, checksum="abc")
    assert found["command"] == command
    assert found["data_checksum"] == "abc"
    assert found["started"].endswith("+00:00")
    assert found["device"]["count"] >= 1
    assert found["versions"]["python"] == sys.version.split()[0]
    assert set(found["versions"]) == {"python", "optax_llr", *records.PACKAGES}
    assert records.plain(found) == found


def test_the_environment_names_no_folder_of_the_machine():
    text = json.dumps(records.environment(["python"], checksum="abc"))
    assert str(Path(__file__).resolve().parent.parent) not in text
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
    clean = records._checkout(root)
    (root / "file").write_text("changed")
    assert len(clean["commit"]) == 40
    assert clean["dirty"] is False
    assert records._checkout(root) == clean | {"dirty": True}


def test_a_folder_inside_another_checkout_has_no_commit(tmp_path):
    git(tmp_path, "init", "-q")
    inner = tmp_path.resolve() / "inner"
    inner.mkdir()
    assert records._checkout(inner) == {"commit": None, "dirty": None}
