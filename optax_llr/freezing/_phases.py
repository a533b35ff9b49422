"""Phases of frozen layers, in which what is frozen is not computed."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Self, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from ..layers._layers import Layers, as_indices, check_arguments
from ..layers._paths import PyTree, leaves_by_path, quoted
from ..transforms._multipliers import Multipliers, evaluate
from ._freeze import Init, Update
from ._masks import Mask, choose, in_short, is_array, masks_of
from ._split_scans import split_scans

CHUNK = 4096
"""Steps of a schedule that are looked at together."""


Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Phase:
    r"""Steps in which the same layers are frozen; `freeze_phases` makes them.

    Immutable and hashable, and so a static argument for a jitted function. Nothing of a
    frozen layer is computed but its forward pass. Its parameters and moments keep every
    bit, and its batch statistics if they are `held`. A layer that thaws goes on from
    its moments as if it had never paused: it owns the count that corrects their bias,
    and whatever else an optimizer keeps beside them.

    Attributes:
        layers: the `Layers` of the model.
        start: the first step.
        stop: the step behind the last one.
        frozen: for each layer, whether it is frozen.

    Raises:
        ValueError: for steps that are no ints, an empty phase, anything but one bool
            for each layer, or a phase in which everything is frozen.

    Example:
        >>> import jax.numpy as jnp, optax, optax_llr
        >>> params = {"conv": jnp.ones(2), "head": jnp.ones(2)}
        >>> layers = optax_llr.match_layers(params, [(k, k) for k in params])
        >>> phase = optax_llr.Phase(layers, 0, 10, frozen=(True, False))
        >>> optimizer = phase.freeze(optax.adam(0.5))
        >>> updates, state = optimizer.update(params, optimizer.init(params), params)
        >>> print(updates["conv"], updates["head"].round(3), state.inner[0].count)
        [0. 0.] [-0.5 -0.5] [0 1]
    """

    layers: Layers
    start: int
    stop: int
    frozen: tuple[bool, ...]

    def __post_init__(self):
        check_arguments("Phase", self.layers)
        frozen = tuple(self.frozen)
        bools = all(isinstance(cast(object, s), bool | np.bool_) for s in frozen)
        if not bools or len(frozen) != len(self.layers):
            raise ValueError(
                f"Phase: frozen: expected a bool for each of {len(self.layers)} "
                f"layers, {quoted(self.layers.names)}; got {self.frozen!r}"
            )
        for name in ("start", "stop"):
            _check_int("Phase", name, getattr(self, name), 0)
            object.__setattr__(self, name, int(getattr(self, name)))
        object.__setattr__(self, "frozen", tuple(map(bool, frozen)))
        if not self.start < self.stop:
            raise ValueError(
                f"Phase: expected start < stop, got {self.start} and {self.stop}"
            )
        if frozen and all(frozen):
            raise ValueError(
                f"Phase: all layers are frozen in the steps {self.start} to "
                f"{self.stop - 1}: there is nothing to train. End the run before, or "
                "leave a layer at a multiplier above 0"
            )

    def __len__(self) -> int:
        return self.stop - self.start

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the frozen layers, in forward order."""
        named = zip(self.layers.names, self.frozen, strict=True)
        return tuple(name for name, frozen in named if frozen)

    @property
    def key(self) -> Self:
        """The same phase at step 0: equal where the same layers are frozen."""
        return dataclasses.replace(self, start=0, stop=1)

    def stopped(self, function: Callable[..., Result]) -> Callable[..., Result]:
        """The function, with no gradient by what is frozen of its first argument.

        Args:
            function: of parameters and of anything else; a loss, say.

        Returns:
            A function of the same arguments and the same value. Where `lax.scan` runs
            through a stack of layers that is frozen in part, the scan is cut, so that
            no backward pass runs through a part in front that is frozen.
        """
        if not any(self.frozen):
            return function

        @functools.wraps(function)
        def stopped(params: PyTree, *args: Any, **kwargs: Any) -> Result:
            masks = masks_of(self.layers, self.frozen, params)
            parts = {p: m for p, m in masks.items() if isinstance(m, np.ndarray)}
            cut = split_scans(function, parts) if parts else function
            still = [
                choose(masks[path], lax.stop_gradient(leaf), leaf)
                if path in masks
                else leaf  # no array: an activation, say
                for path, leaf in leaves_by_path(params).items()
            ]
            tree = jax.tree.unflatten(jax.tree.structure(params), still)
            return cut(tree, *args, **kwargs)

        return stopped

    def freeze(
        self, inner: optax.GradientTransformation
    ) -> optax.GradientTransformationExtraArgs:
        """The optimizer for what trains; the updates of frozen layers are exactly 0.

        Its state, a `FreezeState`, is the same in all phases: a loop, or a checkpoint,
        goes on with it from one phase to the next. `state.inner` is that of `inner`,
        but that the scalars which stand beside moments (Adam's count, flags, sums) are
        vectors (L,): each layer owns one, and it pauses with the layer. Counts of
        schedules, injected hyperparameters and wrappers are the run's and go on.

        `inner` sees the whole tree, and so do its mask and label functions. What it
        computes from several layers, such as a global norm, takes what is frozen as 0,
        whatever the gradients of frozen layers are: they are not looked at, and under
        `jit` XLA leaves out their computation as well.

        Args:
            inner: the whole optimizer, made once: for the same one an equal object
                comes back, and a jitted function, which it is a static argument of, is
                not compiled again.

        Returns:
            An `optax.GradientTransformationExtraArgs`; its `update` needs `params`.

        Raises:
            ValueError: from `update`, in any phase: for an optimizer whose state is not
                kept by parameter, or that computes a layer's own scalars from several
                layers (Prodigy's estimate); for `optax.MultiSteps` and
                `optax.contrib.sam`, which belong around; for a state that is none of
                its own. Where a stacked parameter is frozen in part, for an optimizer
                that computes with it as a whole.
        """
        parts = self.layers, self.frozen, inner
        return optax.GradientTransformationExtraArgs(Init(*parts), Update(*parts))

    def holds(self, module: str) -> bool:
        """Whether the batch statistics in a module are those of frozen layers alone.

        What normalises there takes its running statistics in training too: with those
        of the batch a frozen layer would not stand still, and layers above would learn
        from other values than those that an evaluation gives them. A layer that waits
        with random weights, and has seen no image, has no statistics to hold: neither
        this nor `held` should be asked about it, but of a phase in which it trains.

        Args:
            module: its path, as in the paths of parameters: "block1/norm".

        Returns:
            False where a layer of that module trains; of a stack, any of its slices.

        Example:
            With nnx, before the forward pass of a training step:

            >>> import optax_llr
            >>> from flax import nnx
            >>> model = nnx.Sequential(
            ...     nnx.Linear(3, 4, rngs=nnx.Rngs(0)),
            ...     nnx.BatchNorm(4, rngs=nnx.Rngs(0)),
            ...     nnx.Linear(4, 2, rngs=nnx.Rngs(0)),
            ... )
            >>> params = nnx.state(model, nnx.Param)
            >>> rules = [("layers/[01]/.*", "first"), (".*", "last")]
            >>> layers = optax_llr.match_layers(params, rules)
            >>> phase = optax_llr.Phase(layers, 0, 9, (True, False))
            >>> for path, module in nnx.iter_graph(model):
            ...     if isinstance(module, nnx.BatchNorm):
            ...         held = phase.holds("/".join(map(str, path)))
            ...         module.use_running_average = held
            >>> model.layers[1].use_running_average
            True
        """
        return _mask_of_module(self, f"{module}/") is True

    def held(self, new: PyTree, old: PyTree) -> PyTree:
        """Batch statistics after a step: for frozen layers, those before it.

        Statistics belong to the layer whose parameters stand in the same module, or
        else to all layers in the module around; they are held if these are frozen. What
        is no floating-point number (the count of a random stream) is left alone.

        Args:
            new: statistics after the forward pass, by module, as parameters are.
            old: those before it, of the same structure.

        Returns:
            A tree of that structure.

        Raises:
            ValueError: if the structures differ, or for statistics that stand in no
                module with parameters, while some layers are frozen and others not.
        """
        before = leaves_by_path(old)
        if list(leaves_by_path(new)) != list(before):
            raise ValueError(
                "Phase.held: expected statistics of the same structure before and "
                f"after, got {quoted(before)} and {quoted(leaves_by_path(new))}"
            )
        chosen = [
            choose(_mask_of_module(self, path), before[path], after)
            if is_array(after) and jnp.issubdtype(after.dtype, jnp.inexact)
            else after
            for path, after in leaves_by_path(new).items()
        ]
        return jax.tree.unflatten(jax.tree.structure(new), chosen)


