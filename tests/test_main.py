import json
import subprocess
import sys
from pathlib import Path

import pytest
import written

from experiments import __main__ as command
from experiments import cifar, config, data, records, report, shell, study, train
from experiments.policies import POLICIES

ROOT = Path(__file__).parent.parent


@pytest.fixture
def studied(monkeypatch):
    """What would have been run, instead of running it."""
    seen = []

    def run(config, dataset, command):
        seen.append((config, dataset, command))
        return 0

    monkeypatch.setattr(data, "load", lambda source, **_: source)
    monkeypatch.setattr(study, "run", run)
    return seen


def refused(capsys, *arguments):
    """The one line of a refusal, after checking that it is one."""
    assert command.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.endswith("\n")
    assert captured.err.count("\n") == 1
    return captured.err


def test_study_alone_runs_the_demo(studied):
    assert command.main(["study"]) == 0
    assert studied[0][0] == config.PRESETS["demo"]


def test_fields_change_the_demo_and_presets(studied):
    command.main(["study", "--epochs", "2", "--policies", "uniform", "late-first"])
    command.main(["study", "cifar10-shallow", "--no-flip", "--marks", "0.5"])
    demo, shallow = (seen[0] for seen in studied)
    assert (demo.epochs, demo.policies) == (2, ("uniform", "late-first"))
    assert (shallow.source, shallow.flip, shallow.marks) == ("cifar10", False, (0.5,))


def test_the_command_is_recorded_as_typed(studied):
    command.main(["study", "demo", "--seeds", "3"])
    assert studied[0][2] == [
        *("python", "-m", "experiments", "study", "demo", "--seeds", "3")
    ]


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        (("--epochs", "0"), "epochs"),
        (("--policies", "unifrom"), "uniform"),
        (("--batch-size", "100000"), "batch_size"),
        (("--rate", "-1"), "rate"),
        (("--seeds", "0"), "seeds"),
    ],
)
def test_a_bad_configuration_is_refused_in_one_line(capsys, studied, fields, word):
    assert word in refused(capsys, "study", *fields)
    assert studied == []


def test_an_unknown_preset_is_refused_with_the_known_ones(capsys, studied):
    line = refused(capsys, "study", "cifar10")
    assert "'cifar10'" in line
    assert all(preset in line for preset in config.PRESETS)


def test_an_unknown_command_is_refused_with_the_known_ones(capsys):
    assert "study, report FOLDER or policies; got tune" in refused(capsys, "tune")
    assert "got nothing" in refused(capsys)


def test_missing_data_is_refused_with_what_data_says(capsys, monkeypatch):
    def load(source, **_):
        raise cifar.DataError("one\ntwo\nthree")

    monkeypatch.setattr(data, "load", load)
    assert command.main(["study"]) == 2
    assert capsys.readouterr().err == "one\ntwo\nthree\n"


def test_data_that_the_trainer_refuses_are_refused(capsys, studied, monkeypatch):
    def run(*_):
        raise cifar.DataError("expected 50000 training images")

    monkeypatch.setattr(study, "run", run)
    assert "50000" in refused(capsys, "study")


def test_a_place_that_cannot_be_written_is_refused_before_compiling(
    capsys, monkeypatch, tmp_path
):
    (tmp_path / "file").touch()
    monkeypatch.setattr(train, "Trainer", None)  # making one would fail
    monkeypatch.setattr(train, "use_compilation_cache", lambda: None)
    line = refused(capsys, "study", "--out", str(tmp_path / "file"))
    assert str(tmp_path / "file") in line


def test_a_report_of_no_study_is_refused(capsys, tmp_path):
    assert "config.json" in refused(capsys, "report", str(tmp_path))


def test_a_report_that_cannot_be_written_is_refused(capsys, monkeypatch, tmp_path):
    def build(recorded):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    monkeypatch.setattr(records, "read", lambda folder: None)
    monkeypatch.setattr(report, "build", build)
    assert "Permission denied" in refused(capsys, "report", str(tmp_path))


def test_report_builds_from_records_alone(capsys, tmp_path):
    written.study(tmp_path, [written.TRAIN, written.END])
    assert command.main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'report.html'}\n"
    assert (tmp_path / "plots" / "uniform.png").exists()
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["rows"][0]["answers"]["accuracy"]["mean"] == 0.5


def test_policies_are_listed_with_source_and_expectation(capsys):
    assert command.main(["policies"]) == 0
    printed = capsys.readouterr().out
    for policy in POLICIES.values():
        for words in (policy.name, policy.summary, policy.expectation, policy.source):
            assert words in printed


@pytest.mark.parametrize(("number", "status"), [(2, 130), (15, 143)])
def test_a_signal_while_data_are_read_gives_its_status(monkeypatch, number, status):
    def load(source, **_):
        raise shell.Stop(number)

    monkeypatch.setattr(data, "load", load)
    assert command.main(["study"]) == status


def test_help_explains_every_field(capsys):
    with pytest.raises(SystemExit, match="0"):
        command.main(["study", "--help"])
    printed = capsys.readouterr().out
    assert all(preset in printed for preset in config.PRESETS)
    for field in config.Config.__dataclass_fields__:
        assert f"{field.replace('_', '-')}" in printed


@pytest.mark.parametrize("arguments", [["--help"], ["study", "--help"], ["nonsense"]])
def test_help_and_refusals_need_no_jax(arguments):
    code = (
        "import sys\nfrom experiments.__main__ import main\n"
        f"try: main({arguments})\nexcept SystemExit: pass\n"
        "sys.exit('jax' in sys.modules or 'matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)
    assert done.returncode == 0
