"""What the records of paired runs allow to be said. Pure functions."""
