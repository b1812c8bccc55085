"""Benchmarks, run by `make bench`. They report ratios within one run and assert no timings."""
