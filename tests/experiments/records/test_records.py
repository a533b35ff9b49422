import json
from pathlib import Path

import jax.numpy as jnp
import jsonschema
import numpy as np
import pytest
import written
from written import CONFIG, END, SESSION, TRAIN

from experiments.records import records
from experiments.report import report


@pytest.fixture
def folder(tmp_path):
    return written.study(tmp_path / "study", [TRAIN, END])


def metrics(folder):
    return folder / "uniform-0" / "metrics.jsonl"


def change_json(path, change):
    records.write_json(path, json.loads(path.read_text()) | change)


def test_what_is_written_is_read(folder):
    read = records.read(folder)
    assert (read.folder, read.config) == (folder, CONFIG)
    assert (read.sessions, read.environment) == ((SESSION,), SESSION)
    assert read.events == (TRAIN, END)
    assert (read.assumed, read.lost) == ((), ())


def test_events_come_run_by_run_seed_by_seed(tmp_path):
    policies = dict.fromkeys(("b", "a"), CONFIG["policies"]["uniform"])
    runs = [("b", 0), ("a", 0), ("b", 1), ("a", 1)]
    folder = written.study(
        tmp_path,
        [END | {"policy": policy, "seed": seed} for policy, seed in reversed(runs)],
        CONFIG | {"policies": policies, "seeds": 2},
    )
    events = records.read(folder).events
    assert [(event["policy"], event["seed"]) for event in events] == runs


def test_a_study_that_has_just_begun_has_no_events(tmp_path):
    assert records.read(written.study(tmp_path, [])).events == ()


def test_the_schema_is_a_schema():
    schema = json.loads(records.SCHEMA.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)


def test_arrays_paths_and_numpy_numbers_become_json():
    array, flag = jnp.array([1.0, jnp.nan]), np.bool_(True)
    value = {"a": array, "n": np.float32(0.5), "f": flag, "p": Path("a") / "b", 1: (2,)}
    expected = {"a": [1.0, None], "n": 0.5, "f": True, "p": "a/b", "1": [2]}
    assert records.plain(value) == expected


def test_whole_files_are_replaced_or_left(tmp_path):
    for number in (1, 2):
        records.write_json(tmp_path / "a.json", {"n": number})
    with pytest.raises(TypeError, match="cannot hold <object"):
        records.write_json(tmp_path / "a.json", {"n": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"n": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_line_cut_off_by_a_crash_is_left_out(folder):
    metrics(folder).write_bytes(metrics(folder).read_bytes()[:-10])
    assert records.read(folder).events == (TRAIN,)


def test_a_line_written_without_its_partner_is_left_out(folder):
    timings = metrics(folder).with_name("timings.jsonl")
    written.write(timings, [written.timing(TRAIN), written.timing(END)] * 2)
    assert records.read(folder).events == (TRAIN, END)


EVENTS = [TRAIN | {"step": step, "seconds": step / 4} for step in (1, 2, 3, 4)]


@pytest.fixture
def run(tmp_path):
    """The folder of a run of five events."""
    written.study(tmp_path / "study", [*EVENTS, END | {"step": 5, "seconds": 1.25}])
    return tmp_path / "study" / "uniform-0"


def damage(path, *numbers):
    """Flips a bit in these lines of a file."""
    lines = path.read_bytes().splitlines(keepends=True)
    for number in numbers:
        lines[number - 1] = lines[number - 1].replace(b"e", b"d", 1)
    path.write_bytes(b"".join(lines))


def test_lost_events_are_said_and_the_others_read(run):
    damage(run / "metrics.jsonl", 2, 3)
    read = records.read(run.parent)
    assert read.lost == ("uniform-0/metrics.jsonl has lost lines 2–3",)
    assert [event["step"] for event in read.events] == [1, 4, 5]
    assert records.has_ended(run)
    (run / "metrics.jsonl").unlink()
    read = records.read(run.parent)
    assert read.lost == ("uniform-0/metrics.jsonl has lost lines 1–4",)
    assert read.events == ()


def test_lost_times_are_said_and_interpolated_where_any_is_left(run):
    damage(run / "timings.jsonl", 2, 5)
    read = records.read(run.parent)
    (said,) = read.lost
    assert said.startswith("uniform-0/timings.jsonl has lost the times of 2 events")
    assert [event["seconds"] for event in read.events] == [0.25, 0.5, 0.75, 1.0, 1.0]
    (run / "timings.jsonl").unlink()
    assert np.isnan([e["seconds"] for e in records.read(run.parent).events]).all()


@pytest.mark.parametrize("name", ["metrics", "timings"])
def test_a_report_is_made_of_what_is_left_and_says_what_is_not(run, name):
    damage(run / f"{name}.jsonl", *(range(1, 6) if name == "timings" else (1, 3)))
    page = report.build(records.read(run.parent)).read_text()
    assert f"uniform-0/{name}.jsonl has lost" in page


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (TRAIN | {"step": "8"}, "'step': '8' is not of type 'integer'"),
        (TRAIN | {"step": True}, "'step': True is not of type 'integer'"),
        (TRAIN | {"kind": ["train"]}, "'kind': .* is not one of"),
        (TRAIN | {"kind": "trian"}, "'kind': 'trian' is not one of"),
        (TRAIN | {"loss": "low"}, "'loss': 'low' is not of type 'number', 'null'"),
        (TRAIN | {"multipliers": [1.0]}, "multipliers: expected 2 numbers, .*; got 1"),
        (TRAIN | {"multipliers": [1.0, "x"]}, "'multipliers', 1: 'x' is not of type"),
        (TRAIN | {"policy": "other"}, "expected uniform, seed 0; got"),
        (END | {"kind": "validation"}, "'loss' is a required property"),
        (END | {"status": "done"}, "'status': 'done' is not one of"),
        (END | {"test_accuracy": {}}, "'test_accuracy': {} is not of type"),
        ({}, "'kind' is a required property"),
    ],
)
def test_a_line_that_is_no_event_of_the_run_is_refused(folder, line, message):
    written.write(metrics(folder), [written.without_seconds(line)])
    with pytest.raises(ValueError, match=rf"metrics\.jsonl', line 1.*{message}"):
        records.read(folder)


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("config.json", {"seeds": "two"}, "'seeds': 'two' is not valid under any"),
        ("config.json", {"thresholds": [None]}, "'thresholds', 0: None is not of type"),
        ("config.json", {"policies": ["uniform"]}, "'policies': .* type 'object'"),
        ("config.json", {"policies": {"uniform": {}}}, "'uniform': 'summary' is a req"),
        ("config.json", {"layers": {}}, "'layers': 'names' is a required property"),
        ("env.json", {"sessions": [{}]}, "'sessions', 0: 'started' is a required"),
        ("env.json", {"sessions": None}, "'sessions': None is not of type 'array'"),
        ("env.json", {"sessions": []}, r"'sessions': \[\] "),
    ],
)
def test_a_file_of_another_shape_is_refused(folder, file, change, message):
    change_json(folder / file, change)
    with pytest.raises(ValueError, match=f"{file}'.*{message}"):
        records.read(folder)


