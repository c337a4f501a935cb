"""Tables of wrong inputs; `tests/test_wrong_inputs.py` runs them all.

A module of this folder has one or both of these tables. `files` makes files for a case: `files('a.txt', 'text or
bytes')` gives the path of a new file in the case's own folder, which is also the working directory.

CASES     name -> (call, says): `call()` or `call(files)` must raise, with `says` in its one sentence.
COMMANDS  name -> (words, says): words of the command line, or a function of `files` that gives them. The exit code
          must not be 0, `says` must stand in the one line on stderr, and nothing may be written or removed.
"""
