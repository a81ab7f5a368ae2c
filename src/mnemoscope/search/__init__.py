"""The search for taxonomies that match attention better."""
