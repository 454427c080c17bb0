"""Hand-made samplers, one family per file. Ties go to the leftmost position, all rules hold per row, none keeps anything."""