def freeze_phases(
    layers: Layers, multipliers: Multipliers, total_steps: int, shortest: int = 1
) -> tuple[Phase, ...]:
    """Reads off a schedule which layers are frozen when.

    A layer is frozen where its multiplier is exactly 0. All steps are looked at, so
    that not one in which a layer wakes is missed.

    Two lines make a loop that pays nothing for frozen layers: one `for` each phase, and
    the phase's own loss and optimizer.

    Args:
        layers: the L `Layers` of the model.
        multipliers: an array (L,) or a schedule `count -> (L,)`.
        total_steps: T, the length of the run.
        shortest: the least steps that a phase is to have, as each is compiled. Shorter
            ones join a neighbour; what only one of both had frozen is then computed,
            and multiplied by 0.

    Returns:
        Phases without a gap from step 0 to T.

    Raises:
        ValueError: if total_steps or shortest is no int above 0, a multiplier is
            negative or not finite, or all layers are frozen at a step.

    Example:
        >>> import jax, jax.numpy as jnp, optax, optax_llr
        >>> params = {"conv": jnp.ones(2), "head": jnp.ones(2)}
        >>> layers = optax_llr.match_layers(params, [(k, k) for k in params])
        >>> multipliers = optax_llr.freezeout_schedule(layers, total_steps=100, t0=0.5)
        >>> optimizer = optax.chain(
        ...     optax.adam(0.1), optax_llr.scale_by_layer(layers, multipliers))
        >>> def loss(params):
        ...     return jnp.sum((params["conv"] * params["head"] - 2) ** 2)
        >>> phases = optax_llr.freeze_phases(layers, multipliers, 100)
        >>> state = phases[0].freeze(optimizer).init(params)
        >>> for phase in phases:
        ...     now, gradient = phase.freeze(optimizer), jax.grad(phase.stopped(loss))
        ...     step = jax.jit(lambda p, s: now.update(gradient(p), s, p))
        ...     for _ in range(phase.start, phase.stop):
        ...         updates, state = step(params, state)
        ...         params = optax.apply_updates(params, updates)
        ...     print(phase.start, phase.stop, phase.names)
        0 13 ()
        13 100 ('conv',)

    References:
        Brock et al., FreezeOut: Accelerate Training by Progressively Freezing Layers,
        `arXiv:1706.04983 <https://arxiv.org/abs/1706.04983>`_
    """
    check_arguments("freeze_phases", layers)
    for name, value in (("total_steps", total_steps), ("shortest", shortest)):
        _check_int("freeze_phases", name, value, 1)
    changes = _changes(layers, multipliers, int(total_steps))
    starts = [start for start, _ in changes]
    bounds = zip(starts, [*starts[1:], int(total_steps)], strict=True)
    rows = [still for _, still in changes]
    parts = [(*bound, still) for bound, still in zip(bounds, rows, strict=True)]
    return tuple(
        Phase(layers, start, stop, tuple(still.tolist()))
        for start, stop, still in _joined(parts, int(shortest))
    )


