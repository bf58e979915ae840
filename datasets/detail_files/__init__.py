"""Checks and conversion of PASCAL in Detail annotation files."""
