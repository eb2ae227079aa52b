"""Attacks on what was trained, and on the mechanism that trained it: what do they find?

An audit can contradict a claim of privacy; it can't prove one. All of it is for the
owner of the data.
"""
