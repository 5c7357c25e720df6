"""Datasets: writing and reading LeRobot v3, frame cache, samplers."""
