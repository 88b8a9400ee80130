"""The REST service for a server that is started from this folder: `gunicorn wsgi:app`."""

from service.wsgi import app

__all__ = ["app"]
