"""From flags and presets to an agent and its environments."""
