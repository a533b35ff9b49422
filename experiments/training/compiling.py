"""What a study compiles, each thing once: programs, and the steps of phases.

A program for all policies that are schedules, one for each rule; of each the steps of
every phase in which other layers are frozen; and all that for each number of runs that
are trained at once.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import optax_llr
from optax_llr import Layers, Phase

from ..config.config import Config
from ..data import cache
from ..data.dataset import Dataset
from ..models.convolution import compiler_options
from ..policies.optimizers import Layering, scheduled
from ..policies.policy import Policy
from ..policies.rates import global_rate
from . import stacking
from .devices import Devices
from .program import Program, Tables, TrainState

MOST_KEPT = 64
"""Compiled phases, and policies with their tables, that are kept for another run."""


class Ahead:
    """A function of arrays that is compiled ahead of its calls, for so many runs.

    Attributes:
        work: floating-point operations of a call, as XLA counts them.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        size: int,
        in_axes: Sequence[Any],
        out_axes: Any = 0,
        **options: Any,
    ):
        """Takes what is for one run; the axes say what is stacked of several."""
        if size > 1:
            function = jax.vmap(function, tuple(in_axes), out_axes)
        options["compiler_options"] = compiler_options()
        self._jitted = jax.jit(function, **options)
        self.work, self._compiled = math.nan, None

    def compile(self, *given: Any) -> None:
        """Compiles it, once, for arrays that lie as these do."""
        if self._compiled is None:
            self._compiled = self._jitted.lower(*given).compile()
            self.work = (self._compiled.cost_analysis() or {}).get("flops", math.nan)

    def __call__(self, *given: Any) -> Any:
        """What it returns for such arrays."""
        assert self._compiled is not None
        return self._compiled(*given)


class Compiled(NamedTuple):
    """What all runs of a layering share, for some number of them at once."""

    initial: Callable[..., TrainState]  # of a seed and what to start from; one run
    stacked: Callable[[list[TrainState]], TrainState]
    score: Ahead
    measure: Ahead


class Stage(NamedTuple):
    """A phase of a run."""

    phase: Phase
    step: Ahead  # (state, images, tables) → state; the one before is given away
    steps: Ahead  # `steps_per_call` of them
    predicted: float  # work of a step, by that of one without frozen layers


class Compiler:
    """Makes each program once.

    Attributes:
        layers: the layers of the model, in forward order.
    """

    def __init__(self, config: Config, dataset: Dataset, devices: Devices):
        """Takes what is trained, and where."""
        self._devices, self._every = devices, config.record_every
        self._pretrained = config.init_from is not None
        divide = config.stack == 1 and devices.count > 1
        divided = devices.divided if divide else None
        self._program = functools.cache(
            lambda layering: Program(config, dataset, layering, divided)
        )
        self.layers = self._program(scheduled).layers
        keep = functools.lru_cache(maxsize=MOST_KEPT)
        self.tables = keep(lambda policy: policy_tables(policy, config, self.layers))
        self.phases = keep(
            lambda policy: policy_phases(self.tables(policy), config, self.layers)
        )
        self.like = functools.cache(
            lambda layering: jax.eval_shape(
                self._program(layering).initial, jax.random.key(0)
            )
        )
        self.program = functools.cache(self._make)
        self.steps = keep(self._make_steps)

    def _make(self, layering: Layering, size: int) -> Compiled:
        """All but the steps."""
        program, everywhere = self._program(layering), self._devices.everywhere
        measured = (stacking.AXES, None, 0, 0)
        return Compiled(
            initial=jax.jit(
                lambda seed, source=None: program.initial(jax.random.key(seed), source),
                out_shardings=everywhere,
            ),
            stacked=jax.jit(
                stacking.stacked, out_shardings=stacking.layout(self._devices, size)
            ),
            score=Ahead(program.score, size, (0, 0, None), out_shardings=everywhere),
            measure=Ahead(program.measure, size, measured, out_shardings=everywhere),
        )

    def _make_steps(
        self, layering: Layering, size: int, phase: Phase, settled: Phase
    ) -> tuple[Ahead, Ahead]:
        """One step, and several; of the phases counts only what is frozen."""
        program, length = self._program(layering), steps_per_call(self._every)

        def made(step: Callable[..., TrainState], **fixed: Any) -> Ahead:
            return Ahead(
                functools.partial(step, phase=phase, settled=settled, **fixed),
                size,
                (stacking.AXES, None, 0),
                stacking.AXES,
                donate_argnums=0,
                out_shardings=stacking.layout(self._devices, size),
            )

        one = made(program.step)
        return one, made(program.steps, length=length) if length > 1 else one

    def stages(self, policy: Policy, size: int, *given: Any) -> list[Stage]:
        """The phases of a run, compiled for its state, images and tables."""
        (whole,) = optax_llr.freeze_phases(self.layers, np.ones(len(self.layers)), 1)
        whole_step, _ = self.steps(policy.layering, size, whole, whole)
        whole_step.compile(*given)
        stages, phases = list[Stage](), self.phases(policy)
        pretrained = self._pretrained and not policy.scratch
        for phase, still in zip(phases, settled(phases, pretrained), strict=True):
            step, steps = self.steps(policy.layering, size, phase.key, still.key)
            step.compile(*given)
            steps.compile(*given)
            stages.append(Stage(phase, step, steps, step.work / whole_step.work))
        return stages


