import numpy as np

from experiments.terminal import display


def test_bars_are_eighths_of_the_largest_and_a_dot_is_frozen():
    shares = np.array([0, 0.001, 0.125, 0.5, 0.999, 1])
    assert display.bar(shares, display.BLOCKS) == ".▁▁▄██"
    assert display.bar(shares, display.DIGITS) == ".11488"


def test_blocks_are_for_terminals_that_can_show_them():
    assert display.known("utf-8") == display.BLOCKS
    assert display.known("ascii") == display.known(None) == display.DIGITS
