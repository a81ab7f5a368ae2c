"""What kind of memorization a sequence is: nodes, taxonomies, labels, balanced samples."""