def _check_int(function: str, name: str, value: Any, least: int) -> None:
    whole = isinstance(value, int | np.integer) and not isinstance(value, bool)
    if not whole or value < least:
        raise ValueError(f"{function}: expected an int {name} ≥ {least}, got {value!r}")


Part = tuple[int, int, np.ndarray]  # start, stop, which layers are frozen (L,)


def _joined(parts: list[Part], shortest: int) -> list[Part]:
    """Parts of a least length, each frozen as far as all that it is joined of."""
    parts = list(parts)
    result: list[Part] = []
    for i, part in enumerate(parts):
        last, after = result[-1:], parts[i + 1 : i + 2]
        if part[1] - part[0] >= shortest or not (last or after):
            result.append(part)
        # To the neighbour with which the fewest frozen steps of a layer are lost.
        elif not after or (last and _loss(last[0], part) < _loss(part, after[0])):
            result[-1] = _join(last[0], part)
        else:
            parts[i + 1] = _join(part, after[0])
    return _without_repetition(result)


def _without_repetition(parts: list[Part]) -> list[Part]:
    """Neighbours with the same layers frozen as one part."""
    result = parts[:1]
    for part in parts[1:]:
        if (part[2] == result[-1][2]).all():
            result[-1] = _join(result[-1], part)
        else:
            result.append(part)
    return result


