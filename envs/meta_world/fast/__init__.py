"""The same steps and resets, exactly, in fewer instructions."""
