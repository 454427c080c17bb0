"""Policy networks: one unmasking logit per canvas position."""
