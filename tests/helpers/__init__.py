"""Doubles, small models and checks that several tests share."""
