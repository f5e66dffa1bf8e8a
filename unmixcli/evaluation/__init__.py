"""Scores of separations: metrics, oracles, tables and plots."""
