"""Representation learning for Stable-Baselines3 agents that see pixels."""
