"""Trains unmasking policies: advantages, losses, batching, checkpoints, the loop and its command."""
