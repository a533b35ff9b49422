"""Useful and still moving: names and arguments here may change between releases."""

from ._learned import learned as learned
from ._range_test import RangeTest as RangeTest
from ._range_test import layer_range_test as layer_range_test
from ._revert_to_uniform import RevertToUniformState as RevertToUniformState
from ._revert_to_uniform import revert_to_uniform as revert_to_uniform
from ._settling import Settling as Settling
