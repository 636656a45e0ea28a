"""How numbers are shown: a report of sentences, tables, data and records, the formats, the page, figures.

Owns the wording and the encoders of untrusted text. It computes no rate and writes no file but
a page.
"""
