"""Composition root: settings, wiring, embedded servers, telemetry, the command line.

The only package that knows all the others.
"""
