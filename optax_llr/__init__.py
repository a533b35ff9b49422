"""Layer learning rates for Optax: updates scaled per layer, by multipliers in time."""

# The names stand in groups, as in the API reference.
# isort: off

# Layers: which parameters share a multiplier.
from .layers import trace_layers as trace_layers
from .layers import match_layers as match_layers
from .layers import label_layers as label_layers
from .layers import Layers as Layers

# Multipliers known beforehand: arrays (L,), and schedules count -> (L,).
from .schedules import layer_decay as layer_decay
from .schedules import rotation_alpha as rotation_alpha
from .schedules import interpolate_schedule as interpolate_schedule
from .schedules import per_layer_schedule as per_layer_schedule
from .schedules import cascade_schedule as cascade_schedule
from .schedules import gradual_unfreeze_schedule as gradual_unfreeze_schedule
from .schedules import freezeout_schedule as freezeout_schedule
from .schedules import table_schedule as table_schedule

# Transformations, to be chained with an optimizer.
from .transforms import scale_by_layer as scale_by_layer
from .transforms import ScaleByLayerState as ScaleByLayerState
from .transforms import add_decayed_weights_by_layer as add_decayed_weights_by_layer
from .transforms import AddDecayedWeightsByLayerState as AddDecayedWeightsByLayerState
from .transforms import layca as layca
from .transforms import LaycaState as LaycaState

# Multipliers that a rule measures while training.
from . import rules as rules
from .rules._adapt_layers import adapt_layers as adapt_layers
from .rules._adapt_layers import AdaptLayersState as AdaptLayersState
from .rules._adapt_layers import Rule as Rule
from .rules._adapt_layers import LayerStep as LayerStep
from .layers import layer_sum as layer_sum

# Frozen layers that cost nothing.
from .freezing import freeze_phases as freeze_phases
from .freezing import Phase as Phase

# What to read, print and log.
from .inspection import layer_table as layer_table
from .inspection import layer_multipliers as layer_multipliers
from .inspection import layer_rates as layer_rates
from .inspection import reassign_layers as reassign_layers
from .inspection import measure_layers as measure_layers
from .inspection import LayerMeasures as LayerMeasures
from .inspection import monitor_layers as monitor_layers
from .inspection import MonitorLayersState as MonitorLayersState
from .inspection import layer_rotation as layer_rotation
from .inspection import gradient_faults as gradient_faults

# Useful, and still moving.
from . import contrib as contrib

__version__ = "0.1.0"
