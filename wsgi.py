"""The REST service for a server: `gunicorn wsgi:app`."""

from service.app import create_app
from service.config import settings_or_exit
from service.edge import start_logging

settings = settings_or_exit()
start_logging(settings)
app = create_app(settings)
