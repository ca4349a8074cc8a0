"""The fault suite: jobs on real nodes while clients, nodes, lines and tasks are broken.

``plan`` makes a seed into a job and its faults, ``runner`` carries them out, ``checks`` compares
what Allot says with what the tasks themselves wrote down. ``tests/faults/soak`` runs many seeds.
"""
