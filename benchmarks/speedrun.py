"""CIFAR-10 to 94 %: how many steps and seconds, under which layer policy?

Run it on its own, from the root of a clone, on a GPU:

    python benchmarks/speedrun.py                    # every policy, 20 seeds
    python benchmarks/speedrun.py --optimizer muon
    python benchmarks/speedrun.py --policies airbench norms-fall --epochs 9

and in small on a CPU, to try it: the rates are tuned for width 1 and 9.9 epochs, and
policies may stand in another order in small.

    python benchmarks/speedrun.py --width 0.25 --epochs 2 --seeds 3

Network, images, rates, lookahead and test-time augmentation are those of airbench94, or
with `--optimizer muon` of airbench94_muon (KellerJordan/cifar10-airbench); the policies
are in `speedrun_rates.py`. Here parameters are float32, and arithmetic on a GPU is
bfloat16; there both are float16. Under one seed all policies start from the same
weights and see the same images.

Seconds are counted as there, from the whitening on, through augmentation and training,
to the answers for the test images under test-time augmentation; here the making of the
first weights is in them too. Not in them: bringing the data set to the device,
compiling, which all is done before the first run, and what is run once to warm up. On a
GPU a run is a call for each phase of frozen layers, on a CPU one for each step.

The data set is that prepared by TFDS (`TFDS_DATA_DIR`), or `--data` with what
`speedrun_data.py` made of it. To compare with airbench94 itself, run its own file from
a clone of that repository (legacy/airbench94.py or airbench94_muon.py, with PyTorch)
before and after this, on the same GPU in the same sitting; it prints its seconds.
"""

import argparse
import functools
import itertools
import math
import pathlib
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))

import flax
import jax
import jax.numpy as jnp
import numpy as np
import speedrun_data
from airbench import scaled_widths
from record import environment, natural, positive, write
from speedrun_images import Images, draw
from speedrun_program import Fast, Program, State, Told
from speedrun_rates import POLICIES, RECIPES, Tables, tables
from speedrun_report import show, summary

import optax_llr
from experiments.data.cifar import Published, Split, read_cifar
from experiments.data.variants import CIFAR10
from experiments.models.convolution import compiler_options
from experiments.training.compiling import steps_per_call
from optax_llr import Phase

EVALUATED = 2_000
"""Test images that are evaluated at once, at most."""
SEEDS = 20
Record = dict[str, Any]


class Part(NamedTuple):
    """Steps of a run that are compiled alike."""

    run: Callable[[State, Told], State]
    calls: int
    stop: int  # the step behind the last one


class Runner:
    """Compiles for all policies, ahead of any run, and runs.

    Attributes:
        steps: of a run.
        compile_seconds: of all that there is to compile.
    """

    def __init__(self, options: argparse.Namespace, published: Published):
        """Brings the data to the device, and compiles."""
        train, test = published.train, published.test
        per_epoch = len(train) // options.batch
        self.steps = steps = math.ceil(per_epoch * options.epochs)
        self._looks = {
            round(steps * i / options.curve) for i in range(1, options.curve)
        }
        self._train = _on_device(train)
        size = math.gcd(EVALUATED, len(test))
        self._test = [
            _on_device(test.take(np.arange(start, start + size)))
            for start in range(0, len(test), size)
        ]
        began = time.perf_counter()
        dtype = jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16
        program = Program(options.optimizer, steps, options.batch, options.width, dtype)
        given = np.uint32(0), self._train.images
        self._initial = _compiled(
            lambda seed, images: program.initial(jax.random.key(seed), images), given
        )
        self._draw = _compiled(
            lambda seed: draw(jax.random.key(seed), len(train), steps, options.batch),
            given[:1],
        )
        state = self._initial(*given)
        self._correct, self._correct_plain = (
            _compiled(correct, (state.fast, self._test[0]))
            for correct in (program.correct, program.correct_plain)
        )
        recipe = RECIPES[options.optimizer]
        self._tables = {
            policy: tables(
                policy,
                recipe,
                program.layers,
                steps,
                options.batch,
                per_epoch,
                options.rate,
            )
            for policy in options.policies
        }
        told = Told(
            self._train, self._draw(given[0]), self._tables[options.policies[0]]
        )

        @functools.cache
        def compiled(phase: Phase, length: int) -> Any:
            several = functools.partial(program.steps, phase=phase, length=length)
            return _compiled(several, (state, told), donate_argnums=0)

        def part(phase: Phase, start: int, stop: int) -> Part:
            length = steps_per_call(stop - start)
            calls = (stop - start) // length
            return Part(compiled(phase.key, length), calls, stop)

        self._parts = {
            policy: [part(*cut) for cut in _cut(program, table, self._looks)]
            for policy, table in self._tables.items()
        }
        self.compile_seconds = time.perf_counter() - began

    def warm_up(self) -> None:
        """Calls once whatever is compiled."""
        state = self._initial(np.uint32(0), self._train.images)
        for correct in (self._correct, self._correct_plain):
            jax.block_until_ready(correct(state.fast, self._test[0]))
        for policy, parts in self._parts.items():
            state, told = self._begun(policy, 0)
            for part in parts:
                state = part.run(state, told)
            jax.block_until_ready(state)

    def run(self, policy: str, seed: int) -> Record:
        """Trains once; what came of it."""
        seconds, curve, began = 0.0, list[tuple[int, float]](), _now()
        state, told = self._begun(policy, seed)
        for part in self._parts[policy]:
            for _ in range(part.calls):
                state = part.run(state, told)
            if part.stop in self._looks:
                jax.block_until_ready(state)
                seconds += _now() - began
                curve.append((part.stop, self._accuracy(self._correct_plain, state)))
                began = _now()
        accuracy = self._accuracy(self._correct, state)
        seconds += _now() - began
        return {
            "policy": policy,
            "seed": seed,
            "accuracy": accuracy,
            "plain": self._accuracy(self._correct_plain, state),
            "seconds": seconds,
            "curve": curve,
        }

    def _begun(self, policy: str, seed: int) -> tuple[State, Told]:
        """What a run starts from, and what it is told."""
        state = self._initial(np.uint32(seed), self._train.images)
        drawn = self._draw(np.uint32(seed))
        return state, Told(self._train, drawn, self._tables[policy])

    def _accuracy(
        self, correct: Callable[[Fast, Images], jax.Array], state: State
    ) -> float:
        """On the test images, by a count of right answers."""
        found = [correct(state.fast, batch) for batch in self._test]
        images = sum(len(batch.labels) for batch in self._test)
        return sum(map(int, jax.device_get(found))) / images


