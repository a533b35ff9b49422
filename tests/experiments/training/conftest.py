"""A smooth net in place of the shallow CNN, for the modules that ask for it."""

import pytest
from tiny_runs import SmoothCNN

from experiments import models


@pytest.fixture(scope="module")
def smooth():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(models._BUILD, "cnn-shallow", SmoothCNN)
        yield
