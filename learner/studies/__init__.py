"""Comparisons of training settings on the tiny dLLM: `python -m learner.studies NAME`, tables in docs/studies.md."""
