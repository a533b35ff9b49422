"""What does the training loop cost beside the step that it runs? Images a second.

Run it on its own, from the root of a clone:

    python benchmarks/loop.py                    # every model, ten minutes
    python benchmarks/loop.py --models resnet20  # one of them

In turns, in one process, for each model:

    step   the compiled step of the experiments alone: data order, augmentation,
           forward, backward, update; called without a look at what comes out
    loop   the same step as a study runs it: with metrics fetched at every interval,
           records checked, sealed and written, and checkpoints where they are due
    plain  the step with convolutions as XLA runs them when it is not told how
    torch  ResNet-20 in PyTorch, where that is installed: channels_last, the same batch,
           SGD with momentum and decay, on one fixed batch without augmentation

Printed are medians over the rounds, with their range, of the ratios to `step` in the
same round. In the loop metrics are fetched after every step or few (a study does so 128
times a run), so a longer run pays less for that than is shown.
"""

import argparse
import contextlib
import dataclasses
import importlib
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from typing import Any
from unittest import mock

import jax
from record import environment, natural, write

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

from experiments import models
from experiments.config import config
from experiments.data import dataset as data
from experiments.policies.catalogue import POLICIES
from experiments.records.journal import Journal
from experiments.training import compiling
from experiments.training import trainer as train

MODELS = {"cnn-shallow": 512, "resnet20": 16, "vgg11": 8}
"""Steps a round of each."""
BATCH = 128
POLICY = POLICIES["early-first"]
Rate = Callable[[], float]


def configuration(model: str, steps: int) -> config.Config:
    """A study of so many steps on the sample, evaluated once, at its end."""
    base = dataclasses.replace(
        config.PRESETS["demo"], model=model, batch_size=BATCH, crop_padding=4
    )
    epochs = steps / base.steps_per_epoch
    return dataclasses.replace(base, epochs=epochs, evaluations=1)


def make_forms(model: str, steps: int) -> dict[str, Rate]:
    """Each form as a function that runs one round: images a second."""
    settings = configuration(model, steps)
    dataset = data.load(settings.data, validation=settings.validation)
    trainer = train.Trainer(settings, dataset)
    with plain_convolutions():
        plain = train.Trainer(settings, dataset)
        plain.begin([train.Run(POLICY, 0)])  # compiles
    forms = {
        "step": lambda: bare(trainer, settings),
        "loop": lambda: whole(trainer, settings),
        "plain": lambda: bare(plain, settings),
    }
    with contextlib.suppress(ImportError):
        if model == "resnet20":
            forms["torch"] = torch_step(steps)
    return forms


@contextlib.contextmanager
def plain_convolutions() -> Generator[None]:
    """Inside, models and programs are made as if there were no `convolution`."""
    form = jax.lax.conv_general_dilated
    with (
        mock.patch.object(models.parts, "convolution", form),
        mock.patch.object(compiling, "compiler_options", dict),
    ):
        yield


def bare(trainer: Any, settings: config.Config) -> float:
    """The compiled step, called as often as a run has steps."""
    group = trainer.begin([train.Run(POLICY, 0)])
    state, step = jax.block_until_ready(group.state), group.stages[0].step
    began = time.perf_counter()
    for _ in range(settings.total_steps):
        state = step(state, trainer._train, group.tables)
    jax.block_until_ready(state)
    return BATCH * settings.total_steps / (time.perf_counter() - began)


def whole(trainer: Any, settings: config.Config) -> float:
    """A run with its journal, from the first record of training to the last."""
    times: list[tuple[int, float]] = []

    def note(event: dict[str, Any]) -> None:
        if event["kind"] == "train":
            times.append((event["images"], time.perf_counter()))

    with tempfile.TemporaryDirectory() as folder:
        every = settings.checkpoint_seconds
        with Journal(
            pathlib.Path(folder), trainer.like(POLICY), every, print
        ) as journal:
            run = train.Run(POLICY, 0, journal, watchers=[note])
            trainer.train(trainer.begin([run]))
    (first, began), (last, ended) = times[0], times[-1]
    return (last - first) / (ended - began)


def torch_step(steps: int) -> Rate:
    """The same network in PyTorch; raises ImportError where it is not installed."""
    torch: Any = importlib.import_module("torch")
    nn = torch.nn

    def conv(inputs: int, outputs: int, size: int, stride: int) -> Any:
        return nn.Sequential(
            nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False),
            nn.BatchNorm2d(outputs),
        )

    class Block(nn.Module):  # pyright: ignore[reportUntypedBaseClass]
        def __init__(self, inputs: int, outputs: int, stride: int):
            super().__init__()
            self.first = conv(inputs, outputs, 3, stride)
            self.second = conv(outputs, outputs, 3, 1)
            same = (inputs, stride) == (outputs, 1)
            self.shortcut = nn.Identity() if same else conv(inputs, outputs, 1, stride)

        def forward(self, x: Any) -> Any:
            return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))

    shapes = [(16, 16, 1)] * 3 + [(16, 32, 2)] + [(32, 32, 1)] * 2
    shapes += [(32, 64, 2)] + [(64, 64, 1)] * 2
    network = nn.Sequential(
        *(conv(3, 16, 3, 1), nn.ReLU(), *(Block(*shape) for shape in shapes)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10)),
    ).to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(network.parameters(), 0.02, 0.9, weight_decay=5e-4)
    images = torch.randn(BATCH, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, 10, (BATCH,))

    def rate() -> float:
        began = time.perf_counter()
        for _ in range(steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images), labels).backward()
            optimizer.step()
        return BATCH * steps / (time.perf_counter() - began)

    return rate


def compare(forms: dict[str, Rate], rounds: int) -> dict[str, Any]:
    """Medians of images a second, and of ratios to `step` in the same round."""
    for rate in forms.values():
        rate()  # warm up
    rates = [{name: rate() for name, rate in forms.items()} for _ in range(rounds)]
    found: dict[str, Any] = {}
    for name in forms:
        ratios = [one[name] / one["step"] for one in rates]
        found[name] = {
            "images_per_second": statistics.median(one[name] for one in rates),
            "ratio": statistics.median(ratios),
            "ratio_min": min(ratios),
            "ratio_max": max(ratios),
        }
    return found


def main() -> None:
    """Parses the command line, measures, prints, writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--rounds", type=natural, default=5)
    parser.add_argument("--json", type=pathlib.Path, help="write the record here")
    options = parser.parse_args()
    record: dict[str, Any] = {"results": []}
    for model in options.models:
        for form, found in compare(
            make_forms(model, MODELS[model]), options.rounds
        ).items():
            print(
                f"{model:<12}  {form:<6}  {found['images_per_second']:8,.0f} images/s  "
                f"{found['ratio']:5.2f}× "
                f"({found['ratio_min']:.2f}–{found['ratio_max']:.2f})",
                flush=True,
            )
            record["results"].append({"model": model, "form": form, **found})
    torch = sys.modules.get("torch")
    record["environment"] = environment() | {"torch": torch and torch.__version__}
    print(record["environment"])
    write(options.json, record)


if __name__ == "__main__":
    main()
