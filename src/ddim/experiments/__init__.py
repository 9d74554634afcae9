"""Many runs: which evaluations compare, tables, reports, sweeps."""
