"""Chunk execution and the safety gate: pure logic inside the process that owns the actuator, last before it."""
