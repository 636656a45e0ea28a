"""How summaries are shown: the terminal's table, JSON, CSV and Markdown.

Owns the wording and the encoders of untrusted text. Takes summaries and returns text; never computes a
rate, reads a run or writes a file.
"""
