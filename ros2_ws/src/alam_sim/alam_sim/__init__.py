"""Simulated robots behind the robot interface."""
