"""temper specialises an open-weight language model on private data without breaking what the model already does."""

__version__ = "0.1.0"
