"""`collect_ahead`: a thread that steps the environment ahead of the learner."""
