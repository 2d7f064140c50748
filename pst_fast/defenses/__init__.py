"""Defenses: ways of training on unlearnable examples all the same. One module each."""
