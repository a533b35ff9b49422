"""A model, data, policies, an optimizer and a logger of one's own, as the page says."""

import dataclasses
import json
import re
import shlex
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

import experiments
from experiments import Config, Policy
from experiments import __main__ as command
from experiments.config import own
from experiments.data import dataset
from experiments.policies.chosen import configured
from experiments.policies.computed import moments, updates
from experiments.records import run_directory
from experiments.training.compiling import policy_tables

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "experiments" / "README.md").read_text(encoding="utf-8")
SECTION = PAGE.split("## Your own model")[1].split("\n## ")[0]
MY_FILE, FROM_PYTHON = re.findall(r"```python\n(.*?)```", SECTION, re.DOTALL)
(COMMANDS,) = re.findall(r"```sh\n(.*?)```", SECTION, re.DOTALL)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the page's my_file.py and images of 64 × 64."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_file", raising=False)
    own.module.cache_clear()
    own.arrays.cache_clear()
    (tmp_path / "my_file.py").write_text(MY_FILE, encoding="utf-8")
    random = np.random.default_rng(0)
    arrays = {
        f"{part}_{kind}": values
        for part, count in (("train", 300), ("test", 60))
        for kind, values in (
            ("images", random.integers(0, 256, (count, 64, 64, 3), np.uint8)),
            ("labels", np.arange(count) % 3),
        )
    }
    np.savez(tmp_path / "images.npz", **arrays)
    return tmp_path


def study(*fields, **changes):
    return command.main(["study", *fields, *(f"--{k}={v}" for k, v in changes.items())])


@pytest.mark.slow
def test_the_page_s_commands_and_its_python_do_what_they_say(here, capsys):
    lines = COMMANDS.replace("\\\n", "").splitlines()
    mine, lion = (shlex.split(line)[3:] for line in lines)
    assert command.main([*mine, "--epochs", "2", "--evaluations", "1"]) == 0
    config = json.loads((here / "runs/mine/config.json").read_text())
    assert config["model"] == "my_file.py:Net"
    assert config["data"] == "my_file.py:load"
    assert config["seeds"] == [3, 7, 11]
    assert config["policies"]["middle_first"]["summary"] == (
        "The layers in the middle first, the others later."
    )
    assert config["layers"]["names"] == ["stem", "body", "head"]
    assert (here / "runs/mine/files/my_file.py").read_text("utf-8") == MY_FILE
    for name in ("uniform-3", "middle_first-11"):
        assert (here / "runs/mine" / name / "metrics.jsonl").exists()
    short = ("--epochs", "1", "--evaluations", "1", "--seeds", "1")
    assert command.main([*lion, *short, "--policies", "uniform"]) == 0
    events = (here / "runs/lion/uniform-0/events.txt").read_text().splitlines()
    assert events[-1] == "end 50 None"
    names = {}
    exec(FROM_PYTHON.replace("epochs=2", "epochs=1, seeds=1"), names)
    assert names["folder"] == Path("runs/python")
    assert (here / "runs/python/mine-0/metrics.jsonl").exists()
    assert (here / "runs/python/report.html").exists()


@pytest.mark.slow
def test_a_changed_file_is_refused_as_a_changed_configuration_is(here, capsys):
    fields = ("--policies", "uniform", "my_file.py:middle_first", "--name", "mine")
    short = {"epochs": 1, "seeds": 1, "evaluations": 1}
    assert study(*fields, **short) == 0
    path = here / "my_file.py"
    path.write_text(MY_FILE.replace("1.5 -", "1.6 -"), encoding="utf-8")
    own.module.cache_clear()
    capsys.readouterr()
    assert study(*fields, **short) == 2
    said = capsys.readouterr().err
    assert "was begun with another configuration" in said
    assert "my_file.py" in said
    path.write_text(MY_FILE, encoding="utf-8")
    elsewhere = here / "elsewhere"
    elsewhere.mkdir()
    path.rename(elsewhere / "my_file.py")  # where a file lies does not count
    fields = [field.replace("my_file.py:", "elsewhere/my_file.py:") for field in fields]
    assert study(*fields, **short) == 0


