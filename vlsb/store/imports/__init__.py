"""What other programs wrote of their evaluations, read into run directories of ours.

It owns how their files are read, to which sample a row belongs and what an imported run says of itself. No
file is trusted, and what a file does not say stays unknown.
"""
