"""What a study compiles, each thing once: programs, and the steps of phases.

A program for all policies that are schedules, one for each rule; of each the steps of
every phase in which other layers are frozen; and all that for each number of runs that
are trained at once.
"""

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import optax_llr
from optax_llr import LayerMeasures, Layers, Phase

from ..config.config import Config
from ..data import cache
from ..data.dataset import Dataset
from ..models.convolution import compiler_options
from ..policies.optimizers import Layering, scheduled
from ..policies.policy import Policy
from ..policies.rates import global_rate
from . import stacking
from .devices import Devices
from .program import Images, Program, Tables, TrainState, evaluated

MOST_KEPT = 64
"""Compiled phases, and policies with their tables, that are kept for another run."""


class Compiled(NamedTuple):
    """The program of a layering for some number of runs at once."""

    program: Program
    initial: Callable[[np.uint32], TrainState]  # one run
    stacked: Callable[[list[TrainState]], TrainState]
    score: Callable[..., tuple[jax.Array, jax.Array, jax.Array]]
    measure: Callable[..., LayerMeasures] | None  # None where it is not asked for


class Stepping(NamedTuple):
    """The steps of a phase."""

    step: Callable[[TrainState, Images, Tables], TrainState]
    steps: Callable[[TrainState, Images, Tables], TrainState]
    steps_per_call: int
    work: float  # floating-point operations of a step, as XLA counts them


class Stage(NamedTuple):
    """A phase of a run."""

    phase: Phase
    stepping: Stepping
    about: dict[str, Any]  # for the records


class Compiler:
    """Compiles, ahead of the first run, so that no run's time includes it.

    Attributes:
        layers: the layers of the model, in forward order.
    """

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        devices: Devices,
        train: Images,
        batch: Images,
    ):
        """Takes what is trained on, and a batch to evaluate, as they are laid out."""
        self._config, self._devices = config, devices
        self._train, self._batch = train, batch
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
        self.stages = keep(self._stages)
        self.program = functools.cache(self._compile)
        self.like = functools.cache(
            lambda layering: jax.eval_shape(
                self._program(layering).initial, jax.random.key(0)
            )
        )
        self.steps = keep(self._compile_steps)

    def _stages(self, policy: Policy, size: int) -> list[Stage]:
        """The phases of a run under a policy, compiled."""
        (whole,) = optax_llr.freeze_phases(self.layers, np.ones(len(self.layers)), 1)
        stages: list[Stage] = []
        for phase in self.phases(policy):
            stepping = self.steps(policy.layering, size, phase.key)
            of = self.steps(policy.layering, size, whole)
            about = {"frozen": phase.names, "predicted": stepping.work / of.work}
            stages.append(Stage(phase, stepping, about))
        return stages

    def _compile(self, layering: Layering, size: int) -> Compiled:
        """All but the steps, for some number of runs at once."""
        program = self._program(layering)
        initial = jax.jit(
            lambda seed: program.initial(jax.random.key(seed)),
            out_shardings=self._devices.everywhere,
        )
        like = self.like(layering)
        states = stacking.layout(self._devices, size)
        together = stacking.shapes(like, size)
        told = stacking.rows(self._devices, size)
        params, statistics = evaluated(together)
        measure = None
        if self._config.measurements:
            measure = self._compile_for(
                program.measure,
                size,
                (stacking.AXES, None, 0, 0),
                (together, self._train, self._told(size), params),
                out_shardings=told,
            )
        return Compiled(
            program=program,
            initial=initial.lower(np.uint32(0)).compile(),
            stacked=jax.jit(stacking.stacked, out_shardings=states),
            score=self._compile_for(
                program.score,
                size,
                (0, 0, None),
                (params, statistics, self._batch),
                out_shardings=told,
            ),
            measure=measure,
        )

    def _compile_steps(self, layering: Layering, size: int, phase: Phase) -> Stepping:
        """The steps of a phase; of it only counts what is frozen."""
        compiled = self.program(layering, size)
        program, states = compiled.program, stacking.layout(self._devices, size)
        given = (
            stacking.shapes(self.like(layering), size),
            self._train,
            self._told(size),
        )

        def compiled_for(step: Callable[..., TrainState]) -> Any:
            return self._compile_for(
                step,
                size,
                (stacking.AXES, None, 0),
                given,
                out_axes=stacking.AXES,
                donate_argnums=0,
                out_shardings=states,
            )

        one = compiled_for(functools.partial(program.step, phase=phase))
        several, at_once = one, steps_per_call(self._config.record_every)
        if at_once > 1:
            several = compiled_for(
                functools.partial(program.steps, phase=phase, length=at_once)
            )
        return Stepping(
            step=one,
            steps=several,
            steps_per_call=at_once,
            work=(one.cost_analysis() or {}).get("flops", math.nan),
        )

    def _compile_for(
        self,
        function: Callable[..., Any],
        size: int,
        in_axes: tuple[Any, ...],
        given: tuple[Any, ...],
        out_axes: Any = 0,
        **options: Any,
    ) -> Any:
        """Compiles what is for one run for so many; in_axes say what is stacked.

        What is stacked is divided over the devices by run; else all have it whole, but
        for images, which lie as they lie.
        """
        layouts = tuple(
            argument.images.sharding
            if isinstance(argument, Images)
            else stacking.layout(self._devices, size)
            if axes is stacking.AXES
            else stacking.rows(self._devices, size)
            for argument, axes in zip(given, in_axes, strict=True)
        )
        if size > 1:
            function = jax.vmap(function, in_axes=in_axes, out_axes=out_axes)
        compiling = jax.jit(
            function,
            in_shardings=layouts,
            compiler_options=compiler_options(),
            **options,
        )
        return compiling.lower(*given).compile()

    def _told(self, size: int) -> Tables:
        """The shapes of the tables of so many runs."""
        runs, total = () if size == 1 else (size,), self._config.total_steps
        return Tables._make(
            jax.ShapeDtypeStruct((*runs, total, *axes), jnp.float32)
            for axes in ((), (len(self.layers),))
        )


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


def use_compilation_cache() -> None:
    """Keeps compiled programs in the user's cache folder, for the next start."""
    jax.config.update("jax_compilation_cache_dir", str(cache.folder() / "jax"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
