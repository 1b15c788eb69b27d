"""A Kite server for tests and demonstrations: REST, stream and postbacks, with what goes wrong on the real one.

`KiteSim` is the state, `server.serve` puts it on sockets, `faults.Fault` names what can go wrong.
"""
