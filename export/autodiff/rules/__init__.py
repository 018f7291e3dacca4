"""The rules: one small function per operator, grouped by family.

A rule gets a `Pullback` and returns the gradient of one input of the node: the vector-Jacobian
product of the output's gradient g with d y / d x. None means zero by definition.
"""
