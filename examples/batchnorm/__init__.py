"""Nine claims about BatchNorm that run: each is a short script with a number, a verdict and a figure.

    python -m examples.batchnorm [--out DIR] [--only N] [--full]
"""
