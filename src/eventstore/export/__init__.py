"""The archive as a file that proves itself: CloudEvents 1.0 in JSON Lines, with the seals over them, and a signed end.

`lines` is the format, `cloudevents` an event in it, `checking` what a reader believes; `writing` makes a file from the
archive, `files` and `parquet` are how it lies on a disk.
"""
