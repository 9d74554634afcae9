"""Sweeps: many runs that differ in fields of their recipe."""
