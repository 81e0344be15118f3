"""Preference pairs: two answers to one question, of which one is to be preferred. One file per recipe."""