def test_data_of_one_s_own_of_any_size_are_divided_and_normalised(here):
    config = Config(data="my_file.py:load", validation=90, batch_size=10)
    assert config.sizes == (300, 3, (64, 64, 3))
    loaded = dataset.load(config.data, validation=config.validation)
    assert (loaded.name, loaded.classes) == ("my_file.py:load", 3)
    assert len(loaded.train) == config.training_images == 210
    pixels = np.load(here / "images.npz")["train_images"].reshape(-1, 3) / 255
    np.testing.assert_allclose(loaded.mean, pixels.mean(0), rtol=1e-6)
    np.testing.assert_allclose(loaded.std, pixels.std(0), rtol=1e-5)


def test_data_of_one_s_own_have_classes_by_number(here):
    fields = {"data": "my_file.py:load", "classes": (2, 0), "validation": 20}
    config = Config(**fields, images_per_class=30, batch_size=10)
    labels = np.load(here / "images.npz")["train_labels"]
    assert config.sizes == (int((labels != 1).sum()), 2, (64, 64, 3))
    loaded = dataset.load(**fields, images_per_class=30)
    assert loaded.classes == 2
    assert len(loaded.train) == config.training_pool
    assert config.training_images == 60
    with pytest.raises(ValueError, match="classes: unknown 3"):
        _ = dataclasses.replace(config, classes=(2, 3)).sizes


IMAGES = "np.zeros((9, 8, 8, 1), np.uint8)"
LABELS = "np.arange(9)"


@pytest.mark.parametrize(
    ("code", "field", "said"),
    [
        ("x = 1", "data", "my_file.py has no 'f'; it has np, x"),
        ("1 / 0", "data", "cannot be run: ZeroDivisionError: division by zero"),
        ("def f(): return 3", "data", r"must return \(\(images, labels\), .*; got int"),
        (
            f"f = lambda: (({IMAGES} / 1, {LABELS}), ({IMAGES}, {LABELS}))",
            "data",
            r"train images: expected .*uint8; got \(9, 8, 8, 1\), float64",
        ),
        (
            f"f = lambda: (({IMAGES}, {LABELS}), ({IMAGES}, {LABELS} - 1))",
            "data",
            r"test labels: .*whole numbers from 0 up, .*: \[-1 +0",
        ),
        (
            f"f = lambda: (({IMAGES}, {LABELS}), ({IMAGES}[:, 1:], {LABELS}))",
            "data",
            r"train on are \(8, 8, 1\) and to test on \(7, 8, 1\)",
        ),
        ("f = 3", "policies", "expected a function or class, got 3"),
        (
            "from experiments import Policy\nf = Policy('a/b')",
            "policies",
            "expected a Policy with a plain name",
        ),
        ("def curves(l, t): return 1\nf = curves", "policies", "not called curves or"),
        ("def uniform(l, t): return 1\nf = uniform", "policies", "two are called 'uni"),
        (
            "def f(n): return 3",
            "model",
            r"model: my_file.py:f must take \(num_classes, rngs\); too many positional",
        ),
        ("def f(n, rngs): return 3", "model", "must return a flax.nnx.Module; got int"),
        (
            "from flax import nnx\ndef f(n, rngs): return nnx.Linear(3, 5, rngs=rngs)",
            "model",
            r"must answer images of 32 × 32 × 3 with logits \(32, 10\); got \(32, 32",
        ),
        (
            "from flax import nnx\ndef f(n, rngs): return nnx.Linear(4, 5, rngs=rngs)",
            "model",
            "model: my_file.py:f cannot take images of 32 × 32 × 3: ",
        ),
        ("def f(l, t): return [1.0]", "policies", r"of 'f' must be \(5,\), one a .*1,"),
        (
            "def f(l, t): return np.arange(5) - 1",
            "policies",
            "of 'f' must be finite and 0 or more; got -1 for 'conv1' at step 0",
        ),
        ("def f(*_): return 3", "optimizer", "must return an optax.GradientTransform"),
    ],
)
def test_what_is_not_what_it_should_be_is_refused_in_one_line(
    here, capsys, code, field, said
):
    (here / "my_file.py").write_text(f"import numpy as np\n{code}")
    fields = ["--policies", "uniform"] if field != "policies" else []
    assert study(f"--{field}", "my_file.py:f", *fields, epochs=1) == 2
    captured = capsys.readouterr()
    assert re.search(said, captured.err)
    assert captured.err.count("\n") == 1
    assert not list(Path("runs").glob("*"))


