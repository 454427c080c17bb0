"""What the rest of the system runs on: config, errors, logs, storage, run directories, metrics, weights and Ray.

Nothing here knows about machine learning, and no file imports another top-level package.
"""
