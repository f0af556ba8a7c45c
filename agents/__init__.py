"""Agents: SB3 algorithms with a pixel encoder shared between losses."""
