import contextlib
import json
import subprocess
import sys
from pathlib import Path

import jax
import pytest
import written

import optax_llr
from experiments import __main__ as command
from experiments import runner
from experiments.config import config
from experiments.data import cifar
from experiments.policies.catalogue import POLICIES
from experiments.terminal import signals
from experiments.training import trainer

ROOT = Path(__file__).parents[2]


@pytest.fixture
def studied(monkeypatch):
    """What would have been run, instead of running it."""
    seen = []

    def run(config, dataset, command):
        seen.append((config, dataset, command))
        return 0

    monkeypatch.setattr(runner, "load", lambda data, **_: data)
    monkeypatch.setattr(runner, "run", run)
    return seen


def refused(capsys, *arguments):
    """The one line of a refusal, after checking that it is one; or tyro's box."""
    boxed = True
    with contextlib.suppress(SystemExit):
        assert command.main(arguments) == 2
        boxed = False
    captured = capsys.readouterr()
    assert captured.out == ""
    assert boxed or captured.err.count("\n") == captured.err.endswith("\n") == 1
    return " ".join(captured.err.replace("│", " ").split())


def test_study_alone_runs_the_demo(studied):
    assert command.main(["study"]) == 0
    assert studied[0][0] == config.PRESETS["demo"]


def test_fields_change_the_demo_and_presets(studied):
    command.main(["study", "--epochs", "2", "--policies", "uniform", "late-first"])
    command.main(["study", "cifar10-shallow", "--no-flip", "--thresholds", "0.5"])
    demo, shallow = (seen[0] for seen in studied)
    assert (demo.epochs, demo.policies) == (2, ("uniform", "late-first"))
    assert (shallow.data, shallow.flip, shallow.thresholds) == (
        "cifar10",
        False,
        (0.5,),
    )


def test_classes_are_given_by_name_or_number(studied):
    command.main(["study", "--classes", "dog", "3", "--validation", "100"])
    assert studied[0][0].classes == ("dog", 3)


def test_the_command_is_recorded_as_typed(studied):
    command.main(["study", "demo", "--seeds", "3"])
    assert studied[0][2] == [
        *("python", "-m", "experiments", "study", "demo", "--seeds", "3")
    ]


@pytest.fixture
def tuned(monkeypatch):
    """What would have been searched, instead of searching it."""
    from experiments.search import tune

    seen = []

    def run(asked, dataset, command):
        seen.append((asked, dataset, command))
        return 0

    monkeypatch.setattr(runner, "load", lambda data, **_: data)
    monkeypatch.setattr(tune, "run", run)
    return seen


def test_tune_takes_presets_and_fields_of_the_search_and_of_the_study(tuned):
    assert command.main(["tune", "--trials", "5", "--epochs", "2"]) == 0
    assert command.main(["tune", "cifar10-shallow", "--storage", "sqlite:///a.db"]) == 0
    demo, shallow = (seen[0] for seen in tuned)
    assert (demo.trials, demo.config.epochs, demo.storage) == (5, 2, None)
    assert (shallow.config.name, shallow.storage) == (
        "cifar10-shallow",
        "sqlite:///a.db",
    )
    assert tuned[0][1] == "sample"
    assert tuned[0][2][2:] == ["experiments", "tune", "--trials", "5", "--epochs", "2"]


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        (("--trials", "0"), "trials must be at least 1"),
        (("--rate", "-1"), "rate must be"),
        (("--numbers", "uniform.rat", "1"), "did you mean uniform.rate between"),
        (("--stack", "2"), "stack must be 1 in a search"),
    ],
)
def test_a_bad_search_is_refused_in_one_line(capsys, tuned, fields, word):
    assert word in refused(capsys, "tune", *fields)
    assert tuned == []


def test_numbers_are_given_one_after_another(studied):
    command.main(
        ["study", "--numbers", "early-first.rate", "0.1", "uniform.rate", "0.05"]
    )
    assert studied[0][0].numbers == {"early-first.rate": 0.1, "uniform.rate": 0.05}


