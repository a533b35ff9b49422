"""Slow, plain NumPy oracles; they share no code with the library.

Optimizers as functions follow one layer, whose multiplier is a number, through time.
Factors are functions of the step, so that a test can say where a multiplier stands by
saying what it multiplies. `adapted` follows all layers, whose multipliers are measured.
"""

from typing import NamedTuple

import numpy as np

TINY = 2.0**-63  # the smallest norm of which float32 holds the square, about 1e-19


def scaled(multiplier, update):
    """The product in float32, cast to the update's dtype; exact at 0 and 1."""
    update = np.asarray(update)
    if multiplier == 1:
        return update
    if multiplier == 0:
        return np.zeros_like(update)
    if np.iscomplexobj(update):
        product = np.empty(update.shape, np.complex64)
        product.real = np.float32(multiplier) * update.real
        product.imag = np.float32(multiplier) * update.imag
        return product
    return (np.float32(multiplier) * update.astype(np.float32)).astype(update.dtype)


def decayed(strength, update, parameter):
    """`update + strength · parameter`; the update itself where the strength is 0."""
    update = np.asarray(update)
    if strength == 0:
        return update
    return (update + scaled(strength, parameter).astype(update.dtype)).astype(
        update.dtype
    )


def rotated(rate, update, weight):
    """The update of one whole kernel, as the docstring of `layca` has it."""
    wide = np.complex128 if np.iscomplexobj(weight) else np.float64
    weight, step = np.asarray(weight, wide), -np.asarray(update, wide)
    if rate == 0:
        return np.zeros_like(weight)
    if weight.ndim < 2:
        return -rate * step
    length = np.linalg.norm(weight)
    if length == 0:
        return np.zeros_like(weight)
    across = step - np.vdot(weight, step).real / length**2 * weight
    if np.linalg.norm(across) <= 1e-6 * np.linalg.norm(step):
        return np.zeros_like(weight)
    turned = weight - rate * length / np.linalg.norm(across) * across
    return length / np.linalg.norm(turned) * turned - weight


def one(step):
    del step
    return 1.0


def nothing(step):
    del step
    return 0.0


def momentum_sgd(
    weights,
    gradient,
    steps,
    *,
    rate,
    beta,
    into=one,
    out=one,
    coupled=nothing,
    decoupled=nothing,
):
    """The weights after each step.

    v ← βv + into(t)·g + coupled(t)·w;  w ← w − rate·(out(t)·v + decoupled(t)·w)
    """
    weights = np.array(weights, np.float64)
    velocity = np.zeros_like(weights)
    path = []
    for t in range(steps):
        seen = into(t) * gradient(weights, t) + coupled(t) * weights
        velocity = beta * velocity + seen
        weights = weights - rate * (out(t) * velocity + decoupled(t) * weights)
        path.append(weights)
    return path


def adam(
    weights,
    gradient,
    steps,
    *,
    rate,
    into=one,
    out=one,
    coupled=nothing,
    decoupled=nothing,
    b1=0.9,
    b2=0.999,
    eps=1e-8,
):
    """The weights after each step.

    g ← into(t)·g + coupled(t)·w; first and second moments with bias correction;
    w ← w − rate·(out(t)·m̂ / (√v̂ + ε) + decoupled(t)·w)
    """
    weights = np.array(weights, np.float64)
    first = np.zeros_like(weights)
    second = np.zeros_like(weights)
    path = []
    for t in range(steps):
        seen = into(t) * gradient(weights, t) + coupled(t) * weights
        first = b1 * first + (1 - b1) * seen
        second = b2 * second + (1 - b2) * seen**2
        direction = (first / (1 - b1 ** (t + 1))) / (
            np.sqrt(second / (1 - b2 ** (t + 1))) + eps
        )
        weights = weights - rate * (out(t) * direction + decoupled(t) * weights)
        path.append(weights)
    return path


class Step(NamedTuple):
    """What a rule may look at in one step; a list of vectors is one vector a layer."""

    gradients: list[np.ndarray]
    updates: list[np.ndarray]  # of the inner optimizer, not yet multiplied
    weights: list[np.ndarray]  # before the step
    multipliers: np.ndarray  # of the step before; 1 at first
    relative: bool  # whether multipliers are divided by their mean


def adapted(weights, gradient, steps, *, inner, rule, bounds, relative=False):
    """The multipliers (steps, L) and the weights after each step.

    `inner()` makes an optimizer for one layer, `g -> u`; `rule` maps the list of all
    steps so far to L numbers. What is not finite leaves a layer the multiplier it had.
    """
    weights = [np.array(w, np.float64) for w in weights]
    optimizers = [inner() for _ in weights]
    multipliers = np.ones(len(weights))
    past, path = [], []
    for t in range(steps):
        gradients = gradient(weights, t)
        updates = [step(g) for step, g in zip(optimizers, gradients, strict=True)]
        past.append(Step(gradients, updates, weights, multipliers, relative))
        found = np.array(rule(past), np.float64)
        known = np.isfinite(found)
        if relative:
            found = np.maximum(found, 0) / np.maximum(found, 0)[known].mean()
        multipliers = np.where(known, np.clip(found, *bounds), multipliers)
        weights = [
            w + m * u for w, m, u in zip(weights, multipliers, updates, strict=True)
        ]
        path.append(weights)
    return np.array([step.multipliers for step in past[1:]] + [multipliers]), path


