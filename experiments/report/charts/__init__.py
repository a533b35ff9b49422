"""Figures as functions of plain arrays, each an Altair chart, in a notebook too."""

from .layers import SHADES as SHADES
from .layers import layer_values as layer_values
from .layers import multipliers as multipliers
from .layers import quantiles as quantiles
from .layers import range_test as range_test
from .layers import savings as savings
from .layers import thumbnail as thumbnail
from .look import CONFIG as CONFIG
from .look import STEPS as STEPS
from .look import Figure as Figure
from .look import Pen as Pen
from .look import Scale as Scale
from .look import pens_for as pens_for
from .look import save as save
from .look import spec as spec
from .policies import Curve as Curve
from .policies import Dependence as Dependence
from .policies import across as across
from .policies import curves as curves
from .policies import differences as differences
from .policies import search as search