def _join(one: Part, other: Part) -> Part:
    return one[0], other[1], one[2] & other[2]


def _loss(one: Part, other: Part) -> int:
    both = one[2] & other[2]
    return sum(
        (stop - start) * int((still & ~both).sum())
        for start, stop, still in (one, other)
    )


def _changes(
    layers: Layers, multipliers: Multipliers, total_steps: int
) -> list[tuple[int, np.ndarray]]:
    """Each step from which on other layers have multiplier 0, and which (L,)."""

    @jax.jit
    def look(start: Any) -> tuple[jax.Array, ...]:
        # Only what changes is kept: a table of all steps may be gigabytes.
        steps = start + jnp.arange(CHUNK)
        values = jax.vmap(lambda t: evaluate("freeze_phases", layers, multipliers, t))(
            steps
        )
        still = values == 0
        bad = ~(jnp.isfinite(values) & (values >= 0))
        changed = (still[1:] != still[:-1]).any(axis=1)
        return values, still, bad.any(axis=1), changed, still.all(axis=1)

    changes: list[tuple[int, np.ndarray]] = []
    all_still: list[int] = []
    for start in range(0, total_steps, CHUNK):
        values, still, *marks = look(start)
        stop = min(CHUNK, total_steps - start)
        bad, changed, nothing = (np.asarray(mark)[:stop] for mark in marks)
        if bad.any():
            _refuse(layers, np.asarray(values)[bad.argmax()], start + int(bad.argmax()))
        rows = np.asarray(still)
        for row in [0, *(np.flatnonzero(changed[: stop - 1]) + 1).tolist()]:
            if not changes or (rows[row] != changes[-1][1]).any():
                changes.append((start + row, rows[row].copy()))
        if len(layers):
            all_still += (start + np.flatnonzero(nothing)).tolist()
    if all_still:
        raise ValueError(
            f"freeze_phases: all layers are frozen at step {all_still[0]}, and at "
            f"{len(all_still)} of {total_steps} steps: there is nothing to train. End "
            "the run before, or leave a layer at a multiplier above 0"
        )
    return changes


def _refuse(layers: Layers, values: np.ndarray, step: int) -> None:
    layer = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))[0]
    raise ValueError(
        "freeze_phases: expected finite multipliers of 0 or above, got "
        f"{values[layer]} for {layers.names[layer]!r} at step {step}"
    )


def _mask_of_module(phase: Phase, path: str) -> Mask:
    """What is frozen of the layers whose parameters stand nearest to a path."""
    members, parts = phase.layers.members, path.split("/")[:-1]
    while True:
        prefix = "".join(f"{part}/" for part in parts)
        near = [
            in_short([phase.frozen[i] for i in as_indices(member)])
            for known, member in members.items()
            if known.startswith(prefix)
        ]
        if near or not parts:
            break
        parts.pop()
    if len({str(mask) for mask in near}) == 1:
        return near[0]
    if not parts and "/" in path:
        raise ValueError(
            f"Phase: the statistics {path!r} stand in no module with parameters, "
            f"so that no layer of {quoted(phase.layers.names)} owns them. Are the "
            "layers made of parameters with other paths? Else give the module "
            "parameters, or hold what belongs to frozen layers yourself"
        )
    return False  # of several layers, some train