CONTENTS = [b"\xff", b"[]", b"null", b"", b"NaN", b"[" * 10**5]
CONTENTS += [b'{"sessions": ' + b"[" * 600 + b"]" * 600 + b"}"]


@pytest.mark.parametrize("content", CONTENTS, ids=range(len(CONTENTS)))
def test_a_damaged_file_is_named(folder, content):
    (folder / "env.json").write_bytes(content)
    message = r"env\.json'.*(is not of type 'object'|is not JSON)"
    with pytest.raises(ValueError, match=message):
        records.read(folder)


@pytest.mark.parametrize("name", ["../../x", "a/b", "", ".hidden", "a" * 101])
def test_a_policy_that_would_be_written_elsewhere_is_refused(folder, name):
    policies = {name: CONFIG["policies"]["uniform"]}
    change_json(folder / "config.json", {"policies": policies})
    with pytest.raises(ValueError, match=r"config\.json'.* does not match"):
        records.read(folder)


def test_a_missing_file_is_named(tmp_path):
    (tmp_path / "file").touch()
    for folder in (tmp_path, tmp_path / "file"):
        with pytest.raises(ValueError, match=r"config\.json' does not exist: expected"):
            records.read(folder)


def test_a_run_has_ended_when_its_last_line_says_so(folder):
    run = folder / "uniform-0"
    assert records.has_ended(run)
    assert not records.has_ended(folder / "uniform-1")
    content = metrics(folder).read_bytes()
    metrics(folder).write_bytes(content[:-1])
    assert not records.has_ended(run)


def test_a_field_that_an_older_version_did_not_know_is_its_default_and_said(folder):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    del config["cutout"]
    records.write_json(path, config)
    read = records.read(folder)
    assert read.config["cutout"] == CONFIG["cutout"] == 0
    assert read.assumed == (
        f"{str(path)!r} is of an older version; what it does not say is taken as the "
        "default: cutout 0",
    )


def test_a_field_that_an_older_version_called_otherwise_is_read(folder, monkeypatch):
    monkeypatch.setitem(records.RENAMED, "blanked", "cutout")
    path = folder / "config.json"
    path.write_text(path.read_text().replace("cutout", "blanked"))
    read = records.read(folder)
    assert read.config == CONFIG
    assert read.assumed == ()
