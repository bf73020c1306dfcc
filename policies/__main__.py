"""Judges what a stack asks of AWS; exit code 1 when something fails.

python -m policies prod                               by its stack file, without AWS (make policy STACK=prod)
pulumi preview --json -s prod | python -m policies -  what an `up` would make of it
pulumi stack export -s prod | python -m policies -    what stands in the state
"""

from __future__ import annotations

import signal
import sys

from policies import CONTROLS, findings
from policies.plan import plan_of


def main(arguments: list[str]) -> int:
    """Print the findings about a plan. Return 0 without findings, 1 with some, 2 for wrong input."""
    if len(arguments) != 1 or arguments[0].startswith("--"):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        stack, plan = plan_of(arguments[0])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    found = findings(plan, stack=stack)
    for each in found:
        print(f"{each.control.id}  {each.resource.name} ({each.resource.type}): {each.problem}")
        print(f"    {each.control.title}; {each.control.remedy}")
    ours = sum(each.type.startswith("aws:") for each in plan)
    print(f"{stack}: {ours} resources of AWS, {len(CONTROLS)} controls, {len(found)} findings")
    return 1 if found else 0


if __name__ == "__main__":
    # `| head` ends it without a traceback.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(main(sys.argv[1:]))
