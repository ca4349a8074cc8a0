"""Allot beside its peers, measured in one run; ``bench/run`` is the command."""
