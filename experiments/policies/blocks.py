"""The layers of a model block by block.

A block is what shares a path up to its first number, such as blocks/0; of the layers
outside each is one.
"""

import re

import numpy as np

from optax_llr import Layers

BLOCK = re.compile(r"(?:[^/]+/)*?(?:\d+|[^/]*\[\d+\])(?=/|$)")


def by_block(layers: Layers) -> Layers:
    """The same layers, those of a block on one level: its place from the input."""
    matches = [BLOCK.match(name) for name in layers.names]
    names = [
        match[0] if match else name
        for match, name in zip(matches, layers.names, strict=True)
    ]
    pairs = list(zip(names, layers.level.tolist(), strict=True))
    first = {name: min(at for other, at in pairs if other == name) for name in names}
    places = {level: place for place, level in enumerate(sorted({*first.values()}))}
    level = np.array([places[first[name]] for name in names], int)
    return Layers(layers.names, level, layers.members)
