"""What operators see: structured log lines and metrics.

Wraps the engine from outside; no secret passes through it.
"""
