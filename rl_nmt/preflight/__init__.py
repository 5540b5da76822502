"""Checks of the machine and the settings before anything is loaded."""
