"""Layers: which parameters share a multiplier, in what order and at what level."""

from ._labels import label_layers as label_layers
from ._layers import Layers as Layers
from ._match import match_layers as match_layers
from ._sums import layer_sum as layer_sum
from ._trace import trace_layers as trace_layers
