"""The REST service: callers' requests are checked against the contract, sent upstream, and answered with what came back.

Two frameworks have a small part each. Connexion finds the operation of a request, and nothing else: it is given the routes
only, and validates nothing. Flask gives the one handler its place: it is called in a thread, with an environment that has
no body, and the handler is a hook that answers before any view. All the rest is ours (docs/adr/0003 and 0004 say why).

A request passes the modules in this order; `app` is the map, which makes every part:

1. `edge`: its context, problem documents, access log, audit log, metrics, span
2. `access.admission`: whether it may come in
3. `pages`: Swagger UI, the document, problems, probes, metrics
4. Connexion's routing
5. `request_reader` with `json_body`: parameters and body; `translation.build_request` makes the upstream request
6. `flask_dispatch`: into one of the `threads` of a pool, and to the one handler, within a deadline
7. `idempotency`, for what may be sent only once: `store` is what it knows of its keys (`sqlite_store`, `redis_store`),
   `retry_queue` repeats what the store did not take, `job_recovery` finds the job of a create whose answer was lost
8. `upstream` with `upstream_connection`, `http11` and `upstream_key`; `translation.parse_answer` says what the answer means

Beside its way: `request_context` (what is known of it; `current()` is the only way to it), `problems` (the table of
failures), `config` (settings), `__main__` (the operator's commands).
"""
