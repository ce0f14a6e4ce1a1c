"""Meta-World: tasks, goals and suites."""
