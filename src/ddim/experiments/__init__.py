"""Many runs: their index, comparable evaluations, summaries, reports and sweeps."""
