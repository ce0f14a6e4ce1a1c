"""How fast everything is: `python -m scripts.bench`."""
