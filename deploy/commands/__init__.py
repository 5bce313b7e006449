"""The commands of `sluice`, one module each. Heavy imports belong inside the functions."""
