"""Programs that measure vlsb against the least that its work can cost, and against other tools.

`README.md` beside this file says what each one measures, how to repeat it and how to read it. Nothing in
here is shipped, and no test looks at a speed.
"""
