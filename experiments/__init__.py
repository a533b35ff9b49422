"""Studies of layer learning rates: `python -m experiments --help`."""