def _cut(
    program: Program, table: Tables, looks: set[int]
) -> list[tuple[Phase, int, int]]:
    """The phases of frozen layers, cut where one wants to look; with start and stop."""
    multipliers = np.asarray(table.multipliers)
    cuts: list[tuple[Phase, int, int]] = []
    for phase in optax_llr.freeze_phases(
        program.layers, optax_llr.table_schedule(multipliers), len(multipliers)
    ):
        within = {look for look in looks if phase.start < look < phase.stop}
        bounds = sorted({phase.start, phase.stop} | within)
        cuts += [(phase, *bound) for bound in itertools.pairwise(bounds)]
    return cuts


def _compiled(
    function: Callable[..., Any], given: tuple[Any, ...], **options: Any
) -> Any:
    jitted = jax.jit(function, compiler_options=compiler_options(), **options)
    return jitted.lower(*given).compile()


def _on_device(split: Split) -> Images:
    return Images(*map(jnp.asarray, (split.images, split.labels)))


def _now() -> float:
    return time.perf_counter()


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; what it leaves out is as in the recipe of the optimizer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--policies", nargs="+", choices=POLICIES, default=[*POLICIES])
    parser.add_argument("--seeds", type=natural, help=f"{SEEDS}, or 1 on a CPU")
    parser.add_argument("--epochs", type=positive, help="9.9, or 8 with Muon")
    parser.add_argument("--width", type=positive, default=1.0, help="of channels")
    parser.add_argument(
        "--rate", type=positive, default=1.0, help="times the recipe's global rate"
    )
    parser.add_argument("--optimizer", choices=RECIPES, default="nesterov")
    parser.add_argument("--batch", type=natural, help="1024, or 2000 with Muon")
    parser.add_argument(
        "--curve",
        type=natural,
        default=0,
        metavar="N",
        help="look at the accuracy N − 1 times on the way, evenly, without test-time "
        "augmentation; not in the seconds",
    )
    parser.add_argument(
        "--data", type=pathlib.Path, nargs="+", help="parts by speedrun_data.py"
    )
    parser.add_argument("--json", type=pathlib.Path, help="write the record here")
    options = parser.parse_args(words)
    recipe = RECIPES[options.optimizer]
    options.epochs = options.epochs or recipe.epochs
    options.batch = options.batch or recipe.batch
    options.seeds = options.seeds or (1 if jax.default_backend() == "cpu" else SEEDS)
    options.policies = list(dict.fromkeys(options.policies))
    return options


def main() -> None:
    """Parses the command line, trains, prints, writes the record."""
    options = parse()
    try:
        scaled_widths(options.width)
        published = (
            speedrun_data.unpack(options.data) if options.data else read_cifar(CIFAR10)
        )
    except ValueError as error:
        raise SystemExit(str(error)) from error
    if options.batch > len(published.train):
        raise SystemExit(
            f"--batch: expected at most {len(published.train)}, the images to train "
            f"on, got {options.batch}"
        )
    runner = Runner(options, published)
    runner.warm_up()
    record: Record = {
        "environment": environment() | {"flax": flax.__version__},
        "settings": {
            name: value for name, value in vars(options).items() if name != "json"
        },
        "steps": runner.steps,
        "compile_seconds": runner.compile_seconds,
        "results": [],
    }
    record["settings"]["data"] = published.checksum
    print(record["environment"])
    print(f"compiled in {runner.compile_seconds:.0f} s", flush=True)
    for seed in range(options.seeds):
        for policy in options.policies:
            run = runner.run(policy, seed)
            record["results"].append(run)
            print(
                f"  {policy}, seed {seed}: {100 * run['accuracy']:.2f} % in "
                f"{run['seconds']:.2f} s",
                flush=True,
            )
        record["summary"] = summary(record["results"], options.policies)
        write(options.json, record)  # what there is, should the rest not come
    show(record["summary"], runner.steps)


if __name__ == "__main__":
    main()
