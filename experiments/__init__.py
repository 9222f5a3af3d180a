"""Measurements of splitnn, and the testbed that they run on. Not installed with the library."""
