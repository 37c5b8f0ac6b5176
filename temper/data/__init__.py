"""From files to datums: sources are read, rows rendered through the model's chat template, mixed and packed.

Nothing here knows a model or a loss; nothing imports torch.
"""
