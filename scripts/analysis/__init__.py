"""Many runs: methods, intervals, tables and pictures."""
