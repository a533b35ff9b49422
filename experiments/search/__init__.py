"""Searches before a study: numbers of policies, and rates of layers."""
