"""Benchmarks: run with `make bench`. They measure ratios within one run and assert no timings."""
