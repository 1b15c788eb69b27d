"""Golden histories: recorded logs of each release, with what was decided and what state followed (docs/histories.md).

`recording` writes one, `checking` asks the program of today whether it would fold and decide the same.
"""
