"""Grids of runs: suites, the runner, statistics, the report."""
