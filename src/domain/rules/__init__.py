"""The rules of `decide_next`, a file for each part of the table (architecture §4.1). Pure."""