def steps_per_call(most: int) -> int:
    """How many steps one call to the device runs; all of them, or one on a CPU.

    XLA runs a convolution inside a loop on one thread of a CPU and by a slower routine,
    many times slower than outside. An accelerator is to be kept busy without the host.
    """
    return 1 if jax.default_backend() == "cpu" else most


def policy_tables(policy: Policy, config: Config, layers: Layers) -> Tables:
    """The global rate and the multipliers of every step of a run under a policy.

    Raises:
        ValueError: the multipliers are of another shape, not finite or negative.
    """
    total = config.total_steps
    rate = global_rate(
        policy.schedule or config.schedule, policy.rate or config.rate, total
    )
    made = policy.multipliers(layers, total)
    multipliers = made if callable(made) else np.asarray(made)
    owner = f"policies: the multipliers of {policy.name!r} must be"
    shape = np.shape(multipliers(0) if callable(multipliers) else multipliers)
    if shape != (len(layers),):
        raise ValueError(
            f"{owner} ({len(layers)},), one a layer, or a schedule of that; got {shape}"
        )

    @jax.jit
    def evaluate(steps: jax.Array) -> Tables:
        values = jax.vmap(multipliers)(steps) if callable(multipliers) else multipliers
        return Tables(
            jnp.broadcast_to(jax.vmap(rate)(steps), (total,)).astype(jnp.float32),
            jnp.broadcast_to(values, (total, len(layers))).astype(jnp.float32),
        )

    tables = jax.device_get(evaluate(jnp.arange(total)))
    if (bad := ~((tables.multipliers >= 0) & (tables.multipliers < np.inf))).any():
        step, layer = np.argwhere(bad)[0]
        raise ValueError(
            f"{owner} finite and 0 or more; got {tables.multipliers[step, layer]:g} "
            f"for {layers.names[layer]!r} at step {step}"
        )
    return tables


def policy_phases(tables: Tables, config: Config, layers: Layers) -> tuple[Phase, ...]:
    """The phases of a run under these tables, by which layers are frozen."""
    total = config.total_steps
    shortest = max(1, round(config.shortest_phase * total))
    multipliers = optax_llr.table_schedule(tables.multipliers)
    return tuple(optax_llr.freeze_phases(layers, multipliers, total, shortest))


def settled(phases: Sequence[Phase], pretrained: bool) -> list[Phase]:
    """Of each phase the frozen layers that have batch statistics to keep.

    A layer that still waits with random weights has none: those that it starts with are
    of no image. It normalises by each batch, as layers do that train.
    """
    found, trained = list[Phase](), np.full(len(phases[0].frozen), pretrained)
    for phase in phases:
        still = tuple((trained & phase.frozen).tolist())
        found.append(dataclasses.replace(phase, frozen=still))
        trained |= ~np.array(phase.frozen)
    return found


def use_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache folder, for the next start."""
    jax.config.update("jax_compilation_cache_dir", str(cache.folder() / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
