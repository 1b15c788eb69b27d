"""The drill: a trading day whose processes, servers and data are broken at chosen moments, and what came of it.

The engine runs in processes of its own (`host`), real ones that die by SIGKILL; the day is conducted from here.
"""
