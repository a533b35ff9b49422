"""What do runs that are stacked in one program gain? Runs an hour, and steps a second.

Run it on its own:

    python benchmarks/population.py                            # on a GPU
    python benchmarks/population.py --sizes 1 2 4 --runs 4     # on a CPU

The same runs, seeds of one policy, are made by the command line of the experiments,
stacked by so many, and as processes of their own, so many at once; the wall-clock time
of all, from the start of Python to the last record, gives runs an hour. Each begins
without a compilation cache. Steps a second are those of compiled steps, all runs of a
stack together, in one process, the sizes in turns.
"""

import argparse
import dataclasses
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from record import environment, natural, positive, write

from experiments.config import choices, config
from experiments.data import dataset as data
from experiments.training import trainer as train

STUDY = (sys.executable, "-m", "experiments", "study")


def steps_a_second(
    settings: config.Config, sizes: list[int], rounds: int
) -> dict[int, list[float]]:
    """Of all runs of a stack together, a number for each round."""
    data_set = data.load(settings.data, validation=settings.validation)
    trainers: dict[int, Any] = {
        size: train.Trainer(dataclasses.replace(settings, stack=size), data_set)
        for size in sizes
    }
    found: dict[int, list[float]] = {size: [] for size in sizes}
    for _ in range(rounds):
        for size, trainer in trainers.items():
            found[size].append(trainer._speed(size))
    return found


def command(settings: config.Config, out: str, **changes: Any) -> list[str]:
    """The command line of a study of seeds of policy uniform."""
    fields = {
        "policies": "uniform",
        "model": settings.model,
        "data": settings.data,
        "validation": settings.validation,
        "epochs": settings.epochs,
        "batch-size": settings.batch_size,
        "evaluations": 4,
        "out": out,
        **changes,
    }
    flags = (word for name, value in fields.items() for word in (f"--{name}", value))
    return [*STUDY, *map(str, flags)]


def stacked(settings: config.Config, size: int, runs: int) -> float:
    """Seconds of all runs in one process."""
    with tempfile.TemporaryDirectory() as out:
        began = time.perf_counter()
        start(command(settings, out, seeds=runs, stack=size), out)
        return time.perf_counter() - began


def separate(settings: config.Config, at_once: int, runs: int) -> float:
    """Seconds of all runs as processes, each with its share of a GPU's memory."""
    with (
        tempfile.TemporaryDirectory() as out,
        ThreadPoolExecutor(at_once) as workers,
    ):
        began = time.perf_counter()
        started = [
            workers.submit(
                start,
                command(settings, out, seeds=1, name=f"run-{number}"),
                f"{out}/cache-{number}",
                XLA_PYTHON_CLIENT_MEM_FRACTION=str(0.9 / at_once),
            )
            for number in range(runs)
        ]
        for done in started:
            done.result()
        return time.perf_counter() - began


def start(words: list[str], cache: str, **variables: str) -> None:
    """Runs a command to its end, quietly."""
    subprocess.run(
        words,
        check=True,
        capture_output=True,
        env={**os.environ, "XDG_CACHE_HOME": cache, **variables},
    )


def main() -> None:
    """Parses the command line, measures, prints, writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="cnn-shallow", choices=choices.MODELS)
    parser.add_argument("--data", default="sample")
    parser.add_argument("--batch", type=natural, default=32)
    parser.add_argument("--epochs", type=positive, default=10.0)
    parser.add_argument("--sizes", type=natural, nargs="*", default=[1, 2, 4, 8, 16])
    parser.add_argument("--processes", type=natural, nargs="*", default=[1, 2, 4])
    parser.add_argument("--runs", type=natural, default=16, help="in each measurement")
    parser.add_argument("--rounds", type=natural, default=5, help="of steps")
    parser.add_argument("--json", type=pathlib.Path, help="write the record here")
    options = parser.parse_args()
    settings = dataclasses.replace(
        config.PRESETS["demo"],
        model=options.model,
        data=options.data,
        batch_size=options.batch,
        epochs=options.epochs,
    )
    # Before this process takes the device, as the others are to have it alone.
    walls = {size: stacked(settings, size, options.runs) for size in options.sizes}
    apart = {n: separate(settings, n, options.runs) for n in options.processes}
    speeds = steps_a_second(settings, options.sizes, options.rounds)
    record: dict[str, Any] = {"environment": environment(), "stacked": [], "apart": []}
    record |= {"model": options.model, "batch": options.batch, "runs": options.runs}
    print(record["environment"])
    one = speeds[options.sizes[0]]
    print(f"stacked  runs/h  steps/s by those of {options.sizes[0]}")
    for size, wall in walls.items():
        ratios = sorted(a / b for a, b in zip(speeds[size], one, strict=True))
        hourly = 3600 * options.runs / wall
        print(
            f"{size:7}  {hourly:6.0f}  {statistics.median(ratios):.2f} "
            f"({ratios[0]:.2f}–{ratios[-1]:.2f})"
        )
        record["stacked"].append(
            {"size": size, "runs_an_hour": hourly, "steps_a_second": speeds[size]}
        )
    print("processes at once  runs/h")
    for number, wall in apart.items():
        hourly = 3600 * options.runs / wall
        print(f"{number:17}  {hourly:6.0f}")
        record["apart"].append({"processes": number, "runs_an_hour": hourly})
    write(options.json, record)


if __name__ == "__main__":
    main()
