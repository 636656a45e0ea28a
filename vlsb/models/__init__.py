"""What a model's name means: local families, the files in `servers/`, hosted providers.

It turns what a user types into facts about one model. It never asks an endpoint, starts an engine or reads a
run directory.
"""
