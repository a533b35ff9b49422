"""Layer learning rates for Optax: updates scaled per layer, by multipliers in time."""

from ._inspect import layer_multipliers as layer_multipliers
from ._inspect import layer_table as layer_table
from ._layers import Layers as Layers
from ._layers import match_layers as match_layers
from ._scale import LayerWeightDecayState as LayerWeightDecayState
from ._scale import ScaleByLayerState as ScaleByLayerState
from ._scale import layer_weight_decay as layer_weight_decay
from ._scale import reassign_layers as reassign_layers
from ._scale import scale_by_layer as scale_by_layer
from ._schedules import cascade as cascade
from ._schedules import freezeout as freezeout
from ._schedules import gradual_unfreeze as gradual_unfreeze
from ._schedules import interpolate as interpolate
from ._schedules import layer_decay as layer_decay
from ._schedules import per_layer as per_layer
from ._schedules import rotation_alpha as rotation_alpha
from ._schedules import table as table
from ._trace import trace_layers as trace_layers

__version__ = "0.1.0"
