"""vLLM as child processes: installed, started, watched and ended.

An engine is never imported and never shares our environment. This room knows no samples, no verdicts and
no run directory; it hands out a base URL and a key.
"""
