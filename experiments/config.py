"""What a study is made of: one frozen dataclass, its presets and its validation."""

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable
from pathlib import Path

MODELS = ("cnn-shallow", "resnet20")
SCHEDULES = ("constant", "piecewise", "triangular", "onecycle", "cosine", "sgdr")
DTYPES = ("float32", "bfloat16")
POLICY_NAMES = (
    "uniform",
    "early-first",
    "late-first",
    "static-decreasing",
    "static-increasing",
    "three-stage",
    "cascade",
    "discriminative",
    "unfreeze-top-first",
    "unfreeze-bottom-first",
    "freezeout",
    "rotation-alpha",
)
TRAINING_IMAGES = {"sample": 2_000, "cifar10": 50_000}
"""Training images of each source, before the validation split is cut off."""
IMAGE_SIDE = 32
TRAIN_LINES = 128
"""Training metrics are fetched from the device about this many times a run."""
MOST_STEPS = 10_000_000
PLAIN_NAME = re.compile(r"\w[\w.-]{0,99}")
"""What may become the name of a file or folder: no path, and not too long for one."""


@dataclasses.dataclass(frozen=True)
class Config:
    """One study: policies × seeds on one model and one data set."""

    name: str = "demo"
    """Name of the study; the run folder is called after it."""
    model: str = "cnn-shallow"
    """cnn-shallow (three convolutions, one hidden layer) or resnet20."""
    policies: tuple[str, ...] = (
        "uniform",
        "early-first",
        "late-first",
        "three-stage",
        "freezeout",
    )
    """Layer policies to compare; `python -m experiments policies` lists them."""
    seeds: int = 2
    """Runs of each policy, with seeds 0, 1, …; a seed fixes weights and data order."""
    epochs: float = 20
    """Passes over the training images; a fraction is allowed."""
    batch_size: int = 32
    """Images a step; the incomplete batch at the end of an epoch is left out."""
    rate: float = 0.02
    """Largest global learning rate; the schedule starts from or rises to it."""
    schedule: str = "piecewise"
    """Global schedule: constant, piecewise (×0.1 at 50, 75 and 90 % of the run),
    triangular, onecycle, cosine or sgdr."""
    momentum: float = 0.9
    """Momentum of SGD."""
    weight_decay: float = 5e-4
    """Weight decay, added to the gradient (coupled)."""
    source: str = "sample"
    """Data: sample (bundled, 2,000 images to train on) or cifar10 (the whole set)."""
    archive: Path | None = None
    """A downloaded cifar-10-binary.tar.gz to read cifar10 from."""
    validation: int = 400
    """Images cut from the training set for validation, the same for every run."""
    flip: bool = True
    """Mirror each training image with probability one half."""
    crop_padding: int = 0
    """Shift each training image by up to so many pixels, over reflected borders."""
    dtype: str = "float32"
    """Arithmetic of the model, float32 or bfloat16; parameters stay float32."""
    evaluations: int = 40
    """Evaluations on the validation images a run, evenly spread and at the end."""
    marks: tuple[float, ...] = (0.3, 0.35, 0.4, 0.45)
    """Validation accuracies; reported is the step at which a run first reaches each."""
    out: Path = Path("runs")
    """Folder in which the run folder is made."""

    @property
    def training_images(self) -> int:
        """Images left to train on once the validation split is cut off."""
        return TRAINING_IMAGES[self.source] - self.validation

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in an epoch."""
        return self.training_images // self.batch_size

    @property
    def total_steps(self) -> int:
        """Optimizer steps of one run."""
        return round(self.epochs * self.steps_per_epoch)

    @property
    def record_every(self) -> int:
        """Steps between two fetches of the training metrics."""
        return max(1, self.total_steps // TRAIN_LINES)

    @property
    def evaluate_every(self) -> int:
        """Steps between two evaluations, a multiple of `record_every`."""
        wanted = self.total_steps / self.evaluations
        return self.record_every * max(1, round(wanted / self.record_every))


PRESETS = {
    "demo": Config(),
    "cifar10-shallow": Config(
        name="cifar10-shallow",
        policies=POLICY_NAMES,
        epochs=8,
        batch_size=128,
        rate=0.05,
        source="cifar10",
        validation=5_000,
        evaluations=32,
        marks=(0.5, 0.6, 0.65, 0.7, 0.75),
    ),
    "cifar10-resnet20": Config(
        name="cifar10-resnet20",
        model="resnet20",
        policies=("uniform", "early-first", "late-first", "three-stage"),
        seeds=3,
        epochs=180,
        batch_size=128,
        rate=0.1,
        weight_decay=1e-4,
        source="cifar10",
        validation=5_000,
        crop_padding=4,
        evaluations=90,
        marks=(0.7, 0.8, 0.85, 0.9),
    ),
}
"""`demo` needs two CPU cores and no download; `cifar10-shallow` the whole set;
`cifar10-resnet20` an accelerator as well."""


def validate(config: Config) -> None:
    """Refuses a configuration that cannot be run, before anything is compiled.

    Raises:
        ValueError: in one line, with the field, what it must be, and what came.
    """
    _choose("model", config.model, MODELS)
    _choose("source", config.source, TRAINING_IMAGES)
    _choose("schedule", config.schedule, SCHEDULES)
    _choose("dtype", config.dtype, DTYPES)
    for policy in config.policies:
        _choose("policies", policy, POLICY_NAMES)
    available = TRAINING_IMAGES[config.source]
    # A comparison with NaN is false, so NaN is refused wherever a bound is asked for.
    for ok, field, wanted in [
        (
            PLAIN_NAME.fullmatch(config.name),
            "name",
            "a plain folder name of up to 100 letters, digits and . _ -",
        ),
        (
            "uniform" in config.policies,
            "policies",
            "a choice with 'uniform', which the others are compared with",
        ),
        (len(set(config.policies)) == len(config.policies), "policies", "all distinct"),
        (1 <= config.seeds <= 1_000, "seeds", "between 1 and 1,000"),
        (
            0 < config.epochs <= MOST_STEPS,
            "epochs",
            f"above 0 and at most {MOST_STEPS:,}",
        ),
        (0 < config.rate < math.inf, "rate", "a finite number above 0"),
        (0 <= config.momentum < 1, "momentum", "in [0, 1)"),
        (0 <= config.weight_decay < math.inf, "weight_decay", "finite, 0 or more"),
        (
            config.archive is None or config.source == "cifar10",
            "archive",
            "absent where source is 'sample', which is bundled",
        ),
        (
            10 <= config.validation <= available - 10,
            "validation",
            f"between 10 and {available - 10}, as {config.source} has {available} "
            "training images of ten classes",
        ),
        (
            1 <= config.batch_size <= available - config.validation,
            "batch_size",
            f"between 1 and the {available - config.validation} training images",
        ),
        (
            0 <= config.crop_padding < IMAGE_SIDE,
            "crop_padding",
            f"between 0 and {IMAGE_SIDE - 1} pixels",
        ),
        (config.evaluations >= 1, "evaluations", "at least 1"),
        (
            config.marks and all(0 < mark < 1 for mark in config.marks),
            "marks",
            "accuracies inside (0, 1), at least one",
        ),
        (len(set(config.marks)) == len(config.marks), "marks", "all distinct"),
    ]:
        if not ok:
            raise ValueError(f"{field} must be {wanted}; got {getattr(config, field)}")
    if not 1 <= config.total_steps <= MOST_STEPS:
        raise ValueError(
            f"epochs must make 1 to {MOST_STEPS:,} steps, at {config.steps_per_epoch} "
            f"steps an epoch; got {config.epochs}"
        )


def _choose(field: str, value: str, choices: Iterable[str]) -> None:
    """Refuses a value that is none of the choices, with the nearest one."""
    if value in (known := list(choices)):
        return
    close = difflib.get_close_matches(value, known, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"{field}: unknown {value!r}{hint} (known: {', '.join(known)})")
