"""What goes through the whole house: a run, the analyses, a tracked training."""
