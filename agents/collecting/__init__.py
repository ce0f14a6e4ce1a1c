"""Environment steps into the replay buffer."""
