"""Graders: exact answer extraction and typed verdicts."""
