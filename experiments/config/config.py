"""What a study is made of: one frozen dataclass that checks itself, and its presets."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
import pydantic
from pydantic import AfterValidator, BeforeValidator, Field, Strict

from . import choices, own
from .checks import STRICT, checked, must, unknown
from .measures import Measure, measure_of
from .own import Own
from .texts import BYTES, FILE, TEXTS, is_text, parts, windows

TRAIN_LINES = 128
"""Training metrics are fetched from the device about this many times a run."""
MOST_STEPS = 10_000_000
ONLY_IMAGES = (
    *("archive", "classes", "pretrain_classes", "shift", "images_per_class"),
    *("label_noise", "flip", "crop_padding", "cutout", "thresholds"),
)
"""Fields that text has no use for."""
PLAIN_NAME = r"^\w[\w.-]{0,99}$"
"""What may become the name of a file or folder: no path, and not too long for one."""

Item = TypeVar("Item")


def _known(*names: str, file: str = "") -> BeforeValidator:
    """One of these names, or an object of one's own, or a file whose name ends so."""

    def check(value: Any) -> Any:
        is_file = isinstance(value, str) and bool(file) and value.endswith(file)
        if not own.is_own(value) and value not in names and not is_file:
            others = f", or {own.METAVAR}" + f", or FILE{file}" * bool(file)
            raise ValueError(unknown(value, names) + others)
        return value

    return BeforeValidator(check)


def _distinct(items: tuple[Item, ...]) -> tuple[Item, ...]:
    if len(set(items)) < len(items):
        raise ValueError(f"must be all distinct; got {', '.join(map(str, items))}")
    return items


Share = Annotated[float, Field(ge=0, le=1)]
BelowOne = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, lt=2**31)]
PolicyName = Annotated[
    choices.Scheduled
    | choices.Measured
    | choices.FineTuning
    | choices.OfTransformers
    | Own,
    _known(*choices.POLICY_NAMES),
]
Several = (Strict(False), AfterValidator(_distinct))
"""For fields that hold several things: a list does as well, and all are distinct."""


