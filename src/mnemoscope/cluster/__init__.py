"""Where work runs: in processes of this machine, or on the workers of a Ray cluster."""
