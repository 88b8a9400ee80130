"""The REST service for a server, made when this is imported."""

from environment import SettingsError
from service.app import create_app
from service.config import refuse_start, settings_or_exit, start_logging

settings = settings_or_exit()
start_logging(settings)
try:
    app = create_app(settings)
except SettingsError as error:
    refuse_start(str(error))
