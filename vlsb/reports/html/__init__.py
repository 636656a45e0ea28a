"""The page: runs as one HTML document that opens without a server and asks nobody for anything.

Python encodes what strangers wrote, draws the figures and joins the files of `viewer/`; the viewer makes of
that what is seen, text by text. It reads no run and writes no file.
"""
