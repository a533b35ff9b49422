"""How a run is trained: the compiled program, and the loop around it."""
