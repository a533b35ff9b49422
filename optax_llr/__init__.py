"""Layer learning rates for Optax: updates scaled per layer, by multipliers in time."""

from . import rules as rules
from ._adapt import AdaptLayersState as AdaptLayersState
from ._adapt import LayerStep as LayerStep
from ._adapt import Rule as Rule
from ._adapt import adapt_layers as adapt_layers
from ._freeze import Phase as Phase
from ._freeze import freeze_phases as freeze_phases
from ._inspect import layer_multipliers as layer_multipliers
from ._inspect import layer_table as layer_table
from ._layers import Layers as Layers
from ._layers import match_layers as match_layers
from ._measure import LayerMeasures as LayerMeasures
from ._measure import MonitorLayersState as MonitorLayersState
from ._measure import gradient_faults as gradient_faults
from ._measure import measure_layers as measure_layers
from ._measure import monitor_layers as monitor_layers
from ._multipliers import LaycaState as LaycaState
from ._multipliers import LayerWeightDecayState as LayerWeightDecayState
from ._multipliers import ScaleByLayerState as ScaleByLayerState
from ._range_test import RangeTest as RangeTest
from ._range_test import layer_range_test as layer_range_test
from ._reassign import reassign_layers as reassign_layers
from ._reduce import layer_sum as layer_sum
from ._revert import RevertToUniformState as RevertToUniformState
from ._revert import revert_to_uniform as revert_to_uniform
from ._rotation import layca as layca
from ._rotation import layer_rotation as layer_rotation
from ._scale import layer_weight_decay as layer_weight_decay
from ._scale import scale_by_layer as scale_by_layer
from ._schedules import cascade as cascade
from ._schedules import freezeout as freezeout
from ._schedules import gradual_unfreeze as gradual_unfreeze
from ._schedules import interpolate as interpolate
from ._schedules import layer_decay as layer_decay
from ._schedules import per_layer as per_layer
from ._schedules import rotation_alpha as rotation_alpha
from ._schedules import table as table
from ._settle import Settling as Settling
from ._trace import trace_layers as trace_layers

__version__ = "0.1.0"
