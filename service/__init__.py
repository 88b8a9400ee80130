"""The REST service. A request passes the modules in this order:

1. `records` gives it its `context`, which all others share, and tells what became of it;
2. `errors` turns whatever fails further in into a problem document;
3. `access.admission` decides whether it may come in;
4. `pages` answers what is for people and probes (`document` is what they are shown of the contract);
5. Connexion finds the operation; `validation` checks the inputs, `bodies` the body, `messages` makes the upstream request;
6. `threads` hands it to a thread of the `pool`, where Flask calls the one handler of `handlers`;
7. `idempotency` sends what may be sent only once: `store` (or `redis_store`) keeps the keys, `later` tries it again,
   `batch_jobs` finds lost jobs;
8. `upstream` sends it, with the `key` of `credentials`, watched by `exchange` (and `names`), told of by `upstream_records`;
   `messages` says what the answer means.

`app` puts the pieces together, `config` reads the environment, `__main__` has the operator's commands.
"""
