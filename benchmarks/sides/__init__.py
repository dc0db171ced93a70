"""The sides of the comparison, one file each; every side is a process of its own, in its own virtual environment if need be.

A side is a module that ends in `serve(prepare)`: `prepare(task)` returns the function whose calls are timed, from arrays to arrays (see
`exchange.py`, which needs numpy alone). `processes.py` lists the sides and talks to them.
"""
