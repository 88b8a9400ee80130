"""The REST service for a server: `gunicorn wsgi:app`."""

from service.app import create_app
from service.config import settings_or_exit

app = create_app(settings_or_exit())
