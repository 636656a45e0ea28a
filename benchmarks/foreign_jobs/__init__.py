"""What runs in the environments of other programs: each makes its program write a log of the mini set."""
