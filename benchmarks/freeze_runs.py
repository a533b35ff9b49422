"""What does freezing save, and cost, over whole runs? Time with compiling; accuracy.

Run it on its own, on the whole of CIFAR-10 (`TFDS_DATA_DIR`):

    python benchmarks/freeze_runs.py                      # long: see --epochs

Under each seed a model is trained twice, one run after the other: with a cosine, and by
FreezeOut with a cosine for each layer, cubic from half of the run on. The seconds of a
run are those of its steps and of compiling all that it needs, as if it were the only
one; evaluation is in neither.
"""

import argparse
import dataclasses
import pathlib
import statistics
import time
from typing import Any

from freeze import policy
from record import environment, natural, positive, write

from experiments.analysis import significance
from experiments.config import config
from experiments.data import dataset as data
from experiments.policies.catalogue import POLICIES
from experiments.policies.policy import Policy
from experiments.records.journal import Event, Forgetful
from experiments.training import trainer as train

PLANS = (POLICIES["uniform-cosine"], policy(power=3, t0=0.5))


class Seen(Forgetful):
    """Shows evaluations, so that one sees it live."""

    def write(self, event: Event) -> None:
        """Prints one."""
        if event["kind"] == "validation":
            print(f"  {event['step']}: {event['accuracy']:.3f}", flush=True)


def run(
    settings: config.Config, data_set: data.Dataset, plan: Policy, seed: int
) -> dict[str, Any]:
    """Trains once, in a trainer of its own, that compiles anew."""
    trainer = train.Trainer(settings, data_set)
    began = time.perf_counter()
    trainer.begin([train.Run(plan, seed)])
    compiling = time.perf_counter() - began
    print(f"{plan.name}, seed {seed}: compiled in {compiling:.0f} s", flush=True)
    end = trainer.run(plan, seed, Seen())
    return {
        "policy": plan.name,
        "seed": seed,
        "compile_seconds": compiling,
        "train_seconds": end["seconds"],
        "test_accuracy": end["test_accuracy"],
    }


def main() -> None:
    """Parses the command line, trains, prints, writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="resnet20")
    parser.add_argument("--epochs", type=positive, default=3.5)
    parser.add_argument("--seeds", type=natural, default=3)
    parser.add_argument("--json", type=pathlib.Path, help="write the record here")
    options = parser.parse_args()
    settings = dataclasses.replace(
        config.PRESETS["cifar10-resnet20"],
        model=options.model,
        epochs=options.epochs,
        evaluations=10,
    )
    data_set = data.load(settings.data, validation=settings.validation)
    record: dict[str, Any] = {
        "environment": environment(),
        "model": options.model,
        "epochs": options.epochs,
        "results": [],
    }
    for seed in range(options.seeds):
        pair = [run(settings, data_set, plan, seed) for plan in PLANS]
        record["results"] += pair
        write(options.json, record)  # what there is, should the rest not come
    whole, frozen = (record["results"][i :: len(PLANS)] for i in range(len(PLANS)))
    record["time_ratio"] = [
        (f["compile_seconds"] + f["train_seconds"])
        / (w["compile_seconds"] + w["train_seconds"])
        for w, f in zip(whole, frozen, strict=True)
    ]
    accuracies = [{r["seed"]: r["test_accuracy"] for r in rs} for rs in (frozen, whole)]
    difference = significance.paired(*accuracies)
    record["accuracy_difference"] = difference and dataclasses.asdict(difference)
    ratios = record["time_ratio"]
    print(
        f"time {statistics.median(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f}), "
        f"accuracy difference {difference}"
    )
    write(options.json, record)


if __name__ == "__main__":
    main()
