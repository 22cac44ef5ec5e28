"""The contestants, one file each; the name of the file is the name on the command line.

A file has `VERSION`, `threads(n)`, which is called first, and a function for each workload that it takes part in.
"""
