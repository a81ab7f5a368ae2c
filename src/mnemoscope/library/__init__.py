"""What one types in a notebook: windows, scan, classify, capture, fit, excess."""
