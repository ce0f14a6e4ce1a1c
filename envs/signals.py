"""The signals that ask a run to stop: its trainer saves and ends, its workers wait for the trainer to hang up."""

import signal

# Ctrl-C, kill, what schedulers send before the time is up, and a terminal that was closed; not all systems have all
STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2", "SIGHUP") if hasattr(signal, name)
)
