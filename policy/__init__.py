"""Unmasking policies in pure torch: observations, decisions, distributions, networks, heuristics and trajectory records."""
