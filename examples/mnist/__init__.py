"""Learn to read digits: `python -m examples.mnist` trains a small network on MNIST and shows what it learnt.

`command` is the command and its flags, `training` the loop, `pictures` what is drawn at the end.
"""
