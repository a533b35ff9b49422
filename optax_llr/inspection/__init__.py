"""What to read, print and log of layers, and how to move a state to other layers."""

from ._faults import gradient_faults as gradient_faults
from ._measure import LayerMeasures as LayerMeasures
from ._measure import measure_layers as measure_layers
from ._monitor import MonitorLayersState as MonitorLayersState
from ._monitor import monitor_layers as monitor_layers
from ._reassign import reassign_layers as reassign_layers
from ._rotation import layer_rotation as layer_rotation
from ._table import layer_multipliers as layer_multipliers
from ._table import layer_rates as layer_rates
from ._table import layer_table as layer_table
