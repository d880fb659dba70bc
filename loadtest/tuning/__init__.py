"""The tree tuner: which draft tree pays most for a declared traffic, from few starts of a runtime (docs/tune.md).

a recording (`aerie-draft record`) -> tau of every tree ─┐
a few measured trees -> cycle time of every tree ────────┴-> speedup of every tree -> measure the best -> again
"""
