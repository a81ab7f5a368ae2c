"""All that touches the language model: loading, greedy continuation, scan, pooled attention."""
