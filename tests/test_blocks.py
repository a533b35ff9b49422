import numpy as np

from experiments import blocks


def test_bars_are_eighths_of_the_largest_and_a_dot_is_frozen():
    shares = np.array([0, 0.001, 0.125, 0.5, 0.999, 1])
    assert blocks.bar(shares, blocks.BLOCKS) == ".▁▁▄██"
    assert blocks.bar(shares, blocks.DIGITS) == ".11488"


def test_blocks_are_for_terminals_that_can_show_them():
    assert blocks.known("utf-8") == blocks.BLOCKS
    assert blocks.known("ascii") == blocks.known(None) == blocks.DIGITS
