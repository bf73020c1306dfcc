"""Served requests, measured against what people would use instead: `make bench-serve`."""
