"""Phases of frozen layers, in which what is frozen is not computed."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any, Self, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from ..layers._layers import Layers, Member, as_indices, check_arguments, check_leaf
from ..layers._paths import PyTree, leaves_by_path, quoted
from ..transforms._multipliers import Multipliers, check_params, evaluate
from ._split_scans import split_scans
from ._state import Mask, Split, choose, masked

CHUNK = 4096
"""Steps of a schedule that are looked at together."""


Result = TypeVar("Result")


@dataclasses.dataclass(frozen=True)
class Phase:
    r"""Steps in which the same layers are frozen; `freeze_phases` makes them.

    Immutable and hashable, and so a static argument for a jitted function. Nothing of a
    frozen layer is computed but its forward pass. Its parameters and moments keep every
    bit, and its batch statistics if they are `held`. A layer that thaws goes on from
    its moments as if it had never paused: what corrects their bias counts the steps
    that the layer was trained, not those of the run.

    Attributes:
        layers: the `Layers` of the model.
        start: the first step.
        stop: the step behind the last one.
        frozen: for each layer, whether it is frozen.
        paused: for each layer, for how many steps before `start` it was frozen.

    Raises:
        ValueError: for a length of frozen or paused that is not that of the layers, an
            empty phase, or one in which everything is frozen.

    Example:
        >>> import jax.numpy as jnp, optax, optax_llr
        >>> params = {"conv": jnp.ones(2), "head": jnp.ones(2)}
        >>> layers = optax_llr.match_layers(params, [(k, k) for k in params])
        >>> phase = optax_llr.Phase(layers, 0, 10, frozen=(True, False), paused=(0, 0))
        >>> optimizer = phase.freeze(optax.sgd(0.5, momentum=0.9))
        >>> updates, state = optimizer.update(params, optimizer.init(params), params)
        >>> print(updates["conv"], updates["head"], state[0].trace["conv"])
        [0. 0.] [-0.5 -0.5] [0. 0.]
    """

    layers: Layers
    start: int
    stop: int
    frozen: tuple[bool, ...]
    paused: tuple[int, ...]

    def __post_init__(self):
        object.__setattr__(self, "frozen", tuple(map(bool, self.frozen)))
        object.__setattr__(self, "paused", tuple(map(int, self.paused)))
        if not len(self.frozen) == len(self.paused) == len(self.layers):
            raise ValueError(
                f"Phase: expected frozen and paused for each of {len(self.layers)} "
                f"layers, got {len(self.frozen)} and {len(self.paused)}"
            )
        if not 0 <= self.start < self.stop:
            raise ValueError(
                f"Phase: expected 0 ≤ start < stop, got {self.start} and {self.stop}"
            )
        if all(self.frozen):
            raise ValueError(
                f"all layers are frozen in the steps {self.start} to {self.stop - 1}: "
                "there is nothing to train. End the run before, or leave a layer at a "
                "multiplier above 0"
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
        """The same phase at step 0: equal for phases that are computed alike."""
        pairs = zip(self.paused, self.frozen, strict=True)
        paused = tuple(0 if frozen else pause for pause, frozen in pairs)
        return dataclasses.replace(self, start=0, stop=1, paused=paused)

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
            masks = _masks(self, params)
            parts = {p: m for p, m in masks.items() if isinstance(m, np.ndarray)}
            cut = split_scans(function, parts) if parts else function
            still = [
                choose(masks[path], lax.stop_gradient(leaf), leaf)
                for path, leaf in leaves_by_path(params).items()
            ]
            tree = jax.tree.unflatten(jax.tree.structure(params), still)
            return cut(tree, *args, **kwargs)

        return stopped

    def freeze(
        self, inner: optax.GradientTransformation
    ) -> optax.GradientTransformationExtraArgs:
        """The optimizer for what trains; the updates of frozen layers are exactly 0.

        Its state is that of `inner`, whatever the phase: a loop, or a checkpoint, goes
        on with it from one phase to the next. Within `inner` frozen parameters are
        `optax.MaskedNode`, so clipping by a global norm sees what trains, and decay
        leaves the rest alone. The gradients of frozen layers are not looked at; under
        `jit` XLA then leaves out their computation as well. `optax.MultiSteps` belongs
        around it, with phases that count whole steps.

        Args:
            inner: the whole optimizer, made once: for the same one the same object
                comes back, and a jitted function, which it is a static argument of, is
                not compiled again.

        Returns:
            An `optax.GradientTransformationExtraArgs`; its `update` needs `params`.

        Raises:
            ValueError: from `update`, for an optimizer whose state is not kept by
                parameter; where a stacked parameter is frozen in part, also for one
                whose state is not kept by slice; and for `optax.MultiSteps`.
        """
        return _frozen(self.key, inner)

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
            if jnp.issubdtype(jnp.result_type(after), jnp.inexact)
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
        >>> state = optimizer.init(params)
        >>> for phase in optax_llr.freeze_phases(layers, multipliers, 100):
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
        whole = isinstance(cast(object, value), int | np.integer)
        if not whole or isinstance(value, bool) or value < 1:
            raise ValueError(f"freeze_phases: expected an int {name} ≥ 1, got {value}")
    frozen = _frozen_steps(layers, multipliers, int(total_steps))
    if (nothing := frozen.all(axis=1)).any():
        raise ValueError(
            f"freeze_phases: all layers are frozen at step {nothing.argmax()}, and at "
            f"{nothing.sum()} of {total_steps} steps: there is nothing to train. End "
            "the run before, or leave a layer at a multiplier above 0"
        )
    edges = np.flatnonzero((frozen[1:] != frozen[:-1]).any(axis=1)) + 1
    bounds = [0, *edges.tolist(), int(total_steps)]
    parts = _joined(
        [(a, b, frozen[a]) for a, b in itertools.pairwise(bounds)], shortest
    )
    paused = np.zeros(len(layers), int)
    phases: list[Phase] = []
    for start, stop, still in parts:
        phases.append(Phase(layers, start, stop, tuple(still), tuple(paused)))
        paused = paused + (stop - start) * still
    return tuple(phases)


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


def _frozen_steps(
    layers: Layers, multipliers: Multipliers, total_steps: int
) -> np.ndarray:
    """Which layers have multiplier 0 at each step, a bool array (T, L)."""
    at = jax.jit(
        jax.vmap(lambda count: evaluate("freeze_phases", layers, multipliers, count))
    )
    parts: list[np.ndarray] = []
    for start in range(0, total_steps, CHUNK):
        values = np.asarray(at(jnp.arange(start, start + CHUNK)))[: total_steps - start]
        bad = ~(np.isfinite(values) & (values >= 0))
        if bad.any():
            step, layer = np.argwhere(bad)[0]
            raise ValueError(
                f"freeze_phases: expected finite multipliers of 0 or above, got "
                f"{values[step, layer]} for {layers.names[layer]!r} at step "
                f"{start + step}"
            )
        parts.append(values == 0)
    return np.concatenate(parts)


def _masks(phase: Phase, params: PyTree) -> dict[str, Mask]:
    """By path, what is frozen of a leaf."""
    masks: dict[str, Mask] = {}
    for path, leaf in leaves_by_path(params).items():
        check_leaf("Phase", phase.layers, path, leaf)
        masks[path] = _mask(phase, phase.layers.members[path])
    return masks


def _mask(phase: Phase, member: Member) -> Mask:
    return _in_short([phase.frozen[i] for i in as_indices(member)])


def _in_short(slices: Sequence[bool]) -> Mask:
    """All, none, or an array."""
    whole = all(slices) or not any(slices)
    return slices[0] if whole else np.array(slices)


def _mask_of_module(phase: Phase, path: str) -> Mask:
    """What is frozen of the layers whose parameters stand nearest to a path."""
    members, parts = phase.layers.members, path.split("/")[:-1]
    while True:
        prefix = "".join(f"{part}/" for part in parts)
        near = [_mask(phase, m) for p, m in members.items() if p.startswith(prefix)]
        if near or not parts:
            break
        parts.pop()
    if len({str(mask) for mask in near}) == 1:
        return near[0]
    if not parts and "/" in path:
        raise ValueError(
            f"Phase.held: the statistics {path!r} stand in no module with parameters, "
            f"so that no layer of {quoted(phase.layers.names)} owns them. Are the "
            "layers made of parameters with other paths? Else give the module "
            "parameters, or hold what belongs to frozen layers yourself"
        )
    return False  # of several layers, some train


@functools.lru_cache(maxsize=64)  # the same object again, or jit would compile again
def _frozen(
    phase: Phase, inner: optax.GradientTransformation
) -> optax.GradientTransformationExtraArgs:
    inner = optax.with_extra_args_support(inner)

    def whole_fn(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, Any]:
        check_params("Phase.freeze", params)
        # What a later phase could not split is refused now, not hours later.
        Split(inner, state, params, len(phase.layers))
        return inner.update(updates, state, params, **extra_args)

    if not any((*phase.frozen, *phase.paused)):
        return optax.GradientTransformationExtraArgs(inner.init, whole_fn)

    def update_fn(
        updates: PyTree, state: Any, params: PyTree | None = None, **extra_args: Any
    ) -> tuple[PyTree, Any]:
        check_params("Phase.freeze", params)
        masks = _masks(phase, params)
        split = Split(inner, state, params, len(phase.layers))
        seen = masked(updates, masks), masked(params, masks)
        # A run for each number of steps that layers have paused, told other counts;
        # every layer takes its own, and XLA computes what they share only once.
        found: dict[int, tuple[dict[str, Any], list[Any]]] = {}
        for pause in _pauses(phase) if any(split.own) else [0]:
            given = split.without(masks, pause)
            changes, after = inner.update(seen[0], given, seen[1], **extra_args)
            found[pause] = leaves_by_path(changes), split.after(after, given)

        def taken(member: Member | None, old: Any, new: dict[int, Any]) -> Any:
            if member is None:
                return next(iter(new.values()))
            for pause, leaf in new.items():
                others = [
                    phase.frozen[i] or (len(new) > 1 and phase.paused[i] != pause)
                    for i in as_indices(member)
                ]
                old = choose(_in_short(others), old, leaf)
            return old

        members, every = phase.layers.members, tuple(range(len(phase.layers)))
        changed = [
            taken(
                members[path],
                jnp.zeros_like(leaf),
                {pause: changes.get(path) for pause, (changes, _) in found.items()},
            )
            for path, leaf in leaves_by_path(updates).items()
        ]
        kept: list[Any] = []
        for i, (path, measured) in enumerate(
            zip(split.path, split.measured, strict=True)
        ):
            member = members[path] if path is not None else every if measured else None
            new = {pause: after[i] for pause, (_, after) in found.items()}
            kept.append(taken(member, split.leaves[i], new))
        return (
            jax.tree.unflatten(jax.tree.structure(updates), changed),
            split.with_leaves(kept),
        )

    return optax.GradientTransformationExtraArgs(inner.init, update_fn)


def _pauses(phase: Phase) -> list[int]:
    """For how many steps what trains now was frozen before, each number once."""
    pairs = zip(phase.paused, phase.frozen, strict=True)
    return sorted({paused for paused, frozen in pairs if not frozen})
