"""Bare Flask and one shared requests session: nothing is checked, counted or logged. Served by gunicorn's threads."""

from __future__ import annotations

import os

import flask
import requests
from requests.adapters import HTTPAdapter

UPSTREAM = os.environ["UPSTREAM"]
HEADERS = {"Authorization": "Bearer made-up", "Accept": "application/json"}

session = requests.Session()
session.trust_env = False  # a third less CPU per request
session.mount(UPSTREAM, HTTPAdapter(pool_connections=1, pool_maxsize=int(os.environ["POOL"])))

app = flask.Flask(__name__)


def proxy(job_id: str = "") -> flask.Response:
    """Passes one request on, and its answer back as it is."""
    request = flask.request
    body = request.get_data() if request.method == "POST" else None
    headers = {**HEADERS, "Content-Type": "application/json"} if body else HEADERS
    answer = session.request(
        request.method, UPSTREAM + request.path, data=body, headers=headers, timeout=(5, 40)
    )
    return flask.Response(
        answer.content, answer.status_code, content_type=answer.headers["Content-Type"]
    )


app.add_url_rule("/v1/batch/jobs", view_func=proxy, methods=["GET", "POST"])
app.add_url_rule("/v1/batch/jobs/<job_id>", view_func=proxy)
