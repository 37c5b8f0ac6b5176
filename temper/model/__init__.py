"""Models: loading, learning, sampling, checkpoints. The only part of temper that imports torch.

The rest of temper sees `protocol` alone: five methods to learn, two to sample.
"""
