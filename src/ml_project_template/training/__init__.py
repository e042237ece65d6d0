"""What a fit reports to, and what it may use.

Nothing is imported here: ``loop``, ``batches``, ``kept_weights``, ``optimization``, ``threads`` and
``fabric`` need torch, ``plots`` needs matplotlib, the others need numpy at most.
"""

__all__: list[str] = []