def momentum_steps(rate, beta):
    """v ← βv + g;  u = −rate·v."""
    velocity = 0.0

    def step(gradient):
        nonlocal velocity
        velocity = beta * velocity + gradient
        return -rate * velocity

    return step


class Adam:
    """u = −rate·m̂ / (√v̂ + ε), for a vector or a number."""

    def __init__(self, rate, b1=0.9, b2=0.999, eps=1e-8):
        self.rate, self.b1, self.b2, self.eps = rate, b1, b2, eps
        self.first = self.second = 0.0
        self.count = 0

    def __call__(self, gradient):
        self.count += 1
        self.first = self.b1 * self.first + (1 - self.b1) * gradient
        self.second = self.b2 * self.second + (1 - self.b2) * gradient**2
        mean = self.first / (1 - self.b1**self.count)
        square = self.second / (1 - self.b2**self.count)
        return -self.rate * mean / (np.sqrt(square) + self.eps)


def each(rule, **numbers):
    """A rule for all layers from one for layer l: `(past, l, **numbers) -> number`."""
    return lambda past: [
        rule(past, layer, **numbers) for layer in range(len(past[-1].weights))
    ]


def norm(vector):
    return np.sqrt(np.sum(np.square(vector)))


def gradient_norm(past, layer):
    return 1 + np.log(1 + 1 / np.maximum(norm(past[-1].gradients[layer]), TINY))


def curvature(past, layer, decay):
    """By three points of the path, the third one where m would lead now."""
    m = past[-1].multipliers[layer]
    if len(past) == 1:
        return m
    one, two = past[-2].weights[layer], past[-1].weights[layer]
    three = two + m * past[-1].updates[layer]
    moved, bent = abs(two - one).sum(), abs(2 * two - one - three).sum()
    if moved == 0 or bent == 0:
        return m
    return decay * m + (1 - decay) * m * moved / bent


def hypergradient(past, layer, rate):
    m = past[-1].multipliers[layer]
    if len(past) == 1:
        return m
    return m - rate * np.sum(past[-1].gradients[layer] * past[-2].updates[layer])


def cosine(one, other):
    norms = norm(one) * norm(other)
    return 0.0 if norms == 0 else np.sum(one * other) / norms


def multiplicative_hypergradient(past, layer, rate):
    m = past[-1].multipliers[layer]
    if len(past) == 1:
        return m
    return m * (1 - rate * cosine(past[-1].gradients[layer], past[-2].updates[layer]))


def signal_to_noise(past, layer, decay):
    """From all gradients so far, each with its weight in the corrected average."""
    age = np.arange(len(past))[::-1]
    weights = decay**age / np.sum(decay**age)
    gradients = np.array([step.gradients[layer] for step in past])
    mean_square = weights @ np.sum(gradients**2, axis=1)
    return np.nan if mean_square == 0 else norm(weights @ gradients) ** 2 / mean_square


def trust_ratio(past, layer, coefficient, eps):
    weight, update = norm(past[-1].weights[layer]), norm(past[-1].updates[layer])
    if weight == 0 or update == 0:
        return 1.0
    return coefficient * weight / (update + eps)


def gradient_trust_ratio(past, layer, coefficient, weight_decay, eps):
    weight, gradient = norm(past[-1].weights[layer]), norm(past[-1].gradients[layer])
    if weight == 0 or gradient == 0:
        return 1.0
    return coefficient * weight / (gradient + weight_decay * weight + eps)


