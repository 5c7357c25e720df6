"""What `training/probe.py` measures, on which frames, and how it is shown."""
