"""What is measured: each function here runs in a process of its own, started by ``child``.

Rules: a module imports the one program that it measures, so that the others weigh nothing in its
figures. A function takes the nodes, an empty directory and its own options, and returns figures.
"""
