"""The search for a taxonomy that matches attention better."""
