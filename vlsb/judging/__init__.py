"""What a judge is: its template, the strict reading of its verdicts, and asking it, once more at most.

It owns the official template and schema, and what counts as an answer. It never guesses a label and never
sees a run file.
"""
