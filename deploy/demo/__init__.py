"""`make demo`: the whole chain on real data, step by step, and what it came to."""