def test_what_stands_in_no_file_is_refused():
    names = {}
    exec("def typed(layers, total_steps): return 1", names)
    with pytest.raises(ValueError, match="expected a function or class that stands in"):
        experiments.study(Config(policies=("uniform", names["typed"])))


@pytest.mark.slow
def test_a_logger_may_change_and_what_runs_from_the_kept_file_goes_on(here):
    fields = ("--policies", "my_file.py:middle_first", "uniform", "--name", "mine")
    short = {"epochs": 0.1, "seeds": 1, "evaluations": 1, "measurements": 0}
    assert study(*fields, **short) == 0
    assert study(*fields, "--logger", "my_file.py:Printer", **short) == 0
    kept = [field.replace("my_file", "runs/mine/files/my_file") for field in fields]
    assert study(*kept, **short) == 0


def test_two_files_of_one_name_are_refused(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "f.py").write_text("def f(): ...")
    with pytest.raises(ValueError, match=r"two files are called 'f\.py'"):
        own.files([str(tmp_path / name / "f.py:f") for name in ("a", "b")])


def test_a_policy_of_one_s_own_has_numbers_and_a_control(here):
    policy = Policy("mine", control="uniform-cosine", schedule="cosine")
    config = Config(policies=(policy,), numbers={"mine.rate": 0.1})
    assert configured(config)["mine"] == dataclasses.replace(
        policy, rate=0.1, summary=" Here instead: rate 0.1."
    )


def numbers(name, **changes):
    from optax_llr import match_layers

    config = Config(policies=(name,), **changes)
    tree = {name: np.ones(1) for name in ("a", "b", "c")}
    layers = match_layers(tree, [(name, name) for name in tree])
    policy = configured(config)[name]
    tables = policy_tables(policy, config, layers)
    return {
        **moments(tables.rate, tables.multipliers),
        "updates": updates(config, policy.layering),
    }


@pytest.mark.parametrize(
    ("name", "changes", "found"),
    [
        ("early-first", {"numbers": {"early-first.first_end": 0.501}}, ["multipliers"]),
        ("uniform", {"schedule": "cosine"}, ["rates"]),
        ("uniform", {"optimizer": "nesterov"}, ["updates"]),
    ],
)
def test_a_policy_that_computes_something_else_is_told_apart(name, changes, found):
    before = {name: {"computes": numbers(name)}}
    assert run_directory.otherwise(before, before) == ([], [])
    now = {name: {"computes": numbers(name, **changes)}}
    differing, _ = run_directory.otherwise(before, now)
    assert differing == [f"the {what} of {name!r} are others" for what in found]


@pytest.mark.filterwarnings("ignore")  # theirs, of what they use themselves
@pytest.mark.parametrize("logger", ["wandb", "mlflow"])
def test_loggers_of_the_examples_are_shown_every_event(tmp_path, logger):
    pytest.importorskip(logger)
    path = ROOT / "examples" / "loggers" / f"{logger}_logger.py"
    folder = tmp_path / "study" / "uniform-0"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"name": "study"}))
    loggers = [own.resolve(f"{path}:Logger")(folder, 0, ("a", "b")) for _ in range(2)]
    for step in (1, 2):
        for made in loggers:  # as runs that are trained at once
            made.write({"kind": "train", "step": step, "loss": 0.5 / step, "seed": 0})
    for made in loggers:
        made.close()
    left = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert any(b"train/loss" in file.read_bytes() for file in left), textwrap.dedent(
        f"nothing of the loss in {left}"
    )
