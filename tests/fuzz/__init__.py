"""Files as an enemy would make them: small valid ones, changed a little, through every way into the program.

`python -m tests.fuzz --count 10000` runs each kind of file so often; the tests draw a few by hypothesis from the same mutations.
"""
