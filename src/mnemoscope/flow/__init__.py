"""Work that uses every other package: a whole run, the analyses, a tracked training."""
