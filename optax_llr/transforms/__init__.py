"""Transformations to be chained with an optimizer, with a multiplier for each layer."""

from ._add_decayed_weights import (
    AddDecayedWeightsByLayerState as AddDecayedWeightsByLayerState,
)
from ._add_decayed_weights import (
    add_decayed_weights_by_layer as add_decayed_weights_by_layer,
)
from ._layca import LaycaState as LaycaState
from ._layca import layca as layca
from ._scale_by_layer import ScaleByLayerState as ScaleByLayerState
from ._scale_by_layer import scale_by_layer as scale_by_layer