@pytest.mark.parametrize("name", ["study", "tune"])
def test_a_file_stands_for_a_preset_and_fields_change_it(
    studied, tuned, tmp_path, name
):
    path = tmp_path / "mine.json"
    numbers = {"uniform.rate": 0.1, "early-first.rate": 0.1}
    path.write_text(json.dumps({"model": "vgg5", "seeds": 5, "numbers": numbers}))
    command.main([name, str(path), "--seeds", "3", "--numbers", "uniform.rate", "0.05"])
    ((asked, *_),) = studied or tuned
    read = asked if name == "study" else asked.config
    assert (read.model, read.seeds) == ("vgg5", 3)
    assert read.numbers == {"uniform.rate": 0.05, "early-first.rate": 0.1}


def test_a_file_that_is_no_configuration_is_refused(capsys, studied, tmp_path):
    (tmp_path / "mine.json").write_text('{"modle": "vgg5"}')
    assert "'model'" in refused(capsys, "study", str(tmp_path / "mine.json"))
    assert "none.json" in refused(capsys, "study", str(tmp_path / "none.json"))
    assert studied == []


@pytest.mark.parametrize(
    ("fields", "word"),
    [
        (("--epochs", "0"), "epochs"),
        (("--numbers", "uniform.rate", "9"), "uniform.rate between 0.002 and 0.2"),
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
    said = refused(capsys, "tunes")
    assert "study, tune, find, preview, report, policies or --help; got tunes" in said
    assert "got nothing" in refused(capsys)


@pytest.mark.parametrize("given", [["--policies", "uniform"], ["--policies=uniform"]])
def test_a_preview_is_of_the_policy_that_is_named_first_alone(capsys, given):
    said = refused(capsys, "preview", "early-first", "demo", *given)
    assert "expected one policy, by its name before all else" in said


def test_missing_data_is_refused_with_what_data_says(capsys, monkeypatch):
    def load(data, **_):
        raise cifar.DataError("one\ntwo\nthree")

    monkeypatch.setattr(runner, "load", load)
    assert command.main(["study"]) == 2
    assert capsys.readouterr().err == "one\ntwo\nthree\n"


def test_data_that_the_trainer_refuses_are_refused(capsys, studied, monkeypatch):
    def run(*_):
        raise cifar.DataError("expected 50000 training images")

    monkeypatch.setattr(runner, "run", run)
    assert "50000" in refused(capsys, "study")


def test_a_place_that_cannot_be_written_is_refused_before_compiling(
    capsys, monkeypatch, tmp_path
):
    (tmp_path / "file").touch()
    monkeypatch.setattr(trainer, "Trainer", None)  # making one would fail
    monkeypatch.setattr(runner, "use_compilation_cache", lambda: None)
    line = refused(capsys, "study", "--out", str(tmp_path / "file"))
    assert str(tmp_path / "file") in line


def test_a_report_of_no_study_is_refused(capsys, tmp_path):
    assert "config.json" in refused(capsys, "report", str(tmp_path))


def test_a_report_that_cannot_be_written_is_refused_with_what_to_do(capsys, tmp_path):
    study = written.study(tmp_path / "study", [written.TRAIN, written.END])
    (tmp_path / "file").touch()
    said = refused(capsys, "report", str(study), "--out", str(tmp_path / "file"))
    assert said.endswith("move what is in the way, or give another FOLDER or --out")


def test_a_report_is_written_elsewhere_and_its_study_left_alone(capsys, tmp_path):
    study = written.study(tmp_path / "study", [written.TRAIN, written.END])
    before = sorted(study.rglob("*"))
    assert command.main(["report", str(study), "--out", str(tmp_path / "a" / "b")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'a' / 'b' / 'report.html'}\n"
    assert {path.name for path in (tmp_path / "a" / "b").iterdir()} == {
        *("report.html", "report.md", "tables.csv", "summary.json")
    }
    assert sorted(study.rglob("*")) == before


def test_a_report_of_an_older_study_says_what_it_assumes(capsys, tmp_path):
    config = {k: v for k, v in written.CONFIG.items() if k != "cutout"}
    study = written.study(tmp_path, [written.TRAIN, written.END], config)
    assert command.main(["report", str(study)]) == 0
    assert "is taken as the default: cutout 0\n" in capsys.readouterr().err


def test_report_builds_from_records_alone(capsys, tmp_path):
    written.study(tmp_path, [written.TRAIN, written.END])
    assert command.main(["report", str(tmp_path)]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'report.html'}\n"
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["rows"][0]["answers"]["accuracy"]["mean"] == 0.5


def words(capsys):
    """What was printed, without how it was wrapped; of a table, column by column."""
    return "".join(capsys.readouterr().out.split())


def test_policies_are_a_table_and_one_of_them_says_all(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "1000")
    assert command.main(["policies"]) == 0
    printed = words(capsys)
    for policy in POLICIES.values():
        assert "".join((policy.name + policy.summary).split()) in printed
        assert command.main(["policies", policy.name]) == 0
        told = words(capsys)
        numbers = [f"{n.name} {n.value:g}" for n in policy.numbers(1.0)[1:]]
        texts = (policy.name, policy.summary, policy.expectation, policy.source)
        for text in (*texts, *numbers, f"control {policy.control}"):
            assert "".join(text.split()) in told


def test_a_policy_that_is_none_is_refused_where_it_is_looked_up(capsys):
    assert "did you mean 'uniform'" in refused(capsys, "policies", "unifrom")


@pytest.mark.parametrize("name", ["report", "preview", "policies", "find"])
def test_each_command_explains_itself(capsys, name):
    with pytest.raises(SystemExit, match="0"):
        command.main([name, "--help"])
    assert f"usage: python -m experiments {name}" in capsys.readouterr().out


def test_the_versions_are_said(capsys):
    assert command.main(["--version"]) == 0
    assert f"optax_llr {optax_llr.__version__} jax {jax.__version__}" in (
        capsys.readouterr().out
    )


def test_several_seeds_are_those_themselves(studied):
    command.main(["study", "--seeds", "3", "7", "11"])
    assert studied[0][0].run_seeds == (3, 7, 11)


def test_what_a_policy_is_compared_with_joins_and_that_is_said(studied, capsys):
    command.main(["study", "--policies", "uniform", "freezeout"])
    assert studied[0][0].policies == ("uniform-cosine", "uniform", "freezeout")
    assert "joined, to be compared with: uniform-cosine\n" in capsys.readouterr().out


@pytest.mark.parametrize(("number", "status"), [(2, 130), (15, 143)])
def test_a_signal_while_data_are_read_gives_its_status(monkeypatch, number, status):
    def load(data, **_):
        raise signals.Stop(number)

    monkeypatch.setattr(runner, "load", load)
    assert command.main(["study"]) == status


def test_help_explains_every_field(capsys):
    with pytest.raises(SystemExit, match="0"):
        command.main(["study", "--help"])
    printed = capsys.readouterr().out
    assert all(preset in printed for preset in config.PRESETS)
    for field in config.Config.__dataclass_fields__:  # pyright: ignore
        assert f"{field.replace('_', '-')}" in printed


def test_help_of_tune_explains_the_search_and_the_study(capsys):
    with pytest.raises(SystemExit, match="0"):
        command.main(["tune", "--help"])
    printed = capsys.readouterr().out
    for flag in ("--trials", "--search-seed", "--storage", "--model", "--numbers"):
        assert flag in printed


@pytest.mark.parametrize(
    "arguments", [["--help"], ["study", "--help"], ["tune", "--help"], ["nonsense"]]
)
def test_help_and_refusals_need_no_jax(arguments):
    code = (
        "import sys\nfrom experiments.__main__ import main\n"
        f"try: main({arguments})\nexcept SystemExit: pass\n"
        "sys.exit(bool({'jax', 'altair', 'optuna'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True)
    assert done.returncode == 0
