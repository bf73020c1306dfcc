"""Starts uWSGI as the Python of a release: `<release>/venv/bin/python -P gateway_uwsgi.py OPTION...` (of uWSGI).

uWSGI is in a folder of its own, so that no release must contain it. Its option `virtualenv` cannot add the release's
packages: as a Python module (pyuwsgi) it runs in an interpreter that is initialized already. So the
release's interpreter starts, and uWSGI's folder is on its path for one import.

A process that the application's `multiprocessing` spawns runs this file again under another name: it must do nothing.
"""

import os
import sys
from typing import Any, cast

if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.realpath(__file__)))  # noqa: PTH120
    from gateway_environment import hide_variables

    sys.path.pop(0)
    sys.path.append("/srv/gateway/uwsgi")
    import pyuwsgi

    sys.path.pop()
    # uWSGI takes each for an option, such as UWSGI_STATIC_MAP. gateway_uwsgi_app.py puts them back.
    hide_variables("UWSGI_")
    # `processes: auto`: two for each CPU that this process may use: in a container fewer than the machine has.
    os.environ["WSGI_FLEET_PROCESSES"] = str(len(os.sched_getaffinity(0)) * 2)
    cast("Any", pyuwsgi).run()
