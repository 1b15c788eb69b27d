"""The independent judge: what must hold, from an exported history and the paper broker's own book alone.

It shares no code with the engine. It imports the standard library only, and its rules are written anew from the design,
so that an error of the engine's own fold, codec or checker is not repeated here.
"""

from simulation.independent.book import BookUnreadable, Paper, read_book
from simulation.independent.finding import Finding, Rule
from simulation.independent.judging import judge
from simulation.independent.lines import HistoryUnreadable, read_history

__all__ = [
    "BookUnreadable",
    "Finding",
    "HistoryUnreadable",
    "Paper",
    "Rule",
    "judge",
    "read_book",
    "read_history",
]
