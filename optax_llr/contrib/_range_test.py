"""A range test of learning rates, layer by layer."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from jax.scipy.special import betainc
from numpy.typing import ArrayLike

from ..inspection._arguments import check_layers
from ..inspection._table import aligned
from ..layers._layers import Layers

LEVEL = 0.05
"""At most so likely noise alone is called a difference, in any of the layers."""


@dataclasses.dataclass(frozen=True, eq=False)
class RangeTest:
    """What `layer_range_test` measured: plain NumPy arrays of float64.

    M multipliers, L layers, R repeats. A loss that is not finite stands for training
    that diverged, and counts as worse than any other.

    Attributes:
        layers: the `Layers`.
        multipliers: (M,), ascending; 1 is always among them.
        losses: (L, M, R), after steps with this multiplier for this layer and 1 for all
            others.
        frozen: (L, R), likewise with multiplier 0.
        uniform: (R,), with 1 for all layers; finite.
        between: (L, 2), multipliers between those of the grid that were tried in a
            second call, at the minima of two parabolas through the best of the grid and
            its two neighbours: one in m, one in log m. NaN where there was none to try:
            the best is an end of the grid, a neighbour diverged, or all are equal. None
            for a test without a second call.
        between_losses: (L, 2, R), with them; NaN where there was none.
    """

    layers: Layers
    multipliers: np.ndarray
    losses: np.ndarray
    frozen: np.ndarray
    uniform: np.ndarray
    between: np.ndarray | None = None
    between_losses: np.ndarray | None = None

    @property
    def change(self) -> np.ndarray:
        """(L, M, R): loss minus that with 1 for all layers, of the same repeat."""
        return self.losses - self.uniform

    @property
    def best(self) -> np.ndarray:
        """(L, R): the multiplier of least loss in each repeat, not tried itself.

        The minimum of a parabola in m through the best multiplier m of the grid and
        its two neighbours, which is exact for one step of gradient descent on a
        quadratic; the one of the grid itself where it is the first or the last, or a
        neighbour diverged. Of equal losses the multiplier nearest to 1 wins.
        """
        losses = np.moveaxis(_worst_if_diverged(self.losses), -1, 0)
        found = [_minima(self.multipliers, repeat) for repeat in losses]
        return np.stack(found, axis=-1)

    @property
    def suggestion(self) -> np.ndarray:
        """(L,): of all multipliers that were tried the one of least mean loss.

        So it is never worse than the best of the grid. 1 where several repeats saw no
        difference (`seen`): a suggestion would be noise. One repeat cannot tell.
        """
        tried, losses = self._tried
        mean = losses.mean(axis=-1)
        distance = abs(np.log(np.where(np.isnan(tried), np.inf, tried)))
        least = np.lexsort((distance, mean))[:, 0]  # of equal losses nearest to 1
        found = tried[np.arange(len(tried)), least]
        return np.where(self.seen | (self._repeats == 1), found, 1.0)

    @property
    def uncertainty(self) -> np.ndarray:
        r"""(L,): how uncertain log10 of the suggestion is, as a standard deviation.

        .. math:: \sqrt{s^2 + d^2 / 12}

        s is the standard deviation of log10 `best` over the repeats. d is the distance,
        in log10, between the multipliers tried next to the suggestion on both sides:
        between them the loss was not looked at. NaN for one repeat, whose noise is not
        known, and where nothing is suggested.
        """
        if self._repeats == 1:
            return np.full(len(self.layers), np.nan)
        logs = np.log10(self._tried[0])
        middle = np.log10(self.suggestion)[:, None]
        below = np.where(logs < middle, logs, -np.inf).max(axis=1, initial=-np.inf)
        above = np.where(logs > middle, logs, np.inf).min(axis=1, initial=np.inf)
        # At an end of the grid, what is known of the other side.
        below = np.where(np.isinf(below), middle[:, 0], below)
        above = np.where(np.isinf(above), middle[:, 0], above)
        spread = _over_repeats(np.log10(self.best))
        found = np.sqrt(spread**2 + (above - below) ** 2 / 12)
        return np.where(self.seen, found, np.nan)

    @property
    def at_edge(self) -> np.ndarray:
        """(L,): whether the best of some repeat is an end of the grid: look further."""
        ends = self.multipliers[[0, -1]]
        return np.logical_or.reduce(np.isin(self.best, ends), axis=-1)

    @property
    def limit(self) -> np.ndarray:
        """(L,): up to which multiplier it is better to train the layer than not to.

        From the multiplier of least mean loss upwards, the last one of the grid before
        the mean loss rises above the one with this layer frozen, or some repeat
        diverges. 0 where no multiplier does better than frozen; the last one of the
        grid where the limit lies further up.
        """
        losses = _worst_if_diverged(self.losses).mean(axis=-1)
        frozen = _worst_if_diverged(self.frozen).mean(axis=-1)
        bad = (losses > frozen[:, None]) | np.isinf(losses)
        upwards = np.arange(len(self.multipliers)) >= self._argmin(losses)[:, None]
        reached = upwards & (np.cumsum(upwards & bad, axis=1) == 0)
        return (self.multipliers * reached).max(axis=1)

    @property
    def gain(self) -> np.ndarray:
        """(L, R): how much lower the loss is with a multiplier chosen without looking.

        In each repeat that of the multiplier of the grid which the *other* repeats find
        best, so that noise gains nothing; NaN for one repeat, minus infinity where that
        multiplier diverged.
        """
        gains = np.full((len(self.layers), self._repeats), np.nan)
        if self._repeats > 1:
            losses = _worst_if_diverged(self.losses)
            every = np.arange(len(self.layers))
            for repeat in range(self._repeats):
                others = np.delete(losses, repeat, axis=-1).mean(axis=-1)
                chosen = losses[every, self._argmin(others), repeat]
                gains[:, repeat] = self.uniform[repeat] - chosen
        return gains

    @property
    def seen(self) -> np.ndarray:
        """(L,) of bool: whether the suggestion is more than noise.

        The `best` of the repeats lie closer together, in log10, than multipliers drawn
        evenly from the whole grid would: else any would do as well. And either the mean
        gain is above 0; or no multiplier is better than 1, and the loss
        is higher at both ends of the grid. Each by a one-sided t test over the
        repeats, at 5 % for all layers together (each at 5 % / L). Repeats share
        most of what chooses for them, so that it errs up to twice as often: of five
        layers that gain nothing, some layer passes in one test of ten.
        """
        logs = np.log10(self.multipliers)
        by_chance = (logs[-1] - logs[0]) / np.sqrt(12)
        agreed = _over_repeats(np.log10(self.best)) < by_chance
        return agreed & (self._above_0(self.gain) | self._one_is_best)

    def __str__(self) -> str:
        """A table, a line for each layer.

        Its columns are the layer, its suggestion, the factor by which that is uncertain
        (10 to the power of `uncertainty`), limit, mean gain, and what is to be said.
        Where no difference was seen, nothing is suggested.
        """
        last = self.multipliers[-1]
        suggested = self.seen | (self._repeats == 1)
        return aligned(
            {
                "layer": self.layers.names,
                "suggestion": [
                    f"{value:.3g}" if shown else ""
                    for value, shown in zip(self.suggestion, suggested, strict=True)
                ],
                "×/÷": [
                    "" if np.isnan(value) else f"{10**value:.2f}"
                    for value in self.uncertainty
                ],
                "limit": [
                    f"{'≥ ' if value == last else ''}{value:.3g}"
                    for value in self.limit
                ],
                "gain": [
                    "" if np.isnan(value) else f"{value:.2g}"
                    for value in self.gain.mean(axis=-1)
                ],
                "": self._remarks(),
            },
            left=("layer", ""),
        )

    def _remarks(self) -> list[str]:
        remarks = np.where(self.at_edge, "at the edge of the grid", "")
        remarks = np.where(self.limit == 0, "better frozen", remarks)
        if self._repeats > 1:  # one repeat cannot tell noise
            remarks = np.where(self.seen, remarks, "no difference seen")
        return remarks.tolist()

    @property
    def _repeats(self) -> int:
        return len(self.uniform)

    @property
    def _tried(self) -> tuple[np.ndarray, np.ndarray]:
        """All multipliers (L, M + 2) and their losses (L, M + 2, R)."""
        grid = np.tile(self.multipliers, (len(self.layers), 1))
        if self.between is None or self.between_losses is None:
            return grid, _worst_if_diverged(self.losses)
        losses = np.concatenate([self.losses, self.between_losses], axis=1)
        return np.concatenate([grid, self.between], axis=1), _worst_if_diverged(losses)

    @property
    def _one_is_best(self) -> np.ndarray:
        """(L,): whether all repeats choose 1, and both ends are seen to be worse."""
        best = (self.gain == 0).all(axis=-1)
        for end in (0, -1):
            change = self.change[:, end]
            best &= ~np.isfinite(change).all(axis=-1) | self._above_0(change)
        return best

    def _above_0(self, values: np.ndarray) -> np.ndarray:
        """(L,): whether the mean of values (L, R) is above 0 by more than noise."""
        degrees = self._repeats - 1
        if not degrees:
            return np.zeros(len(values), bool)
        mean, variance = (
            values.mean(axis=-1),
            _over_repeats(values) ** 2 / (degrees + 1),
        )
        with np.errstate(invalid="ignore"):  # nothing gained ever, or −∞
            rest = degrees * variance / (degrees * variance + mean**2)
        chance = np.asarray(betainc(degrees / 2, 0.5, np.nan_to_num(rest, nan=1.0))) / 2
        return (mean > 0) & (chance < LEVEL / max(1, len(values)))

    def _argmin(self, losses: np.ndarray) -> np.ndarray:
        return _argmin(self.multipliers, losses)


def layer_range_test(
    layers: Layers,
    run: Callable[[np.ndarray], ArrayLike],
    multipliers: ArrayLike | None = None,
) -> RangeTest:
    r"""Tries learning rates for one layer at a time, and sees how the loss changes.

    From one state of training, for each layer l and each multiplier m, a few steps are
    trained with multipliers that are 1 but for the layer l:

    .. math::

        \mu^{(l, m)} = (1, \ldots, 1, m, 1, \ldots, 1), \qquad
        \Delta_{l, m} = \mathrm{loss}(\mu^{(l, m)}) - \mathrm{loss}(1, \ldots, 1)

    It is Smith's range test with a multiplier of one layer in place of the global rate,
    and short runs from the same state in place of one run with a rising rate.

    The suggestions are found one by one. Whether they help together is another
    question, which a last call, `run(test.suggestion[None].astype(np.float32))`,
    answers. A short horizon favours what pays soon: high rates for the last layers,
    and low ones where the noise of batches would have to be averaged out (Wu et al.).
    Repeats share one state, so that `uncertainty` is about batches, not about other
    initial weights. Batch norm: let losses be those of training mode, as running
    averages lag behind steps this large; a frozen layer's averages may move.

    Args:
        layers: the `Layers`.
        run: maps multipliers, a float32 array of shape (n, L), to losses of shape
            (n, R): after k steps from one and the same state, the optimizer's included,
            a column for each repeat with batches of its own. All rows must meet the
            same batches, in both calls: one for the grid, and one for at most two
            multipliers a layer between its points. `jax.vmap(one)`,
            `functools.partial(jax.lax.map, one)` or a loop over a jitted step decide
            how much is done at once.
        multipliers: (M,), above 0 and ascending; by default nine from 0.01 to 100. 1 is
            added where it is missing.

    Returns:
        A `RangeTest`; print it for a table.

    Raises:
        ValueError: for multipliers that are no such array, losses of another shape or
            not real, a loss with all multipliers 1 that is not finite, as there is then
            nothing to compare with, or one that is another in the second call.

    Example:
        >>> import jax, jax.numpy as jnp, optax, optax_llr
        >>> params = {"stem": jnp.ones(2), "head": jnp.ones(2)}
        >>> rules = [("stem", "stem"), ("head", "head")]
        >>> layers = optax_llr.match_layers(params, rules)
        >>> def loss(params, scale):
        ...     return scale * (params["stem"] ** 2 + 25 * params["head"] ** 2).sum()
        >>> # Three repeats of four batches.
        >>> batches = jax.random.uniform(jax.random.key(0), (3, 4), minval=0.8)
        >>> @jax.jit
        ... @jax.vmap
        ... def run(multipliers):
        ...     optimizer = optax.chain(
        ...         optax.sgd(0.01), optax_llr.scale_by_layer(layers, multipliers)
        ...     )
        ...     def step(state, batch):
        ...         params, opt_state = state
        ...         gradients = jax.grad(loss)(params, batch)
        ...         updates, opt_state = optimizer.update(gradients, opt_state)
        ...         return (optax.apply_updates(params, updates), opt_state), None
        ...     def repeat(batches):
        ...         start = params, optimizer.init(params)
        ...         (trained, _), _ = jax.lax.scan(step, start, batches)
        ...         return loss(trained, 1.0)
        ...     return jax.vmap(repeat)(batches)
        >>> print(optax_llr.contrib.layer_range_test(layers, run))
        layer  suggestion   ×/÷  limit  gain
        stem         55.5  1.40  ≥ 100   1.7
        head         2.08  1.18   3.16  0.34

    References:
        Smith, Cyclical Learning Rates for Training Neural Networks, arXiv:1506.01186
        Wu et al., Understanding Short-Horizon Bias in Stochastic Meta-Optimization,
        arXiv:1803.02021
    """
    check_layers("layer_range_test", layers, run=run, multipliers=multipliers)
    if not callable(run):
        raise ValueError(
            "layer_range_test: run: expected a function of multipliers (n, L) that "
            f"returns losses (n, R), got a {type(run).__name__}"
        )
    grid = _grid(np.geomspace(0.01, 100, 9) if multipliers is None else multipliers)
    tried = np.concatenate([[0.0], grid[grid != 1]])
    rows = np.ones((1 + len(layers) * len(tried), len(layers)), np.float32)
    for layer in range(len(layers)):
        rows[1 + layer * len(tried) :, layer][: len(tried)] = tried
    losses = _losses(run(rows), len(rows))
    uniform = losses[0]
    if not np.isfinite(uniform).all():
        raise ValueError(
            "layer_range_test: expected finite losses with multiplier 1 for all "
            f"layers, to compare with, got {uniform.tolist()}; lower the global rate"
        )
    by_layer = losses[1:].reshape(len(layers), len(tried), len(uniform))
    one = int(np.searchsorted(grid, 1))
    test = RangeTest(
        layers=layers,
        multipliers=grid,
        losses=np.insert(by_layer[:, 1:], one, uniform, axis=1),
        frozen=by_layer[:, 0],
        uniform=uniform,
    )
    return _tried_between(test, run)


def _tried_between(
    test: RangeTest, run: Callable[[np.ndarray], ArrayLike]
) -> RangeTest:
    """The test with multipliers between those of its grid, tried as well.

    Where the minimum lies between two points of the grid depends on what shape the loss
    is taken to have; so both places are tried.
    """
    mean = _worst_if_diverged(test.losses).mean(axis=-1)
    minima = [
        _minima(test.multipliers, mean),
        _minima(test.multipliers, mean, np.log, np.exp),
    ]
    # As float32, which is what steps see.
    between = np.stack(minima, axis=-1).astype(np.float32).astype(float)
    between[np.isin(between, test.multipliers.astype(np.float32))] = np.nan
    losses = np.full((*between.shape, len(test.uniform)), np.nan)
    new = np.argwhere(np.isfinite(between))
    if len(new):
        rows = np.ones((1 + len(new), len(test.layers)), np.float32)
        for row, (layer, which) in zip(rows[1:], new, strict=True):
            row[layer] = between[layer, which]
        again, *found = _losses(run(rows), len(rows))
        if not np.allclose(again, test.uniform, rtol=0.01, atol=1e-6):
            raise ValueError(
                "layer_range_test: expected the same losses with multiplier 1 for all "
                f"layers in both calls of run, got {test.uniform.tolist()} and then "
                f"{again.tolist()}; let each call begin from the same state and meet "
                "the same batches"
            )
        losses[tuple(new.T)] = found
    return dataclasses.replace(test, between=between, between_losses=losses)


def _grid(multipliers: ArrayLike) -> np.ndarray:
    """The multipliers with 1 among them, checked as the float32 that steps will see."""
    given = np.asarray(multipliers)
    if given.ndim == 1 and given.size and given.dtype.kind in "iuf":
        with np.errstate(over="ignore"):  # what is too large becomes ∞, and is refused
            seen = given.astype(np.float32)
        if (seen > 0).all() and np.isfinite(seen).all() and (np.diff(seen) > 0).all():
            # A value that only rounding keeps from 1 is 1.
            return np.union1d(np.where(seen == 1, 1.0, given), [1.0])
    raise ValueError(
        "layer_range_test: multipliers: expected finite numbers above 0, ascending, "
        f"in an array (M,), got {multipliers!r}"
    )


def _losses(returned: ArrayLike, rows: int) -> np.ndarray:
    losses = np.asarray(returned)
    if losses.ndim != 2 or len(losses) != rows or not losses.shape[1]:
        raise ValueError(
            f"layer_range_test: expected losses of shape ({rows}, R) from run, a row "
            f"for each row of multipliers and a column a repeat, got {losses.shape}"
        )
    if np.iscomplexobj(losses) or losses.dtype == bool:
        raise ValueError(
            f"layer_range_test: expected real losses from run, got {losses.dtype}"
        )
    return losses.astype(np.float64)


def _worst_if_diverged(losses: np.ndarray) -> np.ndarray:
    return np.where(np.isfinite(losses), losses, np.inf)


def _over_repeats(values: np.ndarray) -> np.ndarray:
    """Standard deviation over the last axis; NaN where it is unknown."""
    if values.shape[-1] < 2:
        return np.full(values.shape[:-1], np.nan)
    with np.errstate(invalid="ignore"):  # of infinite values
        return values.std(axis=-1, ddof=1)


def _argmin(multipliers: np.ndarray, losses: np.ndarray) -> np.ndarray:
    """Of losses (L, M, …) the index of the least; of equal ones nearest to 1."""
    order = np.argsort(abs(np.log(multipliers)), kind="stable")
    return order[losses[:, order].argmin(axis=1)]


def _minima(
    multipliers: np.ndarray,
    losses: np.ndarray,
    scale: Any = np.positive,
    back: Any = np.positive,
) -> np.ndarray:
    """Where parabolas through the least of losses (L, M) have their minima, (L,).

    They are parabolas in scale(m), and back leads from there to m.
    """
    least, at = _argmin(multipliers, losses), scale(multipliers)
    found = multipliers[least]
    for layer, i in enumerate(least):
        near = losses[layer, i - 1 : i + 2]
        if 0 < i < len(at) - 1 and np.isfinite(near).all():
            found[layer] = back(_vertex(at[i - 1 : i + 2], near))
    return found


def _vertex(x: np.ndarray, y: np.ndarray) -> float:
    """Where the parabola through three points is least; the middle one is no higher."""
    left, right = x[1] - x[0], x[2] - x[1]
    rise_left, rise_right = y[0] - y[1], y[2] - y[1]
    curvature = left * rise_right + right * rise_left
    if curvature == 0:
        return x[1]
    return x[1] + (right**2 * rise_left - left**2 * rise_right) / (2 * curvature)
