"""Benchmarks: the same work by minigrad and by its peers, side by side on this machine.

`python -m benchmarks cpu` runs W1 to W8, `end-to-end` trains to 99 % on MNIST from a cold start, `growth`
shows what a step costs as it grows, and how far from the machine's limits it is. Every framework works in
a process of its own and they take turns: what else the machine does meets all of them alike, so that
ratios can be trusted where milliseconds cannot. Every framework starts from the same arrays, and what it
makes of them must agree with PyTorch's to 1e-4, or its row says so and does not count.
"""
