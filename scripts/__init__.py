"""The commands: `python -m scripts.NAME`. Thin: they parse, compose and call."""
