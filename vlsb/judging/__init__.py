"""Judge prompts and verdicts: what is asked about a response, and what counts as an answer to it.

It owns the official template and schema, and the strict reading of verdicts. It never guesses a label,
never sends anything itself and never sees a run file.
"""
