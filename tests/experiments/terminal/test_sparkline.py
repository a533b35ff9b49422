import numpy as np

from experiments.terminal import sparkline


def test_bars_are_eighths_of_the_largest_and_a_dot_is_frozen():
    shares = np.array([0, 0.001, 0.125, 0.5, 0.999, 1])
    assert sparkline.bar(shares, sparkline.BLOCKS) == ".▁▁▄██"
    assert sparkline.bar(shares, sparkline.DIGITS) == ".11488"


def test_blocks_are_for_terminals_that_can_show_them():
    assert sparkline.known("utf-8") == sparkline.BLOCKS
    assert sparkline.known("ascii") == sparkline.known(None) == sparkline.DIGITS
