"""What a study is made of: one frozen dataclass, its presets and its validation."""

import dataclasses
import difflib
import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Literal

# fmt: off
MODELS = {
    "cnn-shallow": ("none", "batch", "group"),
    **dict.fromkeys(
        ("vgg5", "vgg8", "vgg11", "vgg13", "vgg16", "vgg19",
         "layca-cnn1", "layca-cnn2",
         "resnet20", "resnet56", "resnet110", "resnet18",
         "wrn16-4", "wrn28-10", "densenet76"),
        ("batch", "group", "none"),
    ),
    "vit": ("layer",),
    "vit12": ("layer",),
    "transformer-rows": ("layer",),
    "lstm-rows": ("none",),
}
# fmt: on
"""The norms that each model can have, its own first."""
OPTIMIZERS = ("sgd", "nesterov", "adamw", "lars", "lamb", "muon")
DECAYS = ("coupled", "following", "ignoring")
SCHEDULES = ("constant", "piecewise", "triangular", "onecycle", "cosine", "sgdr")
DTYPES = ("float32", "bfloat16")
CONTROLS = {
    "cascade": "uniform-onecycle",
    "freezeout": "uniform-cosine",
    "layca-alpha": "layca",
}
"""What a policy is compared with that anneals or rotates; the others: with uniform."""
SCHEDULED = (
    "uniform",
    "uniform-onecycle",
    "uniform-cosine",
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
"""Policies that are known before the run."""
MEASURED = (
    "gradient-norm",
    "curvature",
    "hypergradient",
    "multiplicative-hypergradient",
    "signal-to-noise",
    "trust-ratio",
    "gradient-trust-ratio",
    "tail-exponent",
    "learned",
    "layca",
    "layca-alpha",
)
"""Policies whose rates depend on what the layers do."""
POLICY_NAMES = SCHEDULED + MEASURED
TRAINING_IMAGES = {"sample": 2_000, "cifar10": 50_000, "cifar100": 50_000}
"""Training images of each source, before the validation split is cut off."""
CLASSES = {"sample": 10, "cifar10": 10, "cifar100": 100}
"""Classes of each source, all with the same number of training images."""
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
    """Name of the study and of its folder; a study that was begun there goes on."""
    model: str = "cnn-shallow"
    """A plain net: cnn-shallow, vgg5, vgg8, vgg11, vgg13, vgg16, vgg19, layca-cnn1,
    layca-cnn2; a residual one: resnet20, resnet56, resnet110, resnet18, wrn16-4,
    wrn28-10; densenet76; vit, vit12; or over rows of pixels: transformer-rows,
    lstm-rows."""
    norm: str = "own"
    """Norm of the model's layers: own (what the model is known with), batch, group or
    none, as far as the model has a choice."""
    policies: tuple[str, ...] = (
        "uniform",
        "early-first",
        "late-first",
        "three-stage",
        "uniform-cosine",
        "freezeout",
    )
    """Layer policies to compare; `python -m experiments policies` lists them."""
    numbers: dict[str, float] = dataclasses.field(default_factory=dict[str, float])
    """Numbers of policies that are not to be as they are listed, such as
    `early-first.first_start 1.2 uniform.rate 0.05`."""
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
    optimizer: str = "sgd"
    """sgd, nesterov, adamw, lars, lamb or muon; the multipliers come behind it."""
    momentum: float = 0.9
    """Momentum; of adamw and lamb the first of their two decay rates. Where muon leaves
    weights to Adam, that keeps 0.9."""
    weight_decay: float = 5e-4
    """Weight decay."""
    decay: str = "coupled"
    """How the weights decay: coupled (through the gradient, or for lamb through its
    trust ratio), following (apart from it, times the multipliers of the layers) or
    ignoring (apart from it, the same for every layer)."""
    label_smoothing: float = 0.0
    """Share of each training target that is spread evenly over all classes."""
    ema: float = 0.0
    """Decay a step of the moving average of the weights that is evaluated in place of
    the weights; 0 for none."""
    source: str = "sample"
    """Data: sample (of CIFAR-10, bundled, 2,000 images to train on), or the whole of
    cifar10 or cifar100."""
    archive: Path | None = None
    """A downloaded cifar-10-binary.tar.gz, or cifar-100-binary.tar.gz, to read it
    from."""
    validation: int = 400
    """Images cut from the training set for validation, the same for every run."""
    train_fraction: float = 1.0
    """Share of the other training images to train on, the same for every run."""
    label_noise: float = 0.0
    """Share of the training images that get a wrong label, the same for every run;
    labels for validation and test stay true."""
    flip: bool = True
    """Mirror each training image with probability one half."""
    crop_padding: int = 0
    """Shift each training image by up to so many pixels, over reflected borders."""
    cutout: int = 0
    """Side in pixels of a square that is blanked at a random place of each training
    image; 0 for none."""
    dtype: str = "float32"
    """Arithmetic of the model, float32 or bfloat16; parameters stay float32."""
    evaluations: int = 40
    """Evaluations on the validation images a run, evenly spread and at the end."""
    measurements: int = 0
    """Times in a run that gradients, updates and rotation of every layer are measured,
    evenly spread from the first step on; 0 for never."""
    marks: tuple[float, ...] = (0.3, 0.35, 0.4, 0.45)
    """Validation accuracies; reported is the step at which a run first reaches each."""
    shortest_phase: float = 0.04
    """Least length, as a share of the run, of a phase in which the same layers are
    frozen. Each phase is compiled; of shorter ones, frozen layers are computed."""
    checkpoint_seconds: float = 60.0
    """Seconds of training between two checkpoints."""
    tensorboard: bool = False
    """Write TensorBoard event files beside the records."""
    stack: int | Literal["auto"] = 1
    """Runs to train at once in one compiled program; auto tries how many pay here. They
    find what they find alone, up to rounding."""
    devices: int | Literal["all"] = 1
    """Devices over which each batch is divided, or, with stack, the runs."""
    distributed: bool = False
    """One of several processes, on all their devices; each is given the same command.
    Who they are comes from SLURM, Open MPI, Kubernetes or the TPU pod, or else from
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID."""
    out: Path = Path("runs")
    """Folder in which the folder of the study is made."""

    @property
    def training_images(self) -> int:
        """Images to train on: the share of what the validation split leaves."""
        left = TRAINING_IMAGES[self.source] - self.validation
        return round(self.train_fraction * left)

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
        return self._often(self.evaluations)

    @property
    def measure_every(self) -> int:
        """Steps between two measurements of the layers, a multiple likewise."""
        return self._often(max(1, self.measurements))

    def _often(self, times: int) -> int:
        wanted = self.total_steps / times
        return self.record_every * max(1, round(wanted / self.record_every))


_SHALLOW = Config(
    name="cifar10-shallow",
    policies=SCHEDULED,
    epochs=8,
    batch_size=128,
    rate=0.05,
    source="cifar10",
    validation=5_000,
    evaluations=32,
    measurements=20,
    marks=(0.5, 0.6, 0.65, 0.7, 0.75),
)
PRESETS = {
    "demo": Config(measurements=20),
    "cifar10-shallow": _SHALLOW,
    "cifar10-measured": dataclasses.replace(
        _SHALLOW, name="cifar10-measured", policies=("uniform", *MEASURED)
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
        measurements=60,
        marks=(0.7, 0.8, 0.85, 0.9),
    ),
}
"""`demo` needs two CPU cores and no download; `cifar10-shallow` and `cifar10-measured`
the whole set; `cifar10-resnet20` an accelerator as well."""


def validate(config: Config) -> None:
    """Refuses a configuration that cannot be run, before anything is compiled.

    Raises:
        ValueError: in one line, with the field, what it must be, and what came.
    """
    _choose("model", config.model, MODELS)
    _choose("source", config.source, TRAINING_IMAGES)
    _choose("norm", config.norm, ("own", *MODELS[config.model]))
    _choose("schedule", config.schedule, SCHEDULES)
    _choose("optimizer", config.optimizer, OPTIMIZERS)
    _choose("decay", config.decay, DECAYS)
    _choose("dtype", config.dtype, DTYPES)
    for policy in config.policies:
        _choose("policies", policy, POLICY_NAMES)
        if (control := CONTROLS.get(policy, "uniform")) not in config.policies:
            raise ValueError(
                f"policies must hold {control!r}, which {policy!r} is compared with; "
                f"got {', '.join(config.policies)}"
            )
    if not 0 < config.train_fraction <= 1:
        raise ValueError(
            f"train_fraction must be above 0 and at most 1; got {config.train_fraction}"
        )
    available, classes = TRAINING_IMAGES[config.source], CLASSES[config.source]
    # A comparison with NaN is false, so NaN is refused wherever a bound is asked for.
    for ok, field, wanted in [
        (
            PLAIN_NAME.fullmatch(config.name),
            "name",
            "a plain folder name of up to 100 letters, digits and . _ -",
        ),
        (config.policies, "policies", "at least one"),
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
            config.decay != "coupled" or config.optimizer != "adamw",
            "decay",
            "following or ignoring with adamw, which is Adam with its decay apart",
        ),
        (0 <= config.label_smoothing < 1, "label_smoothing", "in [0, 1)"),
        (0 <= config.ema < 1, "ema", "in [0, 1)"),
        (
            config.archive is None or config.source != "sample",
            "archive",
            "absent where source is 'sample', which is bundled",
        ),
        (
            classes <= config.validation <= available - classes,
            "validation",
            f"between {classes} and {available - classes}, as {config.source} has "
            f"{available} training images of {classes} classes",
        ),
        (
            config.training_images >= classes,
            "train_fraction",
            f"large enough for an image of each of the {classes} classes",
        ),
        (0 <= config.label_noise <= 1, "label_noise", "in [0, 1]"),
        (
            1 <= config.batch_size <= config.training_images,
            "batch_size",
            f"between 1 and the {config.training_images} training images",
        ),
        (
            0 <= config.crop_padding < IMAGE_SIDE,
            "crop_padding",
            f"between 0 and {IMAGE_SIDE - 1} pixels",
        ),
        (
            0 <= config.cutout <= IMAGE_SIDE,
            "cutout",
            f"between 0 and {IMAGE_SIDE} pixels",
        ),
        (config.evaluations >= 1, "evaluations", "at least 1"),
        (config.measurements >= 0, "measurements", "0 or more"),
        (config.stack == "auto" or config.stack >= 1, "stack", "at least 1, or auto"),
        (
            config.devices == "all" or config.devices >= 1,
            "devices",
            "at least 1, or all",
        ),
        (
            config.devices in (1, "all") or not config.distributed,
            "devices",
            "all, or left out, where several processes train on all of theirs",
        ),
        (
            config.stack == 1 or not config.distributed,
            "stack",
            "1 where several processes train one run",
        ),
        (0 < config.shortest_phase <= 1, "shortest_phase", "above 0 and at most 1"),
        (
            0 <= config.checkpoint_seconds < math.inf,
            "checkpoint_seconds",
            "finite, 0 or more",
        ),
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
