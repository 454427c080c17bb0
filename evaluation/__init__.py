"""Compares unmaskers on held-out problems: sweeps, intervals, tables and plots."""
