"""gunicorn reads this file by itself in the working directory; what it says is in `service/gunicorn_conf.py`."""

from service.gunicorn_conf import *  # noqa: F403 - gunicorn takes every name that is one of its settings
