"""The auditor's readings: what happened, and what the state was, at any position and at any instant.

Everything is read from the archive alone, and every reading is itself recorded before it is answered.
"""
