"""Run the fleet in system containers on this machine.

platform.py and resources.py register the resources; all else is the work itself and the operator's side.
"""
