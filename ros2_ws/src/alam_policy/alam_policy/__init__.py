"""Serves an exported policy bundle: observations in, action chunks out."""
