"""Phases of frozen layers, in which what is frozen is not computed."""

from ._phases import Phase as Phase
from ._phases import freeze_phases as freeze_phases
