"""The Broker and Instruments ports, the paper broker, and Kite.

Knows orders and prices; knows nothing of the log.
"""
