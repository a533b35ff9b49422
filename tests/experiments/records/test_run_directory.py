import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from written import CONFIG, SESSION

from experiments.records import run_directory

ROOT = Path(__file__).parents[3]
ASKED = CONFIG | {"rate": 0.1, "out": "runs", "checkpoint_seconds": 60.0}


@pytest.fixture
def begun(tmp_path):
    run_directory.begin(tmp_path / "demo", ASKED)
    return tmp_path / "demo"


def test_the_folder_is_made_and_left_only_where_something_is_in_it(tmp_path):
    with run_directory.claimed(tmp_path / "demo"):
        assert (tmp_path / "demo").exists()
    assert list(tmp_path.iterdir()) == []
    with run_directory.claimed(tmp_path / "a" / "demo"):
        (tmp_path / "a" / "demo" / "config.json").touch()
    assert (tmp_path / "a" / "demo" / "config.json").exists()


def test_a_second_claim_is_refused_with_the_process_of_the_first(tmp_path):
    message = f"is in use by process {os.getpid()}: wait for its end"
    with run_directory.claimed(tmp_path / "demo"):
        for _ in range(2):
            with (
                pytest.raises(ValueError, match=message),
                run_directory.claimed(tmp_path / "demo"),
            ):
                pass
    with run_directory.claimed(tmp_path / "demo"):
        pass


def test_the_claim_of_a_process_that_was_killed_is_void(tmp_path):
    code = (
        "import os, sys, pathlib\nfrom experiments.records import run_directory\n"
        "with run_directory.claimed(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "demo")]
    assert subprocess.run(command, cwd=ROOT).returncode == -9
    with run_directory.claimed(tmp_path / "demo"):
        pass


def test_what_is_asked_for_is_written_once(begun):
    before = (begun / "config.json").read_bytes()
    assert json.loads(before) == ASKED
    run_directory.begin(begun, ASKED | {"out": "elsewhere", "checkpoint_seconds": 1.0})
    assert (begun / "config.json").read_bytes() == before


def test_another_configuration_is_refused_with_the_fields_that_differ(begun):
    other = ASKED | {"rate": 0.2, "seeds": 3, "new": 8}
    message = (
        r"demo' was begun with another configuration: seeds is 3, was \[0\]; rate is "
        r"0\.2, was 0\.1; new is 8, was null\. Give the same to go on"
    )
    with pytest.raises(ValueError, match=message):
        run_directory.check_begun(begun, other)


def test_a_file_that_has_changed_is_named_and_no_other(begun):
    path, files = begun / "config.json", {"net.py": "aa", "rates.py": "bb"}
    path.write_text(json.dumps(ASKED | {"files": files}))
    now = {"net.py": "aa", "rates.py": "cc", "data.py": "dd"}
    with pytest.raises(
        ValueError, match=r"files: rates\.py has changed, data\.py is new"
    ):
        run_directory.check_begun(begun, ASKED | {"files": now})
    with pytest.raises(ValueError, match=r"files: rates\.py is left out \("):
        run_directory.check_begun(begun, ASKED | {"files": {"net.py": "aa"}})


def test_other_weights_to_start_from_are_named_and_are_in_no_folder_of_files(begun):
    path, before = begun / "config.json", {"init_from": "aa", "net.py": "bb"}
    path.write_text(json.dumps(ASKED | {"files": before}))
    with pytest.raises(ValueError, match=r"files: init_from has changed\. Give the"):
        run_directory.check_begun(begun, ASKED | {"files": before | {"init_from": "c"}})


def test_a_field_that_an_older_version_did_not_know_was_its_default(begun):
    path, older = begun / "config.json", dict(ASKED)
    del older["cutout"]
    path.write_text(json.dumps(older))
    (said,) = run_directory.check_begun(begun, ASKED)
    assert said.startswith(f"{str(path)!r} is of an older version")
    with pytest.raises(ValueError, match=r"cutout is 8, was 0; .* older version"):
        run_directory.check_begun(begun, ASKED | {"cutout": 8})


def test_other_policies_are_another_configuration_but_other_words_are_not(begun):
    about = CONFIG["policies"]["uniform"]
    run_directory.begin(
        begun, ASKED | {"policies": {"uniform": about | {"summary": "in other words"}}}
    )
    with pytest.raises(ValueError, match=r'policies is \["uniform", "x"\], was'):
        run_directory.begin(begun, ASKED | {"policies": {"uniform": about, "x": about}})


def test_other_layers_are_another_configuration(begun):
    layers = CONFIG["layers"] | {"names": ["head", "conv1"]}
    with pytest.raises(ValueError, match="layers is"):
        run_directory.begin(begun, ASKED | {"layers": layers})


def test_a_folder_that_holds_something_else_is_refused_and_left_alone(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match=r"holds something else.* another --name"):
        run_directory.begin(tmp_path, ASKED)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_a_folder_left_at_the_very_beginning_may_be_used(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / "config.json.part").touch()
    run_directory.begin(tmp_path, ASKED)
    assert (tmp_path / "config.json").exists()


def test_every_process_is_written_down_and_what_changed_is_said(begun):
    now = SESSION | {"commit": "abc", "versions": {"jax": "9"}, "started": "later"}
    assert run_directory.add_session(begun, SESSION) == []
    assert run_directory.add_session(begun, now) == [
        'begun with commit null, now "abc"',
        'begun with versions {}, now {"jax": "9"}',
    ]
    sessions = json.loads((begun / "env.json").read_text())["sessions"]
    assert sessions == [SESSION, now]


def test_other_data_under_the_same_name_are_refused(begun):
    run_directory.add_session(begun, SESSION)
    with pytest.raises(ValueError, match="was begun with other data"):
        run_directory.add_session(begun, SESSION | {"data_checksum": "beef"})
    assert len(json.loads((begun / "env.json").read_text())["sessions"]) == 1


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("file", "file': File exists; move what is in the way, or give another --out"),
        ("file/demo", "demo': Not a directory; move what is in the way"),
        ("x" * 300, "x': File name too long; give a shorter --out or --name"),
    ],
)
def test_a_place_where_no_folder_can_be_is_refused_with_what_to_do(
    tmp_path, place, said
):
    (tmp_path / "file").touch()
    with (
        pytest.raises(OSError, match=re.escape(said)),
        run_directory.claimed(tmp_path / place),
    ):
        pass


def test_an_error_while_a_study_is_at_work_says_what_to_do(tmp_path):
    with (
        pytest.raises(OSError, match=r"demo': No space left on device; make room"),
        run_directory.claimed(tmp_path / "demo"),
    ):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []
