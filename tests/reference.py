"""Slow, plain NumPy oracles; they share no code with the library.

Each optimizer follows one layer, whose multiplier is a number, through time. Factors
are functions of the step, so that a test can say where a multiplier stands by saying
what it multiplies.
"""

import numpy as np


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