class TailExponent:
    """A layer's vector begins with its matrices: a stack of shape (k, a, b) each."""

    def __init__(self, shapes, every, low, high):
        self.shapes, self.every, self.low, self.high = shapes, every, low, high
        self.found = []

    def __call__(self, past):
        if (len(past) - 1) % self.every == 0:
            self.found = self.measure(past[-1].weights)
        return self.found

    def left_out(self):
        return [0, -1]

    def measure(self, weights):
        alphas = [
            self.alpha(weight[: np.prod(shape)].reshape(shape))
            for weight, shape in zip(weights, self.shapes, strict=True)
        ]
        alphas = np.array(alphas)
        alphas[self.left_out()] = np.nan
        known = np.isfinite(alphas)
        if not known.any() or np.ptp(alphas[known]) == 0:
            return np.ones(len(alphas))
        share = (alphas - alphas[known].min()) / np.ptp(alphas[known])
        return np.where(known, self.low + (self.high - self.low) * share, 1.0)

    @staticmethod
    def alpha(matrices):
        if (
            not np.isfinite(matrices).all()
            or len(matrices) * min(matrices[0].shape) < 50
        ):
            return np.nan
        spectrum = []
        for matrix in matrices:
            wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T
            spectrum.extend(np.linalg.eigvalsh(wide @ wide.T))
        spectrum = np.sort(spectrum)
        tail = spectrum[len(spectrum) // 2 :]
        if tail[0] <= 0 or tail[0] == tail[-1]:
            return np.nan
        return 1 + len(tail) / np.sum(np.log(tail / tail[0]))


class RampedTailExponent(TailExponent):
    """Like it, but for the layers that are not measured, and linear in time."""

    def __init__(self, shapes, every, ramp_steps, largest, ratio, until):
        super().__init__(shapes, every, 1.0, ratio)
        self.ramp_steps, self.largest, self.until = ramp_steps, largest, until
        self.before, self.found = np.ones(len(shapes)), np.ones(len(shapes))
        self.since = 0

    def __call__(self, past):
        step = len(past) - 1
        self.since += 1
        if step % self.every == 0 and step < self.until:
            self.before, self.found = self.found, self.measure(past[-1].weights)
            self.since = 1
        part = min(self.since / self.ramp_steps, 1.0)
        return (1 - part) * self.before + part * self.found

    def left_out(self):
        return self.largest

    def measure(self, weights):
        found = super().measure(weights)
        found[self.largest] = self.high
        return found


class Learned:
    """The network, its derivative and its Adam, written out."""

    def __init__(self, first, bias, last, depth, total_steps, rate):
        self.network = [np.array(a, np.float64) for a in (first, bias, last)]
        self.optimizers = [Adam(rate) for _ in self.network]
        self.depth, self.total_steps = depth, total_steps
        self.features = np.zeros((len(depth), 5))

    def __call__(self, past):
        slopes = np.zeros(len(self.depth))
        if len(past) > 1:
            pairs = zip(past[-1].gradients, past[-2].updates, strict=True)
            slopes = np.array([np.sum(g * u) for g, u in pairs])
        known = np.isfinite(self.features).all(axis=1)
        slopes = np.where(known & np.isfinite(slopes), slopes, 0)
        slopes /= max(abs(slopes).max(), 1e-300)
        self.features[~known] = 0
        self.descend(slopes, known, past[-1].relative)
        self.features = self.look(past)
        return self.forward(self.features)[-1]

    def forward(self, features):
        first, bias, last = self.network
        hidden = np.tanh(features @ first + bias)
        out = np.tanh(hidden @ last)
        return hidden, out, 10.0**out

    def descend(self, slopes, known, relative):
        hidden, out, multipliers = self.forward(self.features)
        if relative:  # the derivative of a share of those known, m / mean(m)
            mean = multipliers[known].mean()
            shared = np.mean((slopes * multipliers)[known]) / mean
            slopes = np.where(known, slopes - shared, 0) / mean
        by_out = slopes * multipliers * np.log(10) * (1 - out**2)
        by_hidden = np.outer(by_out, self.network[2]) * (1 - hidden**2)
        derivatives = [
            self.features.T @ by_hidden,
            by_hidden.sum(axis=0),
            hidden.T @ by_out,
        ]
        for i, derivative in enumerate(derivatives):
            self.network[i] = self.network[i] + self.optimizers[i](derivative)

    def look(self, past):
        now, rows = past[-1], []
        for layer, depth in enumerate(self.depth):
            gradient, weight = now.gradients[layer], now.weights[layer]
            before = (
                past[-2].updates[layer] if len(past) > 1 else 0 * now.updates[layer]
            )
            rows.append(
                [
                    np.log(np.maximum(norm(gradient), TINY)),
                    np.log(np.maximum(norm(weight), TINY)),
                    cosine(gradient, before),
                    (len(past) - 1) / self.total_steps,
                    depth,
                ]
            )
        return np.array(rows)


def mlp_gradients(weights, inputs, targets):
    """Of half the mean squared error of x ← tanh(x W), by the matrix of each layer."""
    seen = [inputs]
    for weight in weights:
        seen.append(np.tanh(seen[-1] @ weight))
    slope = (seen[-1] - targets) / targets.size
    gradients = []
    for weight, before, after in zip(
        weights[::-1], seen[-2::-1], seen[:0:-1], strict=True
    ):
        slope = slope * (1 - after**2)
        gradients.append(before.T @ slope)
        slope = slope @ weight.T
    return gradients[::-1]


def trained_apart(weights, gradients, trains, factors, make, decay=0.0):
    """The weights after each step, where each layer has an optimizer of its own.

    `make()` makes one, `g -> u`, that is called while its layer trains, and then
    w ← w + factor·(u − decay·w). `trains` and `factors` are arrays (steps, L).
    """
    optimizers, path = [make() for _ in weights], []
    for t in range(len(trains)):
        found = gradients(weights, t)
        weights = list(weights)
        for layer in np.flatnonzero(trains[t]):
            weight = weights[layer]
            update = optimizers[layer](found[layer]) - decay * weight
            weights[layer] = weight + factors[t][layer] * update
        path.append(weights)
    return path
