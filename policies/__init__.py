"""Whether what a stack asks of AWS keeps to controls of AWS Security Hub (FSBP), of CIS, and to some of our own."""

# Imported for what it adds to CONTROLS.
from policies import auto_scaling as _auto_scaling
from policies import controls as _controls
from policies import elb as _elb
from policies.control import ACCEPTED, CONTROLS, Accepted, Control, Planned, Violation, findings

__all__ = ["ACCEPTED", "CONTROLS", "Accepted", "Control", "Planned", "Violation", "findings"]

del _auto_scaling, _controls, _elb
