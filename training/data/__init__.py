"""Datasets: LeRobot v3 written and read, frame cache, samplers; triplets from mixtures of video of any kind."""
