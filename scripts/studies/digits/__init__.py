"""Two overlaid digits, left and right as tasks: `python -m scripts.digits`."""
