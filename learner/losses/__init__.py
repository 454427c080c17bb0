"""Policy losses as pure functions of log-probabilities, advantages and weights."""