@checked
@pydantic.dataclasses.dataclass(frozen=True, config=STRICT)
class Config:
    """One study: policies × seeds on one model and one data set."""

    name: Annotated[str, Field(pattern=PLAIN_NAME)] = "demo"
    """Name of the study and of its folder; a study that was begun there goes on."""
    model: Annotated[
        choices.Model | choices.LanguageModel | Own,
        _known(*choices.MODELS, *choices.LANGUAGE_MODELS),
    ] = "cnn-shallow"
    """One of ours, or a function (num_classes, rngs) → nnx.Module: images → logits; for
    text gpt or gpt-small, or such a function: bytes (n, context) → logits of the next
    ones."""
    norm: choices.Norm = "own"
    """Norm of the model's layers: own (what the model is known with), batch, group or
    none, as far as the model has a choice."""
    norm_statistics: Literal["running", "frozen"] = "running"
    """What batch norm takes in training: means and variances of the batch, and running
    ones for the evaluations; or frozen, those that a run starts from, all the time."""
    init_from: Annotated[Path | None, Strict(False)] = None
    """Weights to start from: the folder of a run that kept its own, or a tree of yours
    by the same paths and shapes, as Orbax or NumPy (.npz) wrote it. None for random
    ones."""
    pretrain_epochs: Annotated[float, Field(ge=0, le=MOST_STEPS)] = 0.0
    """Epochs of a run that makes the weights to start from, once, in a folder beside:
    of uniform rates, and of this study's model and settings, but without its shift, on
    all images. 0 for none; with init_from it is not needed."""
    pretrain_classes: Annotated[tuple[int | str, ...], *Several] = ()
    """The classes of that run, as `classes` has them."""
    new_head: bool = True
    """Whether the head starts at random, also where all else starts from weights."""
    keep_weights: bool = False
    """Keep the weights with which a run ends, weights.npz in its folder, for others to
    start from; with ema their average."""
    policies: Annotated[tuple[PolicyName, ...], Field(min_length=1), *Several] = (
        *("uniform", "early-first", "late-first"),
        *("three-stage", "uniform-cosine", "freezeout"),
    )
    """Layer policies to compare, `python -m experiments policies` lists ours; or a
    `Policy`, or a function (layers, total_steps) → multipliers. What one is compared
    with joins by itself."""
    numbers: dict[str, float] = dataclasses.field(default_factory=dict[str, float])
    """Numbers of policies that are not to be as they are listed, such as
    `early-first.first_start 1.2 uniform.rate 0.05`."""
    seeds: (
        Annotated[int, Field(ge=1, le=1_000)]
        | Annotated[tuple[Seed, ...], Field(min_length=1, max_length=1_000), *Several]
    ) = 2
    """How many runs of each policy, with seeds 0, 1, …; or, of several numbers, those
    seeds themselves. A seed fixes weights and data order."""
    epochs: Annotated[float, Field(gt=0, le=MOST_STEPS)] = 20.0
    """Passes over what there is to train on; a fraction is allowed."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Images a step, or windows of text; the incomplete batch at the end of an epoch is
    left out."""
    rate: Positive = 0.02
    """Largest global learning rate; the schedule starts from or rises to it."""
    schedule: choices.Schedule = "piecewise"
    """Global schedule; piecewise is ×0.1 at 50, 75 and 90 % of the run, warmup-cosine
    linear up in a tenth of the run and a cosine down to a tenth of the rate."""
    optimizer: Annotated[choices.Optimizer | Own, _known(*choices.OPTIMIZERS)] = "sgd"
    """One of Optax's, or a function (learning_rate, momentum, weight_decay) →
    optax.GradientTransformation; the multipliers come behind it."""
    momentum: BelowOne = 0.9
    """Momentum; of adamw and lamb the first of their two decay rates. Where muon leaves
    weights to Adam, that keeps 0.9."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 5e-4
    """Weight decay."""
    decay: choices.Decay = "coupled"
    """How the weights decay: coupled (through the gradient, or for lamb through its
    trust ratio), following (apart from it, times the multipliers of the layers) or
    ignoring (apart from it, the same for every layer)."""
    label_smoothing: BelowOne = 0.0
    """Share of each training target that is spread evenly over all classes."""
    ema: BelowOne = 0.0
    """Decay a step of the moving average of the weights that is evaluated in place of
    the weights; 0 for none."""
    data: Annotated[
        choices.Data | Own,
        _known(*choices.SIZES, *TEXTS, file=FILE),
    ] = "sample"
    """The bundled sample of CIFAR-10 (2,000 images to train on), the whole of cifar10
    or cifar100, or a function () → ((images, labels), (images, labels)) to train on and
    to test on, uint8 (n, height, width, channels) and whole numbers (n,). Or text, byte
    by byte: stdlib, the source of this Python's own library, divided by file;
    tiny_shakespeare; or any FILE.txt, of which 90 % are to train on."""
    context: Annotated[int, Field(ge=2)] = 128
    """Bytes in a window of text, which is to it what an image is to other data."""
    archive: Annotated[Path | None, Strict(False)] = None
    """A downloaded cifar-10-binary.tar.gz, or cifar-100-binary.tar.gz, to read it
    from."""
    classes: Annotated[tuple[int | str, ...], *Several] = ()
    """A part of the classes, as a task of its own, by their names or numbers; they are
    numbered anew in this order. None for all of them."""
    shift: choices.Shift = "none"
    """What is done to every image, also for validation and test: noise (normal, of a
    tenth of the range), blur (normal, of one pixel) or invert (its colours)."""
    validation: Annotated[int, Field(ge=1)] = 400
    """Images cut from the training set for validation, the same for every run; of text
    so many windows of its part for validation."""
    train_fraction: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Share of the other training images to train on, the same for every run."""
    images_per_class: Annotated[int, Field(ge=1)] | None = None
    """So many of the other training images of each class, in place of a share. Each
    seed draws its own, the same under every policy. None for the share."""
    label_noise: Share = 0.0
    """Share of the training images that get a wrong label, the same for every run;
    labels for validation and test stay true."""
    flip: bool = True
    """Mirror each training image with probability one half."""
    crop_padding: Annotated[int, Field(ge=0)] = 0
    """Shift each training image by up to so many pixels, over reflected borders."""
    cutout: Annotated[int, Field(ge=0)] = 0
    """Side in pixels of a square that is blanked at a random place of each training
    image; 0 for none."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Arithmetic of our models; parameters stay float32."""
    evaluations: Annotated[int, Field(ge=1)] = 40
    """Evaluations on the validation images a run, evenly spread and at the end."""
    measurements: Annotated[int, Field(ge=0)] = 0
    """Times in a run that gradients, updates and rotation of every layer are measured,
    evenly spread from the first step on; 0 for never."""
    thresholds: Annotated[
        tuple[Annotated[float, Field(gt=0, lt=1)], ...], Field(min_length=1), *Several
    ] = (0.3, 0.35, 0.4, 0.45)
    """Validation accuracies; reported is the step at which a run first reaches each."""
    shortest_phase: Annotated[float, Field(gt=0, le=1)] = 0.04
    """Least length, as a share of the run, of a phase in which the same layers are
    frozen. Each phase is compiled; of shorter ones, frozen layers are computed."""
    checkpoint_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 60.0
    """Seconds of training between two checkpoints."""
    logger: Annotated[
        Literal["none", "tensorboard"] | Own, _known("none", "tensorboard")
    ] = "none"
    """Is shown every event, beside the records: tensorboard, or a function (folder,
    step, layers) → an object with write(event) and close()."""
    stack: Annotated[int, Field(ge=1)] | Literal["auto"] = 1
    """Runs to train at once in one compiled program; auto tries how many pay here. They
    find what they find alone, up to rounding."""
    devices: Annotated[int, Field(ge=1)] | Literal["all"] = 1
    """Devices over which each batch is divided, or, with stack, the runs."""
    distributed: bool = False
    """One of several processes, on all their devices; each is given the same command.
    Who they are comes from SLURM, Open MPI, Kubernetes or the TPU pod, or else from
    JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID."""
    out: Annotated[Path, Strict(False)] = Path("runs")
    """Folder in which the folder of the study is made."""

    @pydantic.model_validator(mode="after")
    def _check(self) -> "Config":
        """What no field can know alone; of data of one's own `check_sizes` says it."""
        self._check_kind()
        if self.norm not in (known := ("own", *choices.norms(self.model))):
            raise must(self, "norm", f"{' or '.join(known)} for this model")
        if not (self.new_head or self.init_from or self.pretrain_epochs):
            wanted = "left out where there are no weights to start from (--init-from)"
            raise must(self, "new_head", wanted)
        if self.pretrain_classes and not self.pretrain_epochs:
            raise must(self, "pretrain_classes", "left out where pretrain_epochs is 0")
        if self.decay == "coupled" and self.optimizer == "adamw":
            wanted = (
                "following or ignoring with adamw, which is Adam with its decay apart"
            )
            raise must(self, "decay", wanted)
        if self.archive is not None and self.data not in ("cifar10", "cifar100"):
            raise must(self, "archive", "absent unless data is cifar10 or cifar100")
        if self.images_per_class is not None and self.train_fraction != 1:
            wanted = "left out where images_per_class says how many to train on"
            raise must(self, "train_fraction", wanted)
        if self.distributed and self.devices not in (1, "all"):
            wanted = "all, or left out, where several processes train on all of theirs"
            raise must(self, "devices", wanted)
        if self.distributed and self.stack != 1:
            raise must(self, "stack", "1 where several processes train one run")
        if not own.is_own(self.data):
            check_sizes(self)
        return self

    def _check_kind(self) -> None:
        """Refuses what is only for images where data are text, and the other way."""
        for field in ONLY_IMAGES if self.text else ("context",):
            if getattr(self, field) != self.__dataclass_fields__[field].default:
                what = "text" if self.text else "images"
                raise must(self, field, f"left out where data are {what}")
        if not own.is_own(self.model) and self.text != (
            self.model in choices.LANGUAGE_MODELS
        ):
            of_text = " or ".join(choices.LANGUAGE_MODELS)
            wanted = f"{of_text} for text, and another for images"
            raise must(self, "model", wanted)

    @property
    def text(self) -> bool:
        """Whether data are text, and not images."""
        return is_text(self.data)

    @property
    def measure(self) -> Measure:
        """What its runs are judged by."""
        return measure_of(self.data)

    @property
    def run_seeds(self) -> tuple[int, ...]:
        """The seeds of the runs of each policy."""
        return tuple(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds

    @property
    def own(self) -> tuple[Any, ...]:
        """All that is one's own and counts in what a study finds out."""
        asked = (self.model, self.data, self.optimizer, *self.policies)
        return tuple(filter(own.is_own, asked))

    def record(self) -> dict[str, Any]:
        """What records hold of it: names in place of objects, and all seeds."""
        named = ("model", "data", "optimizer", "logger")
        return vars(self) | {
            **{name: own.label(getattr(self, name)) for name in named},
            "policies": [own.label(policy) for policy in self.policies],
            "seeds": list(self.run_seeds),
        }

    @property
    def sizes(self) -> choices.Sizes:
        """Those of the data; data of one's own are loaded for it, once.

        Raises:
            ValueError: they cannot be.
        """
        if self.text:
            # Those for validation are counted in, as if they were cut off.
            count = windows(parts(self.data).train, self.context) + self.validation
            return choices.Sizes(count, BYTES, (self.context,))
        if not own.is_own(self.data):
            whole = choices.SIZES[str(self.data)]
            taken = choices.class_numbers(self.classes, self.data, whole.classes)
            each = whole.images // whole.classes
            return whole._replace(images=each * len(taken), classes=len(taken))
        found = own.arrays(self.data)
        count = 1 + int(max(found.train_labels.max(), found.test_labels.max()))
        taken = choices.class_numbers(self.classes, self.data, count)
        return choices.Sizes(
            images=int(np.isin(found.train_labels, taken).sum()),
            classes=len(taken),
            shape=found.train_images.shape[1:],
        )

    @property
    def training_images(self) -> int:
        """Images to train on, of those that the validation split leaves."""
        if self.images_per_class is not None:
            return self.images_per_class * self.sizes.classes
        return self.training_pool

    @property
    def training_pool(self) -> int:
        """Images that runs train on, or that each draws so many of each class from."""
        return round(self.train_fraction * (self.sizes.images - self.validation))

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


def check_sizes(config: Config) -> None:
    """Refuses what does not go with the sizes of the data.

    Raises:
        ValueError: in one line, with the field, what it must be, and what came.
    """
    left = config.training_images
    if config.text:
        most = windows(parts(config.data).validation, config.context)
        if left < 1:
            raise must(config, "train_fraction", "large enough for a window")
        if config.validation > most:
            wanted = f"at most {most}, as there are windows for validation"
            raise must(config, "validation", wanted)
    else:
        _check_images(config, left)
    if config.batch_size > left:
        what = "windows" if config.text else "images"
        raise must(config, "batch_size", f"between 1 and the {left} training {what}")
    if not 1 <= config.total_steps <= MOST_STEPS:
        steps = f"at {config.steps_per_epoch} steps an epoch"
        raise must(config, "epochs", f"1 to {MOST_STEPS:,} steps long, {steps}")


def _check_images(config: Config, left: int) -> None:
    images, classes, shape = config.sizes
    side = min(shape[:2])
    if classes < 2:
        raise must(config, "classes", "two or more")
    if not classes <= config.validation <= images - classes:
        wanted = f"{classes} and {images - classes}, as there are {images} training"
        raise must(
            config, "validation", f"between {wanted} images of {classes} classes"
        )
    if config.images_per_class is not None and left > images - config.validation:
        most = (images - config.validation) // classes
        raise must(config, "images_per_class", f"at most {most}, as every class has")
    if left < classes:
        wanted = f"large enough for an image of each of the {classes} classes"
        raise must(config, "train_fraction", wanted)
    if config.crop_padding >= side:
        raise must(config, "crop_padding", f"between 0 and {side - 1} pixels")
    if config.cutout > side:
        raise must(config, "cutout", f"between 0 and {side} pixels")


_SHALLOW = Config(
    name="cifar10-shallow",
    policies=choices.SCHEDULED,
    epochs=8,
    batch_size=128,
    rate=0.05,
    data="cifar10",
    validation=5_000,
    evaluations=32,
    measurements=20,
    thresholds=(0.5, 0.6, 0.65, 0.7, 0.75),
)
PRESETS = {
    "demo": Config(epochs=12, measurements=20),
    "cifar10-shallow": _SHALLOW,
    "cifar10-measured": dataclasses.replace(
        _SHALLOW, name="cifar10-measured", policies=("uniform", *choices.MEASURED)
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
        data="cifar10",
        validation=5_000,
        crop_padding=4,
        evaluations=90,
        measurements=60,
        thresholds=(0.7, 0.8, 0.85, 0.9),
    ),
    "text-gpt": Config(
        name="text-gpt",
        model="gpt-small",
        policies=(
            *("uniform", "blockwise", "ramped-tail-exponent"),
            *("block-decay", "early-first", "trust-ratio"),
        ),
        epochs=0.05,
        batch_size=16,
        rate=3e-3,
        schedule="warmup-cosine",
        optimizer="adamw",
        weight_decay=0.1,
        decay="following",
        data="stdlib",
        validation=200,
        evaluations=10,
    ),
    "cifar10-transfer": Config(
        name="cifar10-transfer",
        model="resnet8",
        pretrain_epochs=4,
        pretrain_classes=tuple(range(6)),
        policies=(
            *("uniform", "from-scratch", "head-only", "head-first", "ulmfit-rates"),
            "block-decay",
        ),
        epochs=20,
        schedule="cosine",
        data="cifar10",
        classes=tuple(range(6, 10)),
        validation=2_000,
        images_per_class=100,
        crop_padding=4,
        evaluations=10,
        thresholds=(0.5, 0.6, 0.7, 0.8),
    ),
}
"""`demo` and `text-gpt` need two CPU cores and no download; `cifar10-shallow` and
`cifar10-measured` the whole set, and so does `cifar10-transfer`, or a sample of it;
`cifar10-resnet20` an accelerator as well."""
