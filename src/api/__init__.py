"""The REST application, one router per resource; security; the console.

Appends what users ask and shows what the log says.
"""
