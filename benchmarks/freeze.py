"""What does a frozen layer save? Predicted and measured, with compiling and without.

Run it on its own:

    python benchmarks/freeze.py                          # every model, long on a CPU
    python benchmarks/freeze.py --models resnet20        # one

FreezeOut freezes layer after layer, the first ones first: linearly or with the cube of
the depth, the first of them after half or 80 % of what that gives. For each model and
schedule the compiled training steps of all phases are timed in one process, in turns:

    predicted  floating-point operations, by XLA's count, by those of a whole step
    measured   median of the ratios of its time to a whole step's of the same round
    run        the time of a run that takes `--minutes` without freezing, by that: all
               phases at their lengths, and each compiled once

Nothing is trained to an end here: `freeze_runs.py` does that.
"""

import argparse
import dataclasses
import pathlib
import statistics
import time
from typing import Any

import jax
from record import environment, natural, positive, write

import optax_llr
from experiments.config import config
from experiments.data import dataset as data
from experiments.policies.catalogue import POLICIES
from experiments.policies.policy import Policy
from experiments.training import trainer as train

MODELS = ("resnet20", "densenet76", "vit12")
SCHEDULES = [(power, t0) for power in (1, 3) for t0 in (0.5, 0.8)]
UNIFORM = POLICIES["uniform"]
TOTAL = 1_000  # steps that the phases are cut of; their shares are what counts


def policy(power: int, t0: float) -> Policy:
    """FreezeOut with another power and t0 than that of the studies."""
    return Policy(
        name=f"freezeout-{power}-{t0}",
        summary="",
        expectation="",
        source="",
        multipliers=lambda layers, total: optax_llr.freezeout_schedule(
            layers, total, t0=t0, power=power
        ),
        schedule="constant",
    )


def make_trainer(model: str, batch: int, shortest: float) -> Any:
    """A trainer on the sample, for a run of TOTAL steps."""
    base = dataclasses.replace(
        config.PRESETS["demo"],
        model=model,
        batch_size=batch,
        shortest_phase=shortest,
    )
    settings = dataclasses.replace(base, epochs=TOTAL / base.steps_per_epoch)
    return train.Trainer(
        settings, data.load(settings.data, validation=settings.validation)
    )


def measure(
    trainer: Any, freezeout: Policy, rounds: int, minutes: float
) -> dict[str, Any]:
    """The phases of a schedule, each with its costs, and what they come to."""
    trainer._compiler.steps.cache_clear()  # what schedules share each compiles anew
    seconds: dict[str, float] = {}
    groups: dict[str, train.Group] = {}
    for name, plan in (("whole", UNIFORM), ("phases", freezeout)):
        began = time.perf_counter()
        groups[name] = trainer.begin([train.Run(plan, 0)])  # compiles
        seconds[name] = time.perf_counter() - began
    (whole,), stages = groups["whole"].stages, groups["phases"].stages
    times = timed(trainer, freezeout, [whole, *stages], rounds)
    ratios = [
        # Where nothing is frozen it is the same program, and differs by noise only.
        1.0
        if stage.step is whole.step
        else statistics.median(t / base for t, base in zip(row, times[0], strict=True))
        for stage, row in zip(stages, times[1:], strict=True)
    ]
    step = statistics.median(times[0])
    shares = [len(s.phase) / TOTAL for s in stages]
    predicted = sum(
        share * stage.predicted for share, stage in zip(shares, stages, strict=True)
    )
    measured = sum(share * ratio for share, ratio in zip(shares, ratios, strict=True))
    steps = 60 * minutes / step
    return {
        "step_seconds": step,
        "compile_seconds": seconds,
        "predicted": predicted,
        "measured": measured,
        "of_predicted": (1 - measured) / (1 - predicted),
        "run": (steps * step * measured + seconds["phases"])
        / (steps * step + seconds["whole"]),
        "phases": [
            {
                "share": share,
                "frozen": len(stage.phase.names),
                "predicted": stage.predicted,
                "measured": ratio,
            }
            for share, stage, ratio in zip(shares, stages, ratios, strict=True)
        ],
    }


def timed(
    trainer: Any, freezeout: Policy, stages: list[Any], rounds: int
) -> list[list[float]]:
    """Seconds of a step of each stage in each round."""
    groups = [trainer.begin([train.Run(freezeout, 0)]) for _ in stages]
    states, tables = [group.state for group in groups], groups[0].tables
    times: list[list[float]] = [[] for _ in stages]
    for number in range(rounds + 1):
        for i, stage in enumerate(stages):
            began = time.perf_counter()
            states[i] = stage.step(states[i], trainer._train, tables)
            jax.block_until_ready(states[i])
            if number:  # the first one warms up
                times[i].append(time.perf_counter() - began)
    return times


def main() -> None:
    """Parses the command line, measures, prints, writes the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--models", nargs="*", default=MODELS, choices=MODELS)
    parser.add_argument("--batch", type=natural, default=128)
    parser.add_argument("--shortest", type=float, default=0.04, help="phase, a share")
    parser.add_argument("--rounds", type=natural, default=5)
    parser.add_argument("--minutes", type=positive, default=10.0)
    parser.add_argument("--json", type=pathlib.Path, help="write the record here")
    options = parser.parse_args()
    record: dict[str, Any] = {"environment": environment(), "results": []}
    record |= {"batch": options.batch, "shortest": options.shortest}
    print(record["environment"])
    print("model  power  t0  phases  predicted  measured  of predicted  run, compiled")
    for model in options.models:
        trainer = make_trainer(model, options.batch, options.shortest)
        for power, t0 in SCHEDULES:
            found = measure(trainer, policy(power, t0), options.rounds, options.minutes)
            print(
                f"{model}  {power}  {t0}  {len(found['phases'])}  "
                f"{found['predicted']:.3f}  {found['measured']:.3f}  "
                f"{found['of_predicted']:.2f}  {found['run']:.3f}",
                flush=True,
            )
            which = {"model": model, "power": power, "t0": t0}
            record["results"].append({**which, **found})
    write(options.json, record)


if __name__ == "__main__":
    main()
