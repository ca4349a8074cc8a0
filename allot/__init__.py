"""Allot: run Bash commands on many nodes over SSH, with nothing installed on them."""
