"""Many runs to start: plan, board and launchers."""
